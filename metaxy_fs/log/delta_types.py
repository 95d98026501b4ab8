"""What Delta calls the types of columns, and how it takes statistics of a data file."""

from collections.abc import Callable, Iterable
from datetime import date, timedelta
from typing import Any, Final

import msgspec
import polars as pl

from metaxy_fs.log.manifest import DataFile
from metaxy_fs.log.schema import Path, instance, type_at
from metaxy_fs.log.statistics import Bound, ColumnStatistics

_NAMES: Final[dict[type[pl.DataType], str]] = {
    pl.Int8: "byte",
    pl.Int16: "short",
    pl.Int32: "integer",
    pl.Int64: "long",
    pl.UInt8: "short",
    pl.UInt16: "integer",
    pl.UInt32: "long",
    pl.Float32: "float",
    pl.Float64: "double",
    pl.Boolean: "boolean",
    pl.String: "string",
    pl.Categorical: "string",
    pl.Enum: "string",
    pl.Binary: "binary",
    pl.Date: "date",
}
NAIVE: Final = "timestamp_ntz"
"""Times without a zone, for which readers need a feature of their own."""


def delta_type(dtype: pl.DataType) -> Any:
    """Return a type as a Delta schema writes it, None if Delta has none that holds all of its values."""
    match dtype:
        case pl.Struct():
            fields = [delta_field(field.name, instance(field.dtype)) for field in dtype.fields]
            return None if None in fields else {"type": "struct", "fields": fields}
        case pl.List() | pl.Array():
            inner = delta_type(instance(dtype.inner))
            return None if inner is None else {"type": "array", "elementType": inner, "containsNull": True}
        case pl.Datetime(time_unit="us" | "ms"):
            return "timestamp" if dtype.time_zone else NAIVE
        case pl.Decimal():
            return f"decimal({dtype.precision},{dtype.scale})"
    return _NAMES.get(type(dtype))


def delta_field(name: str, dtype: pl.DataType) -> dict[str, Any] | None:
    """Return a column as a Delta schema writes it, None if Delta has no such type."""
    found = delta_type(dtype)
    return None if found is None else {"name": name, "type": found, "nullable": True, "metadata": {}}


def delta_statistics(file: DataFile, schema: pl.Schema, *, columns: Iterable[str]) -> str:
    """Return the statistics of a file as an entry of a Delta log has them: rows, nulls, and bounds of most types.

    Args:
        file: What the manifest says of it.
        schema: Its own columns.
        columns: Those of the table.
    """
    least: dict[str, Any] = {}
    greatest: dict[str, Any] = {}
    nulls: dict[str, Any] = {}
    wanted = frozenset(columns)
    for leaf in file.statistics:
        if leaf.path[0] in wanted:
            _put(nulls, leaf.path, leaf.nulls)
            if (convert := _converter(type_at(schema, leaf.path))) is not None and _is_bounded(leaf):
                _put(least, leaf.path, _signed(convert(leaf.min), zero=-0.0))
                _put(greatest, leaf.path, _signed(convert(leaf.max), zero=0.0))
    said = {"numRecords": file.rows, "minValues": least, "maxValues": greatest, "nullCount": nulls}
    return msgspec.json.encode(said).decode()


def _is_bounded(leaf: ColumnStatistics) -> bool:
    return leaf.min is not None and leaf.max is not None


def _converter(dtype: pl.DataType | None) -> Callable[[Bound], Any] | None:
    """Return how bounds of a type are written; None if they are left out, as Delta wants times in milliseconds."""
    if dtype == pl.Date():
        return _iso
    return _same if dtype is not None and (dtype.is_integer() or dtype.is_float() or dtype == pl.String()) else None


def _signed(bound: Bound, *, zero: float) -> Bound:
    """Return a bound that engines which order zeros by their signs take for one of both."""
    return zero if isinstance(bound, float) and bound == 0 else bound


def _same(bound: Bound) -> Bound:
    return bound


def _iso(days: Any) -> str | None:
    try:
        return (date(1970, 1, 1) + timedelta(days)).isoformat()
    except (OverflowError, TypeError):  # before the year 1 or after 9999
        return None


def _put(tree: dict[str, Any], path: Path, value: Any) -> None:
    if value is not None:
        for name in path[:-1]:
            tree = tree.setdefault(name, {})
        tree[path[-1]] = value
