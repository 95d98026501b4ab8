"""A store in a database, beside the bulk path of the driver with the same rows in a table of plain columns."""

import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

import duckdb
import polars as pl
import psycopg

from metaxy_fs import Feature, FeatureSpec
from metaxy_fs.ext.sql import SQLMetadataStore


class Clip(Feature, spec=FeatureSpec(key="clip")):
    """The feature of this benchmark."""


def rows(count: int) -> pl.DataFrame:
    """Return rows of a path, a size, a time and a version each."""
    ids = pl.int_range(count, dtype=pl.Int64, eager=True).alias("sample_id")
    return ids.to_frame().with_columns(
        path=pl.format("/data/clips/{}.mp4", "sample_id"),
        size=pl.col("sample_id") * 37 % 100_003,
        seconds=pl.col("sample_id") / 7,
        data_version=pl.struct(default=pl.col("sample_id").hash(1).cast(pl.String)),
    )


def store_write(*, url: str, count: int) -> dict[str, Any]:
    """Write rows to a store."""
    frame, store = rows(count), SQLMetadataStore(url)
    with store._database.connected("start anew") as connection:
        for table in ("metaxy__clip", "metaxy_commits", "metaxy_objects"):
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {table}")
    return _timed(lambda: store.write_metadata(Clip, frame))


def store_read(*, url: str, count: int) -> dict[str, Any]:
    """Read them again."""
    store = SQLMetadataStore(url)
    return _timed(lambda: _counted(store.read_metadata(Clip), count))


def driver_write(*, url: str, count: int) -> dict[str, Any]:
    """Write the same values by the driver alone."""
    frame = rows(count).unnest("data_version")
    columns = "sample_id bigint, path text, size bigint, seconds double precision, version text"
    if url.startswith("duckdb"):
        with duckdb.connect(url.removeprefix("duckdb:///")) as database:
            database.execute(f"CREATE OR REPLACE TABLE plain ({columns})")
            database.register("given", frame.to_arrow())
            return _timed(lambda: database.execute("INSERT INTO plain SELECT * FROM given"))
    with psycopg.connect(url) as connection:
        connection.execute("DROP TABLE IF EXISTS plain")
        connection.execute(f"CREATE TABLE plain ({columns})")
        connection.commit()

        def copy() -> None:
            data = BytesIO()
            frame.write_csv(data, include_header=False)
            with connection.cursor().copy("COPY plain FROM STDIN (FORMAT csv)") as writer:
                writer.write(data.getvalue())
            connection.commit()

        return _timed(copy)


def driver_read(*, url: str, count: int) -> dict[str, Any]:
    """Read them by the driver alone."""
    if url.startswith("duckdb"):
        with duckdb.connect(url.removeprefix("duckdb:///")) as database:
            return _timed(lambda: _counted(database.sql("SELECT * FROM plain").pl(), count))
    schema = rows(0).unnest("data_version").schema
    with psycopg.connect(url) as connection:

        def copy() -> None:
            with connection.cursor().copy("COPY plain TO STDOUT (FORMAT csv)") as reader:
                _counted(pl.read_csv(b"".join(reader), has_header=False, schema=schema), count)

        return _timed(copy)


def _timed(work: Callable[[], object]) -> dict[str, Any]:
    start = time.perf_counter()
    work()
    return {"seconds": time.perf_counter() - start}


def _counted(frame: pl.DataFrame, count: int) -> None:
    if frame.height != count:
        raise ValueError(f"expected {count} rows, got {frame.height}")
