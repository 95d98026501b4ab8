"""Say in SQL those parts of a predicate that mean the same there, so that a database leaves rows out early.

A part is taken if it has the same answer for every row, null among the answers, in each database: whole numbers, text,
dates and times are compared with a literal of their own type. Everything else is left to Polars, which asks the whole
predicate again: floats, for NaN; categories, for their order; patterns, for case; and what looks beyond its row.
"""

import operator
from collections.abc import Callable, Mapping
from datetime import UTC
from typing import Any, Final, NamedTuple

import polars as pl
import sqlalchemy as sa

from metaxy_fs.ext.sql_columns import Path, StoredLeaf
from metaxy_fs.log import MAX_EXACT, Node, NotUnderstoodError, parse

_MOST_VALUES: Final = 1000
_MOST_NODES: Final = 300
"""Of a predicate that a database is asked; SQLite takes no expression of more than 1000 levels."""

_COMPARISONS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "eq": operator.eq, "ne": operator.ne, "gt": operator.gt, "ge": operator.ge, "lt": operator.lt, "le": operator.le,
}  # fmt: skip
_TURNED: Final = {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge"}
_BOUNDS: Final = {
    "between_both": ("ge", "le"),
    "between_left": ("ge", "lt"),
    "between_right": ("gt", "le"),
    "between_none": ("gt", "lt"),
}
_SQL_TYPES: Final[Mapping[str, Any]] = {
    "integer": sa.BigInteger(), "text": sa.Text(), "date": sa.Date(), "time": sa.DateTime(),
}  # fmt: skip


class Column(NamedTuple):
    """A column of a table: its name there, and what it holds."""

    name: str
    leaf: StoredLeaf


Columns = Mapping[Path, Column]
Condition = sa.ColumnElement[bool]


def conditions(predicate: pl.Expr | None, columns: Columns) -> list[Condition]:
    """Return conditions that hold of every row that satisfies a predicate; none where nothing can be said."""
    if predicate is None:
        return []
    try:
        node = parse(predicate)
    except (Exception, pl.exceptions.PanicException):  # noqa: BLE001  # what is not understood is left to Polars
        return []
    found, room = [], _MOST_NODES
    for part in node.operands if node.kind == "and" else (node,):
        if (size := _size(part)) > room:
            continue
        room -= size
        try:
            found.append(_condition(part, columns))
        except (NotUnderstoodError, ValueError, OverflowError):  # of dates that Python does not have
            continue
    return found


def _size(node: Node) -> int:
    return 1 + sum(map(_size, node.operands))


def _condition(node: Node, columns: Columns) -> Condition:
    operands = node.operands
    match node.kind:
        case "and" | "or":
            join = sa.and_ if node.kind == "and" else sa.or_
            return join(*(_condition(each, columns) for each in operands))
        case "not":
            return sa.not_(_condition(operands[0], columns))
        case "is_null" | "is_not_null":
            return _presence(_column(operands[0], columns), is_null=node.kind == "is_null")
        case "is_in":
            return _membership(_column(operands[0], columns), operands[1].value)
        case kind if kind in _BOUNDS:
            value, *limits = operands
            named = _column(value, columns)
            compared = zip(_BOUNDS[kind], limits, strict=True)
            return sa.and_(*(_comparison(how, named, limit) for how, limit in compared))
        case kind if kind in _COMPARISONS:
            left, right = operands
            if left.path is None:
                kind, left, right = _TURNED.get(kind, kind), right, left
            return _comparison(kind, _column(left, columns), right)
    raise NotUnderstoodError(node.kind)


def _column(node: Node, columns: Columns) -> Column:
    if node.path is None or node.path not in columns:
        raise NotUnderstoodError(node.kind)
    return columns[node.path]


def _comparison(kind: str, named: Column, limit: Node) -> Condition:
    if limit.scalar is None:
        raise NotUnderstoodError(limit.kind)
    [value] = _values(named.leaf, limit.scalar)
    sql_type = _SQL_TYPES[named.leaf.kind]
    compared: Condition = _COMPARISONS[kind](sa.column(named.name, sql_type), sa.literal(value, sql_type))
    return compared


def _membership(named: Column, items: pl.Series | None) -> Condition:
    if items is None:
        raise NotUnderstoodError("is_in")
    items = (items.explode() if isinstance(items.dtype, pl.List) else items).drop_nulls().unique()
    if not 0 < items.len() <= _MOST_VALUES:
        raise NotUnderstoodError("is_in")
    values = _values(named.leaf, items)
    return sa.column(named.name, _SQL_TYPES[named.leaf.kind]).in_(values)


def _presence(named: Column, *, is_null: bool) -> Condition:
    if isinstance(named.leaf.dtype, pl.Struct):
        return sa.column(named.name, sa.Boolean()) == (sa.false() if is_null else sa.true())
    value: sa.ColumnElement[Any] = sa.column(named.name)
    return value.is_(None) if is_null else value.is_not(None)


def _values(leaf: StoredLeaf, given: pl.Series) -> list[Any]:
    """Return literals as a driver takes them, if they compare with a column as in Polars."""
    values = given.to_list()
    match leaf.kind, leaf.dtype:
        case "integer", dtype if dtype.is_integer() and given.dtype.is_integer():
            # A column that holds larger ones beside floats elsewhere is compared as floats.
            is_fit = all(value is not None and abs(value) <= MAX_EXACT for value in values)
        case "text", pl.String():
            is_fit = given.dtype == pl.String() and all(value is not None and "\0" not in value for value in values)
        case ("date", dtype) | ("time", pl.Datetime(time_unit="us") as dtype):
            is_fit = given.dtype == dtype and None not in values
        case _:
            is_fit = False
    if not is_fit:
        raise NotUnderstoodError(leaf.kind)
    if isinstance(leaf.dtype, pl.Datetime) and leaf.dtype.time_zone is not None:
        return [value.astimezone(UTC).replace(tzinfo=None) for value in values]
    return values
