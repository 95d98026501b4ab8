"""Encode rows as a Parquet data file, and check one that was read.

The bytes of a Parquet file up to its footer depend on the rows alone (and on the encoder); the footer carries the
commit's header. So one encoding yields both the file's checksum and a digest of the rows that a retried write can be
recognised by.
"""

import hashlib
import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import polars as pl

from metaxy_fs.errors import CorruptObjectError
from metaxy_fs.log.columns import COMMIT, COMMIT_COLUMNS, count_retired, described
from metaxy_fs.log.footer import ENDING, Footer, MalformedError, count_row_groups
from metaxy_fs.log.manifest import CommitHeader, DataFile
from metaxy_fs.log.statistics import column_statistics, split_points

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
    checksum = hashlib.sha256(_pages(data))
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


def _pages(data: bytes) -> memoryview:
    """Return a Parquet file without its footer."""
    return memoryview(data)[: -footer_bytes(data)]


def _footer(data: bytes) -> memoryview:
    return memoryview(data)[-footer_bytes(data) :]
