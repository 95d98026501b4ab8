"""Many writers, readers, a compactor and a vacuum at work on one root.

Run as one process of several, with some threads that share one store. Each writer notes in shared memory how many
writes it has had acknowledged; a reader looks there first, reads, and then every one of them has to be there.
"""

import mmap
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path

import msgspec
import polars as pl

from metaxy_fs import Feature, FeatureKey, FeatureNotFoundError, FeatureSpec, FilesystemMetadataStore, compact, vacuum

WRITERS = 256
"""The most that there can be."""


class Shot(Feature, spec=FeatureSpec(key=FeatureKey(["shot"]))):
    """What all of them write and read."""


class Task(msgspec.Struct, frozen=True):
    """What one process does.

    Attributes:
        role: One of `ROLES`.
        first: The number of its first thread among those of all processes of its role.
        threads: How many it has.
        root: Where.
        board: The path of the file that writers note their counts in.
        keep: For how many seconds vacuum keeps what nobody needs.
        rest: For how many seconds a writer does something else between two writes.
    """

    role: str
    first: int
    threads: int
    root: str
    board: str
    keep: float
    rest: float


class Outcome(msgspec.Struct):
    """What one process has done: how often what, and its errors."""

    done: dict[str, int]
    errors: list[str]
    slowest: dict[str, float]


class Board:
    """How many writes each writer has had acknowledged, in memory that all processes share; and whether to stop."""

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        if not path.exists():
            path.write_bytes(bytes(8 * (WRITERS + 1)))
        with path.open("r+b") as file:
            self._numbers = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")

    def counts(self) -> list[int]:
        """Return the number of writes by writer."""
        return list(self._numbers[:WRITERS])

    def note(self, writer: int, writes: int) -> None:
        """Set the number of one writer; nobody else does."""
        self._numbers[writer] = writes

    def stop(self) -> None:
        """Let everybody come to an end."""
        self._numbers[WRITERS] = 1

    @property
    def is_stopped(self) -> bool:
        """Whether everybody is to come to an end."""
        return bool(self._numbers[WRITERS])


class Worker:
    """One thread."""

    def __init__(self, task: Task, number: int, store: FilesystemMetadataStore, board: Board) -> None:
        self.task = task
        self.number = number
        self.store = store
        self.board = board
        self.done: Counter[str] = Counter()
        self.slowest: dict[str, float] = {}
        self.error = ""

    def run(self) -> None:
        """Do it until everybody stops."""
        try:
            step = ROLES[self.task.role](self)
            while not self.board.is_stopped:
                started = time.monotonic()
                step()
                self.slowest["seconds"] = max(self.slowest.get("seconds", 0), time.monotonic() - started)
        except BaseException:  # noqa: BLE001  # whatever it is, the test has to know
            self.error = traceback.format_exc()
            self.board.stop()


def rows_of_write(writer: int, number: int) -> pl.DataFrame:
    """Return the rows of one write, which say how many they are."""
    size = 1 + number % 4
    ids = [f"{writer}/{number}/{index}" for index in range(size)]
    versions = [{"default": name} for name in ids]
    return pl.DataFrame(
        {"sample_id": ids, "writer": [writer] * size, "number": [number] * size, "of": size, "data_version": versions}
    )


def check_all_seen(rows: pl.DataFrame, counts: list[int]) -> None:
    """Raise AssertionError unless each acknowledged write is seen once, and each that is seen is whole."""
    writes = rows.group_by("writer", "number").agg(pl.len(), pl.col("of").first(), pl.col("sample_id").n_unique())
    broken = writes.filter((pl.col("len") != pl.col("of")) | (pl.col("sample_id") != pl.col("of")))
    assert broken.is_empty(), f"not whole, or there twice: {broken}"
    promised = pl.DataFrame({"writer": range(WRITERS), "count": counts}).filter(pl.col("count") > 0)
    seen = writes.join(promised, on="writer").filter(pl.col("number") <= pl.col("count"))
    lacking = promised.join(seen.group_by("writer").agg(pl.len()), on="writer", how="left").filter(
        pl.col("len").fill_null(0) != pl.col("count")
    )
    assert lacking.is_empty(), f"acknowledged, and not seen: {lacking}"


def _write(worker: Worker) -> Callable[[], None]:
    numbers = count(1)

    def step() -> None:
        number = next(numbers)
        worker.store.write_metadata(Shot, rows_of_write(worker.number, number))
        worker.board.note(worker.number, number)
        worker.done["writes"] += 1
        time.sleep(worker.task.rest)

    return step


def _read(worker: Worker) -> Callable[[], None]:
    def step() -> None:
        counts = worker.board.counts()
        try:
            rows = worker.store.read_metadata(Shot)
        except FeatureNotFoundError:
            assert not any(counts)
            return
        check_all_seen(rows, counts)
        worker.done["reads"] += 1

    return step


def _keep(worker: Worker) -> Callable[[], None]:
    return partial(_compact if worker.number % 2 else _vacuum, worker)


def _compact(worker: Worker) -> None:
    worker.done["compactions"] += len(compact(worker.store, fan=4))
    time.sleep(0.1)


def _vacuum(worker: Worker) -> None:
    if not worker.store.list_features():
        return  # before the first write there is no root
    keep = timedelta(seconds=worker.task.keep)
    done = vacuum(worker.store, dry_run=False, grace=keep, retention=keep, unsafe=True)
    assert not done.skipped, done.skipped
    worker.done["deletions"] += sum(removal.state == "deleted" for removal in done.removals)
    time.sleep(0.5)


ROLES: dict[str, Callable[[Worker], Callable[[], None]]] = {"write": _write, "read": _read, "keep": _keep}
"""What each kind of thread does again and again."""


def main() -> None:
    """Run the threads of one process."""
    task = msgspec.json.decode(sys.argv[1], type=Task)
    store, board = FilesystemMetadataStore(task.root), Board(task.board)
    workers = [Worker(task, task.first + number, store, board) for number in range(task.threads)]
    threads = [threading.Thread(target=worker.run) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = sum((worker.done for worker in workers), Counter())
    slowest = {task.role: max(worker.slowest.get("seconds", 0) for worker in workers)}
    outcome = Outcome(dict(done), [worker.error for worker in workers if worker.error], slowest)
    print(msgspec.json.encode(outcome).decode())


if __name__ == "__main__":
    main()
