"""Time many small writes."""

import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl

from tests.benchmarks.data import batch


def time_appends(append: Callable[[int, pl.DataFrame], object], *, count: int) -> dict[str, float]:
    """Append batches one after the other; give the median of all, of the first tenth and of the last."""
    seconds = []
    for number in range(count):
        frame = batch(number)
        start = time.perf_counter()
        append(number, frame)
        seconds.append(time.perf_counter() - start)
    tenth = max(1, count // 10)
    return {
        "write_ms": 1e3 * statistics.median(seconds),
        "first_tenth_ms": 1e3 * statistics.median(seconds[:tenth]),
        "last_tenth_ms": 1e3 * statistics.median(seconds[-tenth:]),
        "all_seconds": sum(seconds),
    }


def empty_directory(path: str) -> Path:
    """Return a directory without anything in it, even if a former round left something."""
    shutil.rmtree(path, ignore_errors=True)
    Path(path).mkdir(parents=True)
    return Path(path)


def fresh_root(root: str) -> str:
    """Return a root without anything in it; a URL is taken to be new."""
    return root if "://" in root else str(empty_directory(root))
