"""Fetch what a read needs of the data files of a remote root, and keep it here where it is read more than once.

Many files are fetched at once, and the next while the rows of some are decoded; of a large one the end first, which
tells where its columns are, and then the parts that are needed. All that is fetched has to have the checksums that the
manifest gives.

Files that are read range by range are fetched once, into a temporary directory of this machine (see `tempfile`), which
goes when the last who reads them does. Data files never change, so what was fetched stays true.
"""

import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from metaxy_fs.log.footer import LONGEST_FOOTER
from metaxy_fs.log.parquet import Section, check_bytes, check_section, footer_bytes
from metaxy_fs.log.read_plan import DividedFile, Excerpt, FileSource, Need, divided, refuse_unreadable, wanted_of
from metaxy_fs.log.verified_io import checked_bytes
from metaxy_fs.log.view import LiveFile
from metaxy_fs.parallel import batched, one
from metaxy_fs.scratch import ScratchDirectory, writing_to
from metaxy_fs.storage.base import ForwardingStorage, ObjectInfo, ObjectRange, Storage


class Supply(Protocol):
    """Where the bytes of data files come from."""

    @property
    def batches_ahead(self) -> int:
        """How many batches are held at once, taken or on their way."""

    def batches(self, files: Sequence[LiveFile], need: Need) -> Iterator[Any]:
        """Yield what is taken at once of some files, in their order."""

    def take(self, batch: Any) -> tuple[Sequence[LiveFile], Sequence[FileSource]]:
        """Return the files of a batch, and what Polars is to read of each: bytes that their manifests describe.

        Raises:
            ObjectNotFoundError: One is gone.
            CorruptObjectError: What is needed of one is not what its manifest describes; the message names it.
        """

    def refuse_damaged(self, files: Sequence[LiveFile]) -> None:
        """Look for the file that is to blame where Polars could not read some.

        Raises:
            CorruptObjectError: A file is not what its manifest describes, or is no Parquet file.
        """


TAIL = 2**15
"""Bytes of the first look at a footer; few are longer."""
_TAILS_AT_ONCE = 256

BATCH_FILES = 256
BATCH_BYTES = 2**23
"""What is fetched at once: enough to keep the connections of a root busy, little enough to hold some in memory. Of a
file of which more is wanted, several excerpts are made."""


class FilePart(NamedTuple):
    """A data file, or an excerpt of it."""

    live: LiveFile
    excerpt: Excerpt | None = None

    @property
    def size(self) -> int:
        """How many bytes are fetched."""
        return self.live.file.bytes if self.excerpt is None else self.excerpt.size


class RemoteFiles:
    """The files of a remote root.

    Args:
        storage: The root.
    """

    batches_ahead = 4

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def batches(self, files: Sequence[LiveFile], need: Need) -> Iterator[list[FilePart]]:
        """Yield files and parts of files that are fetched at once."""
        return in_batches(planned(self._storage, files, need))

    def take(self, batch: list[FilePart]) -> tuple[list[LiveFile], list[bytes]]:
        """Fetch a batch."""
        return [piece.live for piece in batch], fetch(self._storage, batch)

    def refuse_damaged(self, files: Sequence[LiveFile]) -> None:
        """Fetch whole what was perhaps fetched in pieces, which compares it with its checksum, and read each."""
        for live in files:
            [data] = fetch_whole(self._storage, [live])
            refuse_unreadable(data, live, name=f"{self._storage.location}/{live.path}")


class StagedStorage(ForwardingStorage):
    """A remote storage of which data files are kept here once they were fetched. Safe to share between threads.

    Args:
        storage: The remote one.
    """

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage)
        self._scratch: ScratchDirectory | None = None
        self._paths: dict[str, str] = {}
        self._lock = threading.Lock()

    def fetch(self, files: Sequence[LiveFile]) -> None:
        """Have some data files here, each of which is then at its `local_path`.

        Raises:
            ObjectNotFoundError: One is gone.
            CorruptObjectError: One is not what its manifest describes.
        """
        with self._lock:
            scratch = self._scratch = self._scratch or ScratchDirectory()
            for batch in in_batches(FilePart(live) for live in files if live.path not in self._paths):
                for (live, _), data in zip(batch, fetch(self._storage, batch), strict=True):
                    path = scratch.path(f"{len(self._paths)}.parquet")
                    with writing_to(Path(path)):
                        Path(path).write_bytes(data)
                    self._paths[live.path] = path

    def local_path(self, path: str) -> str | None:
        """Return where a file is that was fetched."""
        return self._paths.get(path)


def planned(storage: Storage, files: Iterable[LiveFile], need: Need) -> Iterator[FilePart]:
    """Yield what to fetch of files, in their order; the ends of large ones are fetched to know.

    Args:
        storage: Where they are.
        files: The files.
        need: What is needed of them.
    """
    remaining = iter(files)
    while some := list(islice(remaining, _TAILS_AT_ONCE)):
        large = [live for live in some if storage.serves_ranges and _is_worthwhile(live, need)]
        found = [
            None if end is None else divided(live, end) for live, end in zip(large, _ends(storage, large), strict=True)
        ]
        parted = [file for file in found if file is not None]
        groups = {file.live.path: (file, wanted) for file, wanted in zip(parted, wanted_of(parted, need), strict=True)}
        for live in some:
            if live.path in groups:
                yield from (FilePart(live, excerpt) for excerpt in _excerpts(*groups[live.path], need))
            else:
                yield FilePart(live)


def fetch(storage: Storage, pieces: Sequence[FilePart]) -> list[bytes]:
    """Return each piece as a Parquet file, with those bytes that its manifest describes."""
    whole = [piece.live for piece in pieces if piece.excerpt is None]
    files = iter(fetch_whole(storage, whole))
    wanted = [_range(live, section) for live, excerpt in pieces if excerpt for section in excerpt.sections]
    parts = iter(storage.get_ranges(wanted) if wanted else ())
    return [next(files) if excerpt is None else _checked(storage, live, excerpt, parts) for live, excerpt in pieces]


def fetch_whole(storage: Storage, files: Sequence[LiveFile]) -> list[bytes]:
    """Return the bytes of data files, which are those that their manifests describe."""
    wanted = [ObjectInfo(live.path, live.file.bytes) for live in files]
    fetched = zip(wanted, storage.get_many(wanted) if wanted else [], files, strict=True)
    return [
        checked_bytes(
            storage, info, data, partial(check_bytes, entry=live.file, name=f"{storage.location}/{live.path}")
        )
        for info, data, live in fetched
    ]


def in_batches(pieces: Iterable[FilePart]) -> Iterator[list[FilePart]]:
    """Yield the pieces in groups that are fetched at once."""
    return batched(pieces, (one, BATCH_FILES), (attrgetter("size"), BATCH_BYTES))


def _checked(storage: Storage, live: LiveFile, excerpt: Excerpt, parts: Iterator[bytes]) -> bytes:
    name = f"{storage.location}/{live.path}"

    def fill(section: Section, into: memoryview) -> None:
        check = partial(check_section, section=section, name=name)
        into[:] = checked_bytes(storage, _range(live, section), next(parts), check)

    return excerpt.file(fill)


def _is_worthwhile(live: LiveFile, need: Need) -> bool:
    if not live.file.columns:
        return False
    return need.predicate_on(live) is not None or len(need.of(live)) < len(live.stored_schema)


def _range(live: LiveFile, section: Section) -> ObjectRange:
    return ObjectRange(live.path, section.start, section.end)


def _excerpts(file: DividedFile, groups: Sequence[int], need: Need) -> list[Excerpt]:
    columns = set(need.of(file.live))
    # The place of a row is that in its excerpt.
    limit = sys.maxsize if need.counts_rows(file.live) else BATCH_BYTES
    parts = batched(groups, (partial(file.size_of, columns), limit))
    return [file.excerpt(columns, part) for part in parts]


def _ends(storage: Storage, files: Sequence[LiveFile]) -> list[bytes | None]:
    """Return the footer of each file, with what comes after it; None where that is longer than it can be."""
    tails = storage.get_ranges([_end(live, TAIL) for live in files]) if files else []
    lengths = [footer_bytes(tail) for tail in tails]
    longer = [at for at, length in enumerate(lengths) if TAIL < length <= min(LONGEST_FOOTER, files[at].file.bytes)]
    fetched = storage.get_ranges([_end(files[at], lengths[at]) for at in longer]) if longer else []
    for at, tail in zip(longer, fetched, strict=True):
        tails[at] = tail
    return [tail[-length:] if length <= len(tail) else None for tail, length in zip(tails, lengths, strict=True)]


def _end(live: LiveFile, size: int) -> ObjectRange:
    return ObjectRange(live.path, max(0, live.file.bytes - size), live.file.bytes)
