"""How is a bucket read, written and listed through obstore's filesystem?

obstore does the work of each request outside Python, so that one process reads many small objects several times as fast
as through s3fs. Its fsspec filesystem overwrites where it is told to create, so the store behind it is used instead.
"""

import asyncio
import builtins
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from fsspec import AbstractFileSystem
from fsspec.asyn import sync

from metaxy_fs.errors import StorageError
from metaxy_fs.storage.base import ObjectInfo, ObjectRange
from metaxy_fs.storage.client import UNKNOWN_SIZE, Client, keep_objects
from metaxy_fs.storage.retrying import BYTES_A_SECOND

PAGE = 1000
"""The most objects that one request lists."""
_REQUESTS_AT_ONCE = 100
_LONGEST_SECONDS = 240.0
"""obstore repeats requests by itself, for three minutes at most where nobody has told it otherwise."""

_T = TypeVar("_T")

_first_process: list[int] = []
"""The process that was the first to send a request through obstore, whose threads no fork of it has."""


class ObstoreClient(Client):
    """A root on obstore: one request for each put and get, one for each 1,000 listed objects.

    Requests are repeated as the filesystem was told to, and not once more here.
    """

    def __init__(self, filesystem: AbstractFileSystem, root: str) -> None:
        super().__init__(filesystem, root)
        bucket, key = filesystem._split_path(f"{root}/")  # noqa: SLF001  # the filesystem has no other name for it
        self._prefix = f"{key.strip('/')}/" if key.strip("/") else ""
        self._store = filesystem._construct_store(bucket)  # noqa: SLF001  # likewise
        self._slots = asyncio.Semaphore(_REQUESTS_AT_ONCE)

    def put(self, path: str, data: bytes) -> None:
        """Write an object if the name is free: the server decides."""
        self._run(partial(self._store.put_async, self._key(path), data, mode="create"), moved=len(data))

    def get(self, path: str) -> bytes:
        """Return a whole object of unknown size."""

        async def get() -> bytes:
            found = await self._store.get_async(self._key(path))
            return bytes((await found.bytes_async()).to_bytes())

        return self._run(get, moved=UNKNOWN_SIZE)

    def get_ranges(self, wanted: Sequence[ObjectRange]) -> builtins.list[bytes | BaseException]:
        """Return the bytes that there are of each range, or what went wrong with it, in order; 100 requests at once."""

        async def get(part: ObjectRange) -> bytes:
            async with self._slots:
                data = await self._store.get_range_async(self._key(part.path), start=part.start, end=part.end)
            return bytes(data.to_bytes())

        async def get_all() -> builtins.list[bytes | BaseException]:
            return await asyncio.gather(*map(get, wanted), return_exceptions=True)

        return self._run(get_all, moved=sum(part.end - part.start for part in wanted))

    def list(self, directory: str, *, limit: int | None) -> builtins.list[ObjectInfo]:
        """Return the objects at any depth below a directory, sorted by path."""

        async def list_some() -> builtins.list[ObjectInfo]:
            found: list[ObjectInfo] = []
            async for page in self._store.list(self._key(directory), chunk_size=PAGE):
                found += keep_objects(map(self._info, page), directory=directory)
                if limit is not None and len(found) >= limit:
                    break
            return found

        return sorted(self._run(list_some), key=_path)[:limit]

    def list_directories(self, directory: str) -> builtins.list[str]:
        """Return the names of the directories directly below a directory, sorted."""
        found = self._run(partial(self._store.list_with_delimiter_async, self._key(directory)))
        return sorted(str(prefix).rpartition("/")[2] for prefix in found["common_prefixes"])

    def delete(self, path: str) -> None:
        """Remove one object."""
        self._run(partial(self._store.delete_async, self._key(path)))

    def _run(self, request: Callable[[], Awaitable[_T]], *, moved: int = 0) -> _T:
        _refuse_in_fork()

        async def answer() -> _T:
            return await request()

        result: _T = sync(self.filesystem.loop, answer, timeout=_LONGEST_SECONDS + moved / BYTES_A_SECOND)
        return result

    def _key(self, path: str) -> str:
        return f"{self._prefix}{path}".rstrip("/")

    def _info(self, item: Mapping[str, Any]) -> ObjectInfo:
        return ObjectInfo(item["path"][len(self._prefix) :], item["size"], item["last_modified"])


def is_obstore(filesystem: AbstractFileSystem) -> bool:
    """Whether a filesystem is that of obstore."""
    return any(base.__module__ == "obstore.fsspec" for base in type(filesystem).__mro__)


def _refuse_in_fork() -> None:
    """Refuse to wait for threads that were not inherited: there would be no end of it."""
    if not _first_process:
        _first_process.append(os.getpid())
    if _first_process[0] != os.getpid():
        raise StorageError(
            "obstore cannot be used in a process that was forked from one which has used it. Start processes with "
            '"spawn" or "forkserver", or reach the root by its URL.'
        )


def _path(info: ObjectInfo) -> str:
    return info.path
