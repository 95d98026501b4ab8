"""What every store carries of upstream rows beside the samples of an increment, and how a predicate restricts it."""

from typing import Any

import polars as pl
import pytest

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.metadata_store import Increment, MetadataStore
from metaxy_fs.spec import Feature, FeatureDep, FeatureKey, FeatureSpec
from metaxy_fs.testing.store_cases import SAMPLE_ID, MakeStore, StoreCase, declare, ids_of, root, samples

CLIP, LABEL, SHOT, CUT = (FeatureKey([name]) for name in ("clip", "label", "shot", "cut"))


def rows(take: str = "", **columns: list[Any]) -> pl.DataFrame:
    """Return rows whose versions differ by their take."""
    version = pl.struct(pl.lit(f"v{take}").alias("default")).alias("data_version")
    return pl.DataFrame(columns).with_columns(version)


def clips(*ids: int, take: str = "", **columns: list[Any]) -> pl.DataFrame:
    """Return rows of clips, with paths that tell one recording from another."""
    return rows(take, sample_id=list(ids), path=[f"{i}{take}.mp4" for i in ids], **columns)


def made_from(*deps: FeatureDep, id_columns: tuple[str, ...] = (SAMPLE_ID,)) -> FeatureSpec:
    """Return the spec of a feature."""
    return FeatureSpec(key=CUT, deps=deps, id_columns=id_columns)


def clip_and_cut(**options: Any) -> list[type[Feature]]:
    """Return a root feature and one that carries its path."""
    return declare(root(CLIP), made_from(FeatureDep(key=CLIP, columns=["path"], **options)))


def shots() -> pl.DataFrame:
    """Return rows of shots, of which two clips have some, not in the order of their numbers."""
    return rows(
        clip=["b", "a", "a", "a"],
        number=[1, 2, 1, 3],
        sharp=[True, True, True, False],
        path=["b1", "a2", None, "a3"],
    )


def paths(frame: pl.DataFrame, column: str = "path") -> dict[Any, Any]:
    """Return what is carried, by the id of the sample."""
    return dict(zip(frame[frame.columns[0]], frame[column].to_list(), strict=True))


class StoreCarried(StoreCase):
    """Tests of `FeatureDep(columns=...)` and `resolve_update(where=...)`."""

    def test_new_and_stale_samples_come_with_columns_of_their_upstream_rows(self, store: MetadataStore) -> None:
        clip, cut = clip_and_cut()
        store.write_metadata(clip, clips(2, 1))
        increment = store.resolve_update(cut)
        assert increment.new.columns == [SAMPLE_ID, "path", "data_version"]
        assert paths(increment.new) == {1: "1.mp4", 2: "2.mp4"}

        store.write_metadata(cut, increment.pending)
        store.write_metadata(clip, clips(2, 3, take="again"))
        increment = store.resolve_update(cut)
        assert (paths(increment.new), paths(increment.stale)) == ({3: "3again.mp4"}, {2: "2again.mp4"})
        assert paths(increment.pending) == {3: "3again.mp4", 2: "2again.mp4"}

    @pytest.mark.parametrize("lazy", [False, True])
    def test_what_is_carried_is_of_the_row_that_the_version_was_made_from(
        self, store: MetadataStore, *, lazy: bool
    ) -> None:
        clip, cut = clip_and_cut()
        store.write_metadata(clip, clips(1, 2))
        expected = store.calculate_data_versions(cut, samples([1, 2]))
        increment = store.resolve_update(cut, lazy=True) if lazy else store.resolve_update(cut)
        store.write_metadata(clip, clips(1, 2, take="again"))
        pending = increment.pending.lazy().collect()
        assert pending.drop("path").equals(expected)
        assert paths(pending) == {1: "1.mp4", 2: "2.mp4"}

        store.write_metadata(cut, pending)
        assert paths(store.resolve_update(cut).stale) == {1: "1again.mp4", 2: "2again.mp4"}

    def test_columns_of_two_features_are_carried_under_the_names_of_rename(self, store: MetadataStore) -> None:
        clip, label, cut = declare(
            root(CLIP),
            root(LABEL),
            made_from(
                FeatureDep(key=LABEL, columns=["path", "lang"], rename={"path": "labels"}),
                FeatureDep(key=CLIP, columns=["path"]),
            ),
        )
        store.write_metadata(clip, clips(1, 2))
        store.write_metadata(label, rows(sample_id=[2], path=["2.json"], lang=["en"]))
        increment = store.resolve_update(cut)
        assert increment.new.drop("data_version").rows(named=True) == [
            {SAMPLE_ID: 2, "labels": "2.json", "lang": "en", "path": "2.mp4"}
        ]
        assert increment.waiting.rows() == [(1, ["label"])]

    def test_what_an_optional_row_lacks_is_null(self, store: MetadataStore) -> None:
        label_dep = FeatureDep(key=LABEL, columns=["lang"], optional=True, where="lang <> 'xx'")
        clip, label, cut = declare(root(CLIP), root(LABEL), made_from(FeatureDep(key=CLIP), label_dep))
        store.write_metadata(clip, clips(1, 2, 3, 4))
        assert paths(store.resolve_update(cut).new, "lang") == dict.fromkeys([1, 2, 3, 4])
        store.write_metadata(label, rows(sample_id=[1, 2, 3], lang=["en", "xx", "fr"]))
        store.retire(label, samples([3]))
        assert paths(store.resolve_update(cut).new, "lang") == {1: "en", 2: None, 3: None, 4: None}

    def test_rows_from_before_a_column_have_null_there(self, store: MetadataStore) -> None:
        clip, cut = clip_and_cut()
        store.write_metadata(clip, clips(1).drop("path"))
        store.write_metadata(clip, clips(2))
        assert paths(store.resolve_update(cut).new) == {1: None, 2: "2.mp4"}

    def test_a_column_that_no_row_has_is_an_error(self, store: MetadataStore) -> None:
        clip, cut = clip_and_cut()
        store.write_metadata(clip, clips(1).drop("path"))
        with pytest.raises(MetadataSchemaError, match="'cut' carries column 'path' of its upstream 'clip'") as caught:
            store.resolve_update(cut)
        assert caught.value.column == "path"
        assert store.calculate_data_versions(cut, samples([1])).columns == [SAMPLE_ID, "data_version"]

    @pytest.mark.parametrize("retired", [[], [1]])
    def test_of_features_without_samples_no_column_need_be_known(
        self, store: MetadataStore, retired: list[int]
    ) -> None:
        clip, cut = clip_and_cut(where="path <> ''", rename={"path": "clip_path"})
        store.write_metadata(clip, clips().drop("path").cast({SAMPLE_ID: pl.Int64}))
        store.retire(clip, samples(retired))

        assert store.resolve_update(cut).counts == (0, 0, 0, 0, 0)
        assert store.resolve_update(cut, where=pl.col("clip_path").is_null(), lazy=True).counts.new == 0
        assert store.read_upstream_metadata(cut)["clip"].is_empty()

    def test_a_predicate_on_a_column_that_no_row_has_is_an_error(self, store: MetadataStore) -> None:
        clip, cut = clip_and_cut(where="bytes > 0")
        store.write_metadata(clip, clips(1))
        for read in (store.resolve_update, store.read_upstream_metadata):
            with pytest.raises(MetadataSchemaError, match="'clip' has no column 'bytes'") as caught:
                read(cut)
            assert caught.value.column == "bytes"

    def test_groups_come_with_lists_in_the_order_of_the_ids_of_their_rows(self, store: MetadataStore) -> None:
        dep = FeatureDep(key=SHOT, relation="aggregation", where="sharp", columns=["number", "path"])
        shot, cut = declare(root(SHOT, id_columns=["clip", "number"]), made_from(dep, id_columns=("clip",)))
        store.write_metadata(shot, shots().head(2))
        store.write_metadata(shot, shots().tail(2))
        new = store.resolve_update(cut).new
        assert new.columns == ["clip", "number", "path", "data_version"]
        assert (paths(new, "number"), paths(new)) == ({"a": [1, 2], "b": [1]}, {"a": [None, "a2"], "b": ["b1"]})
        store.retire(shot, pl.DataFrame({"clip": ["a"], "number": [1]}))
        assert paths(store.resolve_update(cut).new) == {"a": ["a2"], "b": ["b1"]}

    def test_a_group_that_is_missing_is_null(self, store: MetadataStore) -> None:
        dep = FeatureDep(key=SHOT, relation="aggregation", where="sharp", columns=["path"], optional=True)
        clip, shot, cut = declare(
            root(CLIP, id_columns=["clip"]),
            root(SHOT, id_columns=["clip", "number"]),
            made_from(FeatureDep(key=CLIP), dep, id_columns=("clip",)),
        )
        store.write_metadata(clip, rows(clip=["a", "b", "c"]))
        assert paths(store.resolve_update(cut).new) == {"a": None, "b": None, "c": None}
        store.write_metadata(shot, shots().with_columns(sharp=pl.col("sharp") & (pl.col("clip") == "a")))
        assert paths(store.resolve_update(cut).new) == {"a": [None, "a2"], "b": None, "c": None}

    def test_parents_come_with_their_own_columns_and_so_do_samples_that_are_given(self, store: MetadataStore) -> None:
        dep = FeatureDep(key=CLIP, relation="expansion", columns=["path"])
        clip, cut = declare(root(CLIP), made_from(dep, id_columns=(SAMPLE_ID, "number")))
        store.write_metadata(clip, clips(1, 2))
        assert paths(store.resolve_update(cut).new) == {1: "1.mp4", 2: "2.mp4"}
        given = pl.DataFrame({"title": ["x", "y"], "number": [2, 1], SAMPLE_ID: [2, 2]})
        found = store.resolve_update(cut, samples=given).new
        assert found.columns == ["title", "number", SAMPLE_ID, "path", "data_version"]
        assert found["path"].to_list() == ["2.mp4", "2.mp4"]

    def test_given_samples_may_not_bring_what_is_carried(self, store: MetadataStore) -> None:
        clip, cut = clip_and_cut()
        store.write_metadata(clip, clips(1))
        given = samples([1], path=["elsewhere"])
        with pytest.raises(MetadataSchemaError, match="'path', which its increment carries"):
            store.resolve_update(cut, samples=given)
        assert store.calculate_data_versions(cut, given)["path"].to_list() == ["elsewhere"]

    def test_columns_can_be_added_and_renamed_without_computing_again(self, store: MetadataStore) -> None:
        clip, cut = clip_and_cut()
        store.write_metadata(clip, clips(1))
        store.write_metadata(cut, store.resolve_update(cut).pending)
        assert not store.resolve_update(declare(root(CLIP), made_from(FeatureDep(key=CLIP)))[1])
        assert not store.resolve_update(clip_and_cut(rename={"path": "file"})[1])

    # A predicate.

    def test_samples_are_selected_by_their_ids(self, store: MetadataStore) -> None:
        clip, cut = clip_and_cut()
        increment = _of_every_kind(store, clip, cut)
        assert (ids_of(increment.new), ids_of(increment.stale)) == ([1, 11], [2, 12])
        assert (ids_of(increment.orphaned), ids_of(increment.waiting), increment.retired) == ([3, 13], [], 2)

        few = store.resolve_update(cut, where=pl.col(SAMPLE_ID) > 10)
        assert (ids_of(few.new), ids_of(few.stale)) == ([11], [12])
        assert (ids_of(few.orphaned), few.retired) == ([13], 1)
        assert few.stale.equals(increment.stale.filter(pl.col(SAMPLE_ID) > 10))
        assert store.resolve_update(cut, where=pl.col(SAMPLE_ID) > 10, lazy=True).counts == few.counts

    def test_samples_are_selected_by_what_is_carried(self, store: MetadataStore) -> None:
        clip, cut = clip_and_cut()
        _of_every_kind(store, clip, cut)
        few = store.resolve_update(cut, where=pl.col("path").str.starts_with("1"))
        assert (ids_of(few.new), ids_of(few.stale)) == ([1, 11], [12])
        # Of stored samples that there should not be, nothing is carried.
        assert (few.orphaned.height, few.retired) == (0, 1)
        assert ids_of(store.resolve_update(cut, where=pl.col("path").is_null()).orphaned) == [3, 13]

    def test_samples_that_wait_are_selected_like_others(self, store: MetadataStore) -> None:
        label_dep = FeatureDep(key=LABEL, columns=["lang"])
        clip, label, cut = declare(
            root(CLIP), root(LABEL), made_from(FeatureDep(key=CLIP, columns=["path"]), label_dep)
        )
        store.write_metadata(clip, clips(1, 2, 3))
        store.write_metadata(label, rows(sample_id=[1, 4], lang=["en", "en"]))
        for where, waiting in (
            (pl.col(SAMPLE_ID) > 2, [(3, ["label"]), (4, ["clip"])]),
            (pl.col("lang") == "en", [(4, ["clip"])]),
            (pl.col("path") == "2.mp4", [(2, ["label"])]),
        ):
            assert store.resolve_update(cut, where=where).waiting.rows() == waiting

    def test_given_samples_and_those_of_a_root_feature_are_selected_too(self, store: MetadataStore) -> None:
        clip, cut = clip_and_cut()
        store.write_metadata(clip, clips(1, 2, 3))
        given = samples([3, 2, 1], label=["c", "b", "a"])
        found = store.resolve_update(cut, samples=given, where=pl.col(SAMPLE_ID) != 2)
        assert found.new["label"].to_list() == ["c", "a"]
        found = store.resolve_update(clip, samples=clips(1, 4, 5, take="again"), where=pl.col(SAMPLE_ID).is_in([2, 4]))
        assert (ids_of(found.new), found.stale.height, ids_of(found.orphaned)) == ([4], 0, [2])

    def test_parents_are_selected_with_all_that_was_made_from_them(self, store: MetadataStore) -> None:
        dep = FeatureDep(key=CLIP, relation="expansion", columns=["path"])
        clip, cut = declare(root(CLIP), made_from(dep, id_columns=(SAMPLE_ID, "number")))
        store.write_metadata(clip, clips(1, 2))
        made = store.resolve_update(cut).pending.join(pl.DataFrame({"number": [1, 2]}), how="cross")
        store.write_metadata(cut, made)
        store.write_metadata(clip, clips(1, 2, take="again"))
        again = store.resolve_update(cut).pending.with_columns(number=pl.lit(1, pl.Int64))
        store.write_metadata(cut, again)

        assert store.resolve_update(cut).orphaned.select(SAMPLE_ID, "number").rows() == [(1, 2), (2, 2)]
        for where in (pl.col(SAMPLE_ID) == 2, pl.col("path") == "2again.mp4"):
            assert store.resolve_update(cut, where=where).orphaned.select(SAMPLE_ID, "number").rows() == [(2, 2)]
        with pytest.raises(MetadataSchemaError, match=r"where names the column 'number'.*\['sample_id'\]") as caught:
            store.resolve_update(cut, where=pl.col("number") == 1)
        assert "name only ids of parents" in str(caught.value)

    def test_samples_of_a_chain_come_with_columns_of_the_row_that_reads_give(self, make_store: MakeStore) -> None:
        clip, cut = clip_and_cut()
        far = make_store("far")
        far.write_metadata(clip, clips(1, 2))
        near = make_store("near", fallback_stores=[far])
        assert paths(near.resolve_update(cut).new) == {1: "1.mp4", 2: "2.mp4"}
        near.write_metadata(clip, clips(2, take="again"))
        assert paths(near.resolve_update(cut).new) == {2: "2again.mp4"}

    @pytest.mark.parametrize(
        ("where", "named"),
        [
            (pl.col("size") > 1, r"'size'.*\['sample_id'\].*\['path'\].*columns=\['size'\]"),
            (pl.col("data_version").is_not_null(), "'data_version'"),
            (pl.col(SAMPLE_ID) == pl.col(SAMPLE_ID).max(), "one sample at a time"),
            (pl.col("path").is_first_distinct(), "one sample at a time"),
            (pl.col(SAMPLE_ID).sum().over("path") > 1, "one sample at a time"),
            (pl.col(SAMPLE_ID) + 1, "where is true or false"),
            (pl.lit("a"), "where is true or false"),
            (pl.col(SAMPLE_ID) == "a", "where cannot be evaluated"),
        ],
        ids=str,
    )
    def test_a_predicate_that_cannot_be_asked_of_each_sample_is_refused(
        self, store: MetadataStore, where: pl.Expr, named: str
    ) -> None:
        clip, cut = clip_and_cut()
        store.write_metadata(clip, clips(1))
        with pytest.raises(MetadataSchemaError, match=named):
            store.resolve_update(cut, where=where)

    @pytest.mark.parametrize("where", ["sample_id > 1", True, pl.all() > 1], ids=str)
    def test_what_names_no_columns_is_no_predicate(self, store: MetadataStore, where: Any) -> None:
        clip, cut = clip_and_cut()
        store.write_metadata(clip, clips(1))
        with pytest.raises(TypeError, match="where takes a Polars expression"):
            store.resolve_update(cut, where=where)


def _of_every_kind(store: MetadataStore, clip: type[Feature], cut: type[Feature]) -> Increment:
    """Write what makes samples new, stale, orphaned, retired and done, each below and above 10."""
    store.write_metadata(clip, clips(2, 4, 5, 12, 14, 15))
    store.write_metadata(cut, store.resolve_update(cut).pending.drop("path"))
    store.write_metadata(cut, rows(sample_id=[3, 13]))
    store.write_metadata(clip, clips(1, 2, 11, 12, take="again"))
    store.retire(cut, samples([4, 14]))
    return store.resolve_update(cut)
