"""Keep objects of a remote root on this machine, so that each is fetched once.

Objects never change, so what was fetched of one stays true for as long as there is one of that name; whether there is,
only a listing of the root tells, and listings are never kept. So the log asks the cache for nothing but what it has
found in a listing, or in a manifest that was in one.

An entry is a file of its own: the CRC-32 of some bytes, and the bytes, which the reader compares with what
their root says, too. It is written beside its place and then moved there, so that a reader finds all of
it, and one that is damaged is fetched again. Processes share a directory without a word to each other: two that fetch
the same write the same, and one that misses what another has just evicted fetches it. Nothing is locked, so nothing
stays locked when a process dies.
"""

import builtins
import hashlib
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from metaxy_fs.ids import random_token, wall_clock
from metaxy_fs.storage.base import ForwardingStorage, ObjectInfo, ObjectRange, Storage
from metaxy_fs.storage.path_guard import open_private

DEFAULT_BYTES = 4 * 2**30

_DIRECTORY = "metaxy_fs-cache-1"
"""The number is that of the form of an entry: another form is kept elsewhere."""
_SUM_BYTES = 4
_ENTRY = re.compile(r"[0-9a-f]{62}")
_UNFINISHED = ".new"
_ABANDONED_SECONDS = 3_600
_SLACK = 20
"""A process looks at the size of all entries after it has written this part of what they may be."""
_LARGEST = 4

_T = TypeVar("_T", ObjectInfo, ObjectRange)


class DiskCache:
    """Bytes by their keys, in files of a private directory. Safe to share between threads, and between processes.

    Args:
        directory: Where to keep them; a directory of the cache's own is made in it.
        max_bytes: What all entries may take; when it is more, those that were not used for the longest time are
            removed. It may be exceeded for a moment, by a twentieth for each process that writes; an entry of more than
            a quarter is not kept.

    Raises:
        ValueError: The limit is not positive.
    """

    def __init__(self, directory: str | os.PathLike[str], *, max_bytes: int = DEFAULT_BYTES) -> None:
        if max_bytes <= 0:
            raise ValueError(f"cache_bytes is the number of bytes that a cache may take, got {max_bytes!r}")
        self._path = Path(directory).expanduser().absolute() / _DIRECTORY
        self._max_bytes = max_bytes
        self._is_open = False
        # What was there before this process is unknown, so the first entry that it writes has it look.
        self._unseen = max_bytes

    def __getstate__(self) -> dict[str, Any]:
        # Another process may be on another machine.
        return {**self.__dict__, "_is_open": False, "_unseen": self._max_bytes}

    def get(self, key: str) -> bytes | None:
        """Return the bytes of an entry, None if there is none that is whole."""
        self._open()
        place = self._place(key)
        try:
            with place.open("rb", buffering=0) as file:
                expected, data = file.read(_SUM_BYTES), file.read()
            if _sum(data) != expected:
                place.unlink(missing_ok=True)
                return None
            os.utime(place)
        except OSError:
            return None
        return data

    def put(self, key: str, data: bytes) -> None:
        """Keep some bytes, as far as there is room; a disk that takes none is as good as an empty cache."""
        self._open()
        if len(data) > self._max_bytes // _LARGEST:
            return
        with suppress(OSError):
            self._write(self._place(key), data)
            self._unseen += len(data)
            if self._unseen * _SLACK >= self._max_bytes:
                self._unseen = 0
                self._evict()

    def drop(self, key: str) -> None:
        """Remove an entry, if there is one."""
        with suppress(OSError):
            self._place(key).unlink()

    def _open(self) -> None:
        """Make the directory, or look at the one that there is, once in each process.

        Raises:
            StorageError: Others could read what is kept there, or write what is then taken for it.
        """
        if not self._is_open:
            open_private(self._path, purpose="a cache (`cache_dir`)")
            self._is_open = True

    def _place(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self._path / name[:2] / name[2:]

    def _write(self, place: Path, data: bytes) -> None:
        place.parent.mkdir(mode=0o700, exist_ok=True)
        unfinished = place.with_name(f"{random_token()}{_UNFINISHED}")
        try:
            with unfinished.open("xb") as file:
                file.write(_sum(data))
                file.write(data)
            unfinished.replace(place)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise

    def _evict(self) -> None:
        entries = sorted(self._entries())
        excess = sum(entry.size for entry in entries) - self._max_bytes
        if excess <= 0:
            return
        # A little more than has to go, so that the next look finds room.
        excess += self._max_bytes // _SLACK
        for entry in entries:
            if excess <= 0:
                break
            with suppress(OSError):
                entry.path.unlink(missing_ok=True)
                excess -= entry.size

    def _entries(self) -> Iterator["_CachedFile"]:
        """Yield what is kept, and take away what was never finished; files of others are left alone."""
        abandoned = wall_clock() / 1_000_000 - _ABANDONED_SECONDS
        for file in self._files():
            with suppress(OSError):
                about = file.stat(follow_symlinks=False)
                if _ENTRY.fullmatch(file.name):
                    yield _CachedFile(about.st_mtime, about.st_blocks * 512, Path(file.path))
                elif file.name.endswith(_UNFINISHED) and about.st_mtime < abandoned:
                    Path(file.path).unlink()

    def _files(self) -> Iterator["os.DirEntry[str]"]:
        with os.scandir(self._path) as directories:
            for directory in directories:
                # Systems put files of their own into any directory; another process may just have removed this one.
                with suppress(OSError), os.scandir(directory.path) as files:
                    yield from files


class CachedStorage(ForwardingStorage):
    """A storage of which objects, and parts of them, are kept on this machine once they were fetched.

    That goes for `get_many` and `get_ranges`, which are for what is known to be there. All else asks the storage, and
    a call that needs what the storage really holds, such as `verify`, uses it without the cache.

    Args:
        storage: The remote one.
        cache: Where its objects are kept.
    """

    def __init__(self, storage: Storage, cache: DiskCache) -> None:
        super().__init__(storage)
        self._cache = cache

    def invalidate(self, fetched: ObjectInfo | ObjectRange) -> None:
        self._cache.drop(self._key(fetched))

    def get_many(self, objects: Sequence[ObjectInfo]) -> builtins.list[bytes]:
        return self._cached(objects, fetch=self._storage.get_many)

    def get_ranges(self, ranges: Sequence[ObjectRange]) -> builtins.list[bytes]:
        return self._cached(ranges, fetch=self._storage.get_ranges)

    def __repr__(self) -> str:
        return f"CachedStorage({self.location!r})"

    def _cached(
        self, wanted: Sequence[_T], *, fetch: Callable[[Sequence[_T]], builtins.list[bytes]]
    ) -> builtins.list[bytes]:
        keys = [self._key(each) for each in wanted]
        kept = {name: data for name in dict.fromkeys(keys) if (data := self._cache.get(name)) is not None}
        missing = {name: each for name, each in zip(keys, wanted, strict=True) if name not in kept}
        fetched = dict(zip(missing, fetch(list(missing.values())), strict=True)) if missing else {}
        for name, data in fetched.items():
            self._cache.put(name, data)
        found = kept | fetched
        return [found[name] for name in keys]

    def _key(self, wanted: ObjectInfo | ObjectRange) -> str:
        # A listing tells which object it is: after a root was made anew, one of the same name is another.
        if isinstance(wanted, ObjectInfo):
            return repr((self.identity, wanted.path, wanted.size, wanted.modified, wanted.tag))
        return repr((self.identity, wanted.path, wanted.start, wanted.end))


class _CachedFile(NamedTuple):
    """A file of the cache; the one that was not used for the longest time comes first."""

    used: float
    size: int
    path: Path


def _sum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(_SUM_BYTES, "big")
