"""The contract of a storage: put, get, list and delete objects below one root.

The layers above make every path themselves; this is the second line of defence against a name that was read from a
shared root.

Verbs on objects below one root. Paths are relative to the root, with `/` between their parts, and are made by
`metaxy_fs.log.layout` alone. Every implementation passes `metaxy_fs.testing.StorageSuite`.
"""

import builtins
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from operator import attrgetter
from typing import Any, TypeVar

import msgspec

from metaxy_fs.errors import CorruptObjectError, ObjectExistsError, ObjectNotFoundError, StorageError


def check_path(path: str, *, location: str) -> str:
    """Return the path of an object if it stays below the root.

    Args:
        path: Parts joined by `/`.
        location: The root, for the message.

    Raises:
        StorageError: The path is absolute, or has an empty part, `.`, `..`, a NUL, or a drive or backslash on Windows.
    """
    if not path or "\0" in path or not {"", ".", ".."}.isdisjoint(path.split("/")) or _leaves_on_windows(path):
        raise StorageError(
            f"{path!r} is no path below {location}: expected parts joined by '/', none empty, '.' or '..'",
            root=location,
            path=path,
        )
    return path


def names_below(paths: Iterable[str], directory: str) -> list[str]:
    """Return the names of the directories directly below a directory, sorted, given the paths of all objects below."""
    start = len(directory) + 1 if directory else 0
    below = (path[start:].split("/") for path in paths)
    return sorted({name for name, *deeper in below if deeper})


def check_directory(directory: str, *, location: str) -> str:
    """Return the path of a directory if it is the root (`""`) or stays below it."""
    return check_path(directory, location=location) if directory else directory


def join(directory: str, name: str) -> str:
    """Return the path of a name in a directory, where `""` is the root."""
    return f"{directory}/{name}" if directory else name


def _leaves_on_windows(path: str) -> bool:
    return os.name == "nt" and ("\\" in path or ":" in path)


class ObjectInfo(msgspec.Struct, frozen=True, gc=False):
    """One listed object.

    Attributes:
        path: Its path below the root.
        size: Its size in bytes.
        modified: The storage's own time of its last write, None where it tells none.
        tag: What the storage tells it from others by that had the name before, None where it tells nothing.
    """

    path: str
    size: int
    modified: datetime | None = None
    tag: str | None = None


class ObjectRange(msgspec.Struct, frozen=True, gc=False):
    """Some bytes of an object: its path below the root, the place of the first of them, and that behind the last."""

    path: str
    start: int
    end: int


class RootReference(msgspec.Struct, frozen=True):
    """What another process needs to open a root, but for the credentials, which it has to have by itself.

    Attributes:
        identity: That of the storage.
        location: The root, for messages.
        address: The path or URL that opens it; None where nothing but the storage itself does.
        options: Those of the storage that are no credentials.
    """

    identity: str
    location: str
    address: str | None = None
    options: dict[str, Any] = {}


class NotDurableError(StorageError):
    """A put or a deletion is seen by all, and a crash may undo it."""


class NoRoomError(StorageError):
    """There was no room for an object, and nothing of it is there or will come."""


_Error = TypeVar("_Error", bound=StorageError)

by_path = attrgetter("path")
"""Gives what listings are sorted by."""


class Storage(ABC):
    """Objects below one root: written once, read whole, listed by prefix, deleted one by one.

    Errors are those of `metaxy_fs.errors`, and every message names the root. Only `ObjectNotFoundError` from `get` and
    an empty listing prove absence; a root that is denied, missing its bucket, or out of reach raises another
    `StorageError`. Instances may be shared between threads and used again after a fork. Inside the class the verb
    `list` hides the type, hence `builtins.list` in the annotations.
    """

    @property
    @abstractmethod
    def location(self) -> str:
        """The root as users write it, without credentials; used in messages and reprs."""

    @property
    def identity(self) -> str:
        """What tells the root from all others, also from one of that name elsewhere; holds no credentials."""
        return self.location

    @property
    def reference(self) -> RootReference:
        """What another process opens the root by; storages that a path or URL opens override this."""
        return RootReference(self.identity, self.location)

    @abstractmethod
    def put(self, path: str, data: bytes) -> None:
        """Write an object if the name is free: all of its bytes become visible at once, durably, or none do.

        Raises:
            ObjectExistsError: An object has that name, perhaps from this very call (a client that retried by itself).
            StorageAccessError: The root refused, and nothing was written, unless a client that repeats requests by
                itself has lost an earlier answer.
            NoRoomError: Nothing was written.
            NotDurableError: It is there, and a crash may lose it; a put that finds it there makes sure of it again.
            StorageError: The outcome is unknown; `get` tells.
        """

    @abstractmethod
    def get(self, path: str) -> bytes:
        """Return the whole object.

        Raises:
            ObjectNotFoundError: The root answered that there is none.
        """

    def get_optional(self, paths: Sequence[str], *, max_bytes: int) -> builtins.list[bytes | None]:
        """Return objects of unknown sizes, in the order given, None for each that is not there; many at once.

        Args:
            paths: The objects.
            max_bytes: The most bytes that one may have. An object that is larger, or a root that is hostile, does not
                get more than these into memory, where the storage `serves_ranges`.

        Raises:
            CorruptObjectError: One of them is larger; the message names it.
        """
        found: builtins.list[bytes | None] = []
        for path in paths:
            try:
                found.append(self.get(path))
            except ObjectNotFoundError:
                found.append(None)
        return [self._bounded(path, data, max_bytes=max_bytes) for path, data in zip(paths, found, strict=True)]

    def get_many(self, objects: Sequence[ObjectInfo]) -> builtins.list[bytes]:
        """Return whole objects of known sizes, in the order given, one request each and many at once where it can.

        Raises:
            ObjectNotFoundError: One of them does not exist; the message names it.
            CorruptObjectError: One of them is not of the size given.
        """
        return [self._sized(info, self.get(info.path)) for info in objects]

    def get_ranges(self, ranges: Sequence[ObjectRange]) -> builtins.list[bytes]:
        """Return parts of objects, in the order given; one request each and many at once, where it `serves_ranges`.

        Raises:
            ObjectNotFoundError: One of the objects does not exist; the message names it.
            CorruptObjectError: One of them is too short.
        """
        whole = {path: self.get(path) for path in dict.fromkeys(part.path for part in ranges)}
        for part in ranges:
            if (size := len(whole[part.path])) < part.end:
                raise self._corrupt(part.path, f"{size} bytes, expected {part.end} at least")
        return [whole[part.path][part.start : part.end] for part in ranges]

    def invalidate(self, fetched: ObjectInfo | ObjectRange) -> None:  # noqa: B027  # most keep nothing
        """Let go of what was kept here of an object or a part of one, because it is not what it should be."""

    @property
    def is_remote(self) -> bool:
        """Whether an answer takes so long that requests which do not wait for each other are worth a thread each."""
        return False

    @property
    def serves_ranges(self) -> bool:
        """Whether `get_ranges` fetches no more than it is asked for."""
        return False

    @abstractmethod
    def list(self, directory: str, *, limit: int | None = None) -> builtins.list[ObjectInfo]:
        """Return the objects at any depth below a directory (`""` is the root), sorted by path.

        A listing is no snapshot, but it has an order: a directory is listed to its end before the next one is begun, so
        what was in `b/` before the listing of `a/` ended is seen. Whoever deletes from `a/` only what has its successor
        in `b/` hides nothing. A directory that does not exist is empty.

        Args:
            directory: A path without a trailing slash.
            limit: Stop after so many objects (the first in order); a cheap way to ask whether there are any.
        """

    @abstractmethod
    def list_directories(self, directory: str) -> builtins.list[str]:
        """Return the names, not paths, of the directories directly below a directory, sorted.

        Those that hold objects are among them; an empty one need not be.
        """

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove an object; that there is none of that name is success too.

        When it returns, no listing or `get` that begins finds the object, and other objects are as they were.

        Raises:
            StorageAccessError: The root refused; the object is as it was.
            StorageError: The outcome is unknown; delete again.
        """

    def list_temporaries(self, directory: str) -> builtins.list[ObjectInfo]:  # noqa: ARG002  # for those that have any
        """Return what puts that were cut short have left below a directory: no listing shows it, `delete` takes it."""
        return []

    def now(self, *, probe: str) -> datetime:
        """Return the time by the clock that gives `ObjectInfo.modified`, whatever that of this machine says.

        Costs three requests: an object is put, listed and deleted. It may be left there if the last one fails.

        Args:
            probe: The path of that object: a name that nobody else uses, in a directory that holds nothing else.

        Raises:
            StorageError: The storage does not tell when objects were written, or could not be asked.
        """
        try:
            # Nobody else uses the name: where it is taken, this very call had put it, and the answer was lost.
            with suppress(ObjectExistsError):
                self.put(probe, b"")
            listed = self.list(probe.rpartition("/")[0])
        finally:
            # Whoever deletes what is old below that directory finds one that is left there.
            with suppress(StorageError):
                self.delete(probe)
        modified = next((info.modified for info in listed if info.path == probe), None)
        if modified is None:
            raise StorageError(
                f"{self.location} does not tell when objects were written, so none has an age.", root=self.location
            )
        return modified

    def copy_from(self, source: "Storage", path: str, *, probe: str) -> bool:  # noqa: ARG002  # for those that can
        """Put an object of another root under the same path, if the name is free; its bytes do not come through here.

        They are copied as they are, whole or not at all; nobody has looked at them.

        Args:
            source: The other root.
            path: The object.
            probe: An object of this root that exists: it may be copied over itself, to learn whether that is refused.

        Returns:
            Whether that is possible between the two; if not, nothing was done.

        Raises:
            ObjectExistsError: An object has that name, perhaps from this very call.
            StorageError: The outcome is unknown, or the other root lacks the object.
        """
        return False

    def local_path(self, path: str) -> str | None:  # noqa: ARG002  # for those that have one
        """Return the path of an object in the local file system, or None where it has none."""
        return None

    @property
    def put_is_conditional(self) -> bool:
        """Whether `put` on a taken name is sure to fail, by construction; False means that only a probe can tell."""
        return False

    def _bounded(self, path: str, data: bytes | None, *, max_bytes: int) -> bytes | None:
        if data is not None and len(data) > max_bytes:
            raise self._corrupt(path, f"more than the {max_bytes} bytes that it may have")
        return data

    def _sized(self, info: ObjectInfo, data: bytes) -> bytes:
        if len(data) != info.size:
            raise self._corrupt(info.path, f"{len(data)} bytes, expected {info.size}")
        return data

    def _corrupt(self, path: str, holds: str) -> CorruptObjectError:
        return CorruptObjectError(f"{path!r} in {self.location} holds {holds}", root=self.location, path=path)

    def _failed(self, kind: type[_Error], verb: str, path: str, reason: str) -> _Error:
        """Return the error of a request that failed."""
        what = f"cannot {verb} {path!r} in {self.location}: {reason}"
        return kind(what, root=self.location, path=path or None)


class ForwardingStorage(Storage):
    """A storage that asks another one for everything; those that change some of it override that.

    A wrapper that has to see each request, as one that counts them has, derives from `Storage` instead: what it does
    not override is then made of the requests that it does.

    Args:
        storage: The other one.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    @property
    def location(self) -> str:
        return self._storage.location

    @property
    def identity(self) -> str:
        return self._storage.identity

    @property
    def reference(self) -> RootReference:
        return self._storage.reference

    @property
    def put_is_conditional(self) -> bool:
        return self._storage.put_is_conditional

    @property
    def is_remote(self) -> bool:
        return self._storage.is_remote

    @property
    def serves_ranges(self) -> bool:
        return self._storage.serves_ranges

    def put(self, path: str, data: bytes) -> None:
        self._storage.put(path, data)

    def get(self, path: str) -> bytes:
        return self._storage.get(path)

    def get_optional(self, paths: Sequence[str], *, max_bytes: int) -> builtins.list[bytes | None]:
        return self._storage.get_optional(paths, max_bytes=max_bytes)

    def get_many(self, objects: Sequence[ObjectInfo]) -> builtins.list[bytes]:
        return self._storage.get_many(objects)

    def get_ranges(self, ranges: Sequence[ObjectRange]) -> builtins.list[bytes]:
        return self._storage.get_ranges(ranges)

    def invalidate(self, fetched: ObjectInfo | ObjectRange) -> None:
        self._storage.invalidate(fetched)

    def list(self, directory: str, *, limit: int | None = None) -> builtins.list[ObjectInfo]:
        return self._storage.list(directory, limit=limit)

    def list_directories(self, directory: str) -> builtins.list[str]:
        return self._storage.list_directories(directory)

    def delete(self, path: str) -> None:
        self._storage.delete(path)

    def list_temporaries(self, directory: str) -> builtins.list[ObjectInfo]:
        return self._storage.list_temporaries(directory)

    def now(self, *, probe: str) -> datetime:
        return self._storage.now(probe=probe)

    def copy_from(self, source: Storage, path: str, *, probe: str) -> bool:
        return self._storage.copy_from(source, path, probe=probe)

    def local_path(self, path: str) -> str | None:
        return self._storage.local_path(path)
