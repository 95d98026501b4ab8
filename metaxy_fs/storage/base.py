"""What does the log ask of a place that keeps bytes?

Six verbs on objects below one root. Paths are relative to the root, with `/` between their parts, and are made by
`metaxy_fs.log.layout` alone. Every implementation passes `metaxy_fs.testing.StorageSuite`.
"""

import builtins
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime

import msgspec


class ObjectInfo(msgspec.Struct, frozen=True, gc=False):
    """One listed object: its path below the root, its size in bytes, and the storage's own time of its last write."""

    path: str
    size: int
    modified: datetime | None = None


class Storage(ABC):
    """Objects below one root: written once, read whole, listed by prefix.

    Errors are those of `metaxy_fs.errors`, and every message names the root. Only `ObjectNotFoundError` from `get` and
    an empty listing prove absence; a root that is denied, missing its bucket, or out of reach raises another
    `StorageError`. Instances may be shared between threads and used again after a fork. Inside the class the verb
    `list` hides the type, hence `builtins.list` in the annotations.
    """

    @property
    @abstractmethod
    def location(self) -> str:
        """The root as users write it, without credentials; used in messages and reprs."""

    @abstractmethod
    def put(self, path: str, data: bytes) -> None:
        """Write an object if the name is free: all of its bytes become visible at once, durably, or none do.

        Raises:
            ObjectExistsError: An object has that name, perhaps from this very call (a client that retried by itself).
            StorageAccessError: The root refused; nothing was written.
            StorageError: The outcome is unknown; `get` tells.
        """

    @abstractmethod
    def get(self, path: str) -> bytes:
        """Return the whole object.

        Raises:
            ObjectNotFoundError: The root answered that there is none.
        """

    @abstractmethod
    def get_many(self, objects: Sequence[ObjectInfo]) -> builtins.list[bytes]:
        """Return whole objects of known sizes, in the order given, one request each and many at once.

        Raises:
            ObjectNotFoundError: One of them does not exist; the message names it.
            CorruptObjectError: One of them is not of the size given.
        """

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

    def local_path(self, path: str) -> str | None:  # noqa: ARG002  # for those that have one
        """Return the path of an object in the local file system, or None where it has none."""
        return None

    @property
    def keeps_existing(self) -> bool:
        """Whether `put` on a taken name is sure to fail, by construction; False means that only a probe can tell."""
        return False
