"""Keep columns of Polars as columns of a database, without loss: which ones, and how values go there and back.

A struct is a column for each of its fields, and one that says whether the struct is null. A list is JSON. Whatever a
database has no exact type for is an integer or text. Names are those of Polars in lower case, with what is no letter,
digit or underscore replaced, and a number behind them where two columns would have one name: a column that is written
with a type of another kind later is another column of the table.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple, NoReturn

import polars as pl
from sqlalchemy.sql import quoted_name

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.log import column, instance
from metaxy_fs.reserved import NUMBER
from metaxy_fs.reserved import ROW_OF_SCAN as ROW

Kind = Literal["integer", "float", "boolean", "text", "number", "binary", "date", "time", "json"]

Path = tuple[str, ...]
Names = Mapping[tuple[Path, Kind], str]

TYPES: Final[Mapping[Kind, pl.DataType]] = {
    "integer": pl.Int64(),
    "float": pl.Float64(),
    "boolean": pl.Boolean(),
    "text": pl.String(),
    "number": pl.String(),
    "binary": pl.Binary(),
    "date": pl.Date(),
    "time": pl.Datetime("us"),
    "json": pl.String(),
}
"""As what values of a kind are handed to a driver; numbers are integers of 64 bits and more, and decimals, as text."""

_KINDS: Final[Mapping[Any, Kind]] = {
    pl.Boolean: "boolean", pl.Binary: "binary", pl.Date: "date",
    pl.String: "text", pl.Categorical: "text", pl.Enum: "text",
    pl.UInt64: "number", pl.Int128: "number", pl.UInt128: "number", pl.Decimal: "number",
    pl.List: "json", pl.Array: "json",
}  # fmt: skip
_YEARS = (1, 9999)
_LONGEST_NAME = 50


class StoredLeaf(NamedTuple):
    """A column of a table: the path of a field, and its kind.

    A struct is a leaf itself, of the kind "boolean": whether it is there.
    """

    path: Path
    kind: Kind
    dtype: pl.DataType


def leaves_of(schema: pl.Schema) -> list[StoredLeaf]:
    """Return the columns that a table needs for rows of a schema."""
    return [leaf for name, dtype in schema.items() for leaf in _leaves(dtype, (name,))]


def names_of(schemas: Iterable[pl.Schema]) -> dict[tuple[Path, Kind], str]:
    """Return the name of each leaf of some schemas, in the order in which they came; later ones change none of them."""
    names: dict[tuple[Path, Kind], str] = {}
    taken = {NUMBER, ROW}
    for leaf in (leaf for schema in schemas for leaf in leaves_of(schema)):
        if (leaf.path, leaf.kind) not in names:
            base = re.sub(r"[^a-z0-9_]", "_", "__".join(leaf.path).lower())[:_LONGEST_NAME]
            numbered = (f"{base}_{number}" for number in range(2, len(taken) + 3))
            name = next(name for name in (base, *numbered) if name and name not in taken)
            names[leaf.path, leaf.kind] = quoted_name(name, quote=True)  # it may be a word of the language
            taken.add(name)
    return names


def encoded(frame: pl.DataFrame, names: Names) -> pl.DataFrame:
    """Return rows as a driver takes them, with columns of the given names.

    Raises:
        MetadataSchemaError: A column holds a value that would not come back as it is.
    """
    leaves = leaves_of(frame.schema)
    made = frame.select(_encoded(leaf).alias(names[leaf.path, leaf.kind]) for leaf in leaves)
    for path, kind, dtype in leaves:
        name = names[path, kind]
        if kind in ("date", "time") and not made.get_column(name).dt.year().is_between(*_YEARS).all():
            _refuse(path, "it holds a time outside of the years 1 to 9999")
        elif kind == "json" and _holds_floats(dtype):
            again = made.select(_value_of_json(pl.col(name), dtype, path)).to_series()
            if not again.equals(frame.select(_value(path)).to_series(), null_equal=True):
                _refuse(path, "its lists hold NaN or infinity, for which JSON has no number; write nulls instead")
    return made


def decoded(schema: pl.Schema, names: Names) -> list[pl.Expr]:
    """Return the expressions that make columns of a schema of what a driver gives back."""
    return [_decoded(dtype, (name,), names).alias(name) for name, dtype in schema.items()]


def kind_of(dtype: pl.DataType) -> Kind:
    """Return the kind of a type that is neither a struct nor Null."""
    if isinstance(dtype, pl.Datetime):
        return "integer" if dtype.time_unit == "ns" else "time"
    return _KINDS.get(dtype.base_type(), "float" if dtype.is_float() else "integer")


def _leaves(dtype: pl.DataType, path: Path) -> Iterator[StoredLeaf]:
    if isinstance(dtype, pl.Struct):
        yield StoredLeaf(path, "boolean", dtype)
        for field in dtype.fields:
            yield from _leaves(instance(field.dtype), (*path, field.name))
    elif dtype != pl.Null():
        yield StoredLeaf(path, kind_of(dtype), dtype)


def _value(path: Path) -> pl.Expr:
    value = column(path[0])
    for name in path[1:]:
        value = value.struct.field(name)
    return value


def _encoded(leaf: StoredLeaf) -> pl.Expr:
    value = _value(leaf.path)
    match leaf.kind, leaf.dtype:
        case "boolean", pl.Struct():
            return value.is_not_null()
        case "time", pl.Datetime(time_zone=zone):
            utc = value if zone is None else value.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
            return utc.cast(pl.Datetime("us"))
        case "integer", pl.Datetime() | pl.Duration() | pl.Time():
            return value.to_physical()
        case "json", _:
            text = pl.struct(v=value.cast(_json_type(leaf.dtype, leaf.path))).struct.json_encode()
            return pl.when(value.is_not_null()).then(text.str.slice(5).str.head(-1))
    return value.cast(TYPES[leaf.kind])


def _decoded(dtype: pl.DataType, path: Path, names: Names) -> pl.Expr:
    if isinstance(dtype, pl.Struct):
        fields = [
            _decoded(instance(field.dtype), (*path, field.name), names).alias(field.name) for field in dtype.fields
        ]
        there = pl.struct(fields) if fields else pl.lit({}, dtype=dtype)
        return pl.when(pl.col(names[path, "boolean"])).then(there)
    if dtype == pl.Null():
        return pl.lit(None)
    kind = kind_of(dtype)
    value = pl.col(names[path, kind])
    match kind, dtype:
        case "time", pl.Datetime(time_zone=str(zone)):
            return value.dt.replace_time_zone("UTC").dt.convert_time_zone(zone).cast(dtype)
        case "json", _:
            return _value_of_json(value, dtype, path)
    return value.cast(dtype)


def _value_of_json(text: pl.Expr, dtype: pl.DataType, path: Path) -> pl.Expr:
    # The decoder takes objects alone.
    wrapped = pl.lit('{"v":') + text + pl.lit("}")
    return wrapped.str.json_decode(pl.Struct({"v": _json_type(dtype, path)})).struct.field("v").cast(dtype)


def _json_type(dtype: pl.DataType, path: Path) -> pl.DataType:
    """Return the type as which values inside of lists are JSON."""
    match dtype:
        case pl.List() | pl.Array():
            return pl.List(_json_type(instance(dtype.inner), path))
        case pl.Struct():
            return pl.Struct({field.name: _json_type(instance(field.dtype), path) for field in dtype.fields})
        case pl.Null() | pl.Boolean():
            return dtype
        case pl.Date() | pl.Datetime() | pl.Duration() | pl.Time():
            return pl.Int64()
        case pl.Binary():
            _refuse(path, "lists of binary cannot be JSON; encode them as text, such as .bin.encode('base64')")
    kind = kind_of(dtype)
    return dtype if kind == "integer" else TYPES[kind]


def _holds_floats(dtype: pl.DataType) -> bool:
    match dtype:
        case pl.List() | pl.Array():
            return _holds_floats(instance(dtype.inner))
        case pl.Struct():
            return any(_holds_floats(instance(field.dtype)) for field in dtype.fields)
    return dtype.is_float()


def _refuse(path: Path, why: str) -> NoReturn:
    raise MetadataSchemaError(f"The column {'.'.join(path)!r} cannot be kept in a database: {why}.", column=path[0])
