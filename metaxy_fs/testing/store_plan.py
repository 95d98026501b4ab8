"""What every store answers when a run of the whole graph is planned."""

from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest

from metaxy_fs.errors import MetadataSchemaError, SpecError
from metaxy_fs.metadata_store import MetadataStore
from metaxy_fs.spec import ContainerSpec, Feature, FeatureDep, FeatureGraph, FeatureKey, FeatureSpec
from metaxy_fs.testing.store_cases import StoreCase


def chain_of_three(*, carried: Sequence[str] = ()) -> list[type[Feature]]:
    """Declare `video`, `crop` and `face` in a graph of their own, each made from the one before."""
    with FeatureGraph().use():

        class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]))):
            pass

        class Crop(Feature, spec=FeatureSpec(key=FeatureKey(["crop"]), deps=[FeatureDep(key=Video.spec.key)])):
            pass

        dep = FeatureDep(key=Crop.spec.key, columns=carried)

        class Face(Feature, spec=FeatureSpec(key=FeatureKey(["face"]), deps=[dep])):
            pass

    return [Video, Crop, Face]


def grouped(*, code_version: int = 1) -> FeatureGraph:
    """Declare `video`, `crop` made from it, and `scene` made from all crops with one value of a column of theirs."""
    crop = FeatureSpec(
        key="crop", deps=[FeatureDep(key="video")], containers=[ContainerSpec(code_version=code_version)]
    )
    scene = FeatureSpec(key="scene", id_columns=["scene"], deps=[FeatureDep(key="crop", relation="aggregation")])
    return FeatureGraph.from_specs([FeatureSpec(key="video"), crop, scene])


def rows(versions: dict[int, str]) -> pl.DataFrame:
    """Return rows of samples with given versions."""
    return pl.DataFrame({"sample_id": list(versions), "data_version": [{"default": v} for v in versions.values()]})


class StorePlan(StoreCase):
    """Plans of a run of the whole graph."""

    def test_a_plan_counts_what_only_upstream_makes_due(self, store: MetadataStore) -> None:
        video, crop, face = chain_of_three()
        store.write_metadata(video, rows({1: "a", 2: "a", 3: "a"}))
        store.write_metadata(crop, store.resolve_update(crop).pending[:2])
        store.write_metadata(face, store.resolve_update(face).pending[:1])
        store.write_metadata(video, rows({1: "b"}))
        plan = store.plan(face)
        names = ["feature", "new", "stale", "after_upstream", "waiting", "orphaned"]
        assert plan.features.select(names).rows() == [
            ("video", 0, 0, 0, 0, 0),
            ("crop", 1, 1, 0, 0, 0),
            ("face", 2, 1, 2, 0, 0),
        ]
        assert plan.causes.rows() == [("crop", "video/default", 1), ("face", "video/default", 1)]
        assert plan.pending(face).sort("sample_id").rows() == [
            (1, "stale", "video/default", True),
            (2, "new", None, False),
            (3, "new", None, True),
        ]
        assert (bool(plan), plan.samples, plan.is_exact) == (True, 5, True)

    def test_nothing_is_written_by_a_plan(self, store: MetadataStore) -> None:
        video, crop, face = chain_of_three()
        store.write_metadata(video, rows({1: "a"}))
        store.plan(face)
        assert not store.has_feature(crop)

    def test_a_plan_names_upstream_features_without_rows(self, store: MetadataStore) -> None:
        _, crop, face = chain_of_three()
        plan = store.plan(face)
        assert plan.features.select("feature", "missing").rows() == [
            ("video", []),
            ("crop", ["video"]),
            ("face", ["crop"]),
        ]
        assert not plan
        assert "nothing can be counted: video has no rows" in str(plan)
        with pytest.raises(KeyError, match="no samples of feature 'crop'"):
            plan.pending(crop)

    def test_a_first_run_does_not_know_the_groups_by_a_column_that_it_computes(self, store: MetadataStore) -> None:
        with grouped().use():
            store.write_metadata("video", rows({1: "a", 2: "a"}))
            plan = store.plan()
        assert plan.features.select("feature", "new", "unknown", "missing").rows() == [
            ("video", 0, 0, []),
            ("crop", 2, 0, []),
            ("scene", 0, 2, []),
        ]
        assert not plan.is_exact

    def test_rows_computed_again_do_not_tell_groups_by_a_column_that_they_lack(self, store: MetadataStore) -> None:
        with grouped().use():
            store.write_metadata("video", rows({1: "a", 2: "a"}))
            store.write_metadata("crop", store.resolve_update("crop").pending)
        with grouped(code_version=2).use():
            plan = store.plan()
        assert plan.features.select("feature", "new", "stale", "unknown", "missing").rows() == [
            ("video", 0, 0, 0, []),
            ("crop", 0, 2, 0, []),
            ("scene", 0, 0, 2, []),
        ]

    def test_a_plan_estimates_seconds(self, store: MetadataStore) -> None:
        video, crop, face = chain_of_three()
        store.write_metadata(video, rows(dict.fromkeys(range(11), "a")))
        times = pl.Series([1.0, 2.0, 3.0, float("nan"), -7.0])
        done = store.resolve_update(crop).pending[:5].with_columns(took=times)
        store.write_metadata(crop, done)
        plan = store.plan(crop, seconds="took")
        assert plan.features["seconds"].to_list() == [None, 12.0]
        assert "about 12 s" in str(plan)
        assert "at least 12 s" in str(store.plan(face, seconds="took"))

    def test_a_column_without_values_tells_no_seconds(self, store: MetadataStore) -> None:
        video, crop, _ = chain_of_three()
        store.write_metadata(video, rows({1: "a", 2: "a"}))
        store.write_metadata(crop, store.resolve_update(crop).pending[:1].with_columns(took=None))
        assert store.plan(crop, seconds="took").seconds is None

    def test_seconds_are_numbers(self, store: MetadataStore) -> None:
        video, crop, _ = chain_of_three()
        store.write_metadata(video, rows({1: "a"}))
        store.write_metadata(crop, store.resolve_update(crop).pending.with_columns(took=pl.lit("long")))
        with pytest.raises(MetadataSchemaError, match="names a column"):
            store.plan(crop, seconds="took")

    def test_a_column_that_no_feature_has_tells_no_seconds(self, store: MetadataStore) -> None:
        video, crop, face = chain_of_three()
        store.write_metadata(video, rows({1: "a"}))
        plan = store.plan(face, seconds="took")  # nothing is computed yet, so any name may be right
        assert plan.seconds is None
        assert "no row has a value of 'took' yet" in str(plan)
        store.write_metadata(crop, store.resolve_update(crop).pending.with_columns(took=1.0))
        with pytest.raises(MetadataSchemaError, match=r"'tok' names a column of none .*'took'") as error:
            store.plan(face, seconds="tok")
        assert error.value.column == "tok"

    def test_what_the_run_retires_is_gone_downstream(self, store: MetadataStore) -> None:
        video, crop, face = chain_of_three()
        store.write_metadata(video, rows({1: "a", 2: "a"}))
        for job in (crop, face):
            store.write_metadata(job, store.resolve_update(job).pending)
        store.retire(video, pl.DataFrame({"sample_id": [2]}))
        assert store.plan(face).features["orphaned"].to_list() == [0, 1, 0]
        assert store.plan(face, retire_orphaned=True).features["orphaned"].to_list() == [0, 1, 1]

    def test_columns_to_carry_are_not_needed(self, store: MetadataStore) -> None:
        video, _, face = chain_of_three(carried=["path"])
        store.write_metadata(video, rows({1: "a", 2: "a"}))
        assert store.plan(face).features["new"].to_list() == [0, 2, 2]

    def test_targets_of_two_graphs_are_refused(self, store: MetadataStore) -> None:
        one, other = chain_of_three(), chain_of_three()
        with pytest.raises(SpecError, match="one graph"):
            store.plan(one[2], other[2])

    def test_a_plan_shows_itself(self, store: MetadataStore) -> None:
        video, _, face = chain_of_three()
        store.write_metadata(video, rows({1: "a"}))
        shown: Any = store.plan(face)
        assert str(shown).splitlines()[0] == "Plan of 3 features: 2 samples to compute"
        assert "<b>Plan of 3 features: 2 samples to compute</b>" in shown._repr_html_()
