"""Say in SQL those parts of a predicate that mean the same there, so that a database leaves rows out early.

A part is taken if it has the same answer for every row, null among the answers, in each database: whole numbers, text,
dates and times are compared with a literal of their own type. Everything else is left to Polars, which asks the whole
predicate again: floats, for NaN; categories, for their order; patterns, for case; and what looks beyond its row.
"""

import operator
from collections.abc import Mapping
from datetime import UTC
from typing import Any, Final

import polars as pl
import sqlalchemy as sa

from metaxy_fs.ext.sql_columns import Columns, Path, StoredLeaf, leaves_of
from metaxy_fs.log import MAX_EXACT, Node, NotUnderstoodError, conjuncts

_MOST_VALUES: Final = 1000
_MOST_NODES: Final = 300
"""Of a predicate that a database is asked; SQLite takes no expression of more than 1000 levels."""

_Leaves = Mapping[Path, tuple[StoredLeaf, sa.Column[Any]]]


def conditions(predicate: pl.Expr | None, schema: pl.Schema, columns: Columns) -> list[sa.ColumnElement[bool]]:
    """Return conditions that hold of every row that satisfies a predicate; none where nothing can be said."""
    leaves = {leaf.path: (leaf, columns[leaf.path, leaf.kind]) for leaf in leaves_of(schema)}
    found, room = [], _MOST_NODES
    for part in () if predicate is None else conjuncts(predicate):
        if (size := _size(part)) <= room:
            room -= size
            try:
                found.append(_condition(part, leaves))
            except (NotUnderstoodError, ValueError, OverflowError):  # of dates that Python does not have
                continue
    return found


def _size(node: Node) -> int:
    return 1 + sum(map(_size, node.operands))


def _condition(node: Node, leaves: _Leaves) -> sa.ColumnElement[bool]:
    match node.kind:
        case "and" | "or":
            join = sa.and_ if node.kind == "and" else sa.or_
            return join(*(_condition(each, leaves) for each in node.operands))
        case "not":
            return sa.not_(_condition(node.operands[0], leaves))
        case "is_null" | "is_not_null":
            leaf, column = _found(node.operands[0], leaves)
            is_there = column == sa.true() if isinstance(leaf.dtype, pl.Struct) else column.is_not(None)
            return is_there if node.kind == "is_not_null" else sa.not_(is_there)
        case "is_in":
            leaf, column = _found(node.operands[0], leaves)
            return column.in_(_literals(leaf, node.operands[1].value))
        case _ if node.comparisons:
            return sa.and_(*(_comparison(*compared, leaves) for compared in node.comparisons))
    raise NotUnderstoodError(node.kind)


def _found(node: Node, leaves: _Leaves) -> tuple[StoredLeaf, sa.Column[Any]]:
    if node.path is None or node.path not in leaves:
        raise NotUnderstoodError(node.kind)
    return leaves[node.path]


def _comparison(how: str, value: Node, limit: Node, leaves: _Leaves) -> sa.ColumnElement[bool]:
    leaf, column = _found(value, leaves)
    [literal] = _literals(leaf, limit.scalar)
    compared: sa.ColumnElement[bool] = getattr(operator, how)(column, literal)
    return compared


def _literals(leaf: StoredLeaf, given: pl.Series | None) -> list[Any]:
    """Return values as a driver takes them, if they compare with a column as in Polars."""
    is_number = leaf.kind == "integer" and leaf.dtype.is_integer()
    is_plain = is_number or leaf.kind in ("date", "time") or leaf.dtype == pl.String()
    if not is_plain or given is None or not (given.dtype.is_integer() if is_number else given.dtype == leaf.dtype):
        raise NotUnderstoodError(leaf.kind)
    values = given.drop_nulls().unique().to_list()
    # A column that holds larger integers beside floats elsewhere is compared as floats.
    is_fit = all(abs(value) <= MAX_EXACT if is_number else "\0" not in str(value) for value in values)
    if not is_fit or not 0 < len(values) <= _MOST_VALUES:
        raise NotUnderstoodError(leaf.kind)
    if isinstance(leaf.dtype, pl.Datetime) and leaf.dtype.time_zone is not None:
        return [value.astimezone(UTC).replace(tzinfo=None) for value in values]
    return values
