"""Describe the columns of a data file in its manifest.

A manifest describes dtypes in a vocabulary of its own, so that neither Polars' repr nor its pickles are part of the
format.
"""

from functools import lru_cache
from typing import Annotated, Literal

import msgspec
import polars as pl
import polars.selectors as cs
from polars.datatypes import DataTypeClass

from metaxy_fs.errors import CorruptObjectError, MetadataSchemaError

MAX_DEPTH = 64
MAX_ARRAY_ITEMS = 2**20
MAX_SCHEMA_BYTES = 4 * 1024 * 1024
"""Some hundred thousand columns, which take seconds to make."""

Path = tuple[str, ...]


def encode_schema(schema: pl.Schema) -> bytes:
    """Write a schema as canonical JSON: equal schemas give equal bytes.

    Raises:
        MetadataSchemaError: A column has a type that a data file cannot hold, or there are too many of them.
    """
    for name, dtype in schema.items():
        if reason := unstorable(dtype):
            raise MetadataSchemaError(f"Column {name!r} cannot be stored: {reason}", column=name)
    data = msgspec.json.encode([(name, _write(dtype)) for name, dtype in schema.items()])
    if len(data) > MAX_SCHEMA_BYTES:
        raise MetadataSchemaError(
            f"The names and types of {len(schema)} columns take {len(data)} bytes, more than the {MAX_SCHEMA_BYTES} "
            "that can be stored; shorten the names, or store fewer columns."
        )
    return data


@lru_cache(maxsize=1024)
def decode_schema(data: bytes) -> pl.Schema:
    """Read a schema that `encode_schema` wrote; equal bytes give the same object, which callers must not change.

    Raises:
        CorruptObjectError: The bytes are not a schema, nest too deeply, or hold a name twice or a type Polars refuses.
    """
    if len(data) > MAX_SCHEMA_BYTES:
        raise CorruptObjectError(f"A schema has at most {MAX_SCHEMA_BYTES} bytes, this has {len(data)}")
    try:
        columns = _DECODER.decode(data)
        return pl.Schema(_read_fields(columns, depth=0))
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise CorruptObjectError(f"This is not a schema ({error}): {data[:200]!r}") from error


def unstorable(dtype: pl.DataType) -> str | None:
    """Say why a data file cannot give this type back exactly, and what to cast to; None if it can."""
    return _unstorable(dtype, depth=1, items=1)


def column(name: str) -> pl.Expr:
    """Return the column of exactly this name, also where Polars would read the name as a pattern (`*`, `^a.*$`)."""
    return cs.by_name(name).as_expr() if is_pattern(name) else pl.col(name)


def is_pattern(name: str) -> bool:
    """Ask whether Polars reads a name as a pattern."""
    return name == "*" or (name.startswith("^") and name.endswith("$"))


# How a type is written.

SIMPLE_TYPES: dict[str, pl.DataType] = {
    "int8": pl.Int8(), "int16": pl.Int16(), "int32": pl.Int32(), "int64": pl.Int64(), "int128": pl.Int128(),
    "uint8": pl.UInt8(), "uint16": pl.UInt16(), "uint32": pl.UInt32(), "uint64": pl.UInt64(),
    "float32": pl.Float32(), "float64": pl.Float64(), "boolean": pl.Boolean(),
    "string": pl.String(), "categorical": pl.Categorical(), "binary": pl.Binary(), "null": pl.Null(),
    "date": pl.Date(), "time": pl.Time(),
}  # fmt: skip
# Types that the oldest Polars allowed does not have.
SIMPLE_TYPES |= {name.lower(): getattr(pl, name)() for name in ("Float16", "UInt128") if hasattr(pl, name)}
SIMPLE_NAMES = {dtype.base_type(): name for name, dtype in SIMPLE_TYPES.items()}
_STORABLE = {*SIMPLE_NAMES, pl.List, pl.Array, pl.Struct, pl.Datetime, pl.Duration, pl.Decimal, pl.Enum}

_Unit = Literal["ms", "us", "ns"]


class _Dtype(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """The base of the types that need more than a name."""


class _Datetime(_Dtype, frozen=True, tag="datetime"):
    unit: _Unit
    zone: str | None


class _Duration(_Dtype, frozen=True, tag="duration"):
    unit: _Unit


class _Decimal(_Dtype, frozen=True, tag="decimal"):
    precision: Annotated[int, msgspec.Meta(ge=1, le=38)]
    scale: Annotated[int, msgspec.Meta(ge=0, le=38)]


class _Enum(_Dtype, frozen=True, tag="enum"):
    categories: list[str]


class _List(_Dtype, frozen=True, tag="list"):
    inner: "_Written"


class _Array(_Dtype, frozen=True, tag="array"):
    inner: "_Written"
    width: Annotated[int, msgspec.Meta(ge=0, le=MAX_ARRAY_ITEMS)]


class _StructType(_Dtype, frozen=True, tag="struct"):
    fields: "_Fields"


_Written = str | _Datetime | _Duration | _Decimal | _Enum | _List | _Array | _StructType
_Fields = list[tuple[str, _Written]]
_DECODER = msgspec.json.Decoder(_Fields)


def _write(dtype: pl.DataType) -> _Written:
    written: _Written
    match dtype:
        case pl.Datetime():
            written = _Datetime(dtype.time_unit, dtype.time_zone)
        case pl.Duration():
            written = _Duration(dtype.time_unit)
        case pl.Decimal():
            written = _Decimal(dtype.precision, dtype.scale)
        case pl.Enum():
            written = _Enum(dtype.categories.to_list())
        case pl.List():
            written = _List(_write(instance(dtype.inner)))
        case pl.Array():
            written = _Array(_write(instance(dtype.inner)), dtype.size)
        case pl.Struct():
            written = _StructType([(field.name, _write(instance(field.dtype))) for field in dtype.fields])
        case _:
            written = SIMPLE_NAMES[dtype.base_type()]
    return written


def _read_fields(fields: _Fields, *, depth: int) -> dict[str, pl.DataType]:
    types = {name: _read(written, depth=depth + 1) for name, written in fields}
    if len(types) != len(fields):
        raise msgspec.ValidationError("a name occurs twice")
    return types


def _read(written: _Written, *, depth: int) -> pl.DataType:
    if depth > MAX_DEPTH:
        raise msgspec.ValidationError(f"types nest deeper than {MAX_DEPTH} levels")
    dtype = _build(written, depth)
    if depth == 1 and (reason := unstorable(dtype) or _refusal(dtype)):
        raise msgspec.ValidationError(reason)
    return dtype


def _build(written: _Written, depth: int) -> pl.DataType:
    dtype: pl.DataType
    match written:
        case _Datetime(unit=unit, zone=zone):
            dtype = pl.Datetime(unit, zone)
        case _Duration(unit=unit):
            dtype = pl.Duration(unit)
        case _Decimal(precision=precision, scale=scale):
            dtype = pl.Decimal(precision, scale)
        case _Enum(categories=categories) if len(set(categories)) == len(categories):
            dtype = pl.Enum(categories)
        case _List(inner=inner):
            dtype = pl.List(_read(inner, depth=depth + 1))
        case _Array(inner=inner, width=width):
            dtype = pl.Array(_read(inner, depth=depth + 1), width)
        case _StructType(fields=fields):
            dtype = pl.Struct(_read_fields(fields, depth=depth))
        case str() if written in SIMPLE_TYPES:
            dtype = SIMPLE_TYPES[written]
        case _:
            raise msgspec.ValidationError(f"unknown type {written!r}")
    return dtype


@lru_cache(maxsize=1024)
def _refusal(dtype: pl.DataType) -> str | None:
    """Ask Polars itself whether a type exists: zones and decimals are checked only when a series is made."""
    try:
        made = pl.Series([], dtype=dtype).dtype
    # A panic is no Exception, and whatever Polars makes of a hostile manifest must not end the process.
    except (Exception, pl.exceptions.PanicException) as error:  # noqa: BLE001
        return f"Polars refuses {dtype}: {error}"
    return None if made == dtype else f"Polars turns {dtype} into {made}"


def _unstorable(dtype: pl.DataType, *, depth: int, items: int) -> str | None:
    items *= max(dtype.size, 1) if isinstance(dtype, pl.Array) else 1
    if reason := _unstorable_itself(dtype, depth=depth, items=items):
        return reason
    reasons = (_unstorable(inner, depth=depth + 1, items=items) for inner in _inner_types(dtype))
    return next((reason for reason in reasons if reason), None)


def _unstorable_itself(dtype: pl.DataType, *, depth: int, items: int) -> str | None:
    reason = None
    if depth > MAX_DEPTH:
        reason = f"it nests deeper than {MAX_DEPTH} levels; cast it to String"
    elif isinstance(dtype, pl.Object):
        reason = "Parquet cannot hold Python objects (Object); cast it to String, Binary or a Struct"
    elif isinstance(dtype, pl.Categorical) and dtype != pl.Categorical():
        reason = f"named categories ({dtype}) are not part of the format; cast it to pl.Categorical() or pl.String"
    elif isinstance(dtype, pl.Struct) and not dtype.fields:
        reason = "Parquet cannot hold a Struct without fields; add a field, or cast it to Boolean"
    elif items > MAX_ARRAY_ITEMS:
        reason = f"one value holds more than {MAX_ARRAY_ITEMS} items; cast the Array to List"
    elif dtype.base_type() not in _STORABLE:
        reason = f"{dtype} is not part of the format; cast it to plain types, a map to a List of Structs"
    return reason


def _inner_types(dtype: pl.DataType) -> list[pl.DataType]:
    match dtype:
        case pl.List() | pl.Array():
            return [instance(dtype.inner)]
        case pl.Struct():
            return [instance(field.dtype) for field in dtype.fields]
    return []


def instance(dtype: pl.DataType | DataTypeClass) -> pl.DataType:
    """Turn what Polars accepts in place of a type (`pl.Int64`) into the type (`pl.Int64()`)."""
    return dtype() if isinstance(dtype, DataTypeClass) else dtype


def type_at(schema: pl.Schema, path: Path) -> pl.DataType | None:
    """Return the type of a column or of a field in structs, None if there is no such."""
    dtype = schema.get(path[0])
    for name in path[1:]:
        fields = dtype.fields if isinstance(dtype, pl.Struct) else []
        dtype = next((instance(field.dtype) for field in fields if field.name == name), None)
    return None if dtype is None else instance(dtype)
