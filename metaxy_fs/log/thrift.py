"""Read and write the Thrift structures of a Parquet footer.

They are in Thrift's compact protocol: fields by number, each with a type. What is not known is kept as it is, so a
footer that is read and written again loses nothing. The bytes come from a shared root: whatever they say, reading them
costs no more than their length.
"""

from typing import Any, NamedTuple

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT, UUID = range(1, 14)

_DEEPEST = 16
_LONGEST_VARINT = 10
_MASK = 2**64 - 1


class Field(NamedTuple):
    """A value and its type; of a struct or a list, the value is one of the two below."""

    kind: int
    value: Any


Struct = dict[int, Field]
"""The fields of a struct by their numbers."""


class Items(NamedTuple):
    """The values of a list or set, all of one type."""

    kind: int
    values: list[Any]


class MalformedError(Exception):
    """Bytes that are no such structure, or one that is not known here."""


def decode_struct(data: bytes) -> Struct:
    """Return the struct that the bytes begin with.

    Raises:
        MalformedError: They begin with none.
    """
    try:
        return _Reader(data).struct(depth=0)
    except IndexError as error:
        raise MalformedError("the bytes end early") from error


def count_items(data: bytes, number: int) -> int:
    """Return how many items the list in a field of a struct has, which are not read; 0 if there is no such field.

    Raises:
        MalformedError: The bytes begin with no struct.
    """
    try:
        return _Reader(data).count_of(number)
    except IndexError as error:
        raise MalformedError("the bytes end early") from error


def encode_struct(fields: Struct) -> bytes:
    """Return the bytes of a struct."""
    out = bytearray()
    _write_struct(out, fields)
    return bytes(out)


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
            fields[number] = Field(kind, None if kind in (TRUE, FALSE) else self._value(kind, depth=depth + 1))
        return fields

    def count_of(self, wanted: int) -> int:
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            if number == wanted and kind == LIST:
                return self._count()[1]
            if kind not in (TRUE, FALSE):
                self._value(kind, depth=1)
        return 0

    def _count(self) -> tuple[int, int]:
        """Return the type of the items that follow, and how many there are."""
        head = self._byte()
        return head & 15, head >> 4 if head >> 4 < 15 else self._varint()

    def _value(self, kind: int, *, depth: int) -> Any:
        match kind:
            case 5 | 6 | 4:  # I32, I64, I16
                return self._integer()
            case 8:  # BINARY
                return self._take(self._varint())
            case 12:  # STRUCT
                return self.struct(depth=depth)
            case 9 | 10:  # LIST, SET
                return self._items(depth=depth)
            case 1 | 2 | 3:  # TRUE and FALSE as items, BYTE
                return self._byte()
            case 7:  # DOUBLE
                return self._take(8)
            case _:
                raise MalformedError(f"there is no type {kind} in a footer")

    def _items(self, *, depth: int) -> Items:
        kind, count = self._count()
        # Each item takes a byte at least.
        if count > len(self._data) - self._at or depth > _DEEPEST:
            raise MalformedError(f"a list of {count} items does not fit")
        return Items(kind, [self._value(kind, depth=depth + 1) for _ in range(count)])

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


def _write_struct(out: bytearray, fields: Struct) -> None:
    before = 0
    for number, (kind, value) in sorted(fields.items()):
        step = number - before
        if 0 < step < 16:
            out.append(step << 4 | kind)
        else:
            out.append(kind)
            _write_integer(out, number)
        before = number
        if kind not in (TRUE, FALSE):
            _write_value(out, kind, value)
    out.append(0)


def _write_value(out: bytearray, kind: int, value: Any) -> None:
    match kind:
        case 5 | 6 | 4:  # I32, I64, I16
            _write_integer(out, value)
        case 8:  # BINARY
            _write_varint(out, len(value))
            out += value
        case 12:  # STRUCT
            _write_struct(out, value)
        case 9 | 10:  # LIST, SET
            _write_items(out, value)
        case 7:  # DOUBLE
            out += value
        case _:  # a byte
            out.append(value)


def _write_items(out: bytearray, items: Items) -> None:
    count = len(items.values)
    out.append(min(count, 15) << 4 | items.kind)
    if count >= 15:
        _write_varint(out, count)
    for value in items.values:
        _write_value(out, items.kind, value)


def _write_integer(out: bytearray, value: int) -> None:
    _write_varint(out, (value << 1 ^ value >> 63) & _MASK)


def _write_varint(out: bytearray, value: int) -> None:
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
