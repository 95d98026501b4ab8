"""Compare data files on a local disk with their checksums before Polars reads them, and remember what was right.

Polars reads the columns and row groups of a local file that a query needs, so its bytes do not come through here. Nor
does Polars check them: a bit that is flipped in a page of values comes out as another value. So what is going to be
read is checked before: small files are read here, and Polars gets the bytes; of large ones the columns that are wanted
are compared with their checksums, and where row groups are left out, Polars gets no more than the others. What was
found right is not looked at again until the file changes in size, in time or in place.

A checksum tells that the bytes are those of their writer, not that the writer meant well.
"""

import hashlib
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import Final, NamedTuple, TypeVar

from metaxy_fs.errors import CorruptObjectError, ObjectNotFoundError, StorageAccessError, StorageError, about
from metaxy_fs.log.footer import LONGEST_FOOTER
from metaxy_fs.log.parquet import (
    Section,
    check_bytes,
    check_digest,
    check_row_groups,
    check_section,
    footer_bytes,
    footer_digest,
    row_groups,
    sections,
)
from metaxy_fs.log.read_plan import Excerpt, FileSource, Need, about_file, divided, refuse_unreadable, wanted_of
from metaxy_fs.log.view import LiveFile
from metaxy_fs.parallel import WORKERS, batched, ordered_map
from metaxy_fs.storage.base import ObjectInfo, Storage
from metaxy_fs.storage.logged import log_read
from metaxy_fs.system_errors import PERMISSION_DENIED, explained

SMALL_BYTES: Final = 2**17
"""Up to this size a file is read about as fast here as by Polars."""

_BATCH_BYTES = 2**26
"""Files of so many bytes together are taken at once; larger ones each for itself."""
_REMEMBERED = 2**16
"""Of how many files it is remembered what was found right."""

_TURNS = 64  # groups of files that are told apart by those who look at one at the same time
_LONGEST_COUNTED = 2**26
"""Up to this length the row groups are counted that a footer tells of."""
_WORTH_THREADS = 2**24
_GROUP_BYTES = 2**22
"""What a thread is given at once: to hand a file over takes about as long as to hash a small one."""

_T = TypeVar("_T")
_R = TypeVar("_R")

_Identity = tuple[int, int, int]
"""Size, time and place of a file: what changes with its content, if nothing but the disk goes wrong."""


class _WantedColumns(NamedTuple):
    """What of a large file is looked at: some columns, of all row groups unless there is an excerpt."""

    path: str
    live: LiveFile
    columns: frozenset[str]
    sections: Sequence[Section]
    excerpt: Excerpt | None = None


class _Right(NamedTuple):
    """What was found right of a file that had some identity: these columns, or all of it if they are None."""

    identity: _Identity
    columns: frozenset[str] | None


class LocalFiles:
    """The files of a local root, and what is known of them. Safe to share between threads.

    Args:
        storage: The root.
        are_right: Whether their bytes are known to be what their manifests describe.
    """

    batches_ahead = WORKERS

    def __init__(self, storage: Storage, *, are_right: bool = False) -> None:
        self._storage = storage
        self._are_right = are_right
        self._right: OrderedDict[str, _Right] = OrderedDict()
        self._lock = threading.Lock()
        self._turns = [threading.Lock() for _ in range(_TURNS)]

    def batches(self, files: Sequence[LiveFile], need: Need) -> Iterator[tuple[list[LiveFile], Need]]:
        """Yield files of so many bytes as are worth a scan of their own."""
        return ((batch, need) for batch in batched(files, (attrgetter("file.bytes"), _BATCH_BYTES)))

    def take(self, batch: tuple[list[LiveFile], Need]) -> tuple[list[LiveFile], Sequence[FileSource]]:
        """Look at what is needed of a batch."""
        files, need = batch
        log_read(self._storage, (ObjectInfo(live.path, live.file.bytes) for live in files))
        with about(root=self._storage.location):
            sources = self._sources(self._paths(files), need)
        return files, [sources[str(self._storage.local_path(live.path))] for live in files]

    def refuse_damaged(self, files: Sequence[LiveFile]) -> None:
        """Look at all bytes of each file, and read it."""
        found = self._paths(files)
        with about(root=self._storage.location):
            self._check({path: _identity(path, live) for path, live in found.items()}, found)
            for path, live in found.items():
                refuse_unreadable(path, live, name=path)

    def _paths(self, files: Iterable[LiveFile]) -> dict[str, LiveFile]:
        return {str(self._storage.local_path(live.path)): live for live in files}

    def _sources(self, files: Mapping[str, LiveFile], need: Need) -> Mapping[str, FileSource]:
        """Return what Polars is to read of files, by path: this path, or bytes that hold what is needed."""
        identities = {path: _identity(path, live) for path, live in files.items()}
        if need.predicate is not None:
            return self._checked_sources(files, identities, need)
        # Scans of several ranges come at once: the first looks at a file, and the others wait for what it finds.
        with self._turns[hash(next(iter(files))) % _TURNS]:
            return self._checked_sources(files, identities, need)

    def _checked_sources(
        self, files: Mapping[str, LiveFile], identities: Mapping[str, _Identity], need: Need
    ) -> Mapping[str, FileSource]:
        sizes = [size for size, _, _ in identities.values()]
        suspects = {path: at for path, at in identities.items() if not self._is_right(path, at, files[path], need)}
        if suspects and max(sizes) <= SMALL_BYTES and sum(sizes) <= _BATCH_BYTES:
            return self._bytes(files, suspects)
        looks = _looks(files, suspects, need)
        self._check({path: at for path, at in suspects.items() if path not in looks}, files)
        contents = self._checked_parts(list(looks.values()), identities)
        return {path: contents.get(path, path) for path in files}

    def _check(self, suspects: Mapping[str, _Identity], files: Mapping[str, LiveFile]) -> None:
        """Compare whole files with their checksums."""
        groups = batched(suspects, (lambda path: suspects[path][0], _GROUP_BYTES))
        size = sum(size for size, _, _ in suspects.values())
        digests = chain.from_iterable(_side_by_side(_digests, groups, size=size))
        for (path, identity), digest in zip(suspects.items(), digests, strict=True):
            with about_file(files[path]):
                check_digest(digest, entry=files[path].file, name=path)
                check_row_groups(_tried(partial(_end, longest=_LONGEST_COUNTED), path), name=path)
            self._remember(path, _Right(identity, None))

    def _checked_parts(self, looks: Sequence[_WantedColumns], identities: Mapping[str, _Identity]) -> dict[str, bytes]:
        """Look at large files; return, by path, the bytes of those of which row groups are left out."""
        contents = {}
        size = sum(section.end - section.start for look in looks for section in look.sections)
        for look, data in _side_by_side(_checked, looks, size=size):
            identity = identities[look.path]
            if data is None:
                with self._lock:
                    known = self._right.get(look.path)
                before = known.columns if known is not None and known.identity == identity else None
                self._remember(look.path, _Right(identity, look.columns | (before or frozenset())))
            else:
                contents[look.path] = data
        return contents

    def _is_right(self, path: str, identity: _Identity, live: LiveFile, need: Need) -> bool:
        """Whether what is needed of a file was found right."""
        if self._are_right:
            return True
        with self._lock:
            right = self._right.get(path)
        if right is None or right.identity != identity:
            return False
        return right.columns is None or right.columns.issuperset(need.of(live))

    def _bytes(self, files: Mapping[str, LiveFile], suspects: Mapping[str, _Identity]) -> dict[str, bytes]:
        contents = {path: _tried(_read, path) for path in files}
        for path, identity in suspects.items():
            with about_file(files[path]):
                check_bytes(contents[path], entry=files[path].file, name=path)
            self._remember(path, _Right(identity, None))
        return contents

    def _remember(self, path: str, right: _Right) -> None:
        with self._lock:
            self._right[path] = right
            self._right.move_to_end(path)
            while len(self._right) > _REMEMBERED:
                self._right.popitem(last=False)


def _looks(files: Mapping[str, LiveFile], suspects: Mapping[str, _Identity], need: Need) -> dict[str, _WantedColumns]:
    """Return what is looked at of large files, if anything: columns of suspects, and row groups that may be left out.

    A suspect whose manifest does not say where its columns are is missing, and one whose footer is too long.
    """
    looks, parted = {}, {}
    for path, live in files.items():
        is_tested = need.predicate_on(live) is not None
        if not (is_tested or path in suspects) or not (groups := row_groups(live.file, live.stored_schema.names())):
            continue
        # Polars finds and skips columns by the footer, so that is compared with its checksum.
        if not (end := _tried(partial(_end, longest=LONGEST_FOOTER), path)):
            continue
        with about_file(live):
            if footer_digest(end) != live.file.footer:
                raise CorruptObjectError(f"The data file {path} does not have the footer that its manifest gives.")
            check_row_groups(end, name=path)
        columns = frozenset(need.of(live))
        if is_tested and (file := divided(live, end)) is not None:
            parted[path] = file
        if path in suspects:
            wanted = sections(chunk for group in groups for chunk in group if chunk.column in columns)
            looks[path] = _WantedColumns(path, live, columns, wanted)
    room = _BATCH_BYTES
    for (path, file), wanted_groups in zip(parted.items(), wanted_of(parted.values(), need), strict=True):
        if len(wanted_groups) < len(file.groups):
            columns = frozenset(need.of(file.live))
            excerpt = file.excerpt(columns, wanted_groups)
            if excerpt.size <= room:
                room -= excerpt.size
                looks[path] = _WantedColumns(path, file.live, columns, excerpt.sections, excerpt)
    return looks


def _identity(path: str, live: LiveFile) -> _Identity:
    """Look at a file; Polars would not say whose file is missing, and would wait forever for the bytes of a pipe."""
    with about_file(live):
        found = _tried(os.stat, path)
        if not stat.S_ISREG(found.st_mode):
            raise CorruptObjectError(f"The data file {path} is no regular file.")
        if found.st_size != live.file.bytes:
            raise CorruptObjectError(
                f"The data file {path} has {found.st_size} bytes, {live.file.bytes} were committed."
            )
    return found.st_size, found.st_mtime_ns, found.st_ino


def _checked(look: _WantedColumns) -> tuple[_WantedColumns, bytes | None]:
    """Compare what is looked at with its checksums; return the bytes of an excerpt."""

    def fill(section: Section, into: memoryview) -> None:
        with about_file(look.live):
            _tried(partial(_read_into, into=into, start=section.start), look.path)
            check_section(into, section, name=look.path)

    if look.excerpt is not None:
        return look, look.excerpt.file(fill)
    sizes = [section.end - section.start for section in look.sections]
    room = memoryview(bytearray(max(sizes, default=0)))
    for section, size in zip(look.sections, sizes, strict=True):
        fill(section, room[:size])
    return look, None


def _side_by_side(function: Callable[[_T], _R], items: Iterable[_T], *, size: int) -> Iterator[_R]:
    """Yield the results of a function that looks at files, in threads where these have many bytes together."""
    return ordered_map(function, items) if size > _WORTH_THREADS else map(function, items)


def _digests(paths: Sequence[str]) -> list[str]:
    return [_tried(_hash, path) for path in paths]


def _hash(path: str) -> str:
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def _read_into(path: str, *, into: memoryview, start: int) -> None:
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        if file.readinto(into) != len(into):
            raise CorruptObjectError(f"The data file {path} ends before its byte {start + len(into)}.")


def _end(path: str, *, longest: int) -> bytes:
    """Return the footer of a file, with what comes after it; nothing where that is longer than what is looked at."""
    with open(path, "rb", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        if (length := footer_bytes(file.read(8))) > min(size, longest):
            return b""
        file.seek(size - length)
        return file.read(length)


def _tried(look: Callable[[str], _T], path: str) -> _T:
    try:
        return look(path)
    except FileNotFoundError as error:
        raise ObjectNotFoundError(f"there is no {path}.") from error
    except OSError as error:
        # Nobody has seen its bytes, so nothing is said of them.
        kind = StorageAccessError if error.errno in PERMISSION_DENIED else StorageError
        raise kind(f"cannot read the data file {path}: {explained(error)}.") from error
