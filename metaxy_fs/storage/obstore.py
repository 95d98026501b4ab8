"""Read, write and list a bucket through obstore's filesystem.

obstore does the work of each request outside Python, so that one process reads many small objects several times as fast
as through s3fs. Its fsspec filesystem overwrites where it should create, so the store behind it is used instead.
"""

import builtins
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, TypeVar

from fsspec import AbstractFileSystem

from metaxy_fs.errors import StorageError
from metaxy_fs.storage.base import ObjectInfo, ObjectRange
from metaxy_fs.storage.client import UNKNOWN_SIZE, Client, NoListingError, first_objects
from metaxy_fs.storage.failures import Failure, failure_of
from metaxy_fs.storage.retry import BYTES_A_SECOND

PAGE = 1000
"""The most objects that one request lists."""
ALWAYS_THERE = "_store.json"
"""What the log writes into a root first, and nothing deletes."""
_REQUESTS_AT_ONCE = 100
_LONGEST_SECONDS = 240.0
"""obstore repeats requests by itself, for three minutes at most where nobody has told it otherwise."""

_T = TypeVar("_T")

_first_process: list[int] = []
"""The process that was the first to send a request through obstore, whose threads no fork of it has."""


class ObstoreClient(Client):
    """A root on obstore: one request for each put and get, one for each 1,000 listed objects.

    Requests are repeated as the filesystem is configured, and not once more here. Each is made by a thread that waits
    for it outside Python. obstore's coroutines would need none, but what they leave behind on threads of its own can
    abort a process that ends just then.
    """

    def __init__(self, filesystem: AbstractFileSystem, root: str) -> None:
        super().__init__(filesystem, root)
        bucket, key = filesystem._split_path(f"{root}/")  # noqa: SLF001  # the filesystem has no other name for it
        self._prefix = f"{key.strip('/')}/" if key.strip("/") else ""
        self._store = filesystem._construct_store(bucket)  # noqa: SLF001  # likewise
        self._threads = ThreadPoolExecutor(_REQUESTS_AT_ONCE, thread_name_prefix="obstore")

    def put(self, path: str, data: bytes) -> None:
        """Write an object if the name is free: the server decides. In one request, see `Client`."""
        put = partial(self._store.put, self._key(path), data, mode="create", use_multipart=False)
        self._run(put, moved=len(data))

    def get(self, path: str) -> bytes:
        return self._run(lambda: bytes(self._store.get(self._key(path)).bytes()), moved=UNKNOWN_SIZE)

    def get_ranges(self, wanted: Sequence[ObjectRange]) -> builtins.list[bytes | BaseException]:
        """Return the bytes that there are of each range, or what went wrong with it, in order; 100 requests at once."""
        _refuse_in_fork()
        asked = [self._threads.submit(self._get_range, part) for part in wanted]
        try:
            wait(asked, timeout=_longest(moved=sum(part.end - part.start for part in wanted)))
        finally:
            for future in asked:
                future.cancel()
        return [_outcome(future) for future in asked]

    def list(self, directory: str, *, limit: int | None) -> builtins.list[ObjectInfo]:
        def list_some() -> builtins.list[ObjectInfo]:
            pages = self._store.list(self._key(directory), chunk_size=PAGE)
            return first_objects((map(self._info, page) for page in pages), directory, limit)

        found = self._run(list_some)
        if not found:
            self._check_emptiness(directory)
        return found

    def list_directories(self, directory: str) -> builtins.list[str]:
        found = self._run(partial(self._store.list_with_delimiter, self._key(directory)))
        if not found["common_prefixes"] and not found["objects"]:
            self._check_emptiness(directory)
        return sorted(str(prefix).rpartition("/")[2] for prefix in found["common_prefixes"])

    def delete(self, path: str) -> None:
        self._run(partial(self._store.delete, self._key(path)))

    def _check_emptiness(self, directory: str) -> None:
        """Refuse to believe that there is nothing where that cannot be.

        obstore takes any XML for a listing, a page of HTML for an empty one, and shows nothing of what came. Where the
        listing of the whole root is empty too, there can be no object that every root has from its first write on. That
        one is asked for between two listings, since the root may begin at this very moment.
        """
        if directory and self._has_objects():
            return
        if self._exists(ALWAYS_THERE) and not self._has_objects():
            raise NoListingError(f"an empty one of a root that has {ALWAYS_THERE!r}")

    def _has_objects(self) -> bool:
        listed = iter(self._store.list(self._key(""), chunk_size=1))
        return bool(self._run(lambda: next(listed, None)))

    def _exists(self, path: str) -> bool:
        try:
            self._run(partial(self._store.head, self._key(path)))
        except Exception as error:
            if failure_of(error) is Failure.NOTHING:
                return False
            raise
        return True

    def _get_range(self, part: ObjectRange) -> bytes:
        return bytes(self._store.get_range(self._key(part.path), start=part.start, end=part.end))

    def _run(self, request: Callable[[], _T], *, moved: int = 0) -> _T:
        _refuse_in_fork()
        # Whoever waits for another thread, rather than for a request, can be interrupted.
        return self._threads.submit(request).result(timeout=_longest(moved=moved))

    def _key(self, path: str) -> str:
        return f"{self._prefix}{path}".rstrip("/")

    def _info(self, item: Mapping[str, Any]) -> ObjectInfo:
        path, tag = item["path"][len(self._prefix) :], item["version"] or item["e_tag"]
        return ObjectInfo(path, item["size"], item["last_modified"], tag)


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


def _longest(*, moved: int) -> float:
    """Return the seconds that requests may take which move so many bytes."""
    return _LONGEST_SECONDS + moved / BYTES_A_SECOND


def _outcome(future: Future[bytes]) -> bytes | BaseException:
    """Return what a request returned or raised."""
    if future.cancelled() or not future.done():
        return TimeoutError("no answer came in time")
    return future.exception() or future.result()
