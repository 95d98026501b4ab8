"""The stored samples that a change of code versions would make stale."""

import polars as pl
import pytest

from metaxy_fs.errors import MetadataSchemaError, SpecError
from metaxy_fs.spec import ContainerKey, FeatureKey
from metaxy_fs.testing.store_cases import container, declare, derived, root, samples, videos

VIDEO, FACES, SOUND, FILM = (FeatureKey([name]) for name in ("video", "faces", "sound", "film"))


def declared(audio=1):
    """Return features of which one is made from frames, one from audio, and the last from both of these."""
    return declare(
        root(VIDEO, container("frames"), container("audio", audio)),
        derived(FACES, [VIDEO], container("default", video=["frames"])),
        derived(SOUND, [VIDEO], container("default", video=["audio"])),
        derived(FILM, [FACES, SOUND], container("pictures", faces=["default"]), container("track", sound=["default"])),
    )


def compute(store, features, ids):
    video, *rest = features
    store.write_metadata(video, videos(ids))
    for feature in rest:
        store.calculate_and_write_data_versions(feature, samples(ids))


def test_change_goes_down_the_graph_only_where_something_is_made_from_it(make_store):
    store, features = make_store("main"), declared()
    compute(store, features, [1, 2, 3])
    impact = store.what_if(features[0], code_versions={"audio": 2})
    assert impact.rows() == [("video", ["audio"], 3, 3), ("sound", ["default"], 3, 3), ("film", ["track"], 3, 3)]
    assert impact.schema == {
        "feature": pl.String,
        "containers": pl.List(pl.String),
        "stale": pl.Int64,
        "samples": pl.Int64,
    }


def test_it_foretells_what_the_increments_then_find(make_store):
    store = make_store("main")
    compute(store, declared(audio=1), [1, 2, 3])
    compute(store, declared(audio=2), [3])
    impact = store.what_if(declared(audio=2)[0], code_versions={"audio": 3})
    features = declared(audio=3)
    for feature in (features[0], *features[2:]):
        if feature.spec.is_root:
            increment = store.resolve_update(feature, samples=videos([1, 2, 3]))
            store.write_metadata(feature, increment.pending)
        else:
            increment = store.resolve_update(feature)
            store.write_metadata(feature, increment.pending)
        row = impact.row(by_predicate=pl.col("feature") == str(feature.spec.key), named=True)
        assert row["stale"] == increment.stale.height == 3


def test_samples_that_were_written_under_the_version_that_would_return_stay(make_store):
    store = make_store("main")
    compute(store, declared(audio=1), [1, 2, 3])
    compute(store, declared(audio=2), [3, 4])
    assert store.what_if(declared(audio=2)[0], code_versions={"audio": 1}).rows() == [
        ("video", ["audio"], 1, 4),
        ("sound", ["default"], 1, 4),
        ("film", ["track"], 1, 4),
    ]
    increment = store.resolve_update(declared(audio=1)[0], samples=videos([1, 2, 3, 4]))
    assert increment.stale["sample_id"].to_list() == [4]


@pytest.mark.parametrize("mode", ["feature", "sample"])
def test_samples_count_as_an_increment_finds_them_store_by_store(make_store, mode):
    production = make_store("production")
    compute(production, declared(audio=1), [1, 2])
    compute(production, declared(audio=2), [3])
    development = make_store("development", fallback_stores=[production], fallback_mode=mode)
    development.write_metadata(declared(audio=2)[0], videos([1, 4]))
    impact = development.what_if(declared(audio=2)[0], code_versions={"audio": 1}).row(0)
    increment = development.resolve_update(declared(audio=1)[0], samples=videos([1, 2, 3, 4]))
    assert impact[2] == increment.stale.height == {"feature": 1, "sample": 2}[mode]
    assert impact[3] == {"feature": 3, "sample": 4}[mode]


def test_sample_that_was_written_twice_counts_once(make_store):
    store, features = make_store("main"), declared()
    store.write_metadata(features[0], videos([1, 2]))
    store.write_metadata(features[0], videos([2, 3]))
    assert store.what_if(features[0], code_versions={"audio": 2})["samples"].to_list() == [3, 0, 0]


def test_feature_without_rows_has_no_stale_samples(make_store):
    impact = make_store("main").what_if(declared()[0], code_versions={"frames": 2, "audio": 2})
    assert impact["feature"].to_list() == ["video", "faces", "sound", "film"]
    assert impact["containers"].to_list()[0] == ["frames", "audio"]
    assert impact.select("stale", "samples").sum().row(0) == (0, 0)


def test_version_that_is_there_already_changes_nothing(make_store):
    store, features = make_store("main"), declared(audio=2)
    compute(store, features, [1])
    assert store.what_if(features[0], code_versions={"audio": 2}).is_empty()
    assert store.what_if(features[0], code_versions={}).is_empty()


def test_nothing_is_written_or_declared(make_store):
    store, features = make_store("main"), declared()
    compute(store, features, [1])
    before = dict(features[0].graph.specs)
    store.what_if(features[0], code_versions={"audio": 2})
    assert features[0].graph.specs == before
    assert not store.resolve_update(features[-1])


def test_samples_are_counted_where_an_increment_would_compare_them(make_store):
    features = declared()
    production = make_store("production")
    compute(production, features, [1, 2, 3])
    development = make_store("development", fallback_stores=[production])
    development.write_metadata(features[0], videos([1]))
    assert development.what_if(features[0], code_versions={"audio": 2})["samples"].to_list() == [1, 3, 3]


def test_container_is_named_by_its_key_or_its_name(make_store):
    (feature,) = declare(root(VIDEO, container("audio")))
    for name in ("audio", ContainerKey(["audio"])):
        assert make_store("main").what_if(feature, code_versions={name: 2}).height == 1


@pytest.mark.parametrize("wrong", [{"sound": 2}, {"audio": "a|b"}, {"audio": True}, {"audio": ""}])
def test_what_has_no_meaning_is_refused(make_store, wrong):
    with pytest.raises(SpecError, match=next(iter(wrong))):
        make_store("main").what_if(declared()[0], code_versions=wrong)


def test_rows_with_other_id_columns_are_refused(make_store):
    store = make_store("main")
    (before,) = declare(root(VIDEO, id_columns=["clip"]))
    store.write_metadata(before, pl.DataFrame({"clip": ["s"], "data_version": [{"default": "v"}]}))
    (after,) = declare(root(VIDEO))
    with pytest.raises(MetadataSchemaError, match="'sample_id'"):
        store.what_if(after, code_versions={"default": 2})
