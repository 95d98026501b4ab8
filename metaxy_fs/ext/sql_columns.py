"""Keep columns of Polars as columns of a database, without loss: which ones, and how values go there and back.

A struct is a column for each of its fields, and one that says whether the struct is null. A list is JSON. Whatever a
database has no exact type for is an integer or text. Names are those of Polars in lower case, with what is no letter,
digit or underscore replaced, and a number behind them where two columns would have one name: a column that is written
with a type of another kind later is another column of the table.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, count
from typing import Any, Final, Literal, NamedTuple, NoReturn

import polars as pl
import sqlalchemy as sa

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.log import column, instance
from metaxy_fs.reserved import NUMBER
from metaxy_fs.reserved import ROW_OF_SCAN as ROW

Kind = Literal["integer", "float", "boolean", "text", "number", "binary", "date", "time", "json"]
Path = tuple[str, ...]
Columns = Mapping[tuple[Path, Kind], sa.Column[Any]]

INTEGER: Final = sa.BigInteger()
_FORMS: Final[Mapping[Kind, tuple[pl.DataType, Any]]] = {
    "integer": (pl.Int64(), INTEGER),
    "float": (pl.Float64(), sa.Double()),
    "boolean": (pl.Boolean(), sa.Boolean()),
    "text": (pl.String(), sa.Text().with_variant(sa.Text(collation="C"), "postgresql")),  # in the order of its bytes
    "number": (pl.String(), sa.Text().with_variant(sa.Numeric(), "postgresql")),
    "binary": (pl.Binary(), sa.LargeBinary()),
    "date": (pl.Date(), sa.Date()),
    "time": (pl.Datetime("us"), sa.DateTime()),
    "json": (pl.String(), sa.Text()),
}
"""As what values of a kind go to a database, and its type there; integers of more than 64 bits and decimals as text."""

_KINDS: Final[Mapping[Any, Kind]] = {
    pl.Boolean: "boolean", pl.Binary: "binary", pl.Date: "date",
    pl.String: "text", pl.Categorical: "text", pl.Enum: "text",
    pl.UInt64: "number", pl.Int128: "number", pl.UInt128: "number", pl.Decimal: "number",
    pl.List: "json", pl.Array: "json",
}  # fmt: skip
_YEARS: Final = (1, 9999)
_LONGEST_NAME: Final = 50


class StoredLeaf(NamedTuple):
    """A field that has a column, its kind and its type; a struct is one itself, of the kind "boolean": is it there."""

    path: Path
    kind: Kind
    dtype: pl.DataType


def leaves_of(schema: pl.Schema) -> list[StoredLeaf]:
    """Return what needs a column for rows of a schema."""
    return [leaf for name, dtype in schema.items() for leaf in _leaves(dtype, (name,))]


def columns_of(schemas: Iterable[pl.Schema]) -> dict[tuple[Path, Kind], sa.Column[Any]]:
    """Return the columns for some schemas, in the order in which these came; later ones change none of them."""
    columns: dict[tuple[Path, Kind], sa.Column[Any]] = {}
    taken = {NUMBER, ROW, ""}
    for path, kind, _ in chain.from_iterable(map(leaves_of, schemas)):
        if (path, kind) not in columns:
            base = re.sub(r"[^a-z0-9_]", "_", "__".join(path).lower())[:_LONGEST_NAME]
            numbered = (f"{base}_{number}" for number in count(2))
            name = next(name for name in chain([base], numbered) if name not in taken)
            columns[path, kind] = sa.Column(sa.quoted_name(name, quote=True), _FORMS[kind][1])  # maybe a word of SQL
            taken.add(name)
    return columns


def encoded(frame: pl.DataFrame, columns: Columns) -> pl.DataFrame:
    """Return rows as they go to a database.

    Raises:
        MetadataSchemaError: A column holds a value that would not come back as it is.
    """
    leaves = leaves_of(frame.schema)
    made = frame.select(_encoded(leaf).alias(columns[leaf.path, leaf.kind].name) for leaf in leaves)
    for (path, kind, dtype), values in zip(leaves, made.get_columns(), strict=True):
        if kind in ("date", "time") and not values.dt.year().is_between(*_YEARS).all():
            refuse(path, "it holds a time outside of the years 1 to 9999")
        elif kind == "json":
            again = pl.select(_value_of_json(pl.lit(values), dtype, path)).to_series()
            if not again.equals(frame.select(_value(path)).to_series(), null_equal=True):
                refuse(path, "its lists hold NaN or infinity, for which JSON has no number; write nulls instead")
    return made


def stored_schema(schema: pl.Schema, columns: Columns) -> pl.Schema:
    """Return the columns, as they come from a database, that columns of a schema are made of."""
    return pl.Schema({str(columns[path, kind].name): _FORMS[kind][0] for path, kind, _ in leaves_of(schema)})


def decoded(schema: pl.Schema, columns: Columns) -> list[pl.Expr]:
    """Return the expressions that make columns of a schema of what comes from a database."""
    return [_decoded(dtype, (name,), columns).alias(name) for name, dtype in schema.items()]


def refuse(path: Path, why: str) -> NoReturn:
    """Refuse the values of a column."""
    raise MetadataSchemaError(f"The column {'.'.join(path)!r} cannot be kept in a database: {why}.", column=path[0])


def _leaves(dtype: pl.DataType, path: Path) -> Iterator[StoredLeaf]:
    if isinstance(dtype, pl.Struct):
        yield StoredLeaf(path, "boolean", dtype)
        for field in dtype.fields:
            yield from _leaves(instance(field.dtype), (*path, field.name))
    elif dtype != pl.Null():
        yield StoredLeaf(path, _kind_of(dtype), dtype)


def _kind_of(dtype: pl.DataType) -> Kind:
    if isinstance(dtype, pl.Datetime):
        return "integer" if dtype.time_unit == "ns" else "time"
    return _KINDS.get(dtype.base_type(), "float" if dtype.is_float() else "integer")


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
        case "time", pl.Datetime(time_unit=unit):  # in UTC
            value = value.to_physical().cast(pl.Datetime(unit))
        case "json", _:
            text = pl.struct(v=value.cast(_json_type(leaf.dtype, leaf.path))).struct.json_encode()
            return pl.when(value.is_not_null()).then(text.str.slice(5).str.head(-1))
    return value.cast(_FORMS[leaf.kind][0])


def _decoded(dtype: pl.DataType, path: Path, columns: Columns) -> pl.Expr:
    if isinstance(dtype, pl.Struct):
        fields = [_decoded(instance(each.dtype), (*path, each.name), columns).alias(each.name) for each in dtype.fields]
        there = pl.struct(fields) if fields else pl.lit({}, dtype=dtype)
        return pl.when(pl.col(columns[path, "boolean"].name)).then(there)
    if dtype == pl.Null():
        return pl.lit(None)
    kind = _kind_of(dtype)
    value = pl.col(columns[path, kind].name)
    match kind, dtype:
        case "time", pl.Datetime(time_unit=unit):
            value = value.cast(pl.Datetime(unit)).to_physical()
        case "json", _:
            value = _value_of_json(value, dtype, path)
    return value.cast(dtype)


def _value_of_json(text: pl.Expr, dtype: pl.DataType, path: Path) -> pl.Expr:
    # The decoder takes objects alone.
    wrapped = pl.lit('{"v":') + text + pl.lit("}")
    value = wrapped.str.json_decode(pl.Struct({"v": _json_type(dtype, path)})).struct.field("v")
    return value.cast(dtype, strict=False)  # strictly, Polars takes no null for an array of arrays


def _json_type(dtype: pl.DataType, path: Path) -> pl.DataType:
    """Return the type as which values inside of lists are JSON."""
    match dtype:
        case pl.List() | pl.Array():
            return pl.List(_json_type(instance(dtype.inner), path))
        case pl.Struct():
            return pl.Struct({field.name: _json_type(instance(field.dtype), path) for field in dtype.fields})
        case pl.Date() | pl.Datetime():
            return pl.Int64()
        case pl.Binary():
            refuse(path, "lists of binary cannot be JSON; encode them as text, such as .bin.encode('base64')")
    return dtype if dtype == pl.Null() else _FORMS[_kind_of(dtype)][0]
