"""Storages for benchmarks that nobody else should use."""

import builtins
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from metaxy_fs.storage import LocalStorage, ObjectInfo, Storage

PAGE = 1_000


class HastyStorage(LocalStorage):
    """A local root that syncs nothing, to make large ones in little time; a crash may lose or tear what it wrote."""

    def put(self, path: str, data: bytes) -> None:
        target = Path(self.local_path(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            file.write(data)


class CountingStorage(Storage):
    """A local root that is used as a bucket is, object by object, and counts that; it syncs nothing.

    Attributes:
        requests: How many there were by their verb; a listing costs one for each thousand names.
        written: How many bytes were put.
    """

    def __init__(self, root: str) -> None:
        self._inner = HastyStorage(root)
        self.requests: Counter[str] = Counter()
        self.written = 0

    @property
    def location(self) -> str:
        return self._inner.location

    @property
    def put_is_conditional(self) -> bool:
        return True

    def put(self, path: str, data: bytes) -> None:
        self.requests["put"] += 1
        self.written += len(data)
        self._inner.put(path, data)

    def get(self, path: str) -> bytes:
        self.requests["get"] += 1
        return self._inner.get(path)

    def get_many(self, objects: Sequence[ObjectInfo]) -> builtins.list[bytes]:
        self.requests["get"] += len(objects)
        return self._inner.get_many(objects)

    def list(self, directory: str, *, limit: int | None = None) -> builtins.list[ObjectInfo]:
        found = self._inner.list(directory, limit=limit)
        self.requests["list"] += 1 + max(0, len(found) - 1) // PAGE
        return found

    def list_directories(self, directory: str) -> builtins.list[str]:
        self.requests["list"] += 1
        return self._inner.list_directories(directory)

    def delete(self, path: str) -> None:
        self.requests["delete"] += 1
        self._inner.delete(path)
