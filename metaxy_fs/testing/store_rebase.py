"""Tests of a store: rows that still stand are written under a new definition, and no others.

Expectations are spelled out with hashlib. The features are a chain of a root, `mid` and `end`.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl
import pytest

from metaxy_fs.errors import FeatureNotFoundError, SpecError
from metaxy_fs.metadata_store import MetadataStore
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.spec import ContainerSpec, Feature, FeatureDep, FeatureKey, FeatureSpec
from metaxy_fs.testing.store_cases import (
    SAMPLE_ID,
    MakeStore,
    StoreCase,
    container,
    declare,
    derived,
    ids_of,
    root,
    samples,
    sha256,
)
from metaxy_fs.testing.store_content import by_content, filled

TOP, MID, END = FeatureKey(["top"]), FeatureKey(["mid"]), FeatureKey(["end"])


def features(*, top: int = 1, mid: int = 1, end: int = 1) -> list[type[Feature]]:
    """Return the chain with these code versions."""
    return declare(
        root(TOP, container("default", top)),
        derived(MID, [TOP], container("default", mid)),
        derived(END, [MID], container("default", end)),
    )


def tops(versions: Mapping[Any, str], **columns: Any) -> pl.DataFrame:
    """Return rows of the root feature by sample."""
    given = [{"default": version} for version in versions.values()]
    return pl.DataFrame({SAMPLE_ID: list(versions), **columns, "data_version": given})


def update(store: MetadataStore, feature: type[Feature], output: str = "output") -> list[Any]:
    """Compute what is pending of a feature, and return the ids of that."""
    pending = store.resolve_update(feature).pending
    rows = filled(pending, output) if "provenance" in pending.columns else pending
    store.write_metadata(feature, rows.with_columns(path=pl.format("{}.bin", SAMPLE_ID)))
    return ids_of(pending.sort(SAMPLE_ID))


def update_all(store: MetadataStore, chain: list[type[Feature]], versions: Mapping[Any, str]) -> None:
    """Write rows of the root feature, and compute the others."""
    store.write_metadata(chain[0], tops(versions))
    for feature in chain[1:]:
        update(store, feature)


def counts(store: MetadataStore, feature: type[Feature], **options: Any) -> tuple[int, int]:
    """Rebase a feature, and return how many rows were written and left."""
    rebased = store.rebase(feature, **options)
    return rebased.rows, rebased.skipped


class StoreRebase(StoreCase):
    """Tests of `rebase`, of stores that keep the declarations of their writers."""

    @pytest.fixture
    def keeper(self, store: MetadataStore) -> MetadataStore:
        """Return an empty store that keeps declarations."""
        if type(store).stored_specs is Backend.stored_specs:
            pytest.skip("needs a store that keeps declarations")
        return store

    def test_rows_are_written_under_the_present_definition(self, keeper: MetadataStore) -> None:
        before = features()
        update_all(keeper, before, {"a": "1", "b": "1"})
        *_, end = features(end=2)
        assert keeper.resolve_update(end).counts.stale == 2
        assert keeper.what_if(before[2], code_versions={"default": 2})["stale"].to_list() == [2]
        last = keeper.history(end)["partition"][-1]
        rebased = keeper.rebase(end, reason="same output", tags={"git": "3f2a9c1"})
        assert (rebased.rows, rebased.skipped, rebased.from_version) == (2, 0, last)
        assert not keeper.resolve_update(end)
        assert keeper.what_if(before[2], code_versions={"default": 2})["stale"].to_list() == [0]
        mid = {name: sha256(f"default|1|top/default|{version}") for name, version in (("a", "1"), ("b", "1"))}
        rows = keeper.read_metadata(end)
        assert rows.to_dicts() == [
            {
                SAMPLE_ID: name,
                "data_version": {"default": sha256(f"default|2|mid/default|{mid[name]}")},
                "path": f"{name}.bin",
            }
            for name in ("a", "b")
        ]
        commits = keeper.history(end)
        assert commits["rows"].to_list() == [2, 2]
        assert commits["tags"].str.json_decode(pl.Struct({"reason": pl.String, "git": pl.String}))[-1] == {
            "reason": "same output",
            "git": "3f2a9c1",
        }

    def test_a_change_of_code_is_rebased_down_the_graph(self, keeper: MetadataStore) -> None:
        update_all(keeper, features(), {"a": "1", "b": "1"})
        _, mid, end = features(mid=2)
        assert counts(keeper, mid) == (2, 0)
        assert counts(keeper, end) == (2, 0)
        assert not keeper.resolve_update(mid)
        assert not keeper.resolve_update(end)

    def test_rows_that_were_stale_stay_stale(self, keeper: MetadataStore) -> None:
        top, *rest = features()
        update_all(keeper, [top, *rest], {"a": "1", "b": "1"})
        keeper.write_metadata(top, tops({"b": "2"}))
        _, mid, _ = features(mid=2)
        assert counts(keeper, mid) == (1, 1)
        assert ids_of(keeper.resolve_update(mid).stale) == ["b"]

    def test_rows_whose_upstream_moved_with_other_data_stay_stale(self, keeper: MetadataStore) -> None:
        update_all(keeper, features(), {"a": "1", "b": "1", "c": "1"})
        top, mid, end = features(top=2)
        keeper.write_metadata(top, tops({"a": "1", "b": "2"}))
        assert counts(keeper, mid) == (1, 2)
        increment = keeper.resolve_update(mid)
        assert (ids_of(increment.stale), ids_of(increment.orphaned)) == (["b"], ["c"])
        update(keeper, mid)
        assert counts(keeper, end) == (1, 2)
        assert ids_of(keeper.resolve_update(end).stale) == ["b"]

    def test_rows_whose_moved_upstream_was_stale_stay_stale(self, keeper: MetadataStore) -> None:
        top, *rest = features()
        update_all(keeper, [top, *rest], {"a": "1", "b": "1"})
        keeper.write_metadata(top, tops({"b": "2"}))
        _, mid, end = features(mid=2)
        update(keeper, mid)
        assert counts(keeper, end) == (1, 1)
        assert ids_of(keeper.resolve_update(end).stale) == ["b"]

    def test_rows_whose_moved_upstream_is_stale_now_stay_stale(self, keeper: MetadataStore) -> None:
        top, mid, end = features()
        update_all(keeper, [top, mid, end], {"a": "1", "b": "1"})
        _, new_mid, new_end = features(mid=2)
        update(keeper, new_mid)
        keeper.write_metadata(top, tops({"b": "2"}))
        update(keeper, mid)
        update(keeper, end)
        assert counts(keeper, new_end) == (1, 1)
        keeper.write_metadata(top, tops({"b": "1"}))
        assert ids_of(keeper.resolve_update(new_end).stale) == ["b"]

    def test_rows_are_rebased_though_an_upstream_that_stays_is_stale(self, keeper: MetadataStore) -> None:
        top, mid, end = features()
        update_all(keeper, [top, mid, end], {"a": "1"})
        keeper.write_metadata(top, tops({"a": "2"}))
        _, mid, end = features(end=2)
        assert counts(keeper, end) == (1, 0)
        assert not keeper.resolve_update(end)
        update(keeper, mid)
        assert ids_of(keeper.resolve_update(end).stale) == ["a"]

    def test_rows_of_the_definition_that_was_written_last_are_taken(self, keeper: MetadataStore) -> None:
        update_all(keeper, features(), {"a": "1"})
        *_, second = features(end=2)
        keeper.rebase(second)
        keeper.write_metadata(second, keeper.read_metadata(second).with_columns(path=pl.lit("moved")))
        *_, third = features(end=3)
        assert counts(keeper, third) == (1, 0)
        assert keeper.read_metadata(third)["path"].to_list() == ["moved"]

    def test_what_is_done_is_left_alone(self, keeper: MetadataStore) -> None:
        update_all(keeper, features(), {"a": "1", "b": "1"})
        *_, end = features(end=2)
        keeper.write_metadata(end, keeper.resolve_update(end).pending.head(1).with_columns(path=pl.lit("new")))
        assert counts(keeper, end) == (1, 0)
        assert counts(keeper, end) == (0, 0)
        assert keeper.history(end).filter(pl.col("rows") == 0).is_empty()
        assert sorted(keeper.read_metadata(end)["path"]) == ["b.bin", "new"]

    def test_retired_samples_stay_retired(self, keeper: MetadataStore) -> None:
        before = features()
        update_all(keeper, before, {"a": "1", "b": "1"})
        keeper.retire(before[2], samples(["b"]))
        *_, end = features(end=2)
        assert counts(keeper, end) == (1, 0)
        assert keeper.resolve_update(end).counts.retired == 1

    def test_samples_that_lack_an_upstream_row_are_left(self, keeper: MetadataStore) -> None:
        update_all(keeper, features(), {"a": "1", "b": "1"})
        _, mid, end = features(mid=2)
        keeper.write_metadata(mid, keeper.resolve_update(mid).pending.head(1))
        assert counts(keeper, end) == (1, 1)

    def test_a_root_feature_keeps_its_versions(self, keeper: MetadataStore) -> None:
        top, *_ = features()
        keeper.write_metadata(top, tops({"a": "1", "b": "2"}, size=[3, 4]))
        top, *_ = features(top=2)
        assert counts(keeper, top) == (2, 0)
        expected = tops({"a": "1", "b": "2"}, size=[3, 4])
        assert keeper.read_metadata(top).select(expected.columns).equals(expected)
        assert not keeper.resolve_update(top, samples=expected)

    def test_a_root_feature_keeps_what_was_given_since(self, keeper: MetadataStore) -> None:
        top, *_ = features()
        keeper.write_metadata(top, tops({"a": "1", "b": "1"}))
        top, *_ = features(top=2)
        keeper.write_metadata(top, tops({"a": "2"}))
        assert counts(keeper, top) == (1, 0)
        assert keeper.read_metadata(top, latest_only=True).sort(SAMPLE_ID).equals(tops({"a": "2", "b": "1"}))

    def test_groups_of_rows_that_a_predicate_selects_now_stay_stale(self, keeper: MetadataStore) -> None:
        def made(where: str, version: int) -> list[type[Feature]]:
            dep = FeatureDep(key=TOP, relation="aggregation", where=where)
            spec = FeatureSpec(key=MID, deps=[dep], id_columns=["film"], containers=[container("default", version)])
            return declare(root(TOP), spec)

        top, mid = made("good", 1)
        keeper.write_metadata(top, tops({1: "1", 2: "2", 3: "3"}, film=["x", "x", "y"], good=[True, False, True]))
        keeper.write_metadata(mid, keeper.resolve_update(mid).pending)
        _, mid = made("good OR NOT good", 2)
        assert counts(keeper, mid) == (1, 1)
        assert keeper.resolve_update(mid).stale["film"].to_list() == ["x"]

    # Containers.

    def test_renamed_containers_are_calculated_anew(self, keeper: MetadataStore) -> None:
        def named(*names: str) -> list[type[Feature]]:
            return declare(root(TOP), derived(MID, [TOP], *map(container, names)))

        update_all(keeper, named("x", "y"), {"a": "1"})
        _, mid = named("y", "z")
        with pytest.raises(SpecError, match=r"'z' of feature 'mid' is none of \['x', 'y'\].*containers=\{'x': 'z'\}"):
            keeper.rebase(mid)
        for wrong in ({"q": "z"}, {"x": "q"}, {"x": "z", "y": "z"}):
            with pytest.raises(SpecError, match=r"containers=\{"):
                keeper.rebase(mid, containers=wrong)
        with pytest.raises(TypeError, match="maps earlier names"):
            keeper.rebase(mid, containers="x")  # type: ignore[arg-type]
        assert counts(keeper, mid, containers={"x": "z"}) == (1, 0)
        versions = {name: sha256(f"{name}|1|top/default|1") for name in ("y", "z")}
        assert keeper.read_metadata(mid)["data_version"].to_list() == [versions]
        assert not keeper.resolve_update(mid)

    def test_versions_of_a_renamed_root_are_followed(self, keeper: MetadataStore) -> None:
        def named(name: str) -> list[type[Feature]]:
            return declare(root(TOP, container(name)), derived(MID, [TOP], container("default", top=[name])))

        top, mid = named("x")
        keeper.write_metadata(top, tops({"a": "1", "b": "1"}).with_columns(_renamed("default", "x")))
        update(keeper, mid)
        top, mid = named("y")
        assert counts(keeper, top, containers={"x": "y"}) == (2, 0)
        keeper.write_metadata(top, tops({"b": "2"}).with_columns(_renamed("default", "y")))
        assert counts(keeper, mid) == (1, 1)
        assert ids_of(keeper.resolve_update(mid).stale) == ["b"]

    def test_versions_of_content_carry_over(self, keeper: MetadataStore) -> None:
        def made(name: str, version: int) -> list[type[Feature]]:
            return declare(root(TOP), derived(MID, [TOP], by_content(name, version), container("size")))

        top, mid = made("x", 1)
        keeper.write_metadata(top, tops({"a": "1"}))
        keeper.write_metadata(mid, filled(keeper.resolve_update(mid).pending, "output", "x"))
        _, mid = made("y", 2)
        assert counts(keeper, mid, containers={"x": "y"}) == (1, 0)
        size = sha256("size|1|top/default|1")
        assert keeper.read_metadata(mid).drop(SAMPLE_ID).to_dicts() == [
            {
                "data_version": {"y": "output", "size": size},
                "provenance": {"y": sha256("y|2|top/default|1"), "size": size},
            }
        ]

    def test_a_container_that_becomes_versioned_by_content_keeps_its_version(self, keeper: MetadataStore) -> None:
        top, mid = declare(root(TOP), derived(MID, [TOP]))
        update_all(keeper, [top, mid], {"a": "1"})
        before = keeper.read_metadata(mid)
        _, mid = declare(root(TOP), derived(MID, [TOP], by_content()))
        assert counts(keeper, mid) == (1, 0)
        after = keeper.read_metadata(mid)
        assert after["data_version"].equals(before["data_version"])
        assert after["provenance"].to_list() == before["data_version"].to_list()

    def test_rows_are_rebased_where_the_content_upstream_is_the_same(self, keeper: MetadataStore) -> None:
        def made(version: int) -> list[type[Feature]]:
            return declare(root(TOP), derived(MID, [TOP], by_content(version=version)), derived(END, [MID]))

        update_all(keeper, made(1), {"a": "1", "b": "1"})
        _, mid, end = made(2)
        pending = keeper.resolve_update(mid).pending.sort(SAMPLE_ID)
        keeper.write_metadata(mid, pl.concat([filled(pending.head(1), "output"), filled(pending.tail(1), "other")]))
        assert counts(keeper, end) == (1, 1)
        assert ids_of(keeper.resolve_update(end).stale) == ["b"]

    # Relations.

    def test_groups_and_expansions_are_rebased(self, keeper: MetadataStore) -> None:
        def made(part: int, whole: int) -> list[type[Feature]]:
            parts = FeatureSpec(
                key=MID,
                deps=[FeatureDep(key=TOP, relation="expansion")],
                containers=[container("default", part)],
                id_columns=[SAMPLE_ID, "part"],
            )
            group = FeatureSpec(
                key=END,
                deps=[FeatureDep(key=MID, relation="aggregation")],
                containers=[container("default", whole)],
            )
            return declare(root(TOP), parts, group)

        top, mid, end = made(1, 1)
        keeper.write_metadata(top, tops({"a": "1", "b": "1"}))
        parents = keeper.resolve_update(mid).pending
        keeper.write_metadata(mid, parents.join(pl.DataFrame({"part": [1, 2]}), how="cross"))
        update(keeper, end)
        keeper.write_metadata(top, tops({"b": "2"}))
        _, mid, end = made(2, 1)
        assert counts(keeper, mid) == (2, 2)
        parents = keeper.resolve_update(mid).pending
        assert ids_of(parents) == ["b"]
        keeper.write_metadata(mid, parents.join(pl.DataFrame({"part": [1, 2]}), how="cross"))
        assert counts(keeper, end) == (1, 1)
        assert ids_of(keeper.resolve_update(end).stale) == ["b"]

    def test_optional_rows_that_never_were_are_no_hindrance(self, keeper: MetadataStore) -> None:
        def made(version: int) -> list[type[Feature]]:
            deps = [FeatureDep(key=TOP), FeatureDep(key=MID, optional=True)]
            spec = FeatureSpec(key=END, deps=deps, containers=[ContainerSpec(code_version=version)])
            return declare(root(TOP), root(MID), spec)

        top, mid, end = made(1)
        update_all(keeper, [top, end], {"a": "1", "b": "1"})
        _, _, end = made(2)
        assert counts(keeper, end) == (2, 0)
        keeper.write_metadata(mid, tops({"b": "1"}))
        _, _, end = made(3)
        assert counts(keeper, end) == (1, 1)

    # What cannot be rebased.

    def test_without_another_definition_there_is_nothing_to_rebase(self, keeper: MetadataStore) -> None:
        before = features()
        with pytest.raises(FeatureNotFoundError, match="no rows under another definition"):
            keeper.rebase(before[2])
        update_all(keeper, before, {"a": "1"})
        with pytest.raises(FeatureNotFoundError, match="nothing to rebase"):
            keeper.rebase(before[2])

    def test_rows_of_a_fallback_store_are_written_to_the_first(
        self, keeper: MetadataStore, make_store: MakeStore
    ) -> None:
        update_all(keeper, features(), {"a": "1", "b": "1"})
        near = make_store("near", [keeper])
        *_, end = features(end=2)
        assert counts(near, end) == (2, 0)
        assert not near.resolve_update(end)
        assert not keeper.has_feature(end)

    def test_rows_of_a_fallback_store_are_not_hidden(self, keeper: MetadataStore, make_store: MakeStore) -> None:
        update_all(keeper, features(), {"a": "1", "b": "1"})
        *_, end = features(end=2)
        keeper.write_metadata(end, keeper.resolve_update(end).pending.head(1))
        with pytest.raises(FeatureNotFoundError, match="hide all of those"):
            make_store("near", [keeper]).rebase(end)


def _renamed(old: str, new: str) -> pl.Expr:
    return pl.struct(pl.col("data_version").struct.field(old).alias(new)).alias("data_version")
