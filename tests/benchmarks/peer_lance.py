"""What does Lance do with small appends?"""

import time
from typing import Any

import lance
import polars as pl

from tests.benchmarks.clocks import empty_directory, time_appends


def append(*, root: str, count: int) -> dict[str, float]:
    """Append small batches to a dataset."""
    dataset = str(empty_directory(root) / "small.lance")

    def write(number: int, frame: pl.DataFrame) -> None:
        rows = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        lance.write_dataset(rows, dataset, mode="append" if number else "create")

    return time_appends(write, count=count)


def read(*, root: str) -> dict[str, Any]:
    """Read every row."""
    start = time.perf_counter()
    rows = lance.dataset(f"{root}/small.lance").to_table()
    return {"seconds": time.perf_counter() - start, "rows": rows.num_rows}
