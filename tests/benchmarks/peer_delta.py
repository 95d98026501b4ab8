"""What does Delta Lake do with small appends?"""

import time
from typing import Any

import polars as pl
from deltalake import write_deltalake

from tests.benchmarks.clocks import empty_directory, time_appends


def append(*, root: str, count: int) -> dict[str, float]:
    """Append small batches to a table."""
    table = str(empty_directory(root) / "table")

    def write(_: int, frame: pl.DataFrame) -> None:
        write_deltalake(table, frame.to_arrow(compat_level=pl.CompatLevel.oldest()), mode="append")

    return time_appends(write, count=count)


def read(*, root: str) -> dict[str, Any]:
    """Read every row."""
    start = time.perf_counter()
    rows = pl.read_delta(f"{root}/table")
    return {"seconds": time.perf_counter() - start, "rows": rows.height}
