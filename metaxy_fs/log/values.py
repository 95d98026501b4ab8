"""Look for values that a caller gives among those that are stored, of one column or of several together."""

from functools import reduce
from operator import and_

import polars as pl

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.log.schema import column

_MOST_VALUES = 10_000
"""Of so many values each is compared with the bounds of files; of more, the least and the greatest alone."""


def values_as_stored(values: pl.DataFrame, schema: pl.Schema, *, feature: str) -> pl.DataFrame:
    """Return values in the types that are stored, without those that these cannot hold.

    Args:
        values: What is looked for, without nulls.
        schema: The types of the columns that are stored, among them those of the values.
        feature: Whose columns they are, for messages.

    Raises:
        MetadataSchemaError: A column is of another kind.
    """
    if not values.height or any(schema[name] == pl.Null() for name in values.columns):
        return values.clear()
    for name, dtype in values.schema.items():
        if not _is_alike(dtype, schema[name]):
            raise MetadataSchemaError(
                f"The column '{name}' of feature '{feature}' has the type {schema[name]}, and was looked through for "
                f"values of the type {dtype}. Give ids of the type that is stored.",
                feature=feature,
                column=name,
            )
    casts = {name: column(name).cast(schema[name], strict=False) for name in values.columns}
    holds = [cast.cast(values.schema[name], strict=False) == column(name) for name, cast in casts.items()]
    return values.filter(holds).select(**casts)


def holds_any(values: pl.DataFrame) -> pl.Expr:
    """Return a predicate, of the kind that statistics answer, that holds for all rows that have any of the values."""
    return reduce(and_, map(_is_one_of, values.get_columns()))


def _is_alike(one: pl.DataType, other: pl.DataType) -> bool:
    if isinstance(one, pl.Datetime) and isinstance(other, pl.Datetime):
        return (one.time_zone is None) == (other.time_zone is None)
    return one == other or (one.is_integer() and other.is_integer())


def _is_one_of(values: pl.Series) -> pl.Expr:
    name = column(values.name)
    least, greatest = _ends(values)
    between = name.is_between(least, greatest)
    return between & name.is_in(values.unique().implode()) if values.n_unique() <= _MOST_VALUES else between


def _ends(values: pl.Series) -> list[pl.Expr]:
    """Return the least and the greatest value; a Python datetime has no nanoseconds."""
    dtype = values.dtype
    if isinstance(dtype, pl.Datetime) and dtype.time_unit == "ns":
        numbers = values.to_physical()
        return [pl.lit(end, pl.Int64).cast(dtype) for end in (numbers.min(), numbers.max())]
    return [pl.lit(end, dtype) for end in (values.min(), values.max())]
