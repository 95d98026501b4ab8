"""How does a storage that wraps another one hand on what it does not change?"""

import builtins
from collections.abc import Sequence
from datetime import datetime

from metaxy_fs.storage.base import ObjectInfo, ObjectRange, Storage


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
    def keeps_existing(self) -> bool:
        return self._storage.keeps_existing

    @property
    def is_distant(self) -> bool:
        return self._storage.is_distant

    @property
    def serves_ranges(self) -> bool:
        return self._storage.serves_ranges

    def put(self, path: str, data: bytes) -> None:
        self._storage.put(path, data)

    def get(self, path: str) -> bytes:
        return self._storage.get(path)

    def find(self, paths: Sequence[str], *, limit: int) -> builtins.list[bytes | None]:
        return self._storage.find(paths, limit=limit)

    def get_many(self, objects: Sequence[ObjectInfo]) -> builtins.list[bytes]:
        return self._storage.get_many(objects)

    def get_ranges(self, ranges: Sequence[ObjectRange]) -> builtins.list[bytes]:
        return self._storage.get_ranges(ranges)

    def forget(self, fetched: ObjectInfo | ObjectRange) -> None:
        self._storage.forget(fetched)

    def list(self, directory: str, *, limit: int | None = None) -> builtins.list[ObjectInfo]:
        return self._storage.list(directory, limit=limit)

    def list_directories(self, directory: str) -> builtins.list[str]:
        return self._storage.list_directories(directory)

    def delete(self, path: str) -> None:
        self._storage.delete(path)

    def leftovers(self, directory: str) -> builtins.list[ObjectInfo]:
        return self._storage.leftovers(directory)

    def now(self, *, probe: str) -> datetime:
        return self._storage.now(probe=probe)

    def copy_from(self, source: Storage, path: str, *, probe: str) -> bool:
        return self._storage.copy_from(source, path, probe=probe)

    def local_path(self, path: str) -> str | None:
        return self._storage.local_path(path)
