"""Find one schema for files of different schemas, and bring each file to it.

Files that were written years apart are read as one frame: every column gets the narrowest type that holds all of its
values exactly. Types are joined all at once, not two by two, so the answer does not depend on the order of the files;
a widening that could change a value is a conflict, which `unify` reports with the names of both files.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import polars as pl

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.log.schema import SIMPLE_NAMES, SIMPLE_TYPES, Path, column, instance

IsExact = Callable[[Path], bool]
"""Whether the integers at a path of one file are proven to lie within +-2**53, and so survive a cast to Float64."""

FileSchema = tuple[str, pl.Schema, IsExact]
"""The name of a file for messages, its schema, and what is proven of its integers."""


def unproven(_path: Path) -> bool:
    """Tell that nothing is proven of integers."""
    return False


def widen(left: pl.DataType, right: pl.DataType) -> pl.DataType | None:
    """Return the narrowest type that holds every value of both exactly, or None if there is none."""
    return _join([left, right], lambda _index, _path: False, ())


def join(dtypes: Sequence[pl.DataType], *, name: str, is_exact: IsExact) -> pl.DataType | None:
    """Return the narrowest type of a column that holds every value of all types exactly, or None if there is none.

    Args:
        dtypes: The types.
        name: The column.
        is_exact: Asked where 64-bit integers meet floats, of all types at once.
    """
    return _join(dtypes, lambda _index, path: is_exact(path), (name,))


def wide_integers(schema: pl.Schema) -> list[Path]:
    """Return the leaves of a schema whose integers a Float64 may not hold exactly."""
    return [path for name, dtype in schema.items() for path in _wide_integers(dtype, (name,))]


def _wide_integers(dtype: pl.DataType, path: Path) -> Iterator[Path]:
    if isinstance(dtype, pl.Struct):
        for field in dtype.fields:
            yield from _wide_integers(instance(field.dtype), (*path, field.name))
    elif dtype.is_integer() and _digits(dtype) > 53:
        yield path


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


def differ_in_order_alone(left: pl.Schema, right: pl.Schema) -> bool:
    """Whether two schemas have the same columns, and these the same fields, in whichever order."""
    columns = [{name: _in_one_order(dtype) for name, dtype in schema.items()} for schema in (left, right)]
    return columns[0] == columns[1]


def _in_one_order(dtype: pl.DataType) -> pl.DataType:
    match dtype:
        case pl.Struct():
            fields = {field.name: _in_one_order(instance(field.dtype)) for field in dtype.fields}
            return pl.Struct(dict(sorted(fields.items())))
        case pl.List():
            return pl.List(_in_one_order(instance(dtype.inner)))
        case pl.Array():
            return pl.Array(_in_one_order(instance(dtype.inner)), dtype.size)
    return dtype


class _TypeVariant(NamedTuple):
    """A type that is to be joined with others, and which variant of the column it stems from."""

    variant: int
    dtype: pl.DataType


_IsExactIn = Callable[[int, Path], bool]
_FLOAT_DIGITS = {"float16": 11, "float32": 24, "float64": 53}
_DIGITS = {SIMPLE_TYPES[name]: digits for name, digits in _FLOAT_DIGITS.items() if name in SIMPLE_TYPES}
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
        "them anew.",
        column=name,
    )


def _conflict(dtypes: Sequence[pl.DataType], is_exact: _IsExactIn, name: str) -> tuple[int, int]:
    """Return two variants that do not go together; where each two of them do, the first that breaks the whole."""
    pairs = [(left, right) for right in range(len(dtypes)) for left in range(right)]
    for left, right in pairs:
        parts = [_TypeVariant(left, dtypes[left]), _TypeVariant(right, dtypes[right])]
        if _join_parts(parts, is_exact, (name,)) is None:
            return left, right
    return pairs[-1]


def _join(dtypes: Sequence[pl.DataType], is_exact: _IsExactIn, path: Path) -> pl.DataType | None:
    return _join_parts([_TypeVariant(index, dtype) for index, dtype in enumerate(dtypes)], is_exact, path)


def _join_parts(parts: Sequence[_TypeVariant], is_exact: _IsExactIn, path: Path) -> pl.DataType | None:
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


def _join_alike(parts: Sequence[_TypeVariant], is_exact: _IsExactIn, path: Path) -> pl.DataType | None:
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


def _join_numbers(parts: Sequence[_TypeVariant], is_exact: _IsExactIn, path: Path) -> pl.DataType | None:
    integers = [part for part in parts if part.dtype.is_integer()]
    floats = [_DIGITS[part.dtype] for part in parts if part.dtype.is_float()]
    if not floats:
        return _join_integers([part.dtype for part in integers])
    if not all(_digits(part.dtype) <= 53 or is_exact(part.variant, path) for part in integers):
        return None
    needed = max([min(_digits(part.dtype), 53) for part in integers] + floats)
    return next(dtype for dtype, digits in _DIGITS.items() if digits >= needed)


def _join_integers(dtypes: Sequence[pl.DataType]) -> pl.DataType | None:
    signed = [_digits(dtype) + 1 for dtype in dtypes if dtype.is_signed_integer()]
    unsigned = [_digits(dtype) for dtype in dtypes if dtype.is_unsigned_integer()]
    if not signed:
        return SIMPLE_TYPES[f"uint{max(unsigned)}"]
    return SIMPLE_TYPES.get(f"int{max(signed + [2 * bits for bits in unsigned])}")


def _digits(dtype: pl.DataType) -> int:
    """Return how many binary digits the magnitude of an integer type has."""
    bits = int(SIMPLE_NAMES[dtype.base_type()].removeprefix("u").removeprefix("int"))
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


def _join_lists(parts: Sequence[_TypeVariant]) -> pl.DataType | None:
    dtypes: list[Any] = [part.dtype for part in parts]
    widths = {getattr(dtype, "size", None) for dtype in dtypes}
    inner = [_TypeVariant(part.variant, instance(dtype.inner)) for part, dtype in zip(parts, dtypes, strict=True)]
    # Items of lists have no statistics, so nothing is proven of their integers.
    joined = _join_parts(inner, lambda _index, _path: False, ())
    if joined is None or len(widths) > 1:
        return None
    width = widths.pop()
    return pl.List(joined) if width is None else pl.Array(joined, width)


def _join_structs(parts: Sequence[_TypeVariant], is_exact: _IsExactIn, path: Path) -> pl.DataType | None:
    fields: dict[str, list[_TypeVariant]] = {}
    for variant, dtype in parts:
        for field in dtype.fields:  # type: ignore[attr-defined]  # only structs come here
            fields.setdefault(field.name, []).append(_TypeVariant(variant, instance(field.dtype)))
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
