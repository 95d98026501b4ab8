"""Log the requests to a root: one line for each request or batch, at the level DEBUG.

A line names the root, the verb, the objects, their bytes and the seconds that it took. Neither bytes of objects nor
options of storages are logged, so no credential is. While the level is off, a request costs one look at it more.
"""

import builtins
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from metaxy_fs.ids import elapsed
from metaxy_fs.storage.base import ForwardingStorage, ObjectInfo, ObjectRange, Storage

LOGGER = logging.getLogger("metaxy_fs")

_SHOWN = 10
"""So many objects of a batch are named; of the others it says how many there are."""

_T = TypeVar("_T")


def logged(storage: Storage) -> Storage:
    """Return a storage that logs what it is asked for."""
    return storage if isinstance(storage, LoggedStorage) else LoggedStorage(storage)


class LoggedStorage(ForwardingStorage):
    """A storage that logs each request to another one.

    Args:
        storage: The other one.
    """

    def put(self, path: str, data: bytes) -> None:
        self._logged("put", [path], partial(self._storage.put, path, data), size=lambda _: len(data))

    def get(self, path: str) -> bytes:
        return self._logged("get", [path], partial(self._storage.get, path), size=len)

    def get_optional(self, paths: Sequence[str], *, max_bytes: int) -> builtins.list[bytes | None]:
        return self._logged("get", paths, partial(self._storage.get_optional, paths, max_bytes=max_bytes), size=_total)

    def get_many(self, objects: Sequence[ObjectInfo]) -> builtins.list[bytes]:
        return self._logged("get", objects, partial(self._storage.get_many, objects), size=_total)

    def get_ranges(self, ranges: Sequence[ObjectRange]) -> builtins.list[bytes]:
        return self._logged("get", ranges, partial(self._storage.get_ranges, ranges), size=_total)

    def list(self, directory: str, *, limit: int | None = None) -> builtins.list[ObjectInfo]:
        return self._logged("list", [f"{directory}/"], partial(self._storage.list, directory, limit=limit), count=True)

    def list_directories(self, directory: str) -> builtins.list[str]:
        request = partial(self._storage.list_directories, directory)
        return self._logged("list directories of", [f"{directory}/"], request, count=True)

    def delete(self, path: str) -> None:
        self._logged("delete", [path], partial(self._storage.delete, path))

    def list_temporaries(self, directory: str) -> builtins.list[ObjectInfo]:
        request = partial(self._storage.list_temporaries, directory)
        return self._logged("list temporary files of", [f"{directory}/"], request, count=True)

    def now(self, *, probe: str) -> datetime:
        return self._logged("ask for the time by", [probe], partial(self._storage.now, probe=probe))

    def copy_from(self, source: Storage, path: str, *, probe: str) -> bool:
        inner = source._storage if isinstance(source, LoggedStorage) else source  # noqa: SLF001  # of its own kind
        return self._logged("copy", [path], partial(self._storage.copy_from, inner, path, probe=probe))

    def __repr__(self) -> str:
        return repr(self._storage)

    def _logged(
        self,
        verb: str,
        objects: Sequence[str | ObjectInfo | ObjectRange],
        request: Callable[[], _T],
        *,
        size: Callable[[Any], int] | None = None,
        count: bool = False,
    ) -> _T:
        if not objects or not LOGGER.isEnabledFor(logging.DEBUG):
            return request()
        started = elapsed()
        try:
            answer = request()
        except Exception as error:
            self._log(verb, objects, f"failed ({type(error).__name__})", started)
            raise
        outcome = [] if size is None else [f"{size(answer)} bytes"]
        outcome += [f"{len(answer)} found"] if count and isinstance(answer, builtins.list) else []
        self._log(verb, objects, ", ".join(outcome) or "done", started)
        return answer

    def _log(self, verb: str, objects: Sequence[str | ObjectInfo | ObjectRange], outcome: str, started: float) -> None:
        LOGGER.debug("%s: %s %s: %s, %.3f s", self.location, verb, _several(objects), outcome, elapsed() - started)


def log_read(storage: Storage, files: Iterable[ObjectInfo]) -> None:
    """Log that files of a local root are read where they are, which no request tells."""
    if LOGGER.isEnabledFor(logging.DEBUG):
        found = list(files)
        LOGGER.debug("%s: read %s: %d bytes", storage.location, _several(found), sum(each.size for each in found))


def _several(objects: Sequence[str | ObjectInfo | ObjectRange]) -> str:
    more = f" and {len(objects) - _SHOWN} more" if len(objects) > _SHOWN else ""
    return ", ".join(map(_shown, objects[:_SHOWN])) + more


def _shown(wanted: str | ObjectInfo | ObjectRange) -> str:
    if isinstance(wanted, ObjectRange):
        return ascii(f"{wanted.path}[{wanted.start}:{wanted.end}]")[1:-1]
    return ascii(wanted if isinstance(wanted, str) else wanted.path)[1:-1]


def _total(found: Sequence[bytes | None]) -> int:
    return sum(len(data) for data in found if data is not None)
