"""Frames of other libraries: nothing is dropped or renamed, and what cannot be taken over is named."""

import datetime as dt
from decimal import Decimal
from typing import Any

import duckdb
import narwhals as nw
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from metaxy_fs import FilesystemMetadataStore, MetadataSchemaError
from metaxy_fs.testing.store_cases import VERSIONS, ArrowOnly, ids_of, pipeline, videos

ROWS = videos([1, 2])
DASK = type("DataFrame", (), {"__module__": "dask.dataframe", "compute": lambda _: ROWS.to_arrow().to_pandas()})
UNREADABLE = {
    "interval": pa.array([(1, 2, 3), None], pa.month_day_nano_interval()),
    "interval in a list": pa.array([[(1, 2, 3)], None], pa.list_(pa.month_day_nano_interval())),
    "decimal of 256 bits": pa.array([Decimal("1.1"), None], pa.decimal256(76, 1)),
    "decimal of 256 bits in a struct": pa.array(
        [{"a": Decimal("1.1")}, None], pa.struct([("a", pa.decimal256(50, 1))])
    ),
    "short decimal of 256 bits": pa.array([Decimal("1.1"), None], pa.decimal256(10, 1)),
    "decimal of 32 bits": pa.array([Decimal("1.1"), None], pa.decimal32(5, 1)),
    "decimal of 64 bits": pa.array([Decimal("1.1"), None], pa.decimal64(5, 1)),
    "decimal of hundreds": pa.array([Decimal(100), None], pa.decimal128(10, -2)),
    "union": pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])]),
    "dense union": pa.UnionArray.from_dense(
        pa.array([0, 1], pa.int8()), pa.array([0, 0], pa.int32()), [pa.array([1]), pa.array(["a"])]
    ),
    "run-end encoded": pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array(["a"])),
    "list view": pa.array([[1], None], pa.list_view(pa.int64())),
    "large list view": pa.array([[1], None], pa.large_list_view(pa.int64())),
    "unknown zone": pa.array([1, None], pa.timestamp("us", "Nowhere/Land")),
    "map": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
    "struct without fields": pa.array([{}, None], pa.struct([])),
    "extension": pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{}", None])),
    "unknown extension": pa.ExtensionArray.from_storage(pa.opaque(pa.string(), "t", "v"), pa.array(["a", None])),
}
READABLE: dict[str, tuple[pa.Array, list[Any]]] = {
    "half a float": (pa.array([1.5, None], pa.float16()), [1.5, None]),
    "binary of a width": (pa.array([b"abc", None], pa.binary(3)), [b"abc", None]),
    "view of strings": (pa.array(["a", None], pa.string_view()), ["a", None]),
    "view of binaries": (pa.array([b"a", None], pa.binary_view()), [b"a", None]),
    "large binary": (pa.array([b"a", None], pa.large_binary()), [b"a", None]),
    "list of a width": (pa.array([[1, 2], None], pa.list_(pa.int64(), 2)), [[1, 2], None]),
    "dictionary of strings": (pa.array(["a", None], pa.dictionary(pa.int8(), pa.string())), ["a", None]),
    "dictionary of numbers": (pa.array([7, None], pa.dictionary(pa.int8(), pa.int64())), [7, None]),
    "decimal": (pa.array([Decimal("1.1"), None], pa.decimal128(5, 1)), [Decimal("1.1"), None]),
    "seconds": (pa.array([1, None], pa.timestamp("s")), [dt.datetime(1970, 1, 1, 0, 0, 1), None]),  # noqa: DTZ001
    "an offset": (
        pa.array([0, None], pa.timestamp("us", "+02:00")),
        [dt.datetime(1970, 1, 1, tzinfo=dt.UTC), None],
    ),
    "uuid": (pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16, None], pa.binary(16))), [b"0" * 16, None]),
    "null": (pa.nulls(2), [None, None]),
}


@pytest.fixture
def store(tmp_path):
    return FilesystemMetadataStore(tmp_path)


def with_column(values: pa.Array) -> pa.Table:
    return ROWS.to_arrow().append_column("c", values)


@pytest.mark.parametrize(
    "kind", [lambda table: table, pa.Table.to_reader, ArrowOnly], ids=["table", "reader", "stream"]
)
@pytest.mark.parametrize("values", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_column_that_cannot_be_taken_over_is_named(store, values, kind):
    video, _ = pipeline()
    with pytest.raises(MetadataSchemaError, match="column 'c'"):
        store.write_metadata(video, kind(with_column(values)))
    assert store.list_features() == []


@pytest.mark.parametrize(("values", "expected"), READABLE.values(), ids=READABLE.keys())
def test_column_of_any_other_type_is_stored(store, values, expected):
    video, _ = pipeline()
    store.write_metadata(video, with_column(values))
    assert store.read_metadata(video)["c"].to_list() == expected


@pytest.mark.parametrize("value", ["interval 1 month", "union_value(a := 1)"])
def test_column_of_duckdb_that_cannot_be_taken_over_is_named(store, value):
    video, processed = pipeline()
    connection = duckdb.connect()  # other tests may have left a result in the default one
    relation = connection.sql("select i as sample_id from range(3) t(i)").project(f"sample_id, {value} as c")
    for call in (
        lambda: store.write_metadata(video, relation),
        lambda: store.resolve_update(video, samples=relation),
        lambda: store.calculate_data_versions(processed, relation),
        lambda: store.calculate_and_write_data_versions(processed, relation),
    ):
        with pytest.raises(MetadataSchemaError, match=r"column 'c' of this .*DuckDBPyRelation"):
            call()


@pytest.mark.parametrize("values", [[1 + 2j, 0j], [1, "a"]], ids=["complex", "mixed"])
def test_column_of_pandas_that_cannot_be_taken_over_is_named(store, values):
    video, _ = pipeline()
    frame = ROWS.to_arrow().to_pandas().assign(c=values)
    with pytest.raises(MetadataSchemaError, match="column 'c'"):
        store.write_metadata(video, frame)


def test_named_index_of_pandas_is_a_column(store):
    video, _ = pipeline()
    frame = ROWS.to_arrow().to_pandas()
    store.write_metadata(video, frame.set_index("sample_id"))
    index = pd.MultiIndex.from_tuples([("a", 7), ("b", 8)], names=["path", None])
    store.write_metadata(video, frame.assign(sample_id=[3, 4]).set_index(index))
    rows = store.read_metadata(video)
    assert (ids_of(rows), rows["path"].to_list()) == ([1, 2, 3, 4], [None, None, "a", "b"])
    assert set(rows.columns) == {"sample_id", "data_version", "path"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda frame: frame.set_index(pd.Index(["a", "b"])), "None"),
        (lambda frame: frame.set_index(pd.Index(["a", "b"], name="sample_id")), "'sample_id'"),
        (lambda frame: frame.set_index(pd.Index(["a", "b"], name=7)), "7"),
        (lambda frame: frame.rename(columns={"sample_id": 0}), "0"),
        (lambda frame: pd.concat([frame, frame[["sample_id"]]], axis=1), "sample_id"),
    ],
    ids=["no name", "the name of a column", "a number", "a column of a number", "two columns of a name"],
)
def test_what_pandas_would_lose_is_refused(store, change, named):
    video, _ = pipeline()
    with pytest.raises(MetadataSchemaError, match=named):
        store.write_metadata(video, change(ROWS.to_arrow().to_pandas()))


@pytest.mark.parametrize("kind", [pl.DataFrame.to_arrow, lambda rows: rows.to_arrow().to_pandas(), ArrowOnly])
def test_empty_name_of_a_column_is_kept(store, kind):
    video, _ = pipeline()
    rows = ROWS.with_columns(pl.Series("", [3, 4]))
    store.write_metadata(video, kind(rows))
    assert store.read_metadata(video)[""].to_list() == [3, 4]


def test_single_column_is_no_frame(store):
    video, _ = pipeline()
    with pytest.raises(MetadataSchemaError, match=r"polars\.Series is a single column"):
        store.write_metadata(video, ROWS["sample_id"])


@pytest.mark.parametrize(
    ("frame", "named"),
    [
        (nw.from_native(ROWS.lazy()), r"narwhals\.LazyFrame\. Give what its collect\(\) returns"),
        (DASK(), r"dask\.DataFrame\. Give what its compute\(\) returns"),
    ],
    ids=["narwhals", "dask"],
)
def test_lazy_frame_of_another_library_is_named_with_what_to_call(store, frame, named):
    video, processed = pipeline()
    for call in (
        lambda: store.write_metadata(video, frame),
        lambda: store.resolve_update(video, samples=frame),
        lambda: store.calculate_data_versions(processed, frame),
    ):
        with pytest.raises(MetadataSchemaError, match=named):
            call()


def test_eager_frame_of_narwhals_is_stored(store):
    video, _ = pipeline()
    store.write_metadata(video, nw.from_native(ROWS))
    assert ids_of(store.read_metadata(video)) == [1, 2]


EMPTY = {
    "pandas without types": lambda: pd.DataFrame({"sample_id": [], "data_version": [], "path": []}),
    "pandas of objects": lambda: pd.DataFrame(columns=["sample_id", "data_version", "path"]),
    "nulls": lambda: pl.DataFrame(schema=dict.fromkeys(["sample_id", "data_version", "path"], pl.Null())),
    "lazy nulls": lambda: pl.LazyFrame(schema=dict.fromkeys(["sample_id", "data_version", "path"], pl.Null())),
    "floats": lambda: pl.DataFrame(schema=dict.fromkeys(["sample_id", "data_version", "path"], pl.Float64())),
    "objects": lambda: pl.DataFrame(schema={"sample_id": pl.Int64, "data_version": VERSIONS, "path": pl.Object}),
    "texts for ids": lambda: pl.DataFrame(schema={"sample_id": pl.String, "data_version": VERSIONS}),
}


@pytest.mark.parametrize("make", EMPTY.values(), ids=EMPTY.keys())
@pytest.mark.parametrize("is_first", [True, False])
def test_frame_without_rows_is_written_whatever_its_types(store, make, is_first):
    video, processed = pipeline()
    if not is_first:
        store.write_metadata(video, videos([7], path=["a"]))
    store.write_metadata(video, make(), write_id="none")
    store.write_metadata(video, make(), write_id="none")
    assert store.read_metadata(video).height == (0 if is_first else 1)
    assert store.resolve_update(processed).counts.new == (0 if is_first else 1)
    if make is not EMPTY["texts for ids"]:
        assert store.resolve_update(video, samples=make()).counts.new == 0


def test_ids_of_a_frame_without_rows_bind_nobody(store):
    video, processed = pipeline()
    store.write_metadata(video, EMPTY["floats"]().drop("path"))
    store.write_metadata(video, videos(["a"]))
    store.write_metadata(video, videos(["b"]))
    assert ids_of(store.read_metadata(video, latest_only=True)) == ["a", "b"]
    store.calculate_and_write_data_versions(processed, EMPTY["nulls"]().drop("data_version"))
    assert ids_of(store.resolve_update(processed).new) == ["a", "b"]
