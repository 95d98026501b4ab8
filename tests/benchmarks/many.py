"""Measure a root that has taken many small writes."""

import statistics
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl

from metaxy_fs import Feature, FilesystemMetadataStore, compact, publish, vacuum
from tests.benchmarks.clocks import empty_directory
from tests.benchmarks.data import BATCH_ROWS, batch
from tests.benchmarks.ours import declare_small
from tests.benchmarks.storages import CountingStorage, HastyStorage

ROWS = 10
"""How many rows each write has."""

_ROUNDS = 5
_ENOUGH_SECONDS = 3.0


def seed(*, root: str, count: int, start: int = 0) -> dict[str, Any]:
    """Make many small writes, of consecutive ids, without syncing anything."""
    store = FilesystemMetadataStore(HastyStorage(root if start else str(empty_directory(root))))
    feature = declare_small()
    for rows in _writes(start, count):
        store.write_metadata(feature, rows)
    return {}


def seed_ten(*, root: str, count: int) -> dict[str, Any]:
    """Make ten writes of as many rows as so many small ones have."""
    store = FilesystemMetadataStore(HastyStorage(str(empty_directory(root))))
    feature = declare_small()
    for number in range(10):
        parts = _writes(number * count // 10, count // 10)
        store.write_metadata(feature, pl.concat(parts))
    return {}


def measure(*, root: str, count: int) -> dict[str, Any]:
    """Ask whether there is a commit, read ten ids that lie far apart, and read all, each time with a new store."""
    feature = declare_small()
    ids = [number * ROWS * count // 10 for number in range(10)]
    works: dict[str, Callable[[FilesystemMetadataStore], Any]] = {
        "has": lambda store: store.has_feature(feature),
        "point": lambda store: _point(store, feature, ids),
        "read": lambda store: store.read_metadata(feature).height,
    }
    measured: dict[str, Any] = {}
    for name, work in works.items():
        measured[f"{name}_ms"], measured[name] = _timed(lambda work=work: work(FilesystemMetadataStore(root)))
        counting = CountingStorage(root)
        work(FilesystemMetadataStore(counting))
        measured[f"{name}_requests"] = float(counting.requests.total())
    return measured


def publish_twice(*, root: str, count: int) -> dict[str, Any]:
    """Publish so many files as a Delta table, and then one commit more."""
    store, feature, measured = FilesystemMetadataStore(root), declare_small(), dict[str, Any]()
    for name in ("", "next_"):
        started = time.perf_counter()
        published = publish(store, feature)
        measured[f"{name}seconds"] = time.perf_counter() - started
        measured[f"{name}bytes"] = (
            Path(published.location, "_delta_log", f"{published.version:020}.json").stat().st_size
        )
        if not name:
            store.write_metadata(feature, next(_writes(count, 1)))
    return measured


def compact_counted(*, root: str) -> dict[str, Any]:
    """Compact what is there, and count what that takes."""
    storage, held = CountingStorage(root), held_bytes(root)
    start = time.perf_counter()
    compact(FilesystemMetadataStore(storage), declare_small(), full=True)
    return {
        "seconds": time.perf_counter() - start,
        "written_per_held": storage.written / held,
        **{f"{verb}_requests": float(count) for verb, count in storage.requests.items()},
    }


def vacuum_now(*, root: str) -> dict[str, Any]:
    """Delete what compactions stand for at once, as days of vacuums would."""
    start = time.perf_counter()
    nothing = timedelta(0)
    for _ in range(2):  # the first notes which data files nobody names
        vacuum(FilesystemMetadataStore(root), dry_run=False, grace=nothing, retention=nothing, unsafe=True)
    return {"seconds": time.perf_counter() - start}


def held_bytes(root: str) -> int:
    """Return how many bytes the data files of a root have."""
    return sum(path.stat().st_size for path in Path(root).rglob("*.parquet"))


def _point(store: FilesystemMetadataStore, feature: type[Feature], ids: list[int]) -> int:
    return store.read_metadata(feature, filters=pl.col("sample_id").is_in(ids)).height


def _writes(start: int, count: int) -> Iterator[pl.DataFrame]:
    """Yield the frames of the writes from one on."""
    each = BATCH_ROWS // ROWS
    for number in range(start, start + count):
        if number == start or number % each == 0:
            held = batch(number // each)
        yield held.slice(number % each * ROWS, ROWS)


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the median of a few rounds in milliseconds, and what was returned."""
    seconds: list[float] = []
    result = None
    while len(seconds) < _ROUNDS and sum(seconds) < _ENOUGH_SECONDS:
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds), result
