"""The kinds of frames that a store takes, stored as they were given."""

import datetime as dt
from decimal import Decimal

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.metadata_store import FilesystemMetadataStore, InMemoryMetadataStore
from metaxy_fs.spec import FeatureKey
from metaxy_fs.testing.store_cases import declare, ids_of, pipeline, processed_version, root, videos
from tests.support.strategies import frames

ROWS = videos([2, 1], path=["b", None], score=[0.5, None])
KINDS = {
    "polars": lambda rows: rows,
    "polars, lazy": pl.DataFrame.lazy,
    "pyarrow table": pl.DataFrame.to_arrow,
    "pyarrow table in chunks": lambda rows: pa.concat_tables([rows[:1].to_arrow(), rows[1:].to_arrow()]),
    "pyarrow reader": lambda rows: rows.to_arrow().to_reader(),
    "pandas": lambda rows: rows.to_arrow().to_pandas(),
    "pandas of arrow types": lambda rows: rows.to_arrow().to_pandas(types_mapper=pd.ArrowDtype),
    "pandas of plain objects": lambda rows: pd.DataFrame(rows.to_dict(as_series=False)),
    "duckdb": lambda rows: duckdb.connect().from_arrow(rows.to_arrow()),
}
TYPES = {
    "day": [dt.date(1969, 12, 31), None],
    "moment": pl.Series(["2026-03-29T02:30:00.000000001", None]).str.to_datetime(time_unit="ns"),
    "zoned": pl.Series(
        [dt.datetime(2026, 10, 25, 0, 30, tzinfo=dt.UTC), None], dtype=pl.Datetime("us", "Europe/Berlin")
    ),
    "lasting": pl.Series([dt.timedelta(days=-1, microseconds=1), None], dtype=pl.Duration("ms")),
    "time": [dt.time(23, 59, 59, 999_999), None],
    "price": pl.Series([Decimal("-1.50"), None], dtype=pl.Decimal(38, 2)),
    "blob": [b"\x00\xff", None],
    "flag": [True, None],
    "real": [float("nan"), float("-inf")],
    "huge": pl.Series([2**64 - 1, None], dtype=pl.UInt64),
    "kind": pl.Series(["a", None], dtype=pl.Categorical),
    "choice": pl.Series(["x", None], dtype=pl.Enum(["x", "y"])),
    "tags": [["a", None], []],
    "vector": pl.Series([[1.0, 2.0], None], dtype=pl.Array(pl.Float32, 2)),
    "nested": [{"a": [{"b": 1}]}, None],
    "nothing": [None, None],
    "text": ["日本" * 1000, ""],
}


@pytest.fixture(params=["memory", "files"])
def store(request, tmp_path):
    return InMemoryMetadataStore() if request.param == "memory" else FilesystemMetadataStore(tmp_path)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_frame_of_any_kind_is_written(store, kind):
    video, _ = pipeline()
    store.write_metadata(video, kind(ROWS))
    assert store.read_metadata(video).to_dicts() == ROWS.sort("sample_id").to_dicts()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_samples_of_any_kind_get_versions(store, kind):
    video, processed = pipeline()
    store.write_metadata(video, ROWS)
    result = store.calculate_data_versions(processed, kind(ROWS.drop("data_version")))
    ordered = [1, 2] if isinstance(result, pl.LazyFrame) else [2, 1]
    found = result.lazy().collect()
    assert ids_of(found) == ordered
    assert found["data_version"].to_list() == [processed_version(sample) for sample in ordered]


def test_samples_of_any_kind_are_resolved(store):
    video, _ = pipeline()
    store.write_metadata(video, ROWS[:1])
    for kind in KINDS.values():
        assert ids_of(store.resolve_update(video, samples=kind(ROWS)).new) == [1]


def test_values_of_every_type_are_read_back(store):
    video, _ = pipeline()
    rows = videos([1, 2], TYPES)
    store.write_metadata(video, rows)
    assert_frame_equal(store.read_metadata(video), rows)


@given(frames(max_rows=4), st.data())
def test_columns_of_any_type_are_read_back(columns, data):
    video, _ = pipeline()
    ids = data.draw(st.permutations(range(columns.height)))
    rows = videos(ids).with_columns(columns)
    store = InMemoryMetadataStore()
    store.write_metadata(video, rows)
    assert_frame_equal(store.read_metadata(video), rows.sort("sample_id"))


def test_changing_a_frame_after_the_write_changes_no_row(store):
    video, _ = pipeline()
    rows = videos([1, 2], label=["a", "b"])
    store.write_metadata(video, rows)
    rows[0, "label"] = "changed"
    rows.insert_column(0, pl.Series("late", [1, 2]))
    assert store.read_metadata(video).to_dicts() == videos([1, 2], label=["a", "b"]).to_dicts()


def test_changing_what_was_read_changes_no_row(store):
    video, _ = pipeline()
    store.write_metadata(video, videos([1], label=["a"]))
    store.read_metadata(video)[0, "label"] = "changed"
    assert store.read_metadata(video)["label"].to_list() == ["a"]


def test_index_of_a_pandas_frame_is_no_column(store):
    video, _ = pipeline()
    frame = ROWS.to_arrow().to_pandas().iloc[::-1]
    store.write_metadata(video, frame)
    assert store.read_metadata(video).columns == ROWS.columns


@pytest.mark.parametrize("frame", [None, 1, "rows", [1], {"sample_id": [1]}, [{"sample_id": 1}]])
def test_what_is_no_frame_is_refused(store, frame):
    video, _ = pipeline()
    with pytest.raises(MetadataSchemaError, match=type(frame).__name__):
        store.write_metadata(video, frame)


def test_stream_that_polars_cannot_take_over_is_refused(store):
    class Broken:
        def __arrow_c_stream__(self, requested_schema=None):
            raise ValueError("no stream today")

    video, _ = pipeline()
    with pytest.raises(MetadataSchemaError, match="Broken: no stream today"):
        store.write_metadata(video, Broken())
    assert not store.has_feature(video)


def test_failure_of_a_lazy_frame_stores_nothing(store):
    video, _ = pipeline()
    with pytest.raises(pl.exceptions.ColumnNotFoundError):
        store.write_metadata(video, ROWS.lazy().select("gone"))
    assert not store.has_feature(video)


def test_message_shows_ids_of_several_columns_by_name(store):
    (clip,) = declare(root(FeatureKey(["clip"]), id_columns=["video", "second"]))
    rows = pl.DataFrame({"video": ["a", "a"], "second": [1, 1], "data_version": [{"default": "d"}] * 2})
    with pytest.raises(MetadataSchemaError, match=r"1 samples .*: \{'video': 'a', 'second': 1\}\."):
        store.write_metadata(clip, rows)
