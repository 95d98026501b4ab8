"""Cut an excerpt out of a Parquet file: its footer, and the bytes of the wanted columns and row groups.

The footer at its end says where each column of each row group is, and between which bounds its values lie. From the
bytes of some of them an excerpt is made: a Parquet file of the same columns and of fewer row groups, in which the
columns that are not wanted are missing. Whatever a footer says that is not understood, or cannot be, is a
`MalformedError`: the file is then read whole, and found to be damaged, or not.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate, groupby
from typing import Any, NamedTuple

import polars as pl

from metaxy_fs.log.columns import Section
from metaxy_fs.log.schema import Path, instance
from metaxy_fs.log.statistics import ColumnStatistics, FileStatistics
from metaxy_fs.log.thrift import (
    BINARY,
    I32,
    I64,
    LIST,
    STRUCT,
    Field,
    Items,
    MalformedError,
    Struct,
    decode_struct,
    encode_struct,
)

MAGIC = b"PAR1"
ENDING = 8
"""The bytes at the end of a file that tell the length of its footer."""

LONGEST_FOOTER = 2**20
"""A file whose footer is longer is read and checked whole: what it claims is taken apart in Python, byte for byte."""


class Chunk(NamedTuple):
    """A leaf of one row group: its path, where its bytes are, and what the footer says of it."""

    path: Path
    start: int
    end: int
    fields: Struct


class RowGroup(NamedTuple):
    """Rows that are kept together, and their leaves in the order of the schema."""

    rows: int
    chunks: list[Chunk]
    fields: Struct


class Excerpt(NamedTuple):
    """Some row groups and columns of a file.

    Attributes:
        sections: The bytes that it needs, in order.
        footer: What stands at its end.
    """

    sections: Sequence[Section]
    footer: bytes

    @property
    def size(self) -> int:
        """How many bytes it needs."""
        return sum(section.end - section.start for section in self.sections)

    def file(self, parts: Sequence[bytes]) -> bytes:
        """Return it as a Parquet file, given the bytes of each section."""
        return b"".join((MAGIC, *parts, self.footer, len(self.footer).to_bytes(4, "little"), MAGIC))


class Footer:
    """What stands at the end of a data file.

    Args:
        data: Its bytes, without the eight that come after it.
        begin: Where in the file it begins.

    Raises:
        MalformedError: They are not understood.
    """

    def __init__(self, data: bytes, *, begin: int) -> None:
        self._fields = decode_struct(data)
        self._begin = begin
        groups = _items(self._fields, 4)
        self.groups = [self._group(fields) for fields in groups]
        self.rows = sum(group.rows for group in self.groups)
        if _get(self._fields, 3, I64) != self.rows:
            raise MalformedError("the rows of the groups are not those of the file")

    def statistics(self, schema: pl.Schema, *, columns: Collection[str]) -> list[FileStatistics]:
        """Return what is known of some columns in each row group.

        Args:
            schema: The types of all columns.
            columns: The names of those that matter.
        """
        return [FileStatistics(group.rows, schema, tuple(_known(group, schema, columns))) for group in self.groups]

    def columns(self) -> list[list[tuple[str, int]]]:
        """Return the columns of each row group, with the first byte of each; a struct or a list is one column.

        Raises:
            MalformedError: They do not stand in the file one after the other.
        """
        end = len(MAGIC)
        found = []
        for group in self.groups:
            columns: list[tuple[str, int]] = []
            for name, leaves in groupby(group.chunks, key=lambda chunk: chunk.path[0]):
                for place, leaf in enumerate(leaves):
                    if leaf.start < end:
                        raise MalformedError("columns do not stand one after the other")
                    end = leaf.end
                    if place == 0:
                        columns.append((name, leaf.start))
            found.append(columns)
        return found

    def excerpt(self, columns: Collection[str], *, groups: Sequence[int], sections: Sequence[Section]) -> Excerpt:
        """Return some columns of some row groups.

        Args:
            columns: The names of the columns.
            groups: The places of the row groups, ascending.
            sections: Where their bytes are, each column of a row group in one.
        """
        kept = [self.groups[place] for place in groups]
        moves = _Moves(sections)
        fields = {
            **self._fields,
            3: Field(I64, sum(group.rows for group in kept)),
            4: Field(LIST, Items(STRUCT, [_moved(group, columns, moves) for group in kept])),
        }
        return Excerpt(sections, encode_struct(fields))

    def _group(self, fields: Struct) -> RowGroup:
        rows = _get(fields, 3, I64)
        if rows < 0:
            raise MalformedError(f"a row group has {rows} rows")
        return RowGroup(rows, [self._chunk(column) for column in _items(fields, 1)], fields)

    def _chunk(self, fields: Struct) -> Chunk:
        if 1 in fields or {8, 9} & fields.keys():
            raise MalformedError("a column is in another file, or encrypted")
        described = _get(fields, 3, STRUCT)
        names = _get(described, 3, LIST)
        start, size = _get(described, 9, I64), _get(described, 7, I64)
        if 11 in described:
            start = min(start, _get(described, 11, I64))
        if not len(MAGIC) <= start <= start + size <= self._begin:
            raise MalformedError("a column is not where columns can be")
        return Chunk(_path(names), start, start + size, fields)


class _Moves:
    """Where the bytes of some sections of a file are in an excerpt."""

    def __init__(self, sections: Sequence[Section]) -> None:
        self._starts = [section.start for section in sections]
        before = accumulate((section.end - section.start for section in sections), initial=len(MAGIC))
        self._shifts = [at - start for start, at in zip(self._starts, before, strict=False)]

    def shift(self, chunk: Chunk) -> int:
        """Return by how much a chunk moves, which lies in one of the sections."""
        return self._shifts[bisect_right(self._starts, chunk.start) - 1]


def _moved(group: RowGroup, columns: Collection[str], moves: _Moves) -> Struct:
    """Return a row group of an excerpt, without what a reader can do without and would have to be moved too."""
    chunks = [
        _moved_chunk(chunk, moves.shift(chunk)) if chunk.path[0] in columns else _missing_chunk(chunk)
        for chunk in group.chunks
    ]
    kept = {number: field for number, field in group.fields.items() if number not in (5, 6, 7)}
    return {**kept, 1: Field(LIST, Items(STRUCT, chunks))}


def _moved_chunk(chunk: Chunk, shift: int) -> Struct:
    described = {number: field for number, field in chunk.fields[3].value.items() if number not in (10, 14, 15)}
    for number in {9, 11} & described.keys():
        described[number] = Field(I64, described[number].value + shift)
    return {2: Field(I64, chunk.start + shift), 3: Field(STRUCT, described)}


def _missing_chunk(chunk: Chunk) -> Struct:
    described = {number: field for number, field in chunk.fields[3].value.items() if number not in (10, 11, 14, 15)}
    described |= {7: Field(I64, 0), 9: Field(I64, len(MAGIC))}
    return {2: Field(I64, len(MAGIC)), 3: Field(STRUCT, described)}


def _known(group: RowGroup, schema: pl.Schema, columns: Collection[str]) -> Iterator[ColumnStatistics]:
    for chunk in group.chunks:
        if chunk.path[0] in columns and (dtype := _leaf_type(schema, chunk.path)) is not None:
            described = chunk.fields[3].value
            found = described.get(12)
            if found is None or found.kind != STRUCT or 3 not in found.value:
                continue
            physical = _get(described, 1, I32)
            bounds = (_bound(found.value.get(number), physical, dtype) for number in (6, 5))
            yield ColumnStatistics(chunk.path, _get(found.value, 3, I64), *bounds)


def _leaf_type(schema: pl.Schema, path: Path) -> pl.DataType | None:
    """Return the type of a leaf of which bounds can be read; None of others, and of what is in lists."""
    dtype = schema.get(path[0])
    for name in path[1:]:
        fields = dtype.fields if isinstance(dtype, pl.Struct) else []
        dtype = next((instance(field.dtype) for field in fields if field.name == name), None)
    if dtype is None or not (dtype.is_integer() or dtype.is_temporal() or dtype == pl.String()):
        return None
    return dtype


def _bound(field: Field | None, physical: int, dtype: pl.DataType) -> Any:
    """Return a bound as statistics have it; None where it is not sure what the bytes mean."""
    if field is None or field.kind != BINARY:
        return None
    data: bytes = field.value
    if dtype == pl.String():
        try:
            return data.decode() if physical == _BYTE_ARRAY else None
        except UnicodeDecodeError:
            return None
    if len(data) != _SIZES.get(physical):
        return None
    return int.from_bytes(data, "little", signed=not dtype.is_unsigned_integer())


_BYTE_ARRAY = 6
_SIZES = {1: 4, 2: 8}
"""The bytes of an integer by its physical type."""


def _path(names: Items) -> Path:
    if names.kind != BINARY or not names.values:
        raise MalformedError("a column has no name")
    try:
        return tuple(name.decode() for name in names.values)
    except UnicodeDecodeError as error:
        raise MalformedError("the name of a column is no string") from error


def _get(fields: Struct, number: int, kind: int) -> Any:
    field = fields.get(number)
    if field is None or field.kind != kind:
        raise MalformedError(f"field {number} is missing, or of another type")
    return field.value


def _items(fields: Struct, number: int) -> list[Struct]:
    items: Items = _get(fields, number, LIST)
    if items.kind != STRUCT:
        raise MalformedError(f"field {number} holds no structures")
    return items.values
