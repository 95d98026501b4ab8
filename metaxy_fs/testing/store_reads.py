"""Tests of a store: reads give exactly the rows and columns that were asked for."""

from collections.abc import Callable

import polars as pl
import polars.selectors as cs
import pytest

from metaxy_fs.errors import FeatureNotFoundError, MetadataSchemaError
from metaxy_fs.metadata_store import MetadataStore
from metaxy_fs.spec import FeatureKey
from metaxy_fs.testing.store_cases import (
    SAMPLE_ID,
    VIDEO,
    StoreCase,
    declare,
    ids_of,
    pipeline,
    root,
    videos,
)

FrameQuery = Callable[[pl.LazyFrame], pl.LazyFrame]
COLOR = pl.col("color")

# The rows are, in order: 1 red, 2 blue, 3 red, 4 blue, 2 red.
QUERIES: dict[str, tuple[FrameQuery, list[int]]] = {
    "filter": (lambda rows: rows.filter(COLOR == "red"), [1, 3, 2]),
    "head": (lambda rows: rows.head(4), [1, 2, 3, 4]),
    "tail": (lambda rows: rows.tail(2), [4, 2]),
    "slice": (lambda rows: rows.slice(2, 2), [3, 4]),
    "filter, then head": (lambda rows: rows.filter(COLOR == "red").head(2), [1, 3]),
    "head, then filter": (lambda rows: rows.head(2).filter(COLOR == "red"), [1]),
    "head within the second write, then filter": (lambda rows: rows.head(4).filter(COLOR == "blue"), [2, 4]),
    "slice, then filter": (lambda rows: rows.slice(1, 3).filter(COLOR == "blue"), [2, 4]),
    "two filters": (lambda rows: rows.filter(COLOR == "red").filter(pl.col(SAMPLE_ID) > 1), [3, 2]),
    "filter on the whole": (lambda rows: rows.filter(pl.col(SAMPLE_ID) == pl.col(SAMPLE_ID).max()), [4]),
    "filter on the place": (lambda rows: rows.with_row_index().filter(pl.col("index") % 2 == 0), [1, 3, 2]),
    "selection": (lambda rows: rows.select(SAMPLE_ID), [1, 2, 3, 4, 2]),
}
FILTERS: dict[str, tuple[pl.Expr | list[pl.Expr], list[int]]] = {
    "a comparison": (pl.col(SAMPLE_ID) > 2, [3, 4]),
    "a membership": (pl.col(SAMPLE_ID).is_in([1, 4, 9]), [1, 4]),
    "another column": (COLOR == "red", [1, 3, 2]),
    "a version": (pl.col("data_version").struct.field("frames") == "f2", [2]),
    "a column that some writes lack": (pl.col("late") == 1, [2]),
    "a null": (pl.col("late").is_null(), [1, 2, 3]),
    "several": ([COLOR == "red", pl.col(SAMPLE_ID) > 1], [3, 2]),
    "none of several": ([], [1, 2, 3, 4, 2]),
    "nothing": (pl.lit(value=False), []),
    "all rows together": (pl.col(SAMPLE_ID) == pl.col(SAMPLE_ID).max(), [4]),
    "how often a value comes": (pl.len().over("color") > 2, [1, 3, 2]),
    "columns of a kind": (pl.any_horizontal(cs.string() == "blue"), [2, 4]),
    "columns by a pattern": (pl.col("^col.*$") == "blue", [2, 4]),
}


def filled(store: MetadataStore) -> None:
    """Write three rows, then two, of which one replaces a row of the first."""
    video, _ = pipeline()
    store.write_metadata(video, videos([1, 2, 3], color=["red", "blue", "red"]))
    store.write_metadata(video, videos([4, 2], take="again", color=["blue", "red"], late=[0, 1]))


class StoreReads(StoreCase):
    """Tests of `read_metadata`, `scan_metadata`, `has_feature` and `list_features`."""

    def test_reading_again_gives_the_same(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        filled(store)

        assert store.read_metadata(video).equals(store.read_metadata(video))

    def test_filters_keep_the_rows_for_which_they_hold(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        filled(store)
        expected = {name: sorted(ids) for name, (_, ids) in FILTERS.items()}

        assert {n: sorted(ids_of(store.read_metadata(video, filters=f))) for n, (f, _) in FILTERS.items()} == expected

    def test_filters_need_not_be_on_selected_columns(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        filled(store)
        expected = {name: len(ids) for name, (_, ids) in FILTERS.items()}

        assert {
            n: len(store.read_metadata(video, filters=f, columns=["late"])) for n, (f, _) in FILTERS.items()
        } == expected

    def test_columns_come_in_the_order_in_which_they_are_named(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        filled(store)

        assert store.read_metadata(video, columns=["color", SAMPLE_ID]).columns == ["color", SAMPLE_ID]

    def test_columns_that_a_write_lacks_are_null(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        filled(store)

        assert store.read_metadata(video, columns=["late"])["late"].to_list() == [None, None, None, 1, 0]

    def test_columns_that_all_writes_lack_are_refused(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        filled(store)

        with pytest.raises(MetadataSchemaError, match=r"'colour'.*\['sample_id', 'color', 'data_version', 'late'\]"):
            store.read_metadata(video, columns=["colour"])

    def test_filters_on_columns_that_all_writes_lack_are_refused(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        filled(store)

        with pytest.raises(MetadataSchemaError, match="'colour'"):
            store.read_metadata(video, filters=pl.col("colour") == "red", columns=[SAMPLE_ID])

    def test_column_that_is_named_twice_is_refused(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        filled(store)

        with pytest.raises(MetadataSchemaError, match="more than once"):
            store.read_metadata(video, columns=["color", "color"])

    @pytest.mark.parametrize("columns", ["color", [1]])
    def test_columns_that_are_no_list_of_names_are_refused(self, store: MetadataStore, columns: list[str]) -> None:
        video, _ = pipeline()

        with pytest.raises(TypeError, match="columns"):
            store.read_metadata(video, columns=columns)

    @pytest.mark.parametrize("filters", ["color", ["color"], True])
    def test_filters_that_are_no_expressions_are_refused(self, store: MetadataStore, filters: pl.Expr) -> None:
        video, _ = pipeline()

        with pytest.raises(TypeError, match="filters"):
            store.read_metadata(video, filters=filters)

    # The latest row of each sample.

    def test_latest_rows_are_the_last_written_of_each_sample(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        filled(store)

        latest = store.read_metadata(video, latest_only=True)
        assert list(zip(ids_of(latest), latest["color"], strict=True)) == [
            (1, "red"),
            (3, "red"),
            (2, "red"),
            (4, "blue"),
        ]

    def test_filters_apply_to_the_latest_rows(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        filled(store)
        blue = [COLOR == "blue", pl.col(SAMPLE_ID) < 4]

        assert ids_of(store.read_metadata(video, filters=blue)) == [2]
        assert ids_of(store.read_metadata(video, filters=blue, latest_only=True)) == []

    def test_row_that_was_replaced_does_not_return_through_a_filter(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1], color=["blue"]))
        store.write_metadata(video, videos([1], color=["red"]))

        assert ids_of(store.read_metadata(video, filters=COLOR == "blue", latest_only=True)) == []

    def test_filters_on_all_rows_together_see_the_latest_rows(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        filled(store)

        assert store.read_metadata(video, filters=pl.len() == 4, latest_only=True).height == 4
        assert store.read_metadata(video, filters=pl.col(SAMPLE_ID).is_duplicated(), latest_only=True).height == 0

    def test_latest_rows_need_not_show_their_ids(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        filled(store)

        assert store.read_metadata(video, columns=["color"], latest_only=True).to_series().to_list() == ["red"] * 3 + [
            "blue"
        ]

    # Data versions.

    def test_changed_declaration_does_not_read_rows_of_the_former(self, store: MetadataStore) -> None:
        bumped, _ = pipeline(frames=2)
        filled(store)
        store.write_metadata(bumped, videos([7]))

        assert ids_of(store.read_metadata(bumped)) == [7]
        assert ids_of(store.read_metadata(pipeline()[0])) == [1, 2, 3, 2, 4]

    def test_all_versions_are_read_in_the_order_of_writes(self, store: MetadataStore) -> None:
        (video, _), (bumped, _) = pipeline(), pipeline(frames=2)
        store.write_metadata(video, videos([1]))
        store.write_metadata(bumped, videos([1], take="b", late=[1]))
        store.write_metadata(video, videos([2]))

        rows = store.read_metadata(bumped, versions="all")
        assert (ids_of(rows), rows["late"].to_list()) == ([1, 1, 2], [None, 1, None])

    def test_latest_row_of_all_versions_is_the_last_written(self, store: MetadataStore) -> None:
        (video, _), (bumped, _) = pipeline(), pipeline(frames=2)
        store.write_metadata(bumped, videos([1], take="bumped"))
        store.write_metadata(video, videos([1], take="reverted"))

        rows = store.read_metadata(bumped, versions="all", latest_only=True)
        assert rows["data_version"].to_list() == [{"frames": "f1reverted", "audio": "a1reverted"}]

    def test_containers_that_a_version_lacks_are_null(self, store: MetadataStore) -> None:
        (video, _), (mute,) = pipeline(), declare(root(VIDEO))
        store.write_metadata(video, videos([1]))
        store.write_metadata(mute, pl.DataFrame({SAMPLE_ID: [1], "data_version": [{"default": "d"}]}))

        versions = store.read_metadata(mute, versions="all")["data_version"].to_list()
        assert versions == [
            {"frames": "f1", "audio": "a1", "default": None},
            {"frames": None, "audio": None, "default": "d"},
        ]

    def test_unknown_choice_of_versions_is_refused(self, store: MetadataStore) -> None:
        with pytest.raises(ValueError, match="'newest'"):
            store.read_metadata(pipeline()[0], versions="newest")  # type: ignore[arg-type]

    # What there is.

    def test_feature_that_is_nowhere_is_not_found(self, store: MetadataStore) -> None:
        with pytest.raises(FeatureNotFoundError, match="video/processing") as caught:
            store.read_metadata(pipeline()[0])
        assert isinstance(caught.value, LookupError)
        assert store.location in str(caught.value)

    def test_error_says_under_which_versions_a_feature_exists(self, store: MetadataStore) -> None:
        filled(store)

        with pytest.raises(
            FeatureNotFoundError, match=r"other data versions \([0-9a-f]{16} in .*versions=.all"
        ) as caught:
            store.read_metadata(pipeline(frames=2)[0])
        assert all(f"{version} in" in str(caught.value) for version in store.stored_versions(VIDEO))

    def test_feature_exists_once_it_is_written(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        before = store.has_feature(video)
        filled(store)

        assert (before, store.has_feature(video), store.has_feature(processed)) == (False, True, False)

    def test_feature_does_not_exist_under_a_changed_declaration(self, store: MetadataStore) -> None:
        filled(store)

        assert not store.has_feature(pipeline(audio=3)[0])

    def test_key_that_the_active_graph_lacks_is_read_in_all_versions(self, store: MetadataStore) -> None:
        filled(store)
        store.write_metadata(pipeline(frames=2)[0], videos([1]))

        assert store.has_feature(VIDEO)
        assert ids_of(store.read_metadata(VIDEO)) == [1, 2, 3, 2, 4, 1]
        assert sorted(ids_of(store.read_metadata(VIDEO, latest_only=True))) == [1, 2, 3, 4]

    def test_key_that_the_active_graph_holds_is_read_in_its_version(self, store: MetadataStore) -> None:
        bumped, _ = pipeline(frames=2)
        filled(store)
        store.write_metadata(bumped, videos([7]))

        with bumped.graph.use():
            assert ids_of(store.read_metadata(VIDEO)) == [7]

    def test_keys_that_are_spelled_alike_are_two_features(self, store: MetadataStore) -> None:
        (joined,), (split,) = declare(root(FeatureKey(["a_b"]))), declare(root(FeatureKey(["a", "b"])))
        store.write_metadata(joined, pl.DataFrame({SAMPLE_ID: [1], "data_version": [{"default": "d"}]}))

        assert (store.has_feature(joined), store.has_feature(split)) == (True, False)

    def test_features_are_listed_sorted(self, store: MetadataStore) -> None:
        assert store.list_features() == []
        keys = [FeatureKey([*parts]) for parts in ("b", ["a", "c"], "a", "Z", ["a-c"])]
        for key in keys:
            (feature,) = declare(root(key))
            store.write_metadata(feature, pl.DataFrame({SAMPLE_ID: [1], "data_version": [{"default": "d"}]}))

        assert store.list_features() == sorted(keys)

    # Lazy reads.

    @pytest.mark.parametrize("engine", ["in-memory", "streaming"])
    def test_queries_on_a_scan_see_its_rows_in_order(self, store: MetadataStore, engine: str) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1, 2, 3], color=["red", "blue", "red"]))
        store.write_metadata(video, videos([4], color=["blue"]))
        store.write_metadata(video, videos([2], take="again", color=["red"]))
        scan = store.scan_metadata(video)

        found = {name: ids_of(query(scan).collect(engine=engine)) for name, (query, _) in QUERIES.items()}  # type: ignore[call-overload]
        assert found == {name: ids for name, (_, ids) in QUERIES.items()}

    @pytest.mark.parametrize("engine", ["in-memory", "streaming"])
    def test_rows_are_counted_where_no_column_is_wanted(self, store: MetadataStore, engine: str) -> None:
        filled(store)
        scan = store.scan_metadata(pipeline()[0])
        numbers = scan.with_row_index("number").select("number").collect(engine=engine)  # type: ignore[call-overload]
        assert numbers["number"].to_list() == [0, 1, 2, 3, 4]
        assert scan.head(2).select(pl.len()).collect(engine=engine).item() == 2  # type: ignore[call-overload]

    def test_scan_holds_what_was_committed_when_it_was_made(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1]))
        scan = store.scan_metadata(video)
        store.write_metadata(video, videos([2]))

        assert ids_of(scan.collect()) == [1]

    def test_scan_of_a_feature_that_is_nowhere_fails_at_once(self, store: MetadataStore) -> None:
        with pytest.raises(FeatureNotFoundError):
            store.scan_metadata(pipeline()[0])

    def test_scan_takes_what_a_read_takes(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        filled(store)
        rows = store.scan_metadata(video, filters=COLOR == "red", columns=[SAMPLE_ID], latest_only=True).collect()

        assert rows.to_dict(as_series=False) == {SAMPLE_ID: [1, 3, 2]}
