"""Which faults can a test ask of a storage?"""

import builtins
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from metaxy_fs.errors import StorageError
from metaxy_fs.storage.base import ObjectInfo, Storage

T = TypeVar("T")
Fault = Callable[[str, str], str | None]
"""Called with the verb and path of each request; returns if it fails "before" or "after" it is applied, or None."""


class FaultyStorage(Storage):
    """A storage whose requests fail as a test says; the outcome of a failed put is hidden, as on a network."""

    def __init__(self, inner: Storage, fault: Fault = lambda _verb, _path: None) -> None:
        self.inner = inner
        self.fault = fault
        self.requests: list[tuple[str, str]] = []

    @property
    def location(self) -> str:
        return self.inner.location

    @property
    def keeps_existing(self) -> bool:
        return self.inner.keeps_existing

    def put(self, path: str, data: bytes) -> None:
        self._run("put", path, partial(self.inner.put, path, data))

    def get(self, path: str) -> bytes:
        return self._run("get", path, partial(self.inner.get, path))

    def get_many(self, objects: Sequence[ObjectInfo]) -> builtins.list[bytes]:
        return [self._run("get", info.path, partial(self.inner.get_many, [info]))[0] for info in objects]

    def list(self, directory: str, *, limit: int | None = None) -> builtins.list[ObjectInfo]:
        return self._run("list", directory, partial(self.inner.list, directory, limit=limit))

    def list_directories(self, directory: str) -> builtins.list[str]:
        return self._run("list", directory, partial(self.inner.list_directories, directory))

    def delete(self, path: str) -> None:
        self._run("delete", path, partial(self.inner.delete, path))

    def _run(self, verb: str, path: str, request: Callable[[], T]) -> T:
        self.requests.append((verb, path))
        when = self.fault(verb, path)
        if when == "before":
            raise StorageError(f"no connection for {verb} {path}")
        result = request()
        if when == "after":
            raise StorageError(f"connection lost after {verb} {path}")
        return result
