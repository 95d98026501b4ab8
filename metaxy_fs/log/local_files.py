"""Are the files of a local root what their manifests vouch for?

Polars reads the columns and row groups of a local file that a query needs, so its bytes do not come through here. Nor
does Polars check them: a bit that is flipped in a page of values comes out as another value. So small files are read
here and checked, and Polars gets the bytes; large ones are checked where that was asked for. Each is checked once, and
again after it changed in size, in time or in place.
"""

import hashlib
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Final, TypeVar

from metaxy_fs.errors import CorruptObjectError, ObjectNotFoundError
from metaxy_fs.log.frames import Source
from metaxy_fs.log.live import LiveFile
from metaxy_fs.log.parquet import check_digest, footer_bytes, footer_digest
from metaxy_fs.log.unreadable import is_of_reader, refuse_unreadable
from metaxy_fs.parallel import ordered_map
from metaxy_fs.storage.base import Storage

SMALL_BYTES: Final = 2**17
"""Up to this size a file is read about as fast here as by Polars."""

ALL_BYTES: Final = sys.maxsize

_HELD_BYTES = 2**26
"""Small files are handed to Polars as bytes only if they are no more than this together."""

_WORTH_THREADS = 2**24
_GROUP_BYTES = 2**22
"""What a thread is given at once: to hand a file over takes about as long as to hash a small one."""
_REMEMBERED = 2**16
_LONGEST_FOOTER = 2**26

_T = TypeVar("_T")

_Identity = tuple[int, int, int]
"""Size, time and place of a file: what changes with its content, if nothing but the disk goes wrong."""


class LocalFiles:
    """Looks at files of a local root before they are read. Safe to share between threads.

    Args:
        checked_bytes: Files up to this size are compared with the checksum in their manifest.
    """

    def __init__(self, *, checked_bytes: int = SMALL_BYTES) -> None:
        self._checked_bytes = checked_bytes
        self._right: dict[str, _Identity] = {}
        self._right_footers: dict[str, _Identity] = {}
        self._given: dict[str, LiveFile] = {}
        self._lock = threading.Lock()

    @property
    def checks_all(self) -> bool:
        """Whether files of every size are compared with their checksums."""
        return self._checked_bytes == ALL_BYTES

    def sources(self, storage: Storage, files: Sequence[LiveFile]) -> Sequence[Source]:
        """Return what Polars is to read of files: their paths, or their bytes.

        Raises:
            ObjectNotFoundError: One is gone.
            CorruptObjectError: One is not what its manifest vouches for; the message names it.
        """
        paths = [str(storage.local_path(live.path)) for live in files]
        found = dict(zip(paths, files, strict=True))
        identities = {path: _identity(path, live) for path, live in found.items()}
        sizes = [size for size, _, _ in identities.values()]
        self._remember(found)
        suspects = {path: at for path, at in identities.items() if self._right.get(path) != at}
        if suspects and max(sizes) <= min(SMALL_BYTES, self._checked_bytes) and sum(sizes) <= _HELD_BYTES:
            return self._bytes(paths, found, suspects)
        self._check({path: at for path, at in suspects.items() if at[0] <= self._checked_bytes}, found)
        for path, identity in suspects.items():
            if self._right.get(path) != identity and self._right_footers.get(path) != identity:
                _check_footer(path, found[path])
                self._right_footers[path] = identity
        return paths

    def refuse_damaged(self, error: BaseException) -> None:
        """Look for the file that is to blame where Polars could not read those whose paths were given.

        Args:
            error: What Polars raised.

        Raises:
            CorruptObjectError: A file is not what its manifest vouches for, or is no Parquet file.
        """
        with self._lock:
            given = dict(self._given)
        self._check({path: _identity(path, live) for path, live in given.items()}, given)
        if is_of_reader(error):
            for path, live in given.items():
                refuse_unreadable(path, live, name=path)

    def _bytes(
        self, paths: Sequence[str], files: Mapping[str, LiveFile], suspects: Mapping[str, _Identity]
    ) -> list[bytes]:
        held = {path: _content(path) for path in files}
        for path, identity in suspects.items():
            check_digest(hashlib.sha256(held[path]).hexdigest(), entry=files[path].file, name=path)
            self._right[path] = identity
        return [held[path] for path in paths]

    def _check(self, suspects: Mapping[str, _Identity], files: Mapping[str, LiveFile]) -> None:
        unknown = [path for path, identity in suspects.items() if self._right.get(path) != identity]
        is_much = sum(suspects[path][0] for path in unknown) > _WORTH_THREADS
        groups = _grouped((path, suspects[path][0]) for path in unknown)
        digests = chain.from_iterable(ordered_map(_digests, groups) if is_much else map(_digests, groups))
        for path, digest in zip(unknown, digests, strict=True):
            check_digest(digest, entry=files[path].file, name=path)
            self._right[path] = suspects[path]

    def _remember(self, files: Mapping[str, LiveFile]) -> None:
        with self._lock:
            self._given.update(files)
            for path in list(islice(self._given, max(0, len(self._given) - _REMEMBERED))):
                del self._given[path]


def _identity(path: str, live: LiveFile) -> _Identity:
    """Look at a file; Polars would not say whose file is missing, and would wait for ever for the bytes of a pipe."""
    found = _tried(os.stat, path)
    if not stat.S_ISREG(found.st_mode):
        raise CorruptObjectError(f"The data file {path} is no regular file.")
    if found.st_size != live.file.bytes:
        raise CorruptObjectError(f"The data file {path} has {found.st_size} bytes, {live.file.bytes} were committed.")
    return found.st_size, found.st_mtime_ns, found.st_ino


def _check_footer(path: str, live: LiveFile) -> None:
    """Compare the end of a large file, by which Polars finds and skips what else there is."""
    if not live.file.footer:
        return
    end = _tried(_end, path)
    if footer_digest(end) != live.file.footer:
        raise CorruptObjectError(f"The data file {path} does not have the footer that its manifest gives.")


def _end(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        length = min(size, _LONGEST_FOOTER, footer_bytes(file.read(8)))
        file.seek(size - length)
        return file.read(length)


def _content(path: str) -> bytes:
    return _tried(_read, path)


def _grouped(sizes: Iterable[tuple[str, int]]) -> list[list[str]]:
    """Divide paths, given with the sizes of their files, into groups that are worth a thread's while."""
    groups: list[list[str]] = []
    room = 0
    for path, size in sizes:
        if size > room:
            groups.append([])
            room = _GROUP_BYTES
        groups[-1].append(path)
        room -= size
    return groups


def _digests(paths: Sequence[str]) -> list[str]:
    return [_tried(_hash, path) for path in paths]


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def _hash(path: str) -> str:
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tried(look: Callable[[str], _T], path: str) -> _T:
    try:
        return look(path)
    except FileNotFoundError as error:
        raise ObjectNotFoundError(f"there is no {path}.") from error
    except OSError as error:
        reason = f"cannot be read, though it is committed: {error.strerror}"
        raise CorruptObjectError(f"The data file {path} {reason}.") from error
