"""Processes that are there to be killed, and what they had done by then.

The keeper is a process of its own that imports everything and uses Polars for nothing, so that its children may; a
child starts in milliseconds then. It takes an order a line, forks a victim, kills it after the delay of the order by
SIGKILL, and answers with what the victim had acknowledged and the step at which it was hit.

A victim does one thing after another until it is killed, and tells each that is done over a pipe before it begins the
next. Every row that it writes says to which write it belongs, and how many rows that has.
"""

import json
import mmap
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from hashlib import sha256
from importlib import import_module
from itertools import count
from pathlib import Path
from tempfile import gettempdir
from threading import Lock
from typing import Any, Self

import msgspec
import polars as pl

from metaxy_fs import (
    Feature,
    FeatureDep,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    Receipt,
    compact,
    copy_metadata,
    vacuum,
)
from metaxy_fs.storage import LocalStorage
from metaxy_fs.storage.remote import ObjectStorage
from tests.support.patience import PATIENCE

Done = tuple[str, str]
"""Something that a victim has done: the kind, and the name."""

JOB_ROWS = 40
GROUP_PARTS, PART_ROWS = 3, 4
AT_ONCE = timedelta(0)

VIDEO = FeatureKey(["video"])


with FeatureGraph().use():

    class Video(Feature, spec=FeatureSpec(key=VIDEO)):
        """What most victims write."""

    class Clip(Feature, spec=FeatureSpec(key=FeatureKey(["clip"]), deps=[FeatureDep(key=VIDEO)])):
        """What is calculated from it."""

    class Job(Feature, spec=FeatureSpec(key=FeatureKey(["job"]))):
        """What is written by jobs that are begun again until they end."""

    class Group(Feature, spec=FeatureSpec(key=FeatureKey(["group"]))):
        """What is prepared in parts and committed together, by victims that go on with what others have left."""


class Order(msgspec.Struct, frozen=True):
    """One victim.

    Attributes:
        role: What it does, one of `ROLES`.
        number: Its own.
        delay: How long it lives once it has begun, in seconds.
        last_step: It is killed when it has come to this step, counted from its beginning; 0 if it dies of age alone.
        root: The URL or path of the root.
        target: That of the root which copies go to.
        options: The `storage_options` of both.
        retry: The number of a victim whose first named write is to be written again.
        job: The number of the job, or of the group, that is to be begun again.
        is_synced: Whether it waits for the disk.
    """

    role: str
    number: int
    delay: float
    last_step: int
    root: str
    target: str
    options: dict[str, Any] | None
    retry: int | None
    job: int
    is_synced: bool

    def open(self) -> tuple[FilesystemMetadataStore, FilesystemMetadataStore]:
        """Open both roots, and have connections to them and the threads of Polars."""
        stores = tuple(FilesystemMetadataStore(url, storage_options=self.options) for url in (self.root, self.target))
        for store in stores:
            store.storage.list("nothing")
        pl.DataFrame({"sample_id": [2, 1]}).sort("sample_id")
        return stores


class Death(msgspec.Struct, frozen=True):
    """What became of a victim.

    Attributes:
        done: What it had acknowledged: the kind, and its name.
        step: What it was doing.
        error: The traceback with which it ended by itself.
    """

    done: list[Done]
    step: str
    error: str


class Keeper:
    """The process that starts and kills victims.

    Args:
        scratch: Where they keep temporary files.
        is_remote: Whether they work on S3.
    """

    def __init__(self, scratch: Path, *, is_remote: bool = False) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *(["--s3"] if is_remote else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            env=os.environ | {"TMPDIR": str(scratch)},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._process.stdout.close()

    def begin(self, order: Order) -> None:
        """Start a victim, and kill it when its time has come."""
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()

    def end(self) -> Death:
        """Return what became of it."""
        return msgspec.json.decode(self._process.stdout.readline(), type=Death)


def tagged(tag: str, rows: int) -> pl.DataFrame:
    """Return the rows of one write."""
    ids = [f"{tag}/{index}" for index in range(rows)]
    return pl.DataFrame({"sample_id": ids, "write": [tag] * rows, "of": [rows] * rows, "data_version": versions(ids)})


def versions(ids: list[str]) -> list[dict[str, str]]:
    """Return a data version for each sample."""
    return [{"default": name} for name in ids]


def _write(store: FilesystemMetadataStore, _target: FilesystemMetadataStore, order: Order) -> Iterator[Done]:
    if order.retry is not None:
        store.write_metadata(Video, tagged(f"{order.retry}-named", 5), write_id=f"{order.retry}")
        yield "video", f"{order.retry}-named"
    store.write_metadata(Video, tagged(f"{order.number}-named", 5), write_id=f"{order.number}")
    yield "video", f"{order.number}-named"
    for tag, rows in _tags(order):
        frame = tagged(tag, rows)
        store.write_metadata(Video, frame.lazy() if rows % 3 == 0 else frame)
        yield "video", tag


def _calculate(store: FilesystemMetadataStore, _target: FilesystemMetadataStore, order: Order) -> Iterator[Done]:
    for tag, rows in _tags(order):
        frame = tagged(tag, rows)
        store.write_metadata(Video, frame)
        yield "video", tag
        store.calculate_and_write_data_versions(Clip, frame.drop("data_version"))
        yield "clip", tag


def _buffer(store: FilesystemMetadataStore, _target: FilesystemMetadataStore, order: Order) -> Iterator[Done]:
    with store.buffered(Video, seconds=None) as buffer:
        for tag, rows in _tags(order):
            buffer.write(tagged(tag, rows))
            buffer.flush()
            yield "video", tag


def _job(store: FilesystemMetadataStore, _target: FilesystemMetadataStore, order: Order) -> Iterator[Done]:
    for job in count(order.job):
        with store.buffered(Job, rows=8, seconds=None, write_id=f"job-{job}") as buffer:
            for index in range(JOB_ROWS):
                name = f"{job}/{index}"
                buffer.write(pl.DataFrame({"sample_id": [name], "data_version": versions([name])}))
        yield "job", str(job)


def _compact(store: FilesystemMetadataStore, _target: FilesystemMetadataStore, order: Order) -> Iterator[Done]:
    for turn, (tag, rows) in enumerate(_tags(order)):
        store.write_metadata(Video, tagged(tag, rows))
        yield "video", tag
        compact(store, fan=2, full=turn % 3 == 2)
        yield "compaction", tag


def _vacuum(store: FilesystemMetadataStore, _target: FilesystemMetadataStore, order: Order) -> Iterator[Done]:
    for tag, rows in _tags(order):
        store.write_metadata(Video, tagged(tag, rows))
        yield "video", tag
        compact(store, Video, full=True)
        yield "compaction", tag
        for _ in range(3):
            vacuum(store, dry_run=False, grace=AT_ONCE, retention=AT_ONCE, unsafe=True)
            yield "vacuum", tag


def _copy(store: FilesystemMetadataStore, target: FilesystemMetadataStore, order: Order) -> Iterator[Done]:
    for tag, rows in _tags(order):
        store.write_metadata(Video, tagged(tag, rows))
        yield "video", tag
        copy_metadata(Video, source=store, target=target)
        yield "copy", tag


def _group(store: FilesystemMetadataStore, _target: FilesystemMetadataStore, order: Order) -> Iterator[Done]:
    """Be the workers and the driver of one group after the other; odd groups have a name.

    Receipts outlive victims. Of some tasks there are several, prepared by one victim after the other.
    """
    shelf = Path(gettempdir()) / sha256(order.root.encode()).hexdigest()
    shelf.mkdir(exist_ok=True)
    for group in count(order.job):
        for part in range(GROUP_PARTS):
            if not list(shelf.glob(f"{group}-{part}-*.json")) or (order.number + part) % 3 == 0:
                ids = [f"{group}/{part}/{index}" for index in range(PART_ROWS)]
                rows = pl.DataFrame({"sample_id": ids, "data_version": versions(ids)})
                receipt = store.prepare_write(Group, rows, task_id=str(part))
                written = shelf / f"{group}-{part}-{order.number}.new"
                written.write_text(receipt.to_json())
                written.rename(written.with_suffix(".json"))
                yield "part", f"{group}-{part}"
        kept = [Receipt.from_json(path.read_text()) for path in shelf.glob(f"{group}-*.json")]
        store.commit_prepared(Group, kept, write_id=f"group-{group}" if group % 2 else None)
        yield "group", str(group)


ROLES: dict[str, Callable[[FilesystemMetadataStore, FilesystemMetadataStore, Order], Iterator[Done]]] = {
    "write": _write,
    "calculate": _calculate,
    "buffer": _buffer,
    "job": _job,
    "compact": _compact,
    "vacuum": _vacuum,
    "copy": _copy,
}
"""What each kind of victim does, yielding what is done."""

_EVERY = ROLES | {"group": _group}
"""Those too that must not have a vacuum beside them which takes at once what is not committed."""


def _tags(order: Order) -> Iterator[tuple[str, int]]:
    return ((f"{order.number}-{turn}", 1 + turn % 7) for turn in count())


class _Step:
    """What a process is doing, where its parent can see it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 200)
        self._left = 0
        self._lock = Lock()

    def stop_after(self, steps: int) -> None:
        """Stop forever after so many steps from now on; 0 for none."""
        self._left = steps

    def set(self, step: str) -> None:
        with self._lock:  # where one thread stops, the others do at their next step
            self._memory[1:] = step.encode()[:199].ljust(199)
            self._left -= 1
            while self._left == 0:
                self._memory[:1] = b"."
                time.sleep(PATIENCE)

    def get(self) -> str:
        return self._memory[1:].decode().strip()

    def wait_for_last(self, seconds: float) -> None:
        """Return when the process has stopped, or after so long."""
        end = time.monotonic() + seconds
        while self._memory[:1] != b"." and (rest := end - time.monotonic()) > 0:
            time.sleep(min(rest, 0.001))


def _keep() -> None:
    """Start and kill one victim for each line of the input."""
    for line in sys.stdin:
        print(msgspec.json.encode(_kill(msgspec.json.decode(line, type=Order))).decode(), flush=True)


def _kill(order: Order) -> Death:
    step = _Step()
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        try:
            _live(order, step, writing)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        first = pipe.readline()  # it has begun, or failed to
        step.wait_for_last(order.delay)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        told = [json.loads(line) for line in (first, *pipe)]
    error = "".join(name for kind, name in told if kind == "error")
    return Death([(kind, name) for kind, name in told], step.get(), error)


def _live(order: Order, step: _Step, pipe: int) -> None:
    def tell(kind: str, name: str) -> None:
        os.write(pipe, f"{json.dumps([kind, name])}\n".encode())

    if not order.is_synced:
        os.fsync = os.fstat
    try:
        stores = order.open()
        step.stop_after(order.last_step)
        tell("begun", "")
        _trace(step, role=order.role)  # from now on it may stop forever, and somebody looks whether it has
        for kind, name in _EVERY[order.role](*stores, order):
            step.set(f"{order.role}: between two operations")
            tell(kind, name)
            step.set(f"{order.role}: computing")
    except BaseException:  # noqa: BLE001  # whatever it is, the test has to know
        tell("error", traceback.format_exc())


def _trace(step: _Step, *, role: str) -> None:
    """Note each request, and of local puts each call, before it is made."""
    step.set(f"{role}: computing")
    for kind in (LocalStorage, ObjectStorage):
        for verb in ("put", "get", "get_many", "list", "delete"):
            setattr(kind, verb, _traced(getattr(kind, verb), f"{role}: {verb}", step))
    for call in ("fsync", "link", "unlink"):
        setattr(os, call, _noted(getattr(os, call), call, step))


def _traced(function: Callable[..., Any], what: str, step: _Step) -> Callable[..., Any]:
    def call(self: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
        name = path if isinstance(path, str) else path[0].path if path else ""
        step.set(f"{what} {_kind_of(name)}")
        try:
            return function(self, path, *args, **kwargs)
        finally:
            step.set(f"{what.partition(':')[0]}: computing")

    return call


def _noted(function: Callable[..., Any], what: str, step: _Step) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        before = step.get()
        step.set(f"{before.partition(', ')[0]}, {what}")
        result = function(*args, **kwargs)
        step.set(f"{before.partition(', ')[0]}, after {what}")
        return result

    return call


def _kind_of(path: str) -> str:
    marks = {
        "/appends": "append manifest",
        "/compactions": "compaction manifest",
        "_commits/": "commit table",
        ".parquet": "data file",
        "/_vacuum": "vacuum record",
        "/_writes": "kept write",
        "/_copies": "mark",
        "/_decisions": "decision",
    }
    return next((kind for mark, kind in marks.items() if mark in path), "other")


if __name__ == "__main__":
    if "--s3" in sys.argv:
        import_module("s3fs")  # before the first fork, since it takes a second
    _keep()
