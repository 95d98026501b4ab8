"""An explanation names what separates a stored sample from the one that there should be."""

import uuid
from datetime import UTC, date, datetime, timedelta, timezone

import polars as pl
import pytest

from metaxy_fs.errors import DependencyError, FeatureNotFoundError, MetadataSchemaError, SpecError, StorageError
from metaxy_fs.metadata_store import FilesystemMetadataStore, InMemoryMetadataStore
from metaxy_fs.spec import FeatureKey
from metaxy_fs.testing.store_cases import (
    PROCESSED,
    VIDEO,
    UnreachableStore,
    container,
    declare,
    derived,
    pipeline,
    processed_version,
    root,
    samples,
    sha256,
    videos,
)


def key(name):
    return FeatureKey([name])


def line(*code_versions):
    """Declare the features a, b, c, ..., each made from the one before it."""
    names = "abcdefgh"[: len(code_versions)]
    first, *rest = zip(names, code_versions, strict=True)
    specs = [root(key(first[0]), container("default", first[1]))]
    specs += [
        derived(key(name), [key(above)], container("default", code))
        for above, (name, code) in zip(names, rest, strict=False)
    ]
    return declare(*specs)


def write_root(store, feature, **versions):
    """Write rows whose ids are the names."""
    rows = {"sample_id": list(versions), "data_version": [{"default": version} for version in versions.values()]}
    store.write_metadata(feature, pl.DataFrame(rows))


def compute(store, *features, ids=("s",)):
    for feature in features:
        store.calculate_and_write_data_versions(feature, samples(ids))


def names(refs):
    return [str(ref) for ref in refs]


def differences(explanation):
    return {str(ref): str(node.difference) for ref, node in explanation.nodes.items()}


# What is stored against what is expected.


def test_current_sample_is_up_to_date_and_has_no_cause(store):
    video, processed = pipeline()
    store.write_metadata(video, videos([1, 2]))
    compute(store, processed, ids=[1, 2])
    explanation = store.explain(processed, 2)
    assert explanation.status == "up to date"
    assert explanation.causes == ()
    assert set(differences(explanation).values()) == {"same"}
    node = explanation.containers["default"]
    assert {node.stored, node.expected} == set(processed_version(2).values())


def test_versions_of_each_node_are_those_of_the_sample(store):
    video, processed = pipeline(processed=5)
    store.write_metadata(video, videos([1, 2]))
    compute(store, processed, ids=[1, 2])
    store.write_metadata(video, videos([2], take="-retake"))
    nodes = {str(ref): node for ref, node in store.explain(processed, 2).nodes.items()}
    assert [(n.code_version, n.stored, n.expected) for n in nodes.values()] == [
        (1, "f2-retake", "f2-retake"),
        (2, "a2-retake", "a2-retake"),
        (5, processed_version(2, code=5)["default"], processed_version(2, take="-retake", code=5)["default"]),
    ]
    assert names(nodes["processed/video/default"].made_from) == ["video/processing/audio", "video/processing/frames"]


def test_other_samples_do_not_matter(store):
    video, processed = pipeline()
    store.write_metadata(video, videos([1, 2]))
    compute(store, processed, ids=[1, 2])
    store.write_metadata(video, videos([2], take="-retake"))
    assert store.explain(processed, 1).status == "up to date"


def test_key_of_the_active_graph_is_a_feature(store):
    video, _ = pipeline()
    store.write_metadata(video, videos([1]))
    with video.graph.use():
        assert store.explain(VIDEO, 1).feature == VIDEO
    with pytest.raises(SpecError, match="video"):
        store.explain(FeatureKey(["video", "nowhere"]), 1)


def test_sample_never_computed_is_new(store):
    video, processed = pipeline()
    store.write_metadata(video, videos([1]))
    explanation = store.explain(processed, 1)
    assert explanation.status == "new"
    assert names(explanation.causes) == ["processed/video/default"]
    assert explanation.containers["default"].expected == processed_version(1)["default"]


def test_sample_that_one_upstream_feature_lacks_waits_for_it(store):
    left, right, both = declare(
        root(key("left")), root(key("right")), derived(key("both"), [key("left"), key("right")])
    )
    write_root(store, left, s="l", t="l")
    write_root(store, right, t="r")
    explanation = store.explain(both, "s")
    assert differences(explanation)["right/default"] == "never stored"
    assert names(explanation.causes) == ["right/default"]
    assert explanation.containers["default"].expected is None


def test_stored_sample_without_its_upstream_is_waiting(make_store):
    a, b = line(1, 1)
    elsewhere, store = make_store("elsewhere"), make_store("here")
    write_root(elsewhere, a, s="v")
    store.write_metadata(b, elsewhere.calculate_data_versions(b, samples(["s"])))
    explanation = store.explain(b, "s")
    assert (explanation.status, differences(explanation)["b/default"]) == ("waiting", "upstream missing")
    assert names(explanation.causes) == ["a/default"]


# Upstream rows that were written again.


def test_one_upstream_container_of_two_is_named(store):
    video, processed = pipeline()
    store.write_metadata(video, videos([1]))
    compute(store, processed, ids=[1])
    again = pl.DataFrame({"sample_id": [1], "data_version": [{"frames": "f1", "audio": "a1-retake"}]})
    store.write_metadata(video, again)
    explanation = store.explain(processed, 1)
    assert explanation.containers["default"].reason == "upstream video/processing/audio changed"
    assert names(explanation.causes) == ["video/processing/audio"]
    assert store.resolve_update(processed).stale.height == 1


def test_rewrite_three_levels_up_is_the_cause_before_anything_is_computed_again(store):
    features = line(1, 1, 1, 1)
    write_root(store, features[0], s="v1")
    compute(store, *features[1:])
    write_root(store, features[0], s="v2")
    explanation = store.explain(features[3], "s")
    assert explanation.status == "stale"
    assert not store.resolve_update(features[3])
    assert differences(explanation) == {
        "a/default": "same",
        "b/default": "upstream changed",
        "c/default": "upstream stale",
        "d/default": "upstream stale",
    }
    assert names(explanation.causes) == ["a/default"]


def test_rewrite_three_levels_up_is_the_cause_after_the_features_between_were_computed_again(store):
    features = line(1, 1, 1, 1)
    write_root(store, features[0], s="v1")
    compute(store, *features[1:])
    write_root(store, features[0], s="v2")
    compute(store, *features[1:3])
    explanation = store.explain(features[3], "s")
    assert (explanation.status, names(explanation.causes)) == ("stale", ["a/default"])
    nodes = {str(ref): node for ref, node in explanation.nodes.items()}
    assert nodes["d/default"].reason == "upstream c/default changed"
    assert nodes["a/default"].used == "v1"
    assert nodes["b/default"].used == sha256("default|1|a/default|v1")
    assert nodes["a/default"].reason == "changed since, it was v1"


def test_the_row_that_a_stored_version_was_made_from_is_found_among_many(store):
    a, b = line(1, 1)
    for take in range(20):
        write_root(store, a, s=f"v{take}")
        if take == 7:
            compute(store, b)
    nodes = {str(ref): node for ref, node in store.explain(b, "s").nodes.items()}
    assert nodes["a/default"].used == "v7"


def test_version_that_somebody_gave_to_a_derived_feature_is_its_own_cause(store):
    a, b = line(1, 1)
    write_root(store, a, s="v")
    write_root(store, b, s="by hand")
    explanation = store.explain(b, "s")
    assert explanation.status == "stale"
    assert "made from other upstream rows" in explanation.containers["default"].reason
    assert names(explanation.causes) == ["b/default"]


# Changes of code.


def test_change_of_code_names_both_versions(store):
    a, b = line(1, 3)
    write_root(store, a, s="v")
    compute(store, b)
    _, b = line(1, 4)
    explanation = store.explain(b, "s")
    assert explanation.containers["default"].reason == "code version changed from 3 to 4"
    assert names(explanation.causes) == ["b/default"]
    assert explanation.status == "stale"


def test_change_of_a_code_version_that_is_a_text_is_told_from_one_upstream(store):
    a, b = line(1, "red")
    write_root(store, a, s="v")
    compute(store, b)
    _, b = line(1, "blue")
    explanation = store.explain(b, "s")
    assert explanation.containers["default"].reason == "code version changed from red to blue"
    assert names(explanation.causes) == ["b/default"]


def test_code_and_upstream_rows_that_both_changed_are_both_causes(store):
    a, b = line(1, 1)
    write_root(store, a, s="v1")
    compute(store, b)
    a, b = line(1, 2)
    write_root(store, a, s="v2")
    explanation = store.explain(b, "s")
    assert explanation.containers["default"].reason == "code version changed from 1 to 2; upstream a/default changed"
    assert names(explanation.causes) == ["a/default", "b/default"]


def test_change_of_code_of_a_root_feature_is_the_cause_of_all_below(store):
    features = line(1, 1, 1)
    write_root(store, features[0], s="v")
    compute(store, *features[1:])
    features = line(2, 1, 1)
    explanation = store.explain(features[2], "s")
    assert differences(explanation) == {
        "a/default": "code version changed",
        "b/default": "upstream changed",
        "c/default": "upstream changed",
    }
    assert names(explanation.causes) == ["a/default"]
    assert {node.used for node in explanation.nodes.values()} == {None}


def test_change_of_code_that_left_every_version_as_it_was_is_found(store):
    features = line(1, 1, 1)
    write_root(store, features[0], s="v")
    compute(store, *features[1:])
    features = line(2, 1, 1)
    write_root(store, features[0], s="v")
    compute(store, features[1])
    explanation = store.explain(features[2], "s")
    assert explanation.status == "stale"
    assert explanation.containers["default"].stored == explanation.containers["default"].expected
    assert names(explanation.causes) == ["a/default"]
    assert explanation.nodes[explanation.causes[0]].reason == "code version changed since, it was 1"


def test_container_that_is_made_from_an_unchanged_one_waits_for_the_row(store):
    def declared(audio):
        video = root(key("video"), container("frames"), container("audio", audio))
        return declare(video, derived(key("faces"), [key("video")], container("default", video=["frames"])))

    video, faces = declared(audio=1)
    store.write_metadata(video, videos(["s"]))
    compute(store, faces)
    _, faces = declared(audio=2)
    explanation = store.explain(faces, "s")
    assert (explanation.status, names(explanation.causes)) == ("waiting", ["video/audio"])
    assert differences(explanation) == {
        "video/frames": "same",
        "video/audio": "code version changed",
        "faces/default": "upstream missing",
    }


def test_only_the_container_whose_code_changed_is_named_where_another_is_what_it_was(store):
    video, processed = pipeline(audio=1)
    store.write_metadata(video, videos([1]))
    compute(store, processed, ids=[1])
    _, processed = pipeline(audio=2)
    explanation = store.explain(processed, 1)
    assert explanation.containers["default"].reason == "upstream video/processing/audio changed"
    assert names(explanation.causes) == ["video/processing/audio"]


def test_change_of_code_is_followed_past_a_version_that_somebody_gave(store):
    a, b, c = line(1, 1, 1)
    write_root(store, a, s="v")
    write_root(store, b, s="by hand")
    compute(store, c)
    explanation = store.explain(line(2, 1, 1)[2], "s")
    assert names(explanation.causes) == ["a/default"]


def test_row_in_the_current_partition_is_compared_whatever_other_code_wrote_since(store):
    (old,), (new, below) = line(1), line(2, 1)
    write_root(store, new, s="v2")
    write_root(store, old, s="v1")
    assert store.explain(below, "s").containers["default"].expected == sha256("default|1|a/default|v2")
    for feature, version in ((new, "v2"), (old, "v1")):
        explanation = store.explain(feature, "s")
        assert (explanation.status, explanation.containers["default"].stored) == ("up to date", version)


@pytest.mark.parametrize(("before", "after"), [(100, 101), (20261101, 20261128), ("v1", "v2"), (0, "a")])
def test_earlier_code_versions_of_any_kind_are_named(store, before, after):
    for code in (before, after):
        a, b = line(code, code)
        write_root(store, a, s="v")
        if code == before:
            compute(store, b)
    for feature, reason in ((a, None), (b, f"code version changed from {before} to {after}")):
        explanation = store.explain(feature, "s")
        assert explanation.containers["default"].reason == (reason or "same")
    (bumped,) = line("other")
    assert store.explain(bumped, "s").containers["default"].reason == f"code version changed from {after} to other"


def test_given_version_is_never_taken_for_a_digest_of_code(store):
    a, b = line(1, 1)
    write_root(store, a, s=sha256("default|7"))
    compute(store, b)
    write_root(store, a, s="v")
    explanation = store.explain(b, "s")
    assert explanation.nodes[explanation.causes[0]].reason.startswith("changed since, it was ")


def test_containers_that_came_and_went_are_named(store):
    (before,) = declare(root(key("a"), container("old"), container("kept")))
    store.write_metadata(before, pl.DataFrame({"sample_id": ["s"], "data_version": [{"old": "o", "kept": "k"}]}))
    (after,) = declare(root(key("a"), container("kept"), container("fresh")))
    explanation = store.explain(after, "s")
    assert differences(explanation) == {
        "a/kept": "same",
        "a/fresh": "container added",
        "a/old": "container removed",
    }
    assert names(explanation.causes) == ["a/fresh", "a/old"]
    assert explanation.containers["old"].stored == "o"


# Shapes of graphs.


def diamond(code):
    sides = [derived(key(name), [key("top")], container("default", 1)) for name in ("left", "right")]
    bottom = derived(key("bottom"), [key("left"), key("right")])
    return declare(root(key("top"), container("default", code)), *sides, bottom)


def test_node_of_a_diamond_is_unfolded_once(store):
    top, left, right, bottom = diamond(1)
    write_root(store, top, s="v1")
    compute(store, left, right, bottom)
    write_root(store, top, s="v2")
    explanation = store.explain(bottom, "s")
    assert names(explanation.causes) == ["top/default"]
    assert explanation.to_text().count("changed since, it was v1") == 1
    assert explanation.to_text().splitlines()[-1] == "   └─ ▶ top/default (see above)"


def test_stacked_diamonds_and_deep_graphs_are_walked_once():
    specs = [root(key("x0"))]
    for level in range(1, 51):
        specs += [derived(key(f"{side}{level}"), [key(f"x{level - 1}")]) for side in "lr"]
        specs.append(derived(key(f"x{level}"), [key(f"l{level}"), key(f"r{level}")]))
    features = declare(*specs)
    store = InMemoryMetadataStore()
    write_root(store, features[0], s="v1")
    compute(store, *features[1:])
    write_root(store, features[0], s="v2")
    explanation = store.explain(features[-1], "s")
    assert names(explanation.causes) == ["x0/default"]
    assert len(explanation.nodes) == 151
    assert len(explanation.to_text().splitlines()) == 1 + 1 + 50 * 4
    assert explanation.to_svg().count("<rect") == 151


def test_features_that_it_is_not_made_from_are_left_out(store):
    a, b, c = declare(root(key("a")), derived(key("b"), [key("a")]), derived(key("c"), [key("a")]))
    write_root(store, a, s="v")
    compute(store, b, c)
    assert names(store.explain(b, "s").nodes) == ["a/default", "b/default"]


# Chains.


def test_rows_come_from_where_reads_find_them(make_store):
    a, b = line(1, 1)
    production = make_store("production")
    write_root(production, a, s="v1")
    compute(production, b)
    development = make_store("development", fallback_stores=[production])
    assert development.explain(b, "s").status == "up to date"
    write_root(development, a, s="v2")
    explanation = development.explain(b, "s")
    assert (explanation.status, names(explanation.causes)) == ("stale", ["a/default"])
    assert explanation.nodes[explanation.causes[0]].used == "v1"
    assert production.explain(b, "s").status == "up to date"


def test_nearer_store_with_the_current_version_hides_samples_that_only_a_fallback_store_has(make_store):
    a, _ = line(1, 1)
    production = make_store("production")
    write_root(production, a, s="v1")
    development = make_store("development", fallback_stores=[production])
    write_root(development, a, t="v2")
    assert development.explain(a, "s").status == "new"


def test_nearer_store_with_other_versions_alone_does_not_hide_the_current_one(make_store):
    (old,) = line(1)
    (new,) = line(2)
    production = make_store("production")
    write_root(production, new, s="v1")
    development = make_store("development", fallback_stores=[production])
    write_root(development, old, s="v0")
    assert development.explain(new, "s").status == "up to date"


def test_store_that_cannot_be_asked_is_never_taken_for_an_empty_one(make_store):
    (a,) = line(1)
    store = make_store("here", fallback_stores=[UnreachableStore()])
    write_root(store, a, s="v")
    with pytest.raises(StorageError, match="unreachable://store"):
        store.explain(a, "s")


# Ids.


def test_sample_of_several_id_columns_is_named_by_a_tuple_or_a_mapping(store):
    (a,) = declare(root(key("a"), id_columns=["clip", "frame"]))
    rows = {"clip": ["x", "x", "y"], "frame": [1, 2, 1], "data_version": [{"default": v} for v in ("x1", "x2", "y1")]}
    store.write_metadata(a, pl.DataFrame(rows))
    assert store.explain(a, ("x", 2)).containers["default"].stored == "x2"
    explanation = store.explain(a, {"frame": 1, "clip": "y"})
    assert explanation.containers["default"].stored == "y1"
    assert str(explanation).startswith("a of clip='y', frame=1 is up to date")


@pytest.mark.parametrize("wrong", ["x", ("x",), ("x", 1, 2), {"clip": "x"}, {"clip": "x", "frames": 1}, ("x", None)])
def test_ids_that_do_not_fit_the_id_columns_are_refused(store, wrong):
    (a,) = declare(root(key("a"), id_columns=["clip", "frame"]))
    with pytest.raises(MetadataSchemaError, match="'a'"):
        store.explain(a, wrong)


NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("ids", "right", "wrong"),
    [
        (pl.Series([7], dtype=pl.Int8), 7, ["7", 7.0, True, 3000]),
        (pl.Series([1]), 1, [True, 1.0]),
        (pl.Series([2**64 - 1], dtype=pl.UInt64), 2**64 - 1, [-1, b"7"]),
        (pl.Series(["true"]), "true", [True, 1, b"true"]),
        (pl.Series([b"\x00|"]), b"\x00|", ["\x00|"]),
        (pl.Series([date(2026, 5, 1)]), date(2026, 5, 1), [NOON, "2026-05-01"]),
        (pl.Series([NOON.replace(tzinfo=None)]), NOON.replace(tzinfo=None), [NOON, date(2026, 5, 1)]),
        (
            pl.Series([NOON]).dt.convert_time_zone("Asia/Tokyo"),
            NOON.astimezone(timezone(timedelta(hours=-3))),
            [NOON.replace(tzinfo=None)],
        ),
    ],
    ids=lambda value: str(value.dtype) if isinstance(value, pl.Series) else "",
)
def test_ids_of_every_type_are_found_and_others_never_taken_for_them(store, ids, right, wrong):
    (a,) = declare(root(key("a")))
    store.write_metadata(a, pl.DataFrame({"sample_id": ids, "data_version": [{"default": "v"}]}))
    assert store.explain(a, right).containers["default"].stored == "v"
    for value in wrong:
        with pytest.raises((MetadataSchemaError, FeatureNotFoundError), match="sample_id"):
            store.explain(a, value)


@pytest.mark.parametrize("value", [2**200, object(), [1], None, 1.5])
def test_value_that_no_id_column_can_hold_is_refused(store, value):
    (a,) = line(1)
    write_root(store, a, s="v")
    with pytest.raises(MetadataSchemaError):
        store.explain(a, value)


def test_unknown_sample_of_a_root_feature_is_not_found(store):
    a, b = line(1, 1)
    write_root(store, a, s="v")
    with pytest.raises(FeatureNotFoundError, match="sample_id='t'"):
        store.explain(a, "t")
    with pytest.raises(DependencyError, match="sample_id='t'"):
        store.explain(b, "t")


def test_nothing_stored_at_all_is_said_with_the_places_that_were_searched(make_store):
    store = make_store("here", fallback_stores=[make_store("there")])
    with pytest.raises(DependencyError) as caught:
        store.explain(line(1, 1)[1], "s")
    assert all(place.location in str(caught.value) for place in (store, *store.fallback_stores))


def test_rows_with_other_id_columns_are_refused(store):
    (before,) = declare(root(key("a"), id_columns=["clip"]))
    store.write_metadata(before, pl.DataFrame({"clip": ["s"], "data_version": [{"default": "v"}]}))
    (after,) = declare(root(key("a")))
    with pytest.raises(MetadataSchemaError, match="'sample_id'"):
        store.explain(after, "s")


# Costs.


def test_only_the_data_files_that_may_hold_the_sample_are_fetched(monkeypatch):
    store = FilesystemMetadataStore(f"memory://{uuid.uuid4().hex}")
    (a,) = line(1)
    for number in range(10):
        write_root(store, a, **{f"s{number}": f"v{number}"})
    fetched = []
    storage = type(store._storage)
    get_many = storage.get_many
    monkeypatch.setattr(storage, "get_many", lambda self, objects: fetched.extend(objects) or get_many(self, objects))
    assert store.explain(a, "s3").containers["default"].stored == "v3"
    assert len([info for info in fetched if info.path.endswith(".parquet")]) == 1


def test_local_files_that_hold_other_samples_are_not_opened(tmp_path):
    store = FilesystemMetadataStore(tmp_path)
    (a,) = line(1)
    for number in range(10):
        write_root(store, a, **{f"s{number}": f"v{number}"})
    for path in tmp_path.rglob("*.parquet"):
        if pl.read_parquet(path)["sample_id"].item() != "s3":
            path.unlink()
    assert store.explain(a, "s3").containers["default"].stored == "v3"


# What the explanation says is what an increment says.


@pytest.mark.parametrize("stale", [False, True])
def test_status_agrees_with_the_increment(store, stale):
    video, processed = pipeline()
    store.write_metadata(video, videos([1]))
    compute(store, processed, ids=[1])
    if stale:
        store.write_metadata(video, videos([1], take="-retake"))
    increment = store.resolve_update(processed)
    explanation = store.explain(processed, 1)
    assert (explanation.status == "stale") is bool(increment) is stale
    if stale:
        expected = increment.stale["data_version"].item()
        assert expected == {name: node.expected for name, node in explanation.containers.items()}
    assert explanation.feature == PROCESSED
