"""Frames, types and predicates that a store should survive.

Hypothesis strategies for property tests of stores and of what is built on them. They lean towards the values that
break things: NaN, infinities and the negative zero, empty and very long strings, characters beyond the basic plane,
the ends of integer types, nulls at every level.
"""

import operator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any

import polars as pl
from hypothesis import reject
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from polars.datatypes import DataTypeClass

ZONES = (None, "UTC", "Europe/Berlin")
UNITS = ("ms", "us", "ns")

_INTEGERS = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64)
_PLAIN = (*_INTEGERS, pl.Float32, pl.Float64, pl.Boolean, pl.String, pl.Date, pl.Time, pl.Null)
_NAMES = ("a", "b", "c", "d")


def dtypes(*, nested: bool = True) -> SearchStrategy[pl.DataType]:
    """Draw a type that a data file can hold.

    Args:
        nested: Draw lists, arrays and structs too, a few levels deep; else only types without others inside.
    """
    leaves = st.one_of(_leaf_types(), _rare_types())
    return st.recursive(leaves, _nested_types, max_leaves=4) if nested else leaves


@cache
def values(dtype: Any) -> SearchStrategy[Any]:
    """Draw a value of a type that `dtypes` draws, as Python sees it, or None."""
    dtype = dtype() if isinstance(dtype, DataTypeClass) else dtype
    return st.one_of(_some_value(dtype), st.none())


@st.composite
def frames(draw: st.DrawFn, *, schema: pl.Schema | None = None, min_rows: int = 0, max_rows: int = 12) -> pl.DataFrame:
    """Draw a frame.

    Args:
        draw: Given by Hypothesis.
        schema: The columns; those of `schemas()` if left out.
        min_rows: The least number of rows.
        max_rows: The greatest number of rows.
    """
    schema = draw(schemas()) if schema is None else schema
    rows = draw(st.integers(min_rows, max_rows))
    columns = [draw(_columns(name, dtype, rows)) for name, dtype in schema.items()]
    return pl.DataFrame(columns)


@st.composite
def schemas(draw: st.DrawFn, *, max_columns: int = 4) -> pl.Schema:
    """Draw the names and types of one to four columns: leaves, and structs of leaves."""
    names = draw(st.lists(st.sampled_from(_NAMES), min_size=1, max_size=max_columns, unique=True))
    return pl.Schema({name: draw(st.one_of(_leaf_types(), _structs_of(_leaf_types()))) for name in names})


def predicates(schema: pl.Schema) -> SearchStrategy[pl.Expr]:
    """Draw a boolean expression on the columns of a schema whose types `frames` draws.

    Literals are drawn as the values are, so many lie at the ends of what a frame holds.
    """
    leaves = [_predicates_on(leaf, dtype) for leaf, dtype in _leaves(schema)]
    simple = st.one_of(
        *leaves, st.sampled_from([pl.lit(value=True), pl.lit(value=False), pl.lit(None, dtype=pl.Boolean)])
    )
    return st.recursive(simple, _combined, max_leaves=4)


def _combined(inner: SearchStrategy[pl.Expr]) -> SearchStrategy[pl.Expr]:
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.builds(operator.invert, inner),
        st.builds(operator.and_, inner, inner),
        st.builds(operator.or_, inner, inner),
        st.builds(operator.xor, inner, inner),
        st.builds(pl.all_horizontal, several),
        st.builds(pl.any_horizontal, several),
    )


def _predicates_on(leaf: pl.Expr, dtype: pl.DataType) -> SearchStrategy[pl.Expr]:
    nulls = st.sampled_from([leaf.is_null(), leaf.is_not_null()])
    if dtype == pl.Null():
        return nulls
    literal = _literals(dtype)
    compared = [
        st.builds(lambda name, value: getattr(leaf, name)(value), st.sampled_from(_COMPARISONS), literal),
        st.builds(lambda name, value: getattr(value, name)(leaf), st.sampled_from(_COMPARISONS), literal),
        st.builds(leaf.is_between, literal, literal, _CLOSED),
        st.builds(lambda items, equal: leaf.is_in(items, nulls_equal=equal), _item_lists(dtype), st.booleans()),
    ]
    if dtype == pl.String():
        compared.append(st.builds(leaf.str.starts_with, _texts(max_size=3)))
    if dtype == pl.Boolean():
        compared.append(st.just(leaf))
    return st.one_of(nulls, *compared)


_COMPARISONS = ("eq", "ne", "gt", "ge", "lt", "le", "eq_missing", "ne_missing")
_CLOSED = st.sampled_from(["both", "left", "right", "none"])


@cache
def _literals(dtype: pl.DataType) -> SearchStrategy[pl.Expr]:
    typed = st.builds(lambda value: pl.lit(pl.Series([value], dtype=dtype)), values(dtype))
    if dtype.is_numeric():
        # Types other than the column's, which Polars casts before it compares.
        return st.one_of(typed, st.builds(pl.lit, st.one_of(_numbers(), st.integers(-3, 3), st.floats(width=32))))
    plain = dtype in (pl.String, pl.Boolean, pl.Date, pl.Time, pl.Datetime("us"), pl.Duration("us"))
    return st.one_of(typed, st.builds(pl.lit, values(dtype))) if plain else typed


def _item_lists(dtype: pl.DataType) -> SearchStrategy[pl.Expr]:
    return st.builds(
        lambda items: pl.lit(pl.Series([items], dtype=pl.List(dtype))), st.lists(values(dtype), max_size=4)
    )


def _leaves(schema: pl.Schema) -> list[tuple[pl.Expr, pl.DataType]]:
    found: list[tuple[pl.Expr, Any]] = []
    for name, dtype in schema.items():
        found += _leaves_of(pl.col(name), dtype)
    return [(leaf, pl.Series([], dtype=dtype).dtype) for leaf, dtype in found]


def _leaves_of(leaf: pl.Expr, dtype: Any) -> list[tuple[pl.Expr, Any]]:
    if not isinstance(dtype, pl.Struct):
        return [(leaf, dtype)]
    nested = [_leaves_of(leaf.struct.field(field.name), field.dtype) for field in dtype.fields]
    return [entry for leaves in nested for entry in leaves]


@cache
def _leaf_types() -> SearchStrategy[pl.DataType]:
    return st.one_of(
        st.sampled_from([dtype() for dtype in _PLAIN]),
        st.builds(pl.Datetime, st.sampled_from(UNITS), st.sampled_from(ZONES)),
        st.builds(pl.Duration, st.sampled_from(UNITS)),
    )


def _rare_types() -> SearchStrategy[pl.DataType]:
    decimals = st.integers(1, 38).flatmap(lambda p: st.builds(pl.Decimal, st.just(p), st.integers(0, p)))
    categories = st.lists(st.sampled_from(["x", "y", "z"]), min_size=1, unique=True)
    return st.one_of(st.sampled_from([pl.Binary(), pl.Categorical()]), decimals, st.builds(pl.Enum, categories))


def _nested_types(inner: SearchStrategy[pl.DataType]) -> SearchStrategy[pl.DataType]:
    return st.one_of(st.builds(pl.List, inner), st.builds(pl.Array, inner, st.integers(1, 3)), _structs_of(inner))


def _structs_of(inner: SearchStrategy[pl.DataType]) -> SearchStrategy[pl.DataType]:
    return st.builds(pl.Struct, st.dictionaries(st.sampled_from(_NAMES), inner, min_size=1, max_size=3))


def _columns(name: str, dtype: Any, rows: int) -> SearchStrategy[pl.Series]:
    drawn = st.lists(values(dtype), min_size=rows, max_size=rows)
    return drawn.map(lambda items: _series(name, items, dtype))


def _series(name: str, items: list[Any], dtype: Any) -> pl.Series:
    try:
        return pl.Series(name, items, dtype=dtype, strict=True)
    except pl.exceptions.PanicException:  # Polars cannot build some nested values from Python that it can hold
        return reject()


@cache
def _texts(*, max_size: int) -> SearchStrategy[str]:
    short = st.text(st.sampled_from("abA0\u00e9\ud7ff\ue000\uffff\U0001f600\U0010ffff"), max_size=max_size)
    long = st.builds(lambda character, end: character * 64 + end, st.sampled_from("a\ud7ff\U0010ffff"), short)
    return st.one_of(short, long)


def _numbers() -> SearchStrategy[int]:
    return st.integers(-(2**63), 2**63 - 1)


def _some_value(dtype: Any) -> SearchStrategy[Any]:
    """Draw a value of a type, never None (but of Null, which has no other)."""
    if isinstance(dtype, pl.List):
        return st.lists(values(dtype.inner), max_size=3)
    if isinstance(dtype, pl.Array):
        return st.lists(values(dtype.inner), min_size=dtype.size, max_size=dtype.size)
    if isinstance(dtype, pl.Struct):
        return st.fixed_dictionaries({field.name: values(field.dtype) for field in dtype.fields})
    if dtype.is_temporal():
        return _moment(dtype)
    return _scalar(dtype)


def _moment(dtype: Any) -> SearchStrategy[Any]:
    """Draw a date, time, datetime or duration that the nanoseconds of an int64 can hold."""
    if dtype == pl.Date:
        return st.dates(date(1900, 1, 1), date(2200, 1, 1))
    if dtype == pl.Time:
        return st.times()
    if isinstance(dtype, pl.Duration):
        return st.timedeltas(timedelta(days=-9999), timedelta(days=9999))
    zones = st.just(UTC) if dtype.time_zone else st.none()
    return st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=zones)  # noqa: DTZ001  # bounds of both


def _scalar(dtype: Any) -> SearchStrategy[Any]:
    if dtype.is_integer():
        bits = int(str(dtype.base_type()).removeprefix("U").removeprefix("Int"))
        least, greatest = (0, 2**bits - 1) if dtype.is_unsigned_integer() else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return st.one_of(st.integers(least, greatest), st.integers(max(least, -3), 3))
    if dtype.is_float():
        floats = st.floats(width=32) if dtype == pl.Float32 else st.floats()
        return st.one_of(st.sampled_from([0.0, -0.0]), floats, st.integers(-3, 3).map(float))
    if isinstance(dtype, pl.Decimal):
        digits = st.integers(-(10**dtype.precision) + 1, 10**dtype.precision - 1)
        return digits.map(lambda number: Decimal(f"{number}E-{dtype.scale}"))
    if isinstance(dtype, pl.Enum):
        return st.sampled_from(dtype.categories.to_list())
    others: dict[Any, SearchStrategy[Any]] = {
        pl.Boolean: st.booleans(),
        pl.Binary: st.binary(max_size=4),
        pl.Null: st.none(),
    }
    return others.get(dtype.base_type(), _texts(max_size=3))
