"""Parse a predicate, and find out whether it looks at its own row alone.

It is read from the Polars expression, and only through documented methods: `Expr.meta.pop` gives the operands of a
node, and a node is of the kind whose constructor, applied to these operands, gives an equal expression
(`Expr.meta.eq`). A node that no constructor gives back is unknown. So a change in Polars can cost speed, which a test
watches, but no rows, and a literal is never written out.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import reduce
from types import MappingProxyType
from typing import Literal, NamedTuple

import polars as pl

from metaxy_fs.log.schema import Path, column, is_pattern


class NotUnderstoodError(Exception):
    """A node is not known to look at its own row alone."""


_FLIPPED = {"eq": "eq", "ne": "ne", "gt": "lt", "lt": "gt", "ge": "le", "le": "ge"}
_BETWEEN = {
    "between_both": ("ge", "le"),
    "between_left": ("ge", "lt"),
    "between_right": ("gt", "le"),
    "between_none": ("gt", "lt"),
}


class Node(NamedTuple):
    """One part of a predicate: its kind, the parts that it is made of and how, and the name or value of a leaf."""

    kind: str
    expression: pl.Expr
    operands: tuple["Node", ...] = ()
    name: str = ""
    value: pl.Series | None = None
    constructor: Callable[..., pl.Expr] | None = None

    def renamed(self, names: Mapping[str, str]) -> pl.Expr:
        """Return the expression on columns of other names."""
        if self.kind == "column":
            return column(names.get(self.name, self.name))
        if self.constructor is None:
            return self.expression
        return self.constructor(*(operand.renamed(names) for operand in self.operands))

    @property
    def path(self) -> Path | None:
        """The path of a column or field; None for everything else."""
        if self.kind == "column":
            return (self.name,)
        above = self.operands[0].path if self.kind == "field" else None
        return None if above is None else (*above, self.name)

    @property
    def scalar(self) -> pl.Series | None:
        """The value of a literal, as a series of one row; None for everything else."""
        return self.value if self.kind == "literal" else None

    @property
    def comparisons(self) -> "tuple[tuple[str, Node, Node], ...]":
        """The comparisons that are all true where this one or `is_between` is: how, and with what, literals last."""
        left, *rest = self.operands
        if self.kind in _BETWEEN:
            return tuple((how, left, limit) for how, limit in zip(_BETWEEN[self.kind], rest, strict=True))
        if self.kind not in _FLIPPED:
            return ()
        [right] = rest
        return ((self.kind, left, right) if left.scalar is None else (_FLIPPED[self.kind], right, left),)


def parse(expression: pl.Expr) -> Node:
    """Read an expression.

    Raises:
        NotUnderstoodError: Some node may look at other rows than its own.
    """
    expression = expression.meta.undo_aliases()
    operands = expression.meta.pop()[::-1]
    if not operands:
        return _parse_leaf(expression)
    for kind, constructor in (("and", operator.and_), ("or", operator.or_)):
        if len(operands) == 2 and expression.meta.eq(constructor(*operands)):
            parts = tuple(parse(part) for part in _chain(expression, constructor))
            return Node(kind, expression, parts, constructor=_HORIZONTAL[constructor])
    if len(operands) == 2 and operands[1].meta.is_literal():
        for kind, constructor in _MEMBERSHIP:
            if expression.meta.eq(constructor(*operands)):
                values = Node("values", operands[1], value=_items(operands[1]))
                return Node(kind, expression, (parse(operands[0]), values), constructor=constructor)
    return _parse_node(expression, operands)


def conjuncts(predicate: pl.Expr) -> tuple[Node, ...]:
    """Return the parts of a conjunction; none where any of them is not known to look at its own row alone."""
    try:
        node = parse(predicate)
    except (Exception, pl.exceptions.PanicException):  # noqa: BLE001  # a panic is no Exception
        return ()
    return node.operands if node.kind == "and" else (node,)


def conjuncts_on(
    predicate: pl.Expr, *, columns: AbstractSet[str], names: Mapping[str, str] = MappingProxyType({})
) -> pl.Expr | None:
    """Return those parts of a conjunction that name only the given columns, joined by "and"; None where there are none.

    None as well where any part, also one on other columns, is not known to look at its own row alone: files that are
    pruned by the rest would change what it sees.

    Args:
        predicate: A conjunction.
        columns: The columns.
        names: What some of them are called in what is returned.
    """
    chosen = [
        part.renamed(names) if names else part.expression
        for part in conjuncts(predicate)
        if columns >= set(part.expression.meta.root_names())
    ]
    return pl.all_horizontal(chosen) if chosen else None


def is_range_of(predicate: pl.Expr, name: str) -> bool:
    """Whether a predicate compares one column with literals, and does nothing else."""
    if predicate.meta.root_names() != [name] * len(predicate.meta.root_names()):
        return False
    parts = conjuncts(predicate)
    return bool(parts) and all(
        part.kind in _LIMITS and [each.kind for each in part.operands] == ["column", "literal"] for part in parts
    )


_LIMITS = frozenset({"ge", "gt", "le", "lt", "eq"})


def balanced(predicate: pl.Expr) -> pl.Expr:
    """Return an equal predicate whose long chains of `&` and `|` are trees of little depth, for a check of its types.

    What Polars does with `a | b | c ...`, which nests to the left, takes a time that grows with the cube of its length.
    """
    return _rebuilt(predicate, _tree)


def flattened(predicate: pl.Expr) -> pl.Expr:
    """Return an equal predicate whose long chains are `any_horizontal` and `all_horizontal`; its types are right.

    Polars takes a tree of `&` apart and makes a chain of it again.
    """
    return _rebuilt(predicate, lambda parts, constructor: _HORIZONTAL[constructor](parts))


_Operator = Callable[[pl.Expr, pl.Expr], pl.Expr]
_HORIZONTAL: dict[_Operator, Callable[..., pl.Expr]] = {
    operator.and_: pl.all_horizontal,
    operator.or_: pl.any_horizontal,
}


def _rebuilt(predicate: pl.Expr, join: Callable[[Sequence[pl.Expr], _Operator], pl.Expr]) -> pl.Expr:
    if predicate.meta.has_multiple_outputs():
        return predicate
    try:
        return _joined(predicate, join)
    except RecursionError:
        return predicate


def _joined(predicate: pl.Expr, join: Callable[[Sequence[pl.Expr], _Operator], pl.Expr]) -> pl.Expr:
    for constructor in _HORIZONTAL:
        parts = _chain(predicate, constructor)
        if len(parts) > 1:
            joined = [_joined(part, join) for part in parts]
            is_changed = any(now is not part for now, part in zip(joined, parts, strict=True))
            if len(parts) > _LONG:
                return join(joined, constructor)
            return reduce(constructor, joined) if is_changed else predicate
    operands = predicate.meta.pop()
    if len(operands) == 1 and predicate.meta.eq(~operands[0]):
        joined_operand = _joined(operands[0], join)
        return predicate if joined_operand is operands[0] else ~joined_operand
    return predicate


def _tree(parts: Sequence[pl.Expr], constructor: _Operator) -> pl.Expr:
    trees = list(parts)
    while len(trees) > 1:
        pairs = zip(trees[::2], trees[1::2], strict=False)
        trees = [*(constructor(left, right) for left, right in pairs), *(trees[-1:] if len(trees) % 2 else ())]
    return trees[0]


_LONG = 16
"""Chains up to this length stay as their author wrote them, and are shown so in messages."""

_Constructor = Callable[..., pl.Expr]

_CASTS: list[pl.DataType] = [
    pl.Int8(), pl.Int16(), pl.Int32(), pl.Int64(), pl.UInt8(), pl.UInt16(), pl.UInt32(), pl.UInt64(), pl.Float32(),
    pl.Float64(), pl.Boolean(), pl.String(), pl.Date(), pl.Time(),
    pl.Datetime("ms"), pl.Datetime("us"), pl.Datetime("ns"),
]  # fmt: skip


def _caster(dtype: pl.DataType, *, strict: bool) -> _Constructor:
    return lambda value: value.cast(dtype, strict=strict)


def _between(closed: Literal["both", "left", "right", "none"]) -> _Constructor:
    return lambda value, low, high: value.is_between(low, high, closed=closed)


# Kinds that are called "row" prune nothing, but look at their own row alone, so that the rest of a predicate may prune.
_KINDS: dict[int, list[tuple[str, _Constructor]]] = {
    1: [
        ("not", operator.invert),
        ("is_null", lambda value: value.is_null()),
        ("is_not_null", lambda value: value.is_not_null()),
        ("row", lambda value: value.is_nan()),
        ("row", lambda value: value.is_not_nan()),
        ("row", lambda value: value.is_finite()),
        ("row", lambda value: value.is_infinite()),
        ("row", operator.neg),
        ("row", lambda value: value.abs()),
        ("row", lambda value: value.str.len_chars()),
        ("row", lambda value: value.str.len_bytes()),
        ("row", lambda value: value.str.to_lowercase()),
        ("row", lambda value: value.str.to_uppercase()),
        ("row", lambda value: value.list.len()),
        ("row", lambda value: value.dt.date()),
        ("row", lambda value: value.dt.year()),
        ("row", lambda value: value.dt.month()),
        ("row", lambda value: value.dt.day()),
        ("row", lambda value: value.dt.hour()),
        *[("row", _caster(dtype, strict=strict)) for dtype in _CASTS for strict in (True, False)],
    ],
    2: [
        ("eq", operator.eq),
        ("gt", operator.gt),
        ("ge", operator.ge),
        ("lt", operator.lt),
        ("le", operator.le),
        ("ne", operator.ne),
        ("starts_with", lambda value, prefix: value.str.starts_with(prefix)),
        ("eq_missing", lambda left, right: left.eq_missing(right)),
        ("ne_missing", lambda left, right: left.ne_missing(right)),
        ("row", operator.xor),
        ("row", operator.add),
        ("row", operator.sub),
        ("row", operator.mul),
        ("row", operator.truediv),
        ("row", operator.floordiv),
        ("row", operator.mod),
        ("row", lambda value, other: value.fill_null(other)),
        ("row", lambda value, suffix: value.str.ends_with(suffix)),
        ("row", lambda value, pattern: value.str.contains(pattern)),
        ("row", lambda value, pattern: value.str.contains(pattern, literal=True)),
        ("row", lambda value, item: value.list.contains(item)),
    ],
    3: [
        ("between_both", _between("both")),
        ("between_left", _between("left")),
        ("between_right", _between("right")),
        ("between_none", _between("none")),
    ],
}
# Of any number of operands.
_FOLDS: list[tuple[str, _Constructor]] = [("and", pl.all_horizontal), ("or", pl.any_horizontal)]
_MEMBERSHIP: list[tuple[str, _Constructor]] = [
    ("is_in", lambda value, values: value.is_in(values)),
    ("is_in_or_null", lambda value, values: value.is_in(values, nulls_equal=True)),
]


def _chain(expression: pl.Expr, constructor: _Constructor) -> list[pl.Expr]:
    """Return the parts of `a & b & c`, however it is nested, without recursion: such chains are long."""
    parts: list[pl.Expr] = []
    waiting = [expression]
    while waiting:
        part = waiting.pop()
        operands = part.meta.pop()
        if len(operands) == 2 and part.meta.eq(constructor(operands[1], operands[0])):
            waiting += operands  # the last one first: it is the left one
        else:
            parts.append(part)
    return parts


def _parse_leaf(expression: pl.Expr) -> Node:
    if expression.meta.is_literal():
        value = _evaluate(expression)
        if len(value) == 1:
            return Node("literal", expression, value=value)
    elif not is_pattern(name := expression.meta.output_name()) and expression.meta.eq(pl.col(name)):
        return Node("column", expression, name=name)
    raise NotUnderstoodError(str(expression))


def _parse_node(expression: pl.Expr, operands: Sequence[pl.Expr]) -> Node:
    if len(operands) == 1 and (name := _field_name(expression, operands[0])) is not None:
        return Node(
            "field", expression, (parse(operands[0]),), name, constructor=lambda value: value.struct.field(name)
        )
    for kind, constructor in [*_KINDS.get(len(operands), []), *_FOLDS]:
        if expression.meta.eq(constructor(*operands)):
            return Node(kind, expression, tuple(parse(operand) for operand in operands), constructor=constructor)
    raise NotUnderstoodError(str(expression)[:200])


def _field_name(expression: pl.Expr, above: pl.Expr) -> str | None:
    name = expression.meta.output_name(raise_if_undetermined=False)
    is_field = name is not None and not is_pattern(name) and expression.meta.eq(above.struct.field(name))
    return name if is_field else None


def _items(literal: pl.Expr) -> pl.Series:
    values = _evaluate(literal)
    return values.explode() if isinstance(values.dtype, (pl.List, pl.Array)) else values


def _evaluate(literal: pl.Expr) -> pl.Series:
    return pl.select(literal).to_series()
