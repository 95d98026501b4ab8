"""Let a month pass over a root: writes arrive, compactions and vacuums run by the clock, and requests are counted.

The code is the real one, on objects in memory and on a clock that jumps from one event to the next; `docs/scale.md`
multiplies what is counted here.
"""

import time
from collections import Counter
from collections.abc import Iterable
from contextlib import contextmanager
from typing import Any

import polars as pl

from metaxy_fs import FilesystemMetadataStore, compact, vacuum
from metaxy_fs.ids import Source, driven_by
from metaxy_fs.storage import ObjectInfo
from metaxy_fs.storage.memory import MemoryStorage
from tests.benchmarks.data import batch
from tests.benchmarks.ours import declare_small

ROWS = 10
"""How many rows each write has."""

_START = 1_790_000_000_000_000
_DAY = 86_400_000_000
_PAGE = 1_000


class Clock(Source):
    """A clock that stands still between events."""

    def __init__(self) -> None:
        self.now = _START
        super().__init__()

    def microseconds(self) -> int:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += int(seconds * 1_000_000)


class CountedMemory(MemoryStorage):
    """Objects in memory, which count what a bucket would charge for.

    Attributes:
        requests: By their verb; a listing costs one for each thousand names.
        bytes: How many were put and how many were got.
    """

    def __init__(self) -> None:
        super().__init__()
        self.requests: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    @property
    def serves_ranges(self) -> bool:
        return False  # whole objects are easier to count, and the small ones are got whole anyway

    def put(self, path: str, data: bytes) -> None:
        self.requests["put"] += 1
        self.bytes["put"] += len(data)
        super().put(path, data)

    def get(self, path: str) -> bytes:
        data = super().get(path)
        self.requests["get"] += 1
        self.bytes["get"] += len(data)
        return data

    def list(self, directory: str, *, limit: int | None = None) -> list[ObjectInfo]:
        found = super().list(directory, limit=limit)
        self.requests["list"] += 1 + max(0, len(found) - 1) // _PAGE
        return found

    def list_directories(self, directory: str) -> Iterable[str]:
        self.requests["list"] += 1
        return super().list_directories(directory)

    def delete(self, path: str) -> None:
        self.requests["delete"] += 1
        super().delete(path)

    def objects(self) -> int:
        """Return how many objects there are."""
        return len(MemoryStorage.list(self, ""))


def run(*, commits_per_day: int, days: int = 30, compactions_per_day: int = 24) -> dict[str, Any]:
    """Return what was requested, per commit, and how large the root was, after so many days.

    `read requests` is what a process that knows nothing asks for to count the rows, at the end of the
    day on which it is most.
    """
    began = time.perf_counter()
    feature, clock, storage = declare_small(), Clock(), CountedMemory()
    taken: Counter[str] = Counter()

    @contextmanager
    def counted(work: str):
        before, moved = Counter(storage.requests), Counter(storage.bytes)
        yield
        taken.update({f"{work} {verb}": count for verb, count in (storage.requests - before).items()})
        taken.update({f"{work} bytes {verb}": count for verb, count in (storage.bytes - moved).items()})

    objects, reads = [], []
    with driven_by(clock):
        writer = FilesystemMetadataStore(storage)
        for number in range(commits_per_day * days):
            clock.now = _START + (number + 1) * _DAY // commits_per_day
            with counted("write"):
                writer.write_metadata(feature, batch(number)[:ROWS])
            today = number % commits_per_day + 1
            if today * compactions_per_day // commits_per_day > (today - 1) * compactions_per_day // commits_per_day:
                with counted("compact"):
                    compact(FilesystemMetadataStore(storage))
            if today == commits_per_day:
                with counted("vacuum"):
                    vacuum(FilesystemMetadataStore(storage), dry_run=False)
                before = Counter(storage.requests)
                found = FilesystemMetadataStore(storage).scan_metadata(feature).select(pl.len()).collect().item()
                assert found == (number + 1) * ROWS
                reads.append((storage.requests - before).total())
                objects.append(storage.objects())
    commits = commits_per_day * days
    return {
        **{name: count / commits for name, count in sorted(taken.items())},
        "objects": float(objects[-1]),
        "read requests": float(max(reads)),
        "seconds": time.perf_counter() - began,
    }
