"""How are the columns of data files described, and how do files of different schemas become one frame?

A manifest describes dtypes in a vocabulary of its own, so that neither Polars' repr nor its pickles are part of the
format. Files that were written years apart are read as one frame: every column gets the narrowest type that holds all
of its values exactly. Types are joined all at once, not two by two, so the answer does not depend on the order of the
files; a widening that could change a value is a conflict, which `unify` reports with the names of both files.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import polars as pl
import polars.selectors as cs
from polars.datatypes import DataTypeClass

from metaxy_fs.errors import CorruptObjectError, MetadataSchemaError

MAX_DEPTH = 64
MAX_ARRAY_ITEMS = 2**20

Path = tuple[str, ...]
IsExact = Callable[[Path], bool]
"""Whether the integers at a path of one file are proven to lie within +-2**53, and so survive a cast to Float64."""

FileSchema = tuple[str, pl.Schema, IsExact]
"""The name of a file for messages, its schema, and what is proven of its integers."""


def encode_schema(schema: pl.Schema) -> bytes:
    """Write a schema as canonical JSON: equal schemas give equal bytes.

    Raises:
        MetadataSchemaError: A column has a type that a data file cannot hold.
    """
    for name, dtype in schema.items():
        if reason := unstorable(dtype):
            raise MetadataSchemaError(f"Column {name!r} cannot be stored: {reason}")
    return msgspec.json.encode([(name, _write(dtype)) for name, dtype in schema.items()])


@lru_cache(maxsize=1024)
def decode_schema(data: bytes) -> pl.Schema:
    """Read a schema that `encode_schema` wrote; equal bytes give the same object, which callers must not change.

    Raises:
        CorruptObjectError: The bytes are not a schema, nest too deeply, or hold a name twice or a type Polars refuses.
    """
    try:
        columns = _DECODER.decode(data)
        return pl.Schema(_read_fields(columns, depth=0))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise CorruptObjectError(f"This is not a schema ({error}): {data[:200]!r}") from error


def unstorable(dtype: pl.DataType) -> str | None:
    """Say why a data file cannot give this type back exactly, and what to cast to; None if it can."""
    return _unstorable(dtype, depth=1, items=1)


def widen(left: pl.DataType, right: pl.DataType) -> pl.DataType | None:
    """Return the narrowest type that holds every value of both exactly, or None if there is none."""
    return _join([left, right], lambda _index, _path: False, ())


def unify(files: Iterable[FileSchema], *, columns: Collection[str] | None = None) -> pl.Schema:
    """Return the schema in which all files can be read as one frame, columns in order of first appearance.

    The types depend on the set of files only, not on their order.

    Args:
        files: One entry a file; its third part is asked only where 64-bit integers meet floats.
        columns: Look at these columns alone; a conflict in another one does no harm.

    Raises:
        MetadataSchemaError: No type holds some column of all files exactly.
    """
    wanted = None if columns is None else frozenset(columns)
    variants: dict[str, dict[pl.DataType, list[FileSchema]]] = {}
    for members in _equal_schemas(files):
        for name, dtype in members[0][1].items():
            if wanted is None or name in wanted:
                variants.setdefault(name, {}).setdefault(dtype, []).extend(members)
    return pl.Schema({name: _column_type(name, by_dtype) for name, by_dtype in variants.items()})


def conform(frame: pl.LazyFrame, *, source: pl.Schema, target: pl.Schema) -> pl.LazyFrame:
    """Bring a frame of one schema into a wider one: columns that it lacks are null, all are ordered as in `target`.

    A null struct stays null. Casts are checked: a time that a finer unit cannot hold fails the query, it never wraps.
    """
    if list(source.items()) == list(target.items()):
        return frame
    added = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in target.items() if name not in source]
    kept = {name: _conformed(column(name), source[name], target[name]) for name in target if name in source}
    present = [expression.alias(name) for name, expression in kept.items() if source[name] != target[name]]
    return frame.with_columns(*added, *present).select(column(name) for name in target)


def column(name: str) -> pl.Expr:
    """Return the column of exactly this name, also where Polars would read the name as a pattern (`*`, `^a.*$`)."""
    return cs.by_name(name).as_expr() if is_pattern(name) else pl.col(name)


def is_pattern(name: str) -> bool:
    """Ask whether Polars reads a name as a pattern."""
    return name == "*" or (name.startswith("^") and name.endswith("$"))


# How a type is written.

_SIMPLE: dict[str, pl.DataType] = {
    "int8": pl.Int8(), "int16": pl.Int16(), "int32": pl.Int32(), "int64": pl.Int64(), "int128": pl.Int128(),
    "uint8": pl.UInt8(), "uint16": pl.UInt16(), "uint32": pl.UInt32(), "uint64": pl.UInt64(),
    "float32": pl.Float32(), "float64": pl.Float64(), "boolean": pl.Boolean(),
    "string": pl.String(), "categorical": pl.Categorical(), "binary": pl.Binary(), "null": pl.Null(),
    "date": pl.Date(), "time": pl.Time(),
}  # fmt: skip
# Types that the oldest Polars allowed does not have.
_SIMPLE |= {name.lower(): getattr(pl, name)() for name in ("Float16", "UInt128") if hasattr(pl, name)}
_SIMPLE_NAMES = {dtype.base_type(): name for name, dtype in _SIMPLE.items()}
_STORABLE = {*_SIMPLE_NAMES, pl.List, pl.Array, pl.Struct, pl.Datetime, pl.Duration, pl.Decimal, pl.Enum}

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


class _Struct(_Dtype, frozen=True, tag="struct"):
    fields: "_Fields"


_Written = str | _Datetime | _Duration | _Decimal | _Enum | _List | _Array | _Struct
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
            written = _Struct([(field.name, _write(instance(field.dtype))) for field in dtype.fields])
        case _:
            written = _SIMPLE_NAMES[dtype.base_type()]
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
        case _Struct(fields=fields):
            dtype = pl.Struct(_read_fields(fields, depth=depth))
        case str() if written in _SIMPLE:
            dtype = _SIMPLE[written]
        case _:
            raise msgspec.ValidationError(f"unknown type {written!r}")
    return dtype


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


# How types are joined.


class _Part(NamedTuple):
    """A type that is to be joined with others, and which variant of the column it stems from."""

    variant: int
    dtype: pl.DataType


_IsExactIn = Callable[[int, Path], bool]
_FLOAT_DIGITS = {"float16": 11, "float32": 24, "float64": 53}
_DIGITS = {_SIMPLE[name]: digits for name, digits in _FLOAT_DIGITS.items() if name in _SIMPLE}
_UNITS = ("ms", "us", "ns")


def _equal_schemas(files: Iterable[FileSchema]) -> list[list[FileSchema]]:
    """Group files by schema: nearly all share one object, so identity is tried before equality."""
    by_identity: dict[int, list[FileSchema]] = {}
    for file in files:
        by_identity.setdefault(id(file[1]), []).append(file)
    by_value: dict[tuple[tuple[str, pl.DataType], ...], list[FileSchema]] = {}
    for members in by_identity.values():
        by_value.setdefault(tuple(members[0][1].items()), []).extend(members)
    return list(by_value.values())


def _column_type(name: str, by_dtype: dict[pl.DataType, list[FileSchema]]) -> pl.DataType:
    dtypes = list(by_dtype)
    members = list(by_dtype.values())

    def is_exact(variant: int, path: Path) -> bool:
        return all(file_is_exact(path) for _, _, file_is_exact in members[variant])

    if (joined := _join(dtypes, is_exact, (name,))) is not None:
        return joined
    left, right = _conflict(dtypes, is_exact, name)
    raise MetadataSchemaError(
        f"Column {name!r} is {dtypes[left]} in {members[left][0][0]!r} but {dtypes[right]} in {members[right][0][0]!r},"
        f" and no type holds the values of both exactly. Read with `columns=` that leave {name!r} out, or write one of "
        "them anew."
    )


def _conflict(dtypes: Sequence[pl.DataType], is_exact: _IsExactIn, name: str) -> tuple[int, int]:
    """Return two variants that do not go together; where each two of them do, the first that breaks the whole."""
    pairs = [(left, right) for right in range(len(dtypes)) for left in range(right)]
    for left, right in pairs:
        parts = [_Part(left, dtypes[left]), _Part(right, dtypes[right])]
        if _join_parts(parts, is_exact, (name,)) is None:
            return left, right
    return pairs[-1]


def _join(dtypes: Sequence[pl.DataType], is_exact: _IsExactIn, path: Path) -> pl.DataType | None:
    return _join_parts([_Part(index, dtype) for index, dtype in enumerate(dtypes)], is_exact, path)


def _join_parts(parts: Sequence[_Part], is_exact: _IsExactIn, path: Path) -> pl.DataType | None:
    parts = [part for part in parts if part.dtype != pl.Null()]
    dtypes = list(dict.fromkeys(part.dtype for part in parts))
    if len(dtypes) < 2:
        return instance(dtypes[0]) if dtypes else pl.Null()
    if all(dtype.is_integer() or dtype.is_float() for dtype in dtypes):
        return _join_numbers(parts, is_exact, path)
    if all(isinstance(dtype, (pl.String, pl.Categorical, pl.Enum)) for dtype in dtypes):
        return pl.String()
    if len({dtype.base_type() for dtype in dtypes}) > 1:
        return None
    return _join_alike(parts, is_exact, path)


def _join_alike(parts: Sequence[_Part], is_exact: _IsExactIn, path: Path) -> pl.DataType | None:
    """Join types that differ only in their parameters: a unit, a zone, a precision, what is inside."""
    dtypes = [part.dtype for part in parts]
    match dtypes[0]:
        case pl.Datetime() | pl.Duration():
            return _join_units(dtypes)
        case pl.Decimal():
            return _join_decimals(dtypes)
        case pl.List() | pl.Array():
            return _join_lists(parts)
        case pl.Struct():
            return _join_structs(parts, is_exact, path)
    return None


def _join_numbers(parts: Sequence[_Part], is_exact: _IsExactIn, path: Path) -> pl.DataType | None:
    integers = [part for part in parts if part.dtype.is_integer()]
    floats = [_DIGITS[part.dtype] for part in parts if part.dtype.is_float()]
    if not floats:
        return _join_integers([part.dtype for part in integers])
    if not all(_digits(part.dtype) <= 53 or is_exact(part.variant, path) for part in integers):
        return None
    needed = max([min(_digits(part.dtype), 53) for part in integers] + floats)
    return next(dtype for dtype, held in _DIGITS.items() if held >= needed)


def _join_integers(dtypes: Sequence[pl.DataType]) -> pl.DataType | None:
    signed = [_digits(dtype) + 1 for dtype in dtypes if dtype.is_signed_integer()]
    unsigned = [_digits(dtype) for dtype in dtypes if dtype.is_unsigned_integer()]
    if not signed:
        return _SIMPLE[f"uint{max(unsigned)}"]
    return _SIMPLE.get(f"int{max(signed + [2 * bits for bits in unsigned])}")


def _digits(dtype: pl.DataType) -> int:
    """Return how many binary digits the magnitude of an integer type has."""
    bits = int(_SIMPLE_NAMES[dtype.base_type()].removeprefix("u").removeprefix("int"))
    return bits - 1 if dtype.is_signed_integer() else bits


def _join_units(dtypes: Sequence[Any]) -> pl.DataType | None:
    unit = max((dtype.time_unit for dtype in dtypes), key=_UNITS.index)
    if isinstance(dtypes[0], pl.Duration):
        return pl.Duration(unit)
    zones = {dtype.time_zone for dtype in dtypes}
    return pl.Datetime(unit, zones.pop()) if len(zones) == 1 else None


def _join_decimals(dtypes: Sequence[Any]) -> pl.DataType | None:
    scale = max(dtype.scale for dtype in dtypes)
    precision = max(dtype.precision - dtype.scale for dtype in dtypes) + scale
    return pl.Decimal(precision, scale) if precision <= 38 else None


def _join_lists(parts: Sequence[_Part]) -> pl.DataType | None:
    dtypes: list[Any] = [part.dtype for part in parts]
    widths = {getattr(dtype, "size", None) for dtype in dtypes}
    inner = [_Part(part.variant, instance(dtype.inner)) for part, dtype in zip(parts, dtypes, strict=True)]
    # Items of lists have no statistics, so nothing is proven of their integers.
    joined = _join_parts(inner, lambda _index, _path: False, ())
    if joined is None or len(widths) > 1:
        return None
    width = widths.pop()
    return pl.List(joined) if width is None else pl.Array(joined, width)


def _join_structs(parts: Sequence[_Part], is_exact: _IsExactIn, path: Path) -> pl.DataType | None:
    fields: dict[str, list[_Part]] = {}
    for variant, dtype in parts:
        for field in dtype.fields:  # type: ignore[attr-defined]  # only structs come here
            fields.setdefault(field.name, []).append(_Part(variant, instance(field.dtype)))
    joined = {name: _join_parts(found, is_exact, (*path, name)) for name, found in fields.items()}
    if any(dtype is None for dtype in joined.values()):
        return None
    return pl.Struct({name: dtype for name, dtype in joined.items() if dtype is not None})


# How a column is brought into the joined type.


def _conformed(value: pl.Expr, source: pl.DataType, target: pl.DataType) -> pl.Expr:
    if source == target:
        return value
    match source, target:
        case pl.Struct(), pl.Struct():
            return _conformed_struct(value, source, target)
        case pl.List(), pl.List():
            return value.list.eval(_conformed(pl.element(), instance(source.inner), instance(target.inner)))
        case pl.Array(), pl.Array():
            return value.arr.eval(_conformed(pl.element(), instance(source.inner), instance(target.inner)))
    return value.cast(target)


def _conformed_struct(value: pl.Expr, source: pl.Struct, target: pl.Struct) -> pl.Expr:
    # Fields are taken by position, under names that are no pattern, because a field may be called "*".
    numbered = value.struct.rename_fields([str(index) for index in range(len(source.fields))])
    positions = {field.name: index for index, field in enumerate(source.fields)}
    types = {field.name: instance(field.dtype) for field in source.fields}
    fields = [
        _conformed(numbered.struct.field(str(positions[field.name])), types[field.name], instance(field.dtype))
        if field.name in types
        else pl.lit(None, dtype=field.dtype)
        for field in target.fields
    ]
    struct = pl.struct(expression.alias(field.name) for expression, field in zip(fields, target.fields, strict=True))
    return pl.when(value.is_not_null()).then(struct)
