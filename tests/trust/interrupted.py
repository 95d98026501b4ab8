"""A process whose user presses Ctrl-C in the middle of each operation.

Run as a process of its own: it presses Ctrl-C itself, from another thread and after a random while, and prints one line
of JSON for each press.
"""

import gc
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from itertools import count
from typing import Any

import msgspec
import polars as pl

from metaxy_fs import FilesystemMetadataStore, compact, copy_metadata, vacuum, verify
from tests.support.patience import PATIENCE as UNTIL_ENDED
from tests.trust.victims import AT_ONCE, JOB_ROWS, Clip, Job, Video, tagged, versions

SERVING = {"fsspecIO"}
"""Threads that serve the whole process once it has needed them."""

PRESSES = 6
PATIENCE = 20.0
"""A press that has ended nothing for so many seconds was lost; the next one follows."""


class Press(msgspec.Struct):
    """One Ctrl-C.

    Attributes:
        operation: What was under way.
        seconds: How long it went on.
        presses: How many it took.
        echoes: How many exceptions came after the first.
        error: What it ended with, if that was no KeyboardInterrupt; Polars makes a panic of one that comes where it
            cannot hand it on.
        threads: The names of threads that it has left.
        files: The temporary files below the roots that it has left.
    """

    operation: str
    seconds: float = 0.0
    presses: int = 0
    echoes: int = 0
    error: str = ""
    threads: list[str] = []
    files: list[str] = []


class Work:
    """The operations, on two roots."""

    def __init__(self, root: str, target: str, options: dict[str, Any] | None) -> None:
        self.store = FilesystemMetadataStore(root, storage_options=options)
        self.target = FilesystemMetadataStore(target, storage_options=options)
        self._tags = (f"tag-{number}" for number in count())
        self._jobs = count()
        for _ in range(3):
            self.write()
        self.calculate()

    def write(self) -> None:
        self.store.write_metadata(Video, tagged(next(self._tags), 4))

    def write_lazily(self) -> None:
        self.store.write_metadata(Video, tagged(next(self._tags), 2_000).lazy())

    def calculate(self) -> None:
        rows = tagged(next(self._tags), 500)
        self.store.write_metadata(Video, rows)
        self.store.calculate_and_write_data_versions(Clip, rows.drop("data_version"))

    def read(self) -> None:
        self.store.read_metadata(Video, latest_only=True)

    def resolve(self) -> None:
        self.store.resolve_update(Clip, lazy=True).new.collect()

    def buffer(self) -> None:
        tag = next(self._tags)
        with self.store.buffered(Video, rows=100) as buffer:
            buffer.write(tagged(tag, 6))

    def buffer_with_a_name(self) -> None:
        job = next(self._jobs)
        for _attempt in range(2):
            with self.store.buffered(Job, rows=16, write_id=f"job-{job}") as buffer:
                for index in range(JOB_ROWS):
                    name = f"{job}/{index}"
                    buffer.write(pl.DataFrame({"sample_id": [name], "data_version": versions([name])}))

    def compact(self) -> None:
        self.write()
        compact(self.store, full=True)

    def vacuum(self) -> None:
        self.write()
        compact(self.store, Video, full=True)
        vacuum(self.store, dry_run=False, grace=AT_ONCE, retention=AT_ONCE, unsafe=True)

    def verify(self) -> None:
        verify(self.store)

    def copy(self) -> None:
        self.write()
        copy_metadata(Video, source=self.store, target=self.target)


OPERATIONS: dict[str, Callable[[Work], None]] = {
    name: function for name, function in vars(Work).items() if not name.startswith("_")
}


def interrupt(operation: str, work: Work, *, after: float) -> Press:
    """Do something again and again, and press Ctrl-C after a while."""
    press = Press(operation)
    ended = threading.Event()
    started = 0.0

    def run() -> None:
        nonlocal started
        time.sleep(after)
        started = time.monotonic()
        while press.presses < PRESSES and not ended.is_set():
            press.presses += 1
            os.kill(os.getpid(), signal.SIGINT)
            ended.wait(PATIENCE)

    before = set(threading.enumerate())
    presser = threading.Thread(target=run)
    try:
        try:
            presser.start()
            while True:
                OPERATIONS[operation](work)
        except KeyboardInterrupt:
            pass
        # Polars and Python both make an exception of one press, and the second comes with the next step of Python.
        gc.collect()
    except KeyboardInterrupt:
        press.echoes += 1
    except BaseException:  # noqa: BLE001  # whatever it is, the test has to know
        press.error = traceback.format_exc()
    press.seconds = time.monotonic() - started
    ended.set()
    gc.collect()
    presser.join()
    press.threads = left_threads(before)
    press.files = [info.path for store in (work.store, work.target) for info in store.storage.list_temporaries("")]
    return press


def left_threads(before: AbstractSet[threading.Thread]) -> list[str]:
    """Return the names of the threads that are new and do not end."""
    deadline = time.monotonic() + UNTIL_ENDED
    while True:
        left = [thread for thread in set(threading.enumerate()) - before if thread.name not in SERVING]
        if not left or time.monotonic() > deadline:
            return [thread.name for thread in left]
        time.sleep(0.01)


def main() -> None:
    """Press Ctrl-C in some operations, a few times."""
    root, target, times, options, *operations = sys.argv[1:]
    work = Work(root, target, msgspec.json.decode(options))
    dice = random.Random(times)  # noqa: S311  # no secret
    for _ in range(int(times)):
        for operation in operations:
            press = interrupt(operation, work, after=10 ** dice.uniform(-2.5, -0.5))
            work.write()
            assert work.store.read_metadata(Video).height
            print(msgspec.json.encode(press).decode(), flush=True)


if __name__ == "__main__":
    main()
