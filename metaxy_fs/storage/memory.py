"""Objects in the memory of one process."""

import builtins
import threading
from collections.abc import Callable
from datetime import datetime
from itertools import count
from typing import NamedTuple, NoReturn

from metaxy_fs.errors import ObjectExistsError, ObjectNotFoundError
from metaxy_fs.ids import datetime_of, wall_clock
from metaxy_fs.storage.base import ObjectInfo, Storage, check_directory, check_path, names_below

_NUMBERS = count()


class _StoredObject(NamedTuple):
    data: bytes
    written: datetime


class MemoryStorage(Storage):
    """Objects in a dictionary, gone with the instance; a fork takes a copy of its own.

    Args:
        wall: Gives the time of a write in microseconds since 1970 (UTC), which `ObjectInfo.modified` then tells.
    """

    def __init__(self, *, wall: Callable[[], int] = wall_clock) -> None:
        self._objects: dict[str, _StoredObject] = {}
        self._wall = wall
        # `put` looks and writes; two threads between the two would both win.
        self._lock = threading.Lock()
        self._identity = f"memory {next(_NUMBERS)}"

    @property
    def location(self) -> str:
        return "memory"

    @property
    def identity(self) -> str:
        """A name of this instance alone: commits to one are not to follow the clock of another."""
        return self._identity

    @property
    def put_is_conditional(self) -> bool:
        return True

    def put(self, path: str, data: bytes) -> None:
        check_path(path, location=self.location)
        with self._lock:
            if path in self._objects:
                raise self._failed(ObjectExistsError, "write", path, "an object of that name exists")
            self._objects[path] = _StoredObject(bytes(data), datetime_of(self._wall()))

    def get(self, path: str) -> bytes:
        check_path(path, location=self.location)
        try:
            return self._objects[path].data
        except KeyError:
            raise self._failed(ObjectNotFoundError, "read", path, "no such object") from None

    @property
    def serves_ranges(self) -> bool:
        return True

    def list(self, directory: str, *, limit: int | None = None) -> builtins.list[ObjectInfo]:
        below = self._below(directory)
        return [ObjectInfo(path, len(stored.data), stored.written) for path, stored in below[:limit]]

    def list_directories(self, directory: str) -> builtins.list[str]:
        return names_below((path for path, _ in self._below(directory)), directory)

    def delete(self, path: str) -> None:
        check_path(path, location=self.location)
        with self._lock:
            self._objects.pop(path, None)

    def __repr__(self) -> str:
        return "MemoryStorage('memory')"

    def __reduce__(self) -> NoReturn:
        # A copy in another process would take writes that nobody else ever sees.
        raise TypeError(
            "a MemoryStorage lives in one process and cannot be pickled: use a local directory to share objects"
        )

    def _below(self, directory: str) -> builtins.list[tuple[str, _StoredObject]]:
        check_directory(directory, location=self.location)
        prefix = f"{directory}/" if directory else ""
        with self._lock:
            return sorted((path, stored) for path, stored in self._objects.items() if path.startswith(prefix))
