"""Plan and fetch the parts of data files that a read needs.

A small file, and one of which everything is wanted, is fetched whole. Of a large one first the end is fetched, which
tells where its columns are, and then the columns that are wanted of those row groups that may hold wanted rows. All
that is fetched has to have the checksums that the manifest gives.
"""

import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from io import BytesIO
from itertools import islice
from operator import attrgetter
from typing import NamedTuple

import msgspec
import polars as pl

from metaxy_fs.log.columns import COMMIT_COLUMNS, ColumnChunk, Section, check_section, row_groups, sections
from metaxy_fs.log.footer import ENDING, LONGEST_FOOTER, MAGIC, Footer, MalformedError
from metaxy_fs.log.parquet import check_bytes, footer_bytes, footer_digest
from metaxy_fs.log.prune import may_match
from metaxy_fs.log.statistics import FileStatistics
from metaxy_fs.log.verified_io import checked_bytes
from metaxy_fs.log.view import LiveFile
from metaxy_fs.parallel import batched, one
from metaxy_fs.storage.base import ObjectInfo, ObjectRange, Storage


class Need(msgspec.Struct, frozen=True):
    """What is needed of files.

    Attributes:
        columns: The columns that are read, those that a predicate names among them; None for all that a file has.
        predicate: Rows that do not satisfy it are not needed; None where all are.
        schema: The types in which the predicate is evaluated.
        of_commits: Whether it is needed which commit a row belongs to: columns of a file that a compaction has written
            tell, and in other files the place of the row.
    """

    columns: Collection[str] | None
    predicate: pl.Expr | None
    schema: pl.Schema
    of_commits: bool

    def of(self, live: LiveFile) -> list[str]:
        """Return the columns to read of a file; one at least, since without any there would be no rows."""
        names = live.stored_schema.names()
        if self.columns is None:
            return names
        of_commits = COMMIT_COLUMNS if self.of_commits or live.excluded else ()
        return [name for name in names if name in self.columns or name in of_commits] or names[:1]

    def predicate_on(self, live: LiveFile) -> pl.Expr | None:
        """Return what the rows of a file are needed for; None where all are."""
        return None if self.counts_rows(live) else self.predicate

    def counts_rows(self, live: LiveFile) -> bool:
        """Whether the place of a row in a file tells something."""
        return self.of_commits and not live.is_rewritten


class Excerpt(NamedTuple):
    """Some row groups and columns of a large file, each at its own place, and nothing between them.

    Attributes:
        sections: The bytes that it needs, in order.
        footer: What stands at its end, and lists these row groups.
        begin: Where the footer begins.
    """

    sections: Sequence[Section]
    footer: bytes
    begin: int

    @property
    def size(self) -> int:
        """How many bytes it needs."""
        return sum(section.end - section.start for section in self.sections)

    def file(self, parts: Iterable[bytes]) -> bytes:
        """Return it as a Parquet file, given the bytes of each section.

        Zeros that nobody writes over or reads take no memory: the system gives pages that are used.
        """
        file = BytesIO(bytes(self.begin + len(self.footer) + ENDING))
        file.write(MAGIC)
        for section, part in zip(self.sections, parts, strict=True):
            file.seek(section.start)
            file.write(part)
        file.seek(self.begin)
        file.write(b"".join((self.footer, len(self.footer).to_bytes(4, "little"), MAGIC)))
        return file.getvalue()


class DividedFile(NamedTuple):
    """A large file of which parts are read.

    Attributes:
        live: The file.
        footer: Its footer.
        groups: The columns of each of its row groups.
    """

    live: LiveFile
    footer: Footer
    groups: list[list[ColumnChunk]]

    def statistics(self, need: Need) -> list[FileStatistics]:
        """Return what the footer says of the columns that matter in each row group."""
        return self.footer.statistics(self.live.schema, columns=need.columns or self.live.schema.names())

    def size_of(self, columns: Collection[str], group: int) -> int:
        """Return how many bytes some columns of a row group take."""
        return sum(chunk.end - chunk.start for chunk in self.groups[group] if chunk.column in columns)

    def excerpt(self, columns: Collection[str], groups: Sequence[int]) -> Excerpt:
        """Return some columns of some row groups, given in their order."""
        wanted = sections(chunk for place in groups for chunk in self.groups[place] if chunk.column in columns)
        return Excerpt(wanted, self.footer.listing(groups), self.footer.begin)


def wanted_of(files: Collection[DividedFile], need: Need) -> list[list[int]]:
    """Return for each file the places of the row groups that may hold a needed row; it costs one look at all files."""
    tested = [file for file in files if need.predicate_on(file.live) is not None]
    statistics = [each for file in tested for each in file.statistics(need)]
    kept = iter(may_match(need.predicate, schema=need.schema, files=statistics) if need.predicate is not None else ())
    answers = {file.live.path: [next(kept) for _ in file.groups] for file in tested}
    everything = [[True] * len(file.groups) for file in files]
    return [
        [place for place, is_wanted in enumerate(answers.get(file.live.path, every)) if is_wanted]
        for file, every in zip(files, everything, strict=True)
    ]


def divided(live: LiveFile, end: bytes) -> DividedFile | None:
    """Return a file that is read in parts; None if its footer is not the one that its manifest gives or describes.

    Args:
        live: The file.
        end: Its footer, to the last byte.
    """
    if footer_digest(end) != live.file.footer:
        return None
    try:
        footer = Footer(end[:-ENDING], begin=live.file.bytes - len(end))
        found = footer.columns()
    except MalformedError:
        return None
    groups = row_groups(live.file, live.stored_schema.names())
    is_described = found == [[(chunk.column, chunk.start) for chunk in group] for group in groups]
    return DividedFile(live, footer, groups) if is_described and footer.rows == live.file.rows else None


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
    wanted = [part for piece in pieces for part in _parts(piece)]
    parts = iter(storage.get_ranges(wanted) if wanted else ())
    return [
        next(files) if excerpt is None else _checked(storage, live, excerpt, [next(parts) for _ in excerpt.sections])
        for live, excerpt in pieces
    ]


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


def _checked(storage: Storage, live: LiveFile, excerpt: Excerpt, parts: Sequence[bytes]) -> bytes:
    name = f"{storage.location}/{live.path}"
    return excerpt.file(
        [
            checked_bytes(storage, _range(live, section), part, partial(check_section, section=section, name=name))
            for part, section in zip(parts, excerpt.sections, strict=True)
        ]
    )


def _is_worthwhile(live: LiveFile, need: Need) -> bool:
    if not live.file.columns:
        return False
    return need.predicate_on(live) is not None or len(need.of(live)) < len(live.stored_schema)


def _parts(piece: FilePart) -> list[ObjectRange]:
    return [_range(piece.live, section) for section in (piece.excerpt.sections if piece.excerpt else ())]


def _range(live: LiveFile, section: Section) -> ObjectRange:
    return ObjectRange(live.path, section.start, section.end)


def _excerpts(file: DividedFile, groups: Sequence[int], need: Need) -> list[Excerpt]:
    columns = set(need.of(file.live))
    # The place of a row is that in its excerpt.
    limit = sys.maxsize if need.counts_rows(file.live) else BATCH_BYTES
    parts: list[list[int]] = []
    size = 0
    for place in groups:
        size += file.size_of(columns, place)
        if not parts or size > limit:
            parts.append([])
            size = file.size_of(columns, place)
        parts[-1].append(place)
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
