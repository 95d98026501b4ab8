"""A storage that a test steps through, request by request.

`SteppedStorage` keeps objects in memory and asks a gate before every request how it is to end. A gate may hold the
calling thread for as long as it likes, so a test decides what happens between any two requests of a process, and which
of them are lost. Each process has a storage of its own; what they share is a `Bucket`.
"""

import builtins
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from functools import partial
from typing import Literal, NamedTuple, NoReturn, TypeVar

from metaxy_fs.errors import CorruptObjectError, ObjectExistsError, ObjectNotFoundError, StorageError
from metaxy_fs.ids import wall_clock
from metaxy_fs.storage.base import ObjectInfo, Storage, check_directory, check_path
from metaxy_fs.storage.walk import Entry, walk

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Request(NamedTuple):
    """A request that is about to be made; each page of a listing is one."""

    verb: Literal["put", "get", "list", "delete"]
    path: str


class Ending(Enum):
    """How a request ends."""

    ANSWERED = auto()
    """It is applied, and its answer arrives."""
    LOST = auto()
    """It is not applied, and fails."""
    UNHEARD = auto()
    """It is applied and fails, because its answer is lost."""
    LATE = auto()
    """It fails, and is applied when the test says so (`Bucket.land`); a get or a listing is lost."""


Gate = Callable[[Request], Ending]
"""Called in the thread that makes a request; returns when the request may go on, and says how it ends."""


class StoredObject(NamedTuple):
    """An object's bytes, and the storage's time of its write."""

    data: bytes
    modified: datetime


class Bucket:
    """The objects that the storages of several processes share. Safe to share between threads.

    Args:
        now: The storage's own clock, in microseconds since 1970 (UTC).

    Attributes:
        objects: What there is now, by path.
        written: What there ever was, by path; of a name that was used again, the first object.
        arrivals: When each of these was written, in microseconds since 1970 (UTC).
        deletions: How many objects were deleted.
        late: Requests that are on their way, each to be applied by `land`.
    """

    def __init__(self, *, now: Callable[[], int] = wall_clock) -> None:
        self.objects: dict[str, StoredObject] = {}
        self.written: dict[str, bytes] = {}
        self.arrivals: dict[str, int] = {}
        self.deletions = 0
        self.late: list[Callable[[], object]] = []
        self._now = now
        self._lock = threading.Lock()

    def put(self, path: str, data: bytes) -> bool:
        """Write an object if the name is free; False if it is not."""
        with self._lock:
            if path in self.objects:
                return False
            now = self._now()
            self.objects[path] = StoredObject(bytes(data), _EPOCH + timedelta(microseconds=now))
            self.written.setdefault(path, bytes(data))
            self.arrivals.setdefault(path, now)
            return True

    def delete(self, path: str) -> None:
        """Remove an object if it is there."""
        with self._lock:
            self.deletions += self.objects.pop(path, None) is not None

    def below(self, prefix: str) -> list[ObjectInfo]:
        """Return the objects whose path starts with a prefix, sorted by path."""
        with self._lock:
            held = sorted((path, held) for path, held in self.objects.items() if path.startswith(prefix))
        return [ObjectInfo(path, len(found.data), found.modified) for path, found in held]

    def find(self, path: str) -> ObjectInfo | None:
        """Return what a listing says of an object, None if it is gone."""
        held = self.objects.get(path)
        return None if held is None else ObjectInfo(path, len(held.data), held.modified)

    def land(self, index: int) -> None:
        """Apply one of the requests that are on their way."""
        self.late.pop(index)()


class SteppedStorage(Storage):
    """One process's access to a bucket.

    A listing is made of requests for one page each. If it is ordered, a page shows what there is after the last path of
    the page before, at the time of its own request: so do S3 and GCS. If not, every directory shows the names that it
    had when its listing began, in any order, less those that are gone when their page is read, and whatever the dice
    give of those that came meanwhile: so does a local file system.

    Args:
        bucket: The objects.
        name: What the process is called in messages.
        gate: Says when each request may go on, and how it ends; every one is answered at once by default.
        page: How many names one request of a listing gives.
        dice: The order in which directories are listed; None lists by path, as object stores do.
    """

    def __init__(
        self,
        bucket: Bucket,
        *,
        name: str = "stepped",
        gate: Gate = lambda _request: Ending.ANSWERED,
        page: int = 1_000,
        dice: random.Random | None = None,
    ) -> None:
        self._bucket = bucket
        self._name = name
        self._gate = gate
        self._page = page
        self._dice = dice

    @property
    def location(self) -> str:
        return self._name

    @property
    def put_is_conditional(self) -> bool:
        return True

    def put(self, path: str, data: bytes) -> None:
        check_path(path, location=self.location)
        if not self._ask(Request("put", path), partial(self._bucket.put, path, bytes(data))):
            raise ObjectExistsError(f"cannot write {path!r} in {self.location}: an object of that name exists")

    def get(self, path: str) -> bytes:
        check_path(path, location=self.location)
        held = self._ask(Request("get", path), partial(self._bucket.objects.get, path))
        if held is None:
            raise ObjectNotFoundError(f"cannot read {path!r} in {self.location}: no such object")
        return held.data

    def get_many(self, objects: Sequence[ObjectInfo]) -> builtins.list[bytes]:
        return [self._get_sized(info) for info in objects]

    def delete(self, path: str) -> None:
        check_path(path, location=self.location)
        self._ask(Request("delete", path), partial(self._bucket.delete, path))

    def list(self, directory: str, *, limit: int | None = None) -> builtins.list[ObjectInfo]:
        check_directory(directory, location=self.location)
        if self._dice is not None:
            return walk(self._scan, directory, limit=limit)
        found: builtins.list[ObjectInfo] = []
        for page in self._pages(directory):
            found += page
            if limit is not None and len(found) >= limit:
                return found[:limit]
        return found

    def list_directories(self, directory: str) -> builtins.list[str]:
        check_directory(directory, location=self.location)
        prefix = _prefix(directory)
        below = self._ask(Request("list", directory), partial(self._bucket.below, prefix))
        return sorted({info.path[len(prefix) :].split("/")[0] for info in below if "/" in info.path[len(prefix) :]})

    def __repr__(self) -> str:
        return f"SteppedStorage({self._name!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SteppedStorage lives in one process and cannot be pickled")

    def _ask(self, request: Request, apply: Callable[[], T]) -> T:
        """Make a request, whose ending the gate knows."""
        ending = self._gate(request)
        if ending is Ending.ANSWERED:
            return apply()
        if ending is Ending.UNHEARD:
            apply()
        elif ending is Ending.LATE and request.verb in ("put", "delete"):
            self._bucket.late.append(apply)
        raise StorageError(f"cannot {request.verb} {request.path!r} in {self.location}: no answer, by the test's will")

    def _get_sized(self, info: ObjectInfo) -> bytes:
        data = self.get(info.path)
        if len(data) != info.size:
            raise CorruptObjectError(f"{info.path!r} in {self.location} holds {len(data)} bytes, expected {info.size}")
        return data

    def _pages(self, directory: str) -> Iterator[builtins.list[ObjectInfo]]:
        after = ""
        while True:
            rest = self._ask(Request("list", directory), partial(self._after, _prefix(directory), after))
            yield rest[: self._page]
            if len(rest) <= self._page:
                return
            after = rest[self._page - 1].path

    def _after(self, prefix: str, path: str) -> builtins.list[ObjectInfo]:
        return [info for info in self._bucket.below(prefix) if info.path > path]

    def _scan(self, directory: str) -> builtins.list[Entry]:
        """Return the entries of one directory, some a request; a name that came meanwhile is shown or passed over."""
        dice = self._dice or random.Random(0)  # noqa: S311  # nothing secret
        seen: dict[str, Entry] = {}
        waiting: builtins.list[str] = []
        known: set[str] = set()
        while waiting or not known:
            now = self._ask(Request("list", directory), partial(self._entries, directory))
            come = [name for name in sorted(now) if name not in known and (not known or dice.random() < 0.5)]
            known |= now.keys() | {""}
            waiting = dice.sample(waiting + come, len(waiting) + len(come))
            seen |= {name: now[name] for name in waiting[: self._page] if name in now}
            waiting = waiting[self._page :]
        return list(seen.values())

    def _entries(self, directory: str) -> dict[str, Entry]:
        prefix = _prefix(directory)
        found = {}
        for info in self._bucket.below(prefix):
            name, slash, _ = info.path[len(prefix) :].partition("/")
            found[name] = Entry(name, bool(slash), self._bucket.find)
        return found


def _prefix(directory: str) -> str:
    return f"{directory}/" if directory else ""
