"""Write a footer that no writer would: what was read of a real one, with other values."""

from typing import Any

from metaxy_fs.log.footer import Field, Items, Struct

I32, I64, LIST = 5, 6, 9


def field(kind: int, value: Any) -> Field:
    """A value that was not read anywhere."""
    return Field(kind, value, 0, 0)


def encode_struct(fields: Struct) -> bytes:
    """Return the bytes of a struct."""
    out = bytearray()
    _write_struct(out, fields)
    return bytes(out)


def _write_struct(out: bytearray, fields: Struct) -> None:
    before = 0
    for number, (kind, value, *_) in sorted(fields.items()):
        step = number - before
        if 0 < step < 16:
            out.append(step << 4 | kind)
        else:
            out.append(kind)
            _write_integer(out, number)
        before = number
        if kind not in (1, 2):
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
    _write_varint(out, (value << 1 ^ value >> 63) & (2**64 - 1))


def _write_varint(out: bytearray, value: int) -> None:
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
