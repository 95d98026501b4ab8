"""What is fetched of the data files of a remote root?

A small file, and one of which everything is wanted, is fetched whole, and has to have the checksum that its manifest
gives. Of a large one first the end is fetched, which tells where its columns are, and then the columns that are wanted
of those row groups that may hold wanted rows. Its size is that which its manifest gives; the checksum is not asked.
"""

import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import msgspec
import polars as pl

from metaxy_fs.log.footer import ENDING, MAGIC, Excerpt, Footer
from metaxy_fs.log.live import COMMIT_COLUMNS, LiveFile
from metaxy_fs.log.parquet import check_bytes, footer_digest
from metaxy_fs.log.pruning import may_match
from metaxy_fs.log.thrift import MalformedError
from metaxy_fs.storage.base import ObjectInfo, ObjectRange, Storage

LARGE = 2**20
"""A file of so many bytes is worth a request that tells which of them are wanted."""
TAIL = 2**15
"""Bytes of the first look at a footer; few are longer."""
_LONGEST_FOOTER = 2**20
_TAILS_AT_ONCE = 256

BATCH_FILES = 256
BATCH_BYTES = 2**23
"""What is fetched at once: enough to keep the connections of a root busy, little enough to hold some in memory. Of a
file of which more is wanted, several excerpts are made."""


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
        held = live.stored_schema.names()
        if self.columns is None:
            return held
        of_commits = COMMIT_COLUMNS if self.of_commits or live.excluded else ()
        return [name for name in held if name in self.columns or name in of_commits] or held[:1]

    def predicate_on(self, live: LiveFile) -> pl.Expr | None:
        """Return what the rows of a file are needed for; None where all are."""
        return None if self.counts_rows(live) else self.predicate

    def counts_rows(self, live: LiveFile) -> bool:
        """Whether the place of a row in a file tells something."""
        return self.of_commits and not live.is_rewritten


class Piece(NamedTuple):
    """A data file, or an excerpt of it."""

    live: LiveFile
    excerpt: Excerpt | None = None

    @property
    def size(self) -> int:
        """How many bytes are fetched."""
        return self.live.file.bytes if self.excerpt is None else self.excerpt.size


def planned(storage: Storage, files: Iterable[LiveFile], need: Need, *, only_whole: bool) -> Iterator[Piece]:
    """Yield what to fetch of files, in their order; the ends of large ones are fetched to know, if they may be divided.

    Args:
        storage: Where they are.
        files: The files.
        need: What is needed of them.
        only_whole: Whether to divide none.
    """
    remaining = iter(files)
    is_divisible = storage.serves_ranges and not only_whole
    while some := list(islice(remaining, _TAILS_AT_ONCE)):
        divided = [live for live in some if is_divisible and _is_worthwhile(live, need)]
        excerpts = dict(zip([live.path for live in divided], _excerpts(storage, divided, need), strict=True))
        for live in some:
            found = excerpts.get(live.path)
            yield from [Piece(live)] if found is None else [Piece(live, excerpt) for excerpt in found]


def fetch(storage: Storage, pieces: Sequence[Piece]) -> list[bytes]:
    """Return each piece as a Parquet file, with those bytes that its manifest vouches for."""
    whole = [piece.live for piece in pieces if piece.excerpt is None]
    files = iter(fetch_whole(storage, whole))
    divided = [piece for piece in pieces if piece.excerpt is not None]
    parts = iter(storage.get_ranges([part for piece in divided for part in _parts(piece)]) if divided else ())
    return [
        next(files) if excerpt is None else excerpt.file([next(parts) for _ in excerpt.ranges]) for _, excerpt in pieces
    ]


def fetch_whole(storage: Storage, files: Sequence[LiveFile]) -> list[bytes]:
    """Return the bytes of data files, which are those that their manifests vouch for."""
    fetched = storage.get_many([ObjectInfo(live.path, live.file.bytes) for live in files]) if files else []
    for live, data in zip(files, fetched, strict=True):
        check_bytes(data, entry=live.file, name=f"{storage.location}/{live.path}")
    return fetched


def in_batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Yield the pieces in groups that are fetched at once."""
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        if batch and (len(batch) == BATCH_FILES or size + piece.size > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(piece)
        size += piece.size
    if batch:
        yield batch


def _is_worthwhile(live: LiveFile, need: Need) -> bool:
    if live.file.bytes < LARGE:
        return False
    return need.predicate_on(live) is not None or len(need.of(live)) < len(live.stored_schema)


def _parts(piece: Piece) -> list[ObjectRange]:
    return [ObjectRange(piece.live.path, start, end) for start, end in piece.excerpt.ranges] if piece.excerpt else []


def _excerpts(storage: Storage, files: Sequence[LiveFile], need: Need) -> list[list[Excerpt] | None]:
    """Return what to fetch of large files, None for those that are not understood."""
    footers = _footers(storage, files)
    return [
        None if footer is None else _excerpts_of(footer, live, need)
        for live, footer in zip(files, footers, strict=True)
    ]


def _excerpts_of(footer: Footer, live: LiveFile, need: Need) -> list[Excerpt]:
    columns = set(need.of(live))
    wanted = _groups(footer, live, need)
    # The place of a row is that in its excerpt.
    limit = sys.maxsize if need.counts_rows(live) else BATCH_BYTES
    parts: list[list[int]] = []
    size = 0
    for place in wanted:
        size += footer.groups[place].size_of(columns)
        if not parts or size > limit:
            parts.append([])
            size = footer.groups[place].size_of(columns)
        parts[-1].append(place)
    return [footer.excerpt(columns, groups=part) for part in parts]


def _groups(footer: Footer, live: LiveFile, need: Need) -> list[int]:
    """Return the places of the row groups that may hold a needed row."""
    if (predicate := need.predicate_on(live)) is None:
        return list(range(len(footer.groups)))
    statistics = footer.statistics(live.schema, columns=need.columns or live.schema.names())
    kept = may_match(predicate, schema=need.schema, files=statistics)
    return [place for place, keep in enumerate(kept) if keep]


def _footers(storage: Storage, files: Sequence[LiveFile]) -> list[Footer | None]:
    tails = storage.get_ranges([_end(live, TAIL) for live in files]) if files else []
    lengths = [int.from_bytes(tail[-ENDING:-4], "little") + ENDING for tail in tails]
    longer = [at for at, length in enumerate(lengths) if TAIL < length <= min(_LONGEST_FOOTER, files[at].file.bytes)]
    fetched = storage.get_ranges([_end(files[at], lengths[at]) for at in longer]) if longer else []
    for at, tail in zip(longer, fetched, strict=True):
        tails[at] = tail
    return [_footer(tail, length, live) for tail, length, live in zip(tails, lengths, files, strict=True)]


def _end(live: LiveFile, size: int) -> ObjectRange:
    return ObjectRange(live.path, max(0, live.file.bytes - size), live.file.bytes)


def _footer(tail: bytes, length: int, live: LiveFile) -> Footer | None:
    if length > len(tail) or tail[-len(MAGIC) :] != MAGIC:
        return None
    if live.file.footer not in ("", footer_digest(tail[-length:])):
        return None
    try:
        footer = Footer(tail[-length:-ENDING], begin=live.file.bytes - length)
    except MalformedError:
        return None
    return footer if footer.rows == live.file.rows else None
