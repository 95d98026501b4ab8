"""Small appends to Delta Lake."""

import time
from typing import Any

import polars as pl
from deltalake import CommitProperties, DeltaTable, write_deltalake

from tests.benchmarks.clocks import fresh_root, time_appends
from tests.benchmarks.data import batch

RETRIES = 1_000


def append(*, root: str, count: int, endpoint: str | None = None) -> dict[str, float]:
    """Append small batches to a table."""
    table = f"{fresh_root(root)}/table"

    def write(_: int, frame: pl.DataFrame) -> None:
        write_deltalake(table, _arrow(frame), mode="append", storage_options=_options(endpoint))

    return time_appends(write, count=count)


def create(*, root: str) -> dict[str, Any]:
    """Make a table of one batch, for writers that come at once."""
    write_deltalake(f"{fresh_root(root)}/table", _arrow(batch(0)))
    return {}


def append_one(frame: pl.DataFrame, *, root: str) -> None:
    """Append a batch while others do, with more retries than are ever needed."""
    retries = CommitProperties(max_commit_retries=RETRIES)
    write_deltalake(f"{root}/table", _arrow(frame), mode="append", commit_properties=retries)


def read(*, root: str, endpoint: str | None = None) -> dict[str, Any]:
    """Read every row."""
    start = time.perf_counter()
    rows = pl.read_delta(f"{root}/table", storage_options=_options(endpoint))
    return {"seconds": time.perf_counter() - start, "rows": rows.height}


def compact_root(*, root: str) -> dict[str, Any]:
    """Merge small files."""
    start = time.perf_counter()
    DeltaTable(f"{root}/table").optimize.compact()
    return {"seconds": time.perf_counter() - start}


def _arrow(frame: pl.DataFrame) -> Any:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def _options(endpoint: str | None) -> dict[str, str] | None:
    if endpoint is None:
        return None
    return {
        "aws_endpoint_url": endpoint,
        "aws_access_key_id": "test",
        "aws_secret_access_key": "test",
        "aws_region": "us-east-1",
        "aws_allow_http": "true",
        "conditional_put": "etag",
    }
