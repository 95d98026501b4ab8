"""Small appends to Lance."""

import time
from typing import Any

import lance
import polars as pl

from tests.benchmarks.clocks import fresh_root, time_appends


def append(*, root: str, count: int, endpoint: str | None = None) -> dict[str, float]:
    """Append small batches to a dataset."""
    dataset = f"{fresh_root(root)}/small.lance"

    def write(number: int, frame: pl.DataFrame) -> None:
        rows = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        mode = "append" if number else "create"
        lance.write_dataset(rows, dataset, mode=mode, storage_options=_options(endpoint))

    return time_appends(write, count=count)


def read(*, root: str, endpoint: str | None = None) -> dict[str, Any]:
    """Read every row."""
    start = time.perf_counter()
    rows = lance.dataset(f"{root}/small.lance", storage_options=_options(endpoint)).to_table()
    return {"seconds": time.perf_counter() - start, "rows": rows.num_rows}


def compact_root(*, root: str) -> dict[str, Any]:
    """Merge small fragments."""
    start = time.perf_counter()
    lance.dataset(f"{root}/small.lance").optimize.compact_files()
    return {"seconds": time.perf_counter() - start}


def _options(endpoint: str | None) -> dict[str, str] | None:
    if endpoint is None:
        return None
    return {
        "aws_endpoint": endpoint,
        "aws_access_key_id": "test",
        "aws_secret_access_key": "test",
        "aws_region": "us-east-1",
        "allow_http": "true",
    }
