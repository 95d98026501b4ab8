"""Data files: how rows become Parquet, what a manifest says of the bytes, and how bytes that were read are checked.

The bytes of a Parquet file up to its footer depend on the rows alone (and on the encoder); the footer carries the
commit's header. So one encoding yields both the file's checksum and a digest of the rows that a retried write can be
recognised by.

The checksum of a file tells only who reads all of it. So the manifest of a large one also gives, for each column of
each row group, how many bytes it takes and the CRC-32 of these, which is what Parquet has for its pages. That tells
what happens to bytes on disks and wires, not what somebody does to them who may write to the root: such a one can write
another manifest as well.
"""

import hashlib
import io
import struct
import zlib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec
import polars as pl

from metaxy_fs.errors import CorruptObjectError
from metaxy_fs.log.chunks import COMMIT_COLUMNS, count_retired
from metaxy_fs.log.footer import ENDING, MAGIC, Footer, MalformedError, count_row_groups
from metaxy_fs.log.manifest import MAX_COLUMN_BYTES, CommitHeader, DataFile
from metaxy_fs.log.statistics import column_statistics, split_points
from metaxy_fs.reserved import COMMIT

FOOTER_KEY = "metaxy_fs"
"""The key of the commit's header among the Parquet footer's key-value metadata."""

ROW_GROUP_ROWS = 2**16
"""Rows that are encoded together, the least that a reader of a local file decodes: of ids in order, a narrow range."""

MAX_ROW_GROUPS = 1_000
"""The most that a reader takes; a file of the largest size has eight."""
_SHORT_FOOTER = 2**16
"""Footers of so many bytes cannot describe row groups by the ten thousands."""

LARGE_BYTES = 2**20
"""From this size on a file is worth reading in part, so its manifest describes its columns."""

_COMPRESSION_LEVEL = 1
"""Hex digests do not shrink further at higher levels of zstd, they only take longer."""

GAP = 2**18
"""Bytes that are not wanted and yet read, where they lie between two that are: less than a request is worth."""
LONGEST = 2**23
"""Bytes that are read at once of columns which lie side by side; more are fetched sooner by several requests."""

_ENTRY = struct.Struct(">II")
_LONGEST_COLUMN = 2**32 - 1


class EncodedFile(NamedTuple):
    """A data file.

    Attributes:
        data: Its bytes.
        entry: Its entry in the manifest.
        pages: The sha256 of its pages, which hold the rows.
        retired: How many of the rows retire a sample.
    """

    data: bytes
    entry: DataFile
    pages: bytes
    retired: int


def encode_rows(rows: pl.DataFrame, *, header: CommitHeader, name: str) -> EncodedFile:
    """Encode the rows of one data file."""
    buffer = io.BytesIO()
    footer = {FOOTER_KEY: msgspec.json.encode(header).decode()}
    rows.write_parquet(
        buffer,
        compression="zstd",
        compression_level=_COMPRESSION_LEVEL,
        row_group_size=ROW_GROUP_ROWS,
        metadata=footer,
    )
    return describe_file(buffer.getvalue(), rows, header=header, name=name)


def describe_file(data: bytes, rows: pl.DataFrame, *, header: CommitHeader, name: str) -> EncodedFile:
    """Return what a manifest says of a data file that holds these rows."""
    pages, whole = checksums(data)
    entry = DataFile(
        name=name,
        rows=rows.height,
        bytes=len(data),
        sha256=whole,
        footer=footer_digest(_footer(data)),
        columns=describe_columns(data, rows.columns) if len(data) >= LARGE_BYTES else b"",
        statistics=column_statistics(
            rows.drop(COMMIT_COLUMNS, strict=False) if COMMIT in rows.columns else rows,
            id_column=header.id_columns[0],
        ),
        split_points=split_points(rows.get_column(header.id_columns[0]), every=ROW_GROUP_ROWS),
    )
    return EncodedFile(data, entry, pages, count_retired(rows))


def describe_columns(data: bytes, names: Sequence[str]) -> bytes:
    """Return what a manifest says of the columns of a file; nothing if they do not stand in it one after the other.

    Args:
        data: All of the file.
        names: The columns.
    """
    begin = len(data) - footer_bytes(data)
    try:
        found = Footer(data[begin:-ENDING], begin=begin).columns()
    except MalformedError:
        return b""
    starts = [start for group in found for _, start in group]
    if any([name for name, _ in group] != list(names) for group in found):
        return b""
    return described(memoryview(data), starts, end=begin)


def checksums(data: bytes) -> tuple[bytes, str]:
    """Return the sha256 of a file's pages, and that of all its bytes in hex digits, at the cost of one."""
    checksum = hashlib.sha256(memoryview(data)[: -footer_bytes(data)])
    pages = checksum.digest()
    checksum.update(_footer(data))
    return pages, checksum.hexdigest()


def footer_digest(footer: bytes | memoryview) -> str:
    """Return what a manifest says of a footer: 16 hex digits, enough against what happens to bytes."""
    return hashlib.sha256(footer).hexdigest()[:16]


def footer_bytes(data: bytes) -> int:
    """Return the size of a footer, whose length stands before the four bytes that close the file."""
    return int.from_bytes(data[-8:-4], "little") + 8


def content_digest(schema: bytes, pages: Iterable[bytes]) -> str:
    """Return the digest of a commit's rows: sha256 over their schema and the sha256 of each file's pages, in order."""
    return hashlib.sha256(schema + b"".join(pages)).hexdigest()


def decode_rows(data: bytes, *, entry: DataFile, name: str) -> pl.DataFrame:
    """Return the rows of a data file that was fetched whole.

    Raises:
        CorruptObjectError: The bytes are not those that the manifest describes.
    """
    check_bytes(data, entry=entry, name=name)
    try:
        return pl.read_parquet(data)
    # A panic is no Exception, and whatever Polars makes of a hostile file must not end the process.
    except (Exception, pl.exceptions.PanicException) as error:
        raise CorruptObjectError(f"The data file {name} is no Parquet file that can be read.") from error


def check_bytes(data: bytes, *, entry: DataFile, name: str) -> None:
    """Refuse the bytes of a data file that are not those that the manifest describes, or cost more than they hold."""
    check_digest(hashlib.sha256(data).hexdigest(), entry=entry, name=name)
    check_row_groups(data, name=name)


def check_row_groups(end: bytes, *, name: str) -> None:
    """Refuse a file of more row groups than any writer makes: each costs a reader as much as many rows.

    Args:
        end: Its last bytes: the whole footer, and what comes after it.
        name: What the message calls it.

    Raises:
        CorruptObjectError: It has too many.
    """
    length = footer_bytes(end)
    if not _SHORT_FOOTER < length <= len(end):
        return
    try:
        groups = count_row_groups(end[-length:-ENDING])
    except MalformedError:  # its reader will say so
        return
    if groups > MAX_ROW_GROUPS:
        raise CorruptObjectError(
            f"The data file {name} has {groups} row groups, more than the {MAX_ROW_GROUPS} that one may have, and "
            "than metaxy_fs writes. Find out who has put it there."
        )


def check_digest(digest: str, *, entry: DataFile, name: str) -> None:
    """Refuse a data file whose bytes have another sha256 than its manifest describes."""
    if digest != entry.sha256:
        raise CorruptObjectError(f"The data file {name} does not have the checksum that its manifest gives.")


def _footer(data: bytes) -> memoryview:
    return memoryview(data)[-footer_bytes(data) :]


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


def described(data: memoryview, starts: Sequence[int], *, end: int) -> bytes:
    """Return what a manifest says of columns, each of which ends where the next begins.

    That is nothing if there are too many, or one is too long.

    Args:
        data: All of the file.
        starts: The first byte of each column, row group by row group.
        end: The byte behind the last column.
    """
    spans = list(pairwise([*starts, end]))
    is_possible = starts[:1] in ([], [len(MAGIC)]) and len(starts) * _ENTRY.size <= MAX_COLUMN_BYTES
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
    start = len(MAGIC)
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


def check_section(data: bytes | memoryview, section: Section, *, name: str) -> None:
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
