"""Small appends to Iceberg, with its catalog in SQLite."""

import time
from pathlib import Path
from typing import Any

import polars as pl
from pyiceberg.catalog.sql import SqlCatalog

from tests.benchmarks.clocks import fresh_root, time_appends
from tests.benchmarks.data import batch

TABLE = "bench.small"


def append(*, root: str, count: int, catalog: str | None = None, endpoint: str | None = None) -> dict[str, float]:
    """Append small batches to a table; the catalog is beside it unless it is given."""
    fresh_root(catalog or root)
    opened = _catalog(root, catalog, endpoint)
    opened.create_namespace("bench")
    table = opened.create_table(TABLE, schema=_arrow(batch(0)).schema)
    return time_appends(lambda _, frame: table.append(_arrow(frame)), count=count)


def read(*, root: str, catalog: str | None = None, endpoint: str | None = None) -> dict[str, Any]:
    """Read every row."""
    start = time.perf_counter()
    rows = _catalog(root, catalog, endpoint).load_table(TABLE).scan().to_arrow()
    return {"seconds": time.perf_counter() - start, "rows": rows.num_rows}


def compact_root(*, root: str) -> dict[str, Any]:
    """Write all rows anew, since the library has no other way."""
    start = time.perf_counter()
    table = _catalog(root, None, None).load_table(TABLE)
    table.overwrite(table.scan().to_arrow())
    return {"seconds": time.perf_counter() - start}


def _catalog(root: str, catalog: str | None, endpoint: str | None) -> SqlCatalog:
    options: dict[str, str] = {}
    if endpoint is not None:
        options = {
            "s3.endpoint": endpoint,
            "s3.access-key-id": "test",
            "s3.secret-access-key": "test",
            "s3.region": "us-east-1",
        }
    warehouse = root if "://" in root else f"file://{root}"
    return SqlCatalog("bench", uri=f"sqlite:///{Path(catalog or root)}/catalog.db", warehouse=warehouse, **options)


def _arrow(frame: pl.DataFrame) -> Any:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())
