"""The columns of a data file that the library keeps for itself.

The checksum of a file tells only who reads all of it. So the manifest of a large one also gives, for each column of
each row group, how many bytes it takes and the CRC-32 of these, which is what Parquet has for its pages. That tells
what happens to bytes on disks and wires, not what somebody does to them who may write to the root: such a one can write
another manifest as well.
"""

import struct
import zlib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import polars as pl

from metaxy_fs.errors import CorruptObjectError
from metaxy_fs.log.manifest import MAX_COLUMN_BYTES, DataFile
from metaxy_fs.reserved import COMMIT, ORDINAL, RETIRED, TIME

__all__ = ["COMMIT", "COMMIT_COLUMNS", "ORDINAL", "RETIRED", "TIME"]

COMMIT_COLUMNS: Final = pl.Schema({COMMIT: pl.String(), TIME: pl.Int64(), ORDINAL: pl.UInt32()})
"""The last columns of a file that a compaction has written."""


FIRST_BYTE: Final = 4
"""Where the columns begin, behind the mark that every Parquet file begins with."""

GAP = 2**18
"""Bytes that are not wanted and yet read, where they lie between two that are: less than a request is worth."""
LONGEST = 2**23
"""Bytes that are read at once of columns which lie side by side; more are fetched sooner by several requests."""

_ENTRY = struct.Struct(">II")
_LONGEST_COLUMN = 2**32 - 1


class ColumnChunk(NamedTuple):
    """A column of one row group.

    Attributes:
        column: Its name.
        start: Its first byte.
        end: Where the next one begins, or the footer.
        checksum: The CRC-32 of its bytes.
    """

    column: str
    start: int
    end: int
    checksum: int


class Section(NamedTuple):
    """Bytes that are read at once, and the columns in them that are wanted, in order."""

    start: int
    end: int
    chunks: list[ColumnChunk]


def count_retired(rows: pl.DataFrame) -> int:
    """Return how many rows retire a sample."""
    return int(rows.get_column(RETIRED).sum()) if RETIRED in rows.columns else 0


def described(data: memoryview, starts: Sequence[int], *, end: int) -> bytes:
    """Return what a manifest says of columns, each of which ends where the next begins.

    That is nothing if there are too many, or one is too long.

    Args:
        data: All of the file.
        starts: The first byte of each column, row group by row group.
        end: The byte behind the last column.
    """
    spans = list(pairwise([*starts, end]))
    is_possible = starts[:1] in ([], [FIRST_BYTE]) and len(starts) * _ENTRY.size <= MAX_COLUMN_BYTES
    if not is_possible or any(end - start > _LONGEST_COLUMN for start, end in spans):
        return b""
    return b"".join(_ENTRY.pack(end - start, zlib.crc32(data[start:end])) for start, end in spans)


def row_groups(file: DataFile, names: Sequence[str]) -> list[list[ColumnChunk]]:
    """Return the columns of each row group; of a file whose manifest does not describe them, there are none.

    Args:
        file: What its manifest says of it.
        names: All columns that it has, in their order.
    """
    if len(file.columns) % (_ENTRY.size * len(names)):
        return []
    chunks: list[ColumnChunk] = []
    start = FIRST_BYTE
    for place, (size, checksum) in enumerate(_ENTRY.iter_unpack(file.columns)):
        chunks.append(ColumnChunk(names[place % len(names)], start, start + size, checksum))
        start += size
    is_possible = start < file.bytes
    return [chunks[at : at + len(names)] for at in range(0, len(chunks), len(names))] if is_possible else []


def sections(chunks: Iterable[ColumnChunk]) -> list[Section]:
    """Return what to read of a file to have some columns, given in the order in which they stand."""
    merged: list[Section] = []
    for chunk in chunks:
        last = merged[-1] if merged else None
        if last is not None and chunk.start <= last.end + GAP and chunk.end - last.start <= LONGEST:
            last.chunks.append(chunk)
            merged[-1] = last._replace(end=chunk.end)
        else:
            merged.append(Section(chunk.start, chunk.end, [chunk]))
    return merged


def check_section(data: bytes, section: Section, *, name: str) -> None:
    """Refuse columns that are not those that the manifest describes.

    Args:
        data: The bytes of the section.
        section: Where in the file these are.
        name: What to call the file.

    Raises:
        CorruptObjectError: A column has another checksum.
    """
    view = memoryview(data)
    for column, start, end, checksum in section.chunks:
        if zlib.crc32(view[start - section.start : end - section.start]) != checksum:
            raise CorruptObjectError(
                f"The data file {name} does not have the checksum that its manifest gives for the column {column!r}."
            )
