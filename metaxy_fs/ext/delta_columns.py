"""Keep columns of Polars as columns of a Delta table, without loss: in which types, and under which names.

Delta has fewer types than Polars, and a column keeps its type. So values are stored in a type of Delta that holds all
of their own type, which the record of the commit remembers, and values of another type under the same name have a
column beside it.
"""

from collections.abc import Mapping
from datetime import date
from hashlib import sha256
from typing import Any, Final

import polars as pl

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.log import column
from metaxy_fs.metadata_store import CommitRecord
from metaxy_fs.reserved import NUMBER, ORDINAL, PREFIX

RECORD: Final = f"{PREFIX}record"
"""The record of a commit, JSON, in the last of its rows; null in all others."""
PART: Final = f"{PREFIX}part"
"""The column that tables are partitioned by: whether a row is one of a feature, or holds a record."""
ROWS, RECORDS = "rows", "records"

_DAYS: Final = date(1, 1, 1), date(9999, 12, 31)
_STORED: Final[Mapping[type[pl.DataType], pl.DataType]] = {
    **dict.fromkeys([pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32], pl.Int64()),
    **dict.fromkeys([pl.Duration, pl.Time], pl.Int64()),
    **dict.fromkeys([pl.Float16, pl.Float32, pl.Float64], pl.Float64()),
    **dict.fromkeys([pl.String, pl.Categorical, pl.Enum], pl.String()),
    **dict.fromkeys([pl.Boolean, pl.Null], pl.Boolean()),
    pl.UInt64: pl.Decimal(20, 0),
    pl.Binary: pl.Binary(),
    pl.Date: pl.Date(),
}


def stored(record: CommitRecord, rows: pl.DataFrame, known: pl.Schema) -> pl.DataFrame:
    """Return the rows of a commit as the table keeps them, with the record as the last one.

    Raises:
        MetadataSchemaError: Delta has no type for a column, or no value.
    """
    schema = pl.Schema({name: dtype for name, dtype in rows.schema.items() if dtype != pl.Null()})
    for name, dtype in schema.items():
        try:
            stored_type(dtype)
        except TypeError as error:
            told = f"Column {name!r} cannot be stored: {error}. Cast it, or leave it out."
            raise MetadataSchemaError(told, feature=record.feature, column=name) from None
        if dtype == pl.Date() and not rows[name].drop_nulls().is_between(*_DAYS).all():
            told = f"Column {name!r} cannot be stored: Delta has days from the year 1 to 9999. Store it as text."
            raise MetadataSchemaError(told, feature=record.feature, column=name)
    names = names_of(schema, known)
    made = rows.select(column(name).cast(stored_type(dtype)).alias(names[name]) for name, dtype in schema.items())
    places = pl.int_range(pl.len(), dtype=pl.Int64()).alias(ORDINAL)
    own = pl.DataFrame({RECORD: record.encode().decode(), PART: RECORDS})
    together = pl.concat([made.with_columns(places, pl.lit(ROWS).alias(PART)), own], how="diagonal")
    return together.with_columns(pl.lit(record.number, pl.Int64()).alias(NUMBER))


def names_of(schema: pl.Schema, known: pl.Schema) -> dict[str, str]:
    """Return the column of the table that each column is kept in, given those that there are.

    It has the name of the column, unless another one is spelled so, in capitals or not.
    """
    taken, names = {name.lower(): (name, dtype) for name, dtype in known.items()}, {}
    for name, dtype in schema.items():
        stored = name, stored_type(dtype)
        beside = f"{name}@{sha256(repr(stored).encode()).hexdigest()[:8]}"
        names[name] = name if taken.setdefault(name.lower(), stored) == stored else beside
    return names


def stored_type(dtype: Any) -> pl.DataType:
    """Return the type of Delta that holds each value of a type.

    Raises:
        TypeError: There is none.
    """
    if isinstance(dtype, pl.List | pl.Array):
        return pl.List(stored_type(dtype.inner))
    if isinstance(dtype, pl.Struct) and dtype.fields:
        return pl.Struct({field.name: stored_type(field.dtype) for field in dtype.fields})
    if isinstance(dtype, pl.Datetime):  # Delta counts microseconds
        return pl.Datetime("us", dtype.time_zone and "UTC") if dtype.time_unit == "us" else pl.Int64()
    stored = dtype if isinstance(dtype, pl.Decimal) else _STORED.get(type(dtype))
    if stored is None:
        raise TypeError(f"Delta has no type for {dtype}")
    return stored
