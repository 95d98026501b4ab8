"""Are the files of a local root what their manifests vouch for?

Polars reads the columns and row groups of a local file that a query needs, so its bytes do not come through here. Nor
does Polars check them: a bit that is flipped in a page of values comes out as another value. So what a scan is going to
read is checked before: small files are read here, and Polars gets the bytes; of large ones the columns that are wanted
are compared with their checksums, and where row groups are left out, Polars gets no more than the others. What was
found right is not looked at again until the file changes in size, in time or in place.
"""

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Final, NamedTuple, TypeVar

from metaxy_fs.errors import CorruptObjectError, ObjectNotFoundError, StorageAccessError, StorageError
from metaxy_fs.log.files.columns import Section, check_section, row_groups, sections
from metaxy_fs.log.files.footer import Excerpt
from metaxy_fs.log.files.parquet import check_digest, footer_bytes, footer_digest
from metaxy_fs.log.pruning.divided import Need, divided
from metaxy_fs.log.reading.frames import Source
from metaxy_fs.log.reading.unreadable import is_of_reader, refuse_unreadable
from metaxy_fs.log.views.live import LiveFile
from metaxy_fs.parallel import ordered_map
from metaxy_fs.storage.base import Storage
from metaxy_fs.system_errors import REFUSED, explained

SMALL_BYTES: Final = 2**17
"""Up to this size a file is read about as fast here as by Polars."""

_HELD_BYTES = 2**26
"""Polars is given no more bytes than this together; more is read by it from the files."""

_WORTH_THREADS = 2**24
_GROUP_BYTES = 2**22
"""What a thread is given at once: to hand a file over takes about as long as to hash a small one."""
_REMEMBERED = 2**16
_LONGEST_FOOTER = 2**26

_T = TypeVar("_T")
_R = TypeVar("_R")

_Identity = tuple[int, int, int]
"""Size, time and place of a file: what changes with its content, if nothing but the disk goes wrong."""


class _Look(NamedTuple):
    """What of a large file is looked at: some columns, of all row groups unless there is an excerpt."""

    path: str
    live: LiveFile
    columns: frozenset[str]
    sections: Sequence[Section]
    excerpt: Excerpt | None = None

    @property
    def size(self) -> int:
        """How many bytes that is."""
        return sum(section.end - section.start for section in self.sections)


class LocalFiles:
    """Looks at files of a local root before they are read. Safe to share between threads."""

    def __init__(self) -> None:
        self._right: dict[str, _Identity] = {}
        self._right_columns: dict[str, tuple[_Identity, frozenset[str]]] = {}
        self._given: dict[str, LiveFile] = {}
        self._lock = threading.Lock()

    def sources(self, storage: Storage, files: Sequence[LiveFile], need: Need) -> Sequence[Source]:
        """Return what Polars is to read of files: their paths, or bytes that hold what is needed.

        Args:
            storage: The local root.
            files: The files.
            need: What of them is read; no other columns may be.

        Raises:
            ObjectNotFoundError: One is gone.
            CorruptObjectError: What is needed of one is not what its manifest vouches for; the message names it.
        """
        paths = [str(storage.local_path(live.path)) for live in files]
        found = dict(zip(paths, files, strict=True))
        identities = {path: _identity(path, live) for path, live in found.items()}
        sizes = [size for size, _, _ in identities.values()]
        self._remember(found)
        suspects = {path: at for path, at in identities.items() if self._right.get(path) != at}
        if suspects and max(sizes) <= SMALL_BYTES and sum(sizes) <= _HELD_BYTES:
            return self._bytes(paths, found, suspects)
        looks = self._looks(suspects, found, need)
        self._check({path: at for path, at in suspects.items() if path not in looks}, found)
        held = self._checked_parts([look for look in looks.values() if look is not None], identities)
        return [held.get(path, path) for path in paths]

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

    def _looks(
        self, suspects: Mapping[str, _Identity], files: Mapping[str, LiveFile], need: Need
    ) -> dict[str, _Look | None]:
        """Return what of large files has to be looked at, None if nothing; files to be checked whole are missing."""
        looks: dict[str, _Look | None] = {}
        room = _HELD_BYTES
        for path, identity in suspects.items():
            live = files[path]
            columns = frozenset(need.of(live))
            if columns <= self._known(path, identity):
                looks[path] = None
            elif (look := _look(path, live, columns, need, room=room)) is not None:
                looks[path] = look
                room -= look.size if look.excerpt else 0
        return looks

    def _checked_parts(self, looks: Sequence[_Look], identities: Mapping[str, _Identity]) -> dict[str, bytes]:
        """Look at large files; return, by path, the bytes of those of which row groups are left out."""
        held = {}
        for look, data in _side_by_side(_checked, looks, size=sum(look.size for look in looks)):
            identity = identities[look.path]
            if data is None:
                self._right_columns[look.path] = identity, look.columns | self._known(look.path, identity)
            else:
                held[look.path] = data
        return held

    def _known(self, path: str, identity: _Identity) -> frozenset[str]:
        """Return the columns of a large file that were found right."""
        before, columns = self._right_columns.get(path, (identity, frozenset()))
        return columns if before == identity else frozenset()

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
        groups = _grouped((path, suspects[path][0]) for path in unknown)
        size = sum(suspects[path][0] for path in unknown)
        digests = chain.from_iterable(_side_by_side(_digests, groups, size=size))
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


def _look(path: str, live: LiveFile, columns: frozenset[str], need: Need, *, room: int) -> _Look | None:
    """Return what to look at of a large file; None if its manifest does not say where its columns are.

    Polars finds and skips columns by the footer, so that is compared with its checksum.
    """
    groups = row_groups(live.file, live.stored_schema.names())
    if not groups:
        return None
    end = _tried(_end, path)
    if footer_digest(end) != live.file.footer:
        raise CorruptObjectError(f"The data file {path} does not have the footer that its manifest gives.")
    if need.predicate_on(live) is not None and (file := divided(live, end)) is not None:
        wanted = file.wanted(need)
        if len(wanted) < len(groups):
            excerpt = file.excerpt(columns, wanted)
            if excerpt.size <= room:
                return _Look(path, live, columns, excerpt.sections, excerpt)
    return _Look(path, live, columns, sections(chunk for group in groups for chunk in group if chunk.column in columns))


def _checked(look: _Look) -> tuple[_Look, bytes | None]:
    """Compare what is looked at with its checksums; return the bytes of an excerpt."""
    parts = _parts(look)
    if look.excerpt is not None:
        return look, look.excerpt.file(list(parts))
    for _ in parts:
        pass
    return look, None


def _parts(look: _Look) -> Iterator[bytes]:
    for section in look.sections:
        data = _tried(partial(_read_section, section=section), look.path)
        check_section(data, section, name=look.path)
        yield data


def _side_by_side(function: Callable[[_T], _R], items: Iterable[_T], *, size: int) -> Iterator[_R]:
    """Yield the results of a function that looks at files, in threads where these have many bytes together."""
    return ordered_map(function, items) if size > _WORTH_THREADS else map(function, items)


def _read_section(path: str, *, section: Section) -> bytes:
    with open(path, "rb", buffering=0) as file:
        file.seek(section.start)
        return file.read(section.end - section.start)


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
        # Nobody has seen its bytes, so nothing is said of them.
        kind = StorageAccessError if error.errno in REFUSED else StorageError
        raise kind(f"cannot read the data file {path}: {explained(error)}.") from error
