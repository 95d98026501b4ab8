"""Which types the columns of one feature may have, write after write."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.metadata_store import MetadataStore
from metaxy_fs.testing.store_cases import (
    SAMPLE_ID,
    MakeStore,
    StoreCase,
    ids_of,
    pipeline,
    videos,
)


class StoreTypes(StoreCase):
    """Types of columns and ids that are agreed on by all writers."""

    def test_narrower_and_wider_integers_share_a_column(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1], size=pl.Series([1], dtype=pl.Int32)))
        store.write_metadata(video, videos([2], size=pl.Series([2**40], dtype=pl.Int64)))
        store.write_metadata(video, videos([3], size=pl.Series([3], dtype=pl.Int8)))

        assert store.read_metadata(video)["size"].to_list() == [1, 2**40, 3]
        assert store.read_metadata(video).schema["size"] == pl.Int64

    def test_type_that_does_not_go_with_what_was_written_is_refused(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1], label=["a"]))

        with pytest.raises(MetadataSchemaError, match=r"'label'.*Int64.*String"):
            store.write_metadata(video, videos([2], label=[2]))
        assert store.read_metadata(video)["label"].to_list() == ["a"]

    def test_type_that_does_not_go_with_what_another_object_wrote_is_refused(self, reopen: MakeStore) -> None:
        video, _ = pipeline()
        reopen("a").write_metadata(video, videos([1], label=["a"]))

        with pytest.raises(MetadataSchemaError, match=r"'label'.*Int64.*String"):
            reopen("a").write_metadata(video, videos([2], label=[2]))
        assert ids_of(reopen("a").read_metadata(video)) == [1]

    @pytest.mark.parametrize(
        ("stored", "given"),
        [(["a"], [1]), ([date(2026, 1, 1)], ["2026-01-02"]), ([datetime(2026, 1, 1, tzinfo=UTC)], ["2026-01-02"])],
        ids=["text", "date", "time"],
    )
    def test_refusal_says_how_to_cast(self, store: MetadataStore, stored: list[Any], given: list[Any]) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1], label=stored))
        wrong = videos([2], label=given)

        with pytest.raises(MetadataSchemaError, match="Cast it: ") as caught:
            store.write_metadata(video, wrong)
        advice = str(caught.value).partition("Cast it: ")[2].partition("; or")[0]
        store.write_metadata(video, wrong.with_columns(eval(advice, {"pl": pl})))  # noqa: S307  # as a reader would
        assert ids_of(store.read_metadata(video)) == [1, 2]

    def test_ids_of_another_kind_are_refused_by_all_objects(self, reopen: MakeStore) -> None:
        video, _ = pipeline()
        reopen("a").write_metadata(video, videos([1]))

        with pytest.raises(MetadataSchemaError, match=r"'sample_id'.*String.*Int64"):
            reopen("a").write_metadata(video, videos(["b"]))
        assert ids_of(reopen("a").read_metadata(video)) == [1]

    def test_type_of_a_column_that_came_later_binds_all_objects(self, reopen: MakeStore) -> None:
        video, _ = pipeline()
        reopen("a").write_metadata(video, videos([1]))
        reopen("a").write_metadata(video, videos([2], label=["b"]))
        for store in (reopen("a"), reopen("a")):
            with pytest.raises(MetadataSchemaError, match=r"'label'.*Int64.*String"):
                store.write_metadata(video, videos([3], label=[3], new=[1]))
        reopen("a").write_metadata(video, videos([3], label=["c"], new=["x"]))

        assert reopen("a").read_metadata(video)["new"].to_list() == [None, None, "x"]

    def test_ids_are_brought_to_the_type_of_those_before(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([7]))
        store.write_metadata(video, videos(pl.Series([1, 3], dtype=pl.UInt8)))
        store.write_metadata(video, videos(pl.Series([2], dtype=pl.UInt64)).lazy())

        assert store.read_metadata(video).schema[SAMPLE_ID] == pl.Int64
        assert ids_of(store.read_metadata(video)) == [7, 1, 3, 2]

    def test_id_that_the_type_of_those_before_does_not_hold_is_refused(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([7]))

        with pytest.raises(MetadataSchemaError, match=r"'sample_id'.*Int64.*18446744073709551615.*1 such UInt64"):
            store.write_metadata(video, videos(pl.Series([1, 2**64 - 1], dtype=pl.UInt64)))
        assert ids_of(store.read_metadata(video)) == [7]

    @pytest.mark.parametrize("sizes", [[1, 0.5, 3], [0.5, 1, 3]], ids=["integers first", "floats first"])
    def test_whole_numbers_and_floats_share_a_column(self, reopen: MakeStore, sizes: list[float]) -> None:
        video, _ = pipeline()
        store = reopen("a")
        for sample, size in enumerate(sizes):
            reopen("a").write_metadata(video, videos([sample], size=[size]))
            store.write_metadata(video, videos([sample + 10], size=[size], nested=[{"size": size}]))
            store.read_metadata(video)

        rows = reopen("a").read_metadata(video).sort(SAMPLE_ID)
        assert (rows["size"].to_list(), rows.schema["size"]) == (sizes * 2, pl.Float64())
        assert rows["nested"].struct.field("size").to_list()[3:] == sizes

    @pytest.mark.parametrize("first", [True, False], ids=["integer first", "float first"])
    @pytest.mark.parametrize("nest", [lambda size: size, lambda size: {"a": size}], ids=["plain", "in a struct"])
    def test_integer_that_no_float_holds_is_refused_beside_floats(
        self, reopen: MakeStore, nest: Callable[[float], Any], *, first: bool
    ) -> None:
        video, _ = pipeline()
        big, small = [nest(2**53 + 1)], [nest(0.5)]
        reopen("a").write_metadata(video, videos([0], size=[nest(1)]))
        reopen("a").write_metadata(video, videos([1], size=big if first else small))
        for store in (reopen("a"), reopen("a")):
            with pytest.raises(MetadataSchemaError, match=r"'size'.*2\^53"):
                store.write_metadata(video, videos([2], size=small if first else big))

        assert ids_of(reopen("a").read_metadata(video)) == [0, 1]

    @pytest.mark.parametrize(
        "wrong", [videos(["b"]), videos([2], label=[2])], ids=["ids of another kind", "another type"]
    )
    def test_buffer_refuses_rows_that_do_not_fit_when_it_is_given_them(
        self, reopen: MakeStore, wrong: pl.DataFrame
    ) -> None:
        video, _ = pipeline()
        reopen("a").write_metadata(video, videos([1], label=["a"]))
        store = reopen("a")
        store.read_metadata(video)
        with store.buffered(video) as buffer:
            with pytest.raises(MetadataSchemaError, match=r"Int64|String"):
                buffer.write(wrong)
            buffer.write(videos([3], label=["c"]))

        assert ids_of(reopen("a").read_metadata(video)) == [1, 3]

    def test_buffer_takes_whole_numbers_and_floats(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        with store.buffered(video, rows=2) as buffer:
            for sample, size in enumerate([1, 0.5, 2, 0.25, 3]):
                buffer.write(videos([sample], size=[size]))

        assert store.read_metadata(video)["size"].to_list() == [1, 0.5, 2, 0.25, 3]

    def test_buffer_refuses_an_integer_that_no_float_holds_beside_floats(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        with store.buffered(video) as buffer:
            buffer.write(videos([1], size=[0.5]))
            with pytest.raises(MetadataSchemaError, match="'size'"):
                buffer.write(videos([2], size=[2**60]))

        assert store.read_metadata(video)["size"].to_list() == [0.5]

    def test_type_of_another_data_version_binds_nobody(self, store: MetadataStore) -> None:
        (video, _), (bumped, _) = pipeline(), pipeline(frames=2)
        store.write_metadata(video, videos([1], label=["a"]))
        store.write_metadata(bumped, videos([1], label=[1]))

        assert store.read_metadata(bumped)["label"].to_list() == [1]
