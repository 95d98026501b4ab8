"""Read the footer of a Parquet file: where its columns are, what is known of their values, and how to list fewer rows.

The footer at the end of a file says where each column of each row group is, and between which bounds its values lie. A
footer that lists some row groups alone, and says of them what it said, is right beside the bytes of these groups, each
at its own place: nothing needs the others.

It is a structure of Thrift's compact protocol, fields by number, each with a type. The bytes come from a shared root:
whatever they say, reading them costs no more than their length. What is not understood, or cannot be, is a
`MalformedError`: the file is then read whole, and found to be damaged, or not.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

import polars as pl

from metaxy_fs.log.schema import Path, type_at
from metaxy_fs.log.statistics import ColumnStatistics, FileStatistics

MAGIC: Final = b"PAR1"
ENDING: Final = 8
"""The bytes at the end of a file that tell the length of its footer."""

LONGEST_FOOTER: Final = 2**20
"""A file whose footer is longer is read and checked whole: what it claims is taken apart in Python, byte for byte."""

_ROWS, _GROUPS = 3, 4
"""The fields of a footer that count its rows, and list its row groups."""

_TRUE, _FALSE, _I32, _I64, _BINARY, _LIST, _STRUCT = 1, 2, 5, 6, 8, 9, 12
_DEEPEST = 16
_LONGEST_VARINT = 10
_MASK = 2**64 - 1

_BYTE_ARRAY = 6
_SIZES = {1: 4, 2: 8}
"""The bytes of an integer by its physical type."""


class MalformedError(Exception):
    """Bytes that are no such structure, or one that is not known here."""


class Chunk(NamedTuple):
    """A leaf of one row group: its path, where its bytes are, and what the footer says of it."""

    path: Path
    start: int
    end: int
    described: "Struct"


class RowGroup(NamedTuple):
    """Rows that are kept together, and their leaves in the order of the schema."""

    rows: int
    chunks: list[Chunk]


class Footer:
    """What stands at the end of a data file.

    Args:
        data: Its bytes, without the eight that come after it.
        begin: Where in the file it begins.

    Raises:
        MalformedError: They are not understood.
    """

    def __init__(self, data: bytes, *, begin: int) -> None:
        self.begin = begin
        self._data = data
        self._fields = decode_struct(data)
        self.groups = [self._group(fields) for fields in _items(self._fields, _GROUPS)]
        self.rows = sum(group.rows for group in self.groups)
        if _get(self._fields, _ROWS, _I64) != self.rows:
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

    def listing(self, groups: Sequence[int]) -> bytes:
        """Return the bytes of a footer that lists these row groups alone, given by their places, ascending."""
        rows, listed = self._fields[_ROWS], self._fields[_GROUPS]
        edges = listed.value.edges
        kept = [self._data[edges[place] : edges[place + 1]] for place in groups]
        changed = sorted(
            [
                (rows.start, _integer(sum(self.groups[place].rows for place in groups)), rows.end),
                (listed.start, _list_head(_STRUCT, len(kept)) + b"".join(kept), listed.end),
            ]
        )
        (start, first, between), (end, second, rest) = changed
        return b"".join((self._data[:start], first, self._data[between:end], second, self._data[rest:]))

    def _group(self, fields: "Struct") -> RowGroup:
        rows = _get(fields, 3, _I64)
        if rows < 0:
            raise MalformedError(f"a row group has {rows} rows")
        return RowGroup(rows, [self._chunk(column) for column in _items(fields, 1)])

    def _chunk(self, fields: "Struct") -> Chunk:
        if 1 in fields or {8, 9} & fields.keys():
            raise MalformedError("a column is in another file, or encrypted")
        described = _get(fields, 3, _STRUCT)
        names = _get(described, 3, _LIST)
        start, size = _get(described, 9, _I64), _get(described, 7, _I64)
        if 11 in described:
            start = min(start, _get(described, 11, _I64))
        if not len(MAGIC) <= start <= start + size <= self.begin:
            raise MalformedError("a column is not where columns can be")
        return Chunk(_path(names), start, start + size, described)


def count_row_groups(data: bytes) -> int:
    """Return how many row groups a footer lists, without reading them; 0 if it lists none.

    Raises:
        MalformedError: The bytes begin with no structure.
    """
    try:
        return _Reader(data).count_of(_GROUPS)
    except IndexError as error:
        raise MalformedError("the bytes end early") from error


def _known(group: RowGroup, schema: pl.Schema, columns: Collection[str]) -> Iterator[ColumnStatistics]:
    for chunk in group.chunks:
        if chunk.path[0] in columns and (dtype := _type_with_bounds(schema, chunk.path)) is not None:
            found = chunk.described.get(12)
            if found is None or found.kind != _STRUCT or 3 not in found.value:
                continue
            physical = _get(chunk.described, 1, _I32)
            bounds = (_bound(found.value.get(number), physical, dtype) for number in (6, 5))
            yield ColumnStatistics(chunk.path, _get(found.value, 3, _I64), *bounds)


def _type_with_bounds(schema: pl.Schema, path: Path) -> pl.DataType | None:
    """Return the type of a leaf of which bounds can be read; None of others, and of what is in lists."""
    dtype = type_at(schema, path)
    if dtype is None or not (dtype.is_integer() or dtype.is_temporal() or dtype == pl.String()):
        return None
    return dtype


def _bound(field: "Field | None", physical: int, dtype: pl.DataType) -> Any:
    """Return a bound as statistics have it; None where it is not sure what the bytes mean."""
    if field is None or field.kind != _BINARY:
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


def _path(names: "Items") -> Path:
    if names.kind != _BINARY or not names.values:
        raise MalformedError("a column has no name")
    try:
        return tuple(name.decode() for name in names.values)
    except UnicodeDecodeError as error:
        raise MalformedError("the name of a column is no string") from error


def _get(fields: "Struct", number: int, kind: int) -> Any:
    field = fields.get(number)
    if field is None or field.kind != kind:
        raise MalformedError(f"field {number} is missing, or of another type")
    return field.value


def _items(fields: "Struct", number: int) -> "list[Struct]":
    items: Items = _get(fields, number, _LIST)
    if items.kind != _STRUCT:
        raise MalformedError(f"field {number} holds no structures")
    return items.values


class Field(NamedTuple):
    """A value, its type, and where its bytes are."""

    kind: int
    value: Any
    start: int
    end: int


Struct = dict[int, Field]
"""The fields of a structure by their numbers."""


class Items(NamedTuple):
    """The values of a list or set, all of one type, and where each begins and the last one ends."""

    kind: int
    values: list[Any]
    edges: list[int]


def decode_struct(data: bytes) -> Struct:
    """Return the structure that the bytes begin with.

    Raises:
        MalformedError: They begin with none.
    """
    try:
        return _Reader(data).struct(depth=0)
    except IndexError as error:
        raise MalformedError("the bytes end early") from error


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def struct(self, *, depth: int) -> Struct:
        if depth > _DEEPEST:
            raise MalformedError("structures are nested too deeply")
        fields: Struct = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            if number in fields:
                raise MalformedError(f"field {number} comes twice")
            start = self._at
            value = None if kind in (_TRUE, _FALSE) else self._value(kind, depth=depth + 1)
            fields[number] = Field(kind, value, start, self._at)
        return fields

    def count_of(self, wanted: int) -> int:
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            if number == wanted and kind == _LIST:
                return self._count()[1]
            if kind not in (_TRUE, _FALSE):
                self._value(kind, depth=1)
        return 0

    def _count(self) -> tuple[int, int]:
        """Return the type of the items that follow, and how many there are."""
        head = self._byte()
        return head & 15, head >> 4 if head >> 4 < 15 else self._varint()

    def _value(self, kind: int, *, depth: int) -> Any:
        match kind:
            case 5 | 6 | 4:  # integers of 32, 64 and 16 bits
                return self._integer()
            case 8:  # bytes
                return self._take(self._varint())
            case 12:
                return self.struct(depth=depth)
            case 9 | 10:  # a list, a set
                return self._items(depth=depth)
            case 1 | 2 | 3:  # true and false as items, a byte
                return self._byte()
            case 7:  # a float
                return self._take(8)
            case _:
                raise MalformedError(f"there is no type {kind} in a footer")

    def _items(self, *, depth: int) -> Items:
        kind, count = self._count()
        # Each item takes a byte at least.
        if count > len(self._data) - self._at or depth > _DEEPEST:
            raise MalformedError(f"a list of {count} items does not fit")
        values, edges = [], [self._at]
        for _ in range(count):
            values.append(self._value(kind, depth=depth + 1))
            edges.append(self._at)
        return Items(kind, values, edges)

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _varint(self) -> int:
        value = 0
        for place in range(_LONGEST_VARINT):
            byte = self._byte()
            value |= (byte & 127) << (7 * place)
            if byte < 128:
                return value & _MASK
        raise MalformedError("an integer is too long")

    def _byte(self) -> int:
        byte = self._data[self._at]
        self._at += 1
        return byte

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise MalformedError(f"a string of {size} bytes does not fit")
        self._at += size
        return self._data[self._at - size : self._at]


def _integer(value: int) -> bytes:
    """Return the bytes of a number that is not negative."""
    return _varint(value << 1)


def _list_head(kind: int, count: int) -> bytes:
    return bytes([min(count, 15) << 4 | kind]) + (_varint(count) if count >= 15 else b"")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
