"""An explanation follows a sample through groups, expansions, filters, renames and optional features."""

import polars as pl
import pytest
from hypothesis import given

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.metadata_store import InMemoryMetadataStore
from metaxy_fs.spec import FeatureDep, FeatureKey, FeatureSpec
from metaxy_fs.testing.store_cases import container, declare, root
from tests.support.examples import examples
from tests.versioning.lineage_model import NoVersionError
from tests.versioning.lineage_strategies import histories

CLIP, FRAME, LABEL, SCENE = (FeatureKey([name]) for name in ("clip", "frame", "label", "scene"))


def declared(*, where=None, optional=False, scene_code=1, frame_code=1, clip_code=1):
    """A clip has many frames, and they make one scene; a frame may have a label."""
    return declare(
        root(CLIP, container("default", clip_code), id_columns=["name"]),
        root(LABEL, id_columns=["clip", "frame"]),
        FeatureSpec(
            key=FRAME,
            deps=[
                FeatureDep(key=CLIP, relation="expansion", rename={"name": "clip"}),
                FeatureDep(key=LABEL, optional=True),
            ],
            containers=[container("default", frame_code)],
            id_columns=["clip", "frame"],
        ),
        FeatureSpec(
            key=SCENE,
            deps=[FeatureDep(key=FRAME, relation="aggregation", where=where, optional=optional)],
            containers=[container("default", scene_code)],
            id_columns=["clip"],
        ),
    )


def rows(take, **columns):
    return pl.DataFrame(columns).with_columns(data_version=pl.struct(default=pl.lit(take)))


def frames(numbers, clip="a", **more):
    return pl.DataFrame({"clip": [clip] * len(numbers), "frame": numbers, **more})


def write(store, features, *, numbers=(0, 1), take="1", **more):
    clip, _, frame, scene = features
    store.write_metadata(clip, rows(take, name=["a"]))
    store.calculate_and_write_data_versions(frame, frames(list(numbers), **more))
    return frame, scene


def lines(explanation):
    """Return the text without versions."""
    found = []
    for line in explanation.to_text().splitlines()[1:]:
        title, _, rest = line.partition(": ")
        kept = [part for part in rest.split("; ") if not part.startswith(("version ", "stored ", "expected ", "code "))]
        found.append(f"{title}: {'; '.join(kept)}")
    return found


def names(refs):
    return [str(ref) for ref in refs]


# Each relation.


def test_branches_end_at_groups_and_follow_what_makes_many_samples(store):
    frame, scene = write(store, declared(), numbers=range(7))
    store.calculate_and_write_data_versions(scene, pl.DataFrame({"clip": ["a"]}))
    assert lines(store.explain(scene, "a")) == [
        "scene/default: same",
        "└─ frame/default (all of clip='a'): 7 rows: 0, 1, 2, 3, 4, …; same",
    ]
    assert lines(store.explain(frame, ("a", 3))) == [
        "frame/default: same",
        "├─ clip/default (name='a'): same",
        "└─ label/default: never stored",
    ]
    assert [store.explain(scene, "a").status, store.explain(frame, ("a", 3)).status] == ["up to date"] * 2


def test_a_group_says_which_rows_have_changed_since(store):
    features = declared()
    frame, scene = write(store, features, numbers=[0, 1, 2])
    store.calculate_and_write_data_versions(scene, pl.DataFrame({"clip": ["a"]}))
    store.write_metadata(features[1], rows("sharp", clip=["a"], frame=[1]))
    store.calculate_and_write_data_versions(frame, frames([1, 3]))
    explanation = store.explain(scene, "a")
    assert lines(explanation) == [
        "scene/default: upstream frame/default (all of clip='a') changed",
        "└─ ▶ frame/default (all of clip='a'): 4 rows: 0, 1, 2, 3; changed since: changed 1; added 3",
    ]
    assert explanation.status == "stale"


def test_a_label_that_came_later_is_the_cause(store):
    features = declared()
    frame, _ = write(store, features)
    store.write_metadata(features[1], rows("sharp", clip=["a"], frame=[1]))
    explanation = store.explain(frame, ("a", 1))
    assert (explanation.status, names(explanation.causes)) == ("stale", ["label/default"])
    assert explanation.containers["default"].reason == "upstream label/default changed"
    assert lines(explanation)[2] == "└─ ▶ label/default: added since, there was none"
    assert store.explain(frame, ("a", 0)).status == "up to date"


def test_a_parent_that_was_taken_again_is_the_cause(store):
    features = declared()
    frame, _ = write(store, features)
    store.write_metadata(features[0], rows("2", name=["a"]))
    explanation = store.explain(frame, {"frame": 0, "clip": "a"})
    assert names(explanation.causes) == ["clip/default (name='a')"]
    assert "changed since, it was 1" in explanation.to_text()


def test_a_filtered_group_names_the_predicate_and_leaves_rows_out(store):
    _, scene = write(store, declared(where="sharp > 0.5"), numbers=[0, 1, 2], sharp=[1.0, 0.0, None])
    store.calculate_and_write_data_versions(scene, pl.DataFrame({"clip": ["a"]}))
    assert lines(store.explain(scene, "a"))[1] == (
        "└─ frame/default (all of clip='a' where sharp > 0.5): 1 row: 0; same"
    )


def test_rows_that_a_predicate_excludes_now_are_gone(store):
    features = declared(where="sharp > 0.5")
    frame, scene = write(store, features, numbers=[0, 1], sharp=[1.0, 1.0])
    store.calculate_and_write_data_versions(scene, pl.DataFrame({"clip": ["a"]}))
    store.calculate_and_write_data_versions(frame, frames([1], sharp=[0.0]))
    assert "1 row: 0; version" in store.explain(scene, "a").to_text()
    assert "changed since: gone 1" in store.explain(scene, "a").to_text()


def test_a_sample_all_of_whose_rows_are_excluded_should_not_be(store):
    features = declared(where="sharp > 0.5")
    frame, scene = write(store, features, numbers=[0], sharp=[1.0])
    store.calculate_and_write_data_versions(scene, pl.DataFrame({"clip": ["a"]}))
    store.calculate_and_write_data_versions(frame, frames([0], sharp=[0.0]))
    explanation = store.explain(scene, "a")
    assert explanation.status == "excluded"
    assert explanation.containers["default"].reason == (
        "there should be no such sample: upstream frame (all of clip='a' where sharp > 0.5) is excluded"
    )
    assert names(explanation.causes) == ["scene/default"]
    assert "no rows" in explanation.to_text()


def test_a_row_that_a_predicate_excludes_makes_no_sample(store):
    label, scene = declare(root(LABEL), FeatureSpec(key=SCENE, deps=[FeatureDep(key=LABEL, where="lang = 'en'")]))
    store.write_metadata(label, rows("1", sample_id=[1, 2], lang=["en", "de"]))
    assert store.explain(scene, 1).status == "new"
    explanation = store.explain(scene, 2)
    assert (explanation.status, names(explanation.causes)) == ("excluded", ["scene/default"])
    assert lines(explanation)[1] == "└─ label/default (where lang = 'en'): same"


def test_a_group_whose_code_changed_has_to_be_computed_first(store):
    _, scene = write(store, declared())
    store.calculate_and_write_data_versions(scene, pl.DataFrame({"clip": ["a"]}))
    *_, scene = declared(frame_code=2)
    explanation = store.explain(scene, "a")
    assert (explanation.status, names(explanation.causes)) == ("stale", ["frame/default (all of clip='a')"])


def test_code_version_of_what_is_made_from_a_group_is_found_out(store):
    _, scene = write(store, declared(scene_code=7))
    store.calculate_and_write_data_versions(scene, pl.DataFrame({"clip": ["a"]}))
    *_, scene = declared(scene_code=8)
    assert store.explain(scene, "a").containers["default"].reason == "code version changed from 7 to 8"


def test_change_of_code_that_leaves_versions_as_they_were_is_followed_to_the_group(store):
    _, scene = write(store, declared())
    store.calculate_and_write_data_versions(scene, pl.DataFrame({"clip": ["a"]}))
    _, scene = write(store, declared(clip_code=2))
    explanation = store.explain(scene, "a")
    assert explanation.containers["default"].reason == "upstream frame/default (all of clip='a') changed"
    assert names(explanation.causes) == ["frame/default (all of clip='a')"]


def test_change_of_a_dep_is_a_change_of_the_declaration(store):
    _, scene = write(store, declared())
    store.calculate_and_write_data_versions(scene, pl.DataFrame({"clip": ["a"]}))
    *_, scene = declared(optional=True)
    assert store.explain(scene, "a").containers["default"].reason == "code version, or what it is made from, changed"


def test_change_of_a_predicate_is_a_change_of_the_group_alone(store):
    _, scene = write(store, declared(), sharp=[1.0, 0.0])
    store.calculate_and_write_data_versions(scene, pl.DataFrame({"clip": ["a"]}))
    *_, scene = declared(where="sharp >= 0")
    assert store.explain(scene, "a").status == "up to date"
    *_, scene = declared(where="sharp > 0.5")
    explanation = store.explain(scene, "a")
    assert explanation.status == "stale"
    assert explanation.containers["default"].reason == "made from other upstream rows than any that is stored"
    assert store.resolve_update(scene).stale["clip"].to_list() == ["a"]


def test_rows_that_have_moved_to_another_group_are_gone(store):
    part, whole = declare(
        root(LABEL, id_columns=["part"]),
        FeatureSpec(key=SCENE, deps=[FeatureDep(key=LABEL, relation="aggregation")], id_columns=["clip"]),
    )
    store.write_metadata(part, rows("1", part=[0, 1], clip=["a", "a"]))
    store.calculate_and_write_data_versions(whole, pl.DataFrame({"clip": ["a"]}))
    store.write_metadata(part, rows("1", part=[1], clip=["b"]))
    explanation = store.explain(whole, "a")
    assert "1 row: 0" in explanation.to_text()
    assert "changed since: gone 1" in explanation.to_text()
    expected = store.calculate_data_versions(whole, pl.DataFrame({"clip": ["a"]}))["data_version"][0]
    assert explanation.containers["default"].expected == expected["default"]


def test_groups_of_several_ids_name_them(store):
    part, whole = declare(
        root(LABEL, id_columns=["clip", "frame", "lane"]),
        FeatureSpec(key=SCENE, deps=[FeatureDep(key=LABEL, relation="aggregation")], id_columns=["clip"]),
    )
    store.write_metadata(part, rows("1", clip=["a", "a"], frame=[0, 0], lane=["x", "y"]))
    assert "2 rows: (frame=0, lane='x'), (frame=0, lane='y')" in store.explain(whole, "a").to_text()


def test_grouping_by_what_is_no_id_is_refused(store):
    part, whole = declare(
        root(LABEL, id_columns=["part"]),
        FeatureSpec(key=SCENE, deps=[FeatureDep(key=LABEL, relation="aggregation")], id_columns=["clip"]),
    )
    store.write_metadata(part, rows("1", part=[0], clip=[0.5]))
    with pytest.raises(MetadataSchemaError, match="'label' are grouped by 'clip', which has the type Float64"):
        store.explain(whole, 1)


# What has to be computed beyond a group.


def expansion():
    """A clip has many frames, each of which is sharpened, and they make one scene, of which there is a poster."""
    sharp = FeatureKey(["sharp"])
    return declare(
        root(CLIP, id_columns=["name"]),
        FeatureSpec(
            key=FRAME,
            deps=[FeatureDep(key=CLIP, relation="expansion", rename={"name": "clip"})],
            id_columns=["clip", "frame"],
        ),
        FeatureSpec(key=sharp, deps=[FeatureDep(key=FRAME)], id_columns=["clip", "frame"]),
        FeatureSpec(key=SCENE, deps=[FeatureDep(key=sharp, relation="aggregation")], id_columns=["clip"]),
        FeatureSpec(key=FeatureKey(["poster"]), deps=[FeatureDep(key=SCENE)], id_columns=["clip"]),
    )


def compute_expansion(store, features, *, until):
    _, frame, sharp, scene, poster = features
    if until >= 1:
        pending = store.resolve_update(frame).pending.join(pl.DataFrame({"frame": [0, 1]}), how="cross")
        store.write_metadata(frame, pending.select("clip", "frame", "data_version"))
    for feature in (sharp, scene, poster)[: max(0, until - 1)]:
        store.write_metadata(feature, store.resolve_update(feature).pending)


def test_what_is_stale_beyond_a_group_holds_up_what_is_made_from_it(store):
    features = expansion()
    clip, _, _, scene, poster = features
    store.write_metadata(clip, rows("1", name=["a", "b"]))
    compute_expansion(store, features, until=4)
    statuses = [store.explain(feature, clip).status for feature in (scene, poster) for clip in ("a", "b")]
    assert statuses == ["up to date"] * 4
    store.write_metadata(clip, rows("2", name=["a"]))
    for until, words in ((0, "1 of 'frame': 'a' has"), (1, "2 of 'sharp': ")):
        compute_expansion(store, features, until=until)
        explanation = store.explain(scene, "a")
        assert (explanation.status, names(explanation.causes)) == ("stale", ["sharp/default (all of clip='a')"])
        assert words in str(explanation)
        assert store.explain(poster, "a").status == "stale"
        assert store.explain(scene, "b").status == "up to date"
        assert not store.resolve_update(scene)
    compute_expansion(store, features, until=2)
    assert store.explain(scene, "a").status == "stale"
    assert store.explain(poster, "a").status == "stale"
    assert store.resolve_update(scene).stale["clip"].to_list() == ["a"]
    compute_expansion(store, features, until=4)
    assert store.explain(poster, "a").status == "up to date"


def test_what_is_left_over_of_a_parent_holds_up_nothing(store):
    features = expansion()
    clip, frame, sharp, scene, _ = features
    store.write_metadata(clip, rows("1", name=["a"]))
    compute_expansion(store, features, until=4)
    store.write_metadata(clip, rows("2", name=["a"]))
    store.write_metadata(frame, store.resolve_update(frame).pending.with_columns(frame=pl.lit(0, pl.Int64)))
    for feature in (sharp, scene):
        store.write_metadata(feature, store.resolve_update(feature).pending)
    assert store.explain(scene, "a").status == "up to date"


def test_a_row_that_is_to_come_into_a_group_holds_it_up(store):
    features = declare(
        root(LABEL, id_columns=["clip", "frame"]),
        FeatureSpec(key=FRAME, deps=[FeatureDep(key=LABEL)], id_columns=["clip", "frame"]),
        FeatureSpec(key=SCENE, deps=[FeatureDep(key=FRAME, relation="aggregation")], id_columns=["clip"]),
    )
    label, frame, scene = features
    store.write_metadata(label, rows("1", clip=["a", "b"], frame=[0, 0]))
    for feature in (frame, scene):
        store.write_metadata(feature, store.resolve_update(feature).pending)
    store.write_metadata(label, rows("1", clip=["a"], frame=[1]))
    assert [store.explain(scene, clip).status for clip in ("a", "b")] == ["stale", "up to date"]


def test_a_sample_without_its_upstream_row_waits(store):
    label, clip, scene = declare(
        root(LABEL), root(CLIP), FeatureSpec(key=SCENE, deps=[FeatureDep(key=LABEL), FeatureDep(key=CLIP)])
    )
    store.write_metadata(label, rows("1", sample_id=[1, 2]))
    store.write_metadata(clip, rows("1", sample_id=[1]))
    explanation = store.explain(scene, 2)
    assert (explanation.status, names(explanation.causes)) == ("waiting", ["clip/default"])
    assert store.resolve_update(scene).waiting["sample_id"].to_list() == [2]


# Chains.


@pytest.mark.parametrize("mode", ["feature", "sample"])
def test_groups_of_a_chain_are_those_that_its_reads_give(make_store, mode):
    features = declared()
    production = make_store("production")
    _, scene = write(production, features, numbers=[0, 1, 2])
    production.calculate_and_write_data_versions(scene, pl.DataFrame({"clip": ["a"]}))
    store = make_store("main", fallback_stores=[production], fallback_mode=mode)
    store.write_metadata(features[1], rows("sharp", clip=["a"], frame=[1]))
    store.calculate_and_write_data_versions(features[2], frames([1]))
    explanation = store.explain(scene, "a")
    expected = store.calculate_data_versions(scene, pl.DataFrame({"clip": ["a"]}))["data_version"][0]
    assert explanation.containers["default"].expected == expected["default"]
    assert ("3 rows: 0, 1, 2" if mode == "sample" else "1 row: 1") in explanation.to_text()


@pytest.mark.parametrize("column", [{"clip": ["b"]}, {}], ids=["another group", "no column"])
def test_a_row_that_a_nearer_store_hides_is_in_no_group(make_store, column):
    part, whole = declare(
        root(LABEL, id_columns=["part"]),
        FeatureSpec(
            key=SCENE,
            deps=[FeatureDep(key=LABEL, relation="aggregation", where="clip IS NOT NULL")],
            id_columns=["clip"],
        ),
    )
    production = make_store("production")
    production.write_metadata(part, rows("1", part=[0, 1], clip=["a", "a"]))
    store = make_store("main", fallback_stores=[production], fallback_mode="sample")
    store.write_metadata(part, rows("1", part=[1], **column))
    store.write_metadata(whole, store.resolve_update(whole).pending)
    explanation = store.explain(whole, "a")
    assert (explanation.status, store.resolve_update(whole).counts.stale) == ("up to date", 0)
    assert "1 row: 0" in explanation.to_text()


def test_a_sample_whose_version_a_farther_store_holds_is_up_to_date(make_store):
    features = declared()
    production = make_store("production")
    write(production, features)
    store = make_store("main", fallback_stores=[production], fallback_mode="sample")
    frame = features[2]
    store.write_metadata(features[0], rows("2", name=["a"]))
    store.calculate_and_write_data_versions(frame, frames([0]))
    store.write_metadata(features[0], rows("1", name=["a"]))
    assert not store.resolve_update(frame, samples=frames([0]))
    assert store.explain(frame, ("a", 0)).status == "up to date"


# Against the model.


@given(histories())
@examples(30)
def test_explanations_agree_with_increments(history):
    model, store = history.model, InMemoryMetadataStore()
    history.replay(store)
    with model.graph.use():
        for feature in history.derived:
            for row in model.rows[feature].values():
                compare(model, store, feature, row.place)


def compare(model, store, feature, place):
    key = model.key(feature, place)
    try:
        expected = model.versions(feature, place)
    except NoVersionError:
        return
    explanation = store.explain(FeatureKey(feature), key if len(key) > 1 else key[0])
    assert {name: node.expected for name, node in explanation.containers.items()} == expected
    stored = model.rows[feature][key].compared
    assert {name: node.stored for name, node in explanation.containers.items()} == stored
    changed = {name for name, node in explanation.containers.items() if "changed" in node.difference}
    assert changed == {name for name in expected if expected[name] != stored[name]}
    assert explanation.status in ({"stale"} if changed else {"up to date", "waiting", "stale"})
    assert bool(explanation.causes) is (explanation.status != "up to date")


def test_groups_of_stores_that_are_not_compared_with_are_no_part_of_it():
    now, then = declared(), declared(frame_code=2)
    far = InMemoryMetadataStore()
    write(far, then, numbers=(0,), take="far")
    near = InMemoryMetadataStore(fallback_stores=[far])
    frame, scene = write(near, now, numbers=(0,))
    near.calculate_and_write_data_versions(scene, pl.DataFrame({"clip": ["a"]}))
    near.write_metadata(then[2], rows("1", clip=["b"], frame=[0]))
    near.retire(frame, frames([0]))
    assert lines(near.explain(scene, "a"))[1:] == ["└─ frame/default (all of clip='a'): no rows; never stored"]
