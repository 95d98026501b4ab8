"""Skip data files that a predicate cannot match, by their statistics.

A file is skipped only where its statistics prove that no row of it can satisfy the predicate. For every node of the
predicate it is asked whether some row might make it true, and whether some row might make it false, in the logic of
three values that Polars follows: a null is neither. Each answer is an expression over a small frame, one row a file,
of the bounds in the types in which the predicate will be evaluated; where a bound is unknown the answer is null, and
that means "perhaps".

One unknown node keeps every file, although the rest of the predicate might prune: `col("day") == col("day").max()`
looks at other rows than its own, and leaving files out would change what it is compared with.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import polars as pl

from metaxy_fs.log.predicates import Node, NotUnderstoodError, parse
from metaxy_fs.log.ranges import IdRange
from metaxy_fs.log.schema import Path, type_at
from metaxy_fs.log.statistics import MAX_EXACT, ColumnStatistics, FileStatistics


def may_match(predicate: pl.Expr, *, schema: pl.Schema, files: Sequence[FileStatistics]) -> list[bool]:
    """Ask for each file whether any of its rows might satisfy the predicate; False is a proof that none does.

    Never raises: where the predicate is wrong or not understood, every file is kept, and filtering will say so.

    Args:
        predicate: A boolean expression on the columns of `schema`.
        schema: The unified schema of all files, in whose types the predicate will be evaluated.
        files: The statistics of each file.
    """
    try:
        return _PredicateStatistics(schema, files).judge(parse(predicate))
    # A hint that fails must not fail the read, and a panic is no Exception.
    except (Exception, pl.exceptions.PanicException):  # noqa: BLE001
        return [True] * len(files)


def matching_ranges(predicate: pl.Expr, ranges: Sequence[IdRange], *, column: str, dtype: pl.DataType) -> list[IdRange]:
    """Return the ranges of a column that may hold a value which satisfies a predicate on it; one at least."""
    schema = pl.Schema({column: dtype})
    values = [ColumnStatistics((column,), 0, each.low, each.high) for each in ranges]
    kept = may_match(predicate, schema=schema, files=[FileStatistics(1, schema, (known,)) for known in values])
    return [each for each, keep in zip(ranges, kept, strict=True) if keep] or [*ranges[:1]]


_UNITS = {"ms": 1, "us": 1_000, "ns": 1_000_000}
_NEGATED = {"eq": "ne", "ne": "eq", "gt": "le", "le": "gt", "ge": "lt", "lt": "ge"}


def bounds(files: Sequence[FileStatistics], *, path: Path, dtype: pl.DataType) -> tuple[pl.Series, pl.Series]:
    """Return the least and the greatest value of a leaf in each file, null where nothing is known.

    Args:
        files: What is known of them.
        path: The names from a column down to the leaf.
        dtype: The type of the leaf in the reading schema, which the bounds get.
    """
    nothing = pl.Series([None] * len(files), dtype=dtype)
    try:
        facts = list(_facts(path, dtype, files))
        least, greatest = (_series([each[end] for each in facts], dtype).cast(dtype) for end in (0, 1))
    except (TypeError, OverflowError, pl.exceptions.PolarsError):  # a stranger's manifest may claim anything
        return nothing, nothing
    return least, greatest


class _Leaf(NamedTuple):
    """The frame's columns on one leaf: its bounds, and whether some row may hold a value, or a null."""

    dtype: pl.DataType
    low: pl.Expr
    high: pl.Expr
    some_value: pl.Expr
    some_null: pl.Expr


class _PredicateStatistics:
    """The statistics of all files on the leaves that a predicate names, gathered as the predicate is read."""

    def __init__(self, schema: pl.Schema, files: Sequence[FileStatistics]) -> None:
        self._schema = schema
        self._files = files
        self._columns: dict[str, pl.Series] = {}
        self._leaves: dict[Path, _Leaf] = {}

    def judge(self, predicate: Node) -> list[bool]:
        """Return for each file whether some row might make the predicate true."""
        possible = self._possible(predicate, wanted=True)
        if possible is None or not self._files:
            return [True] * len(self._files)
        # A predicate of literals alone names no column, yet every file needs its answer.
        rows = pl.Series("rows", [file.rows for file in self._files], dtype=pl.Int64)
        frame = pl.DataFrame([rows, *self._columns.values()])
        return frame.select(pl.col("rows").is_not_null() & _perhaps(possible)).to_series().to_list()

    def _possible(self, node: Node, *, wanted: bool) -> pl.Expr | None:  # noqa: C901  # one line a kind of node
        """Return whether some row might make a node true (or false, if that is wanted); None if nothing is known."""
        answer = None
        match node.kind:
            case "and" | "or":
                answer = self._possible_of_many(node, wanted=wanted)
            case "not":
                answer = self._possible(node.operands[0], wanted=not wanted)
            case "literal":
                answer = _possible_literal(node, wanted=wanted)
            case "column" | "field":
                answer = self._possible_flag(node, wanted=wanted)
            case "eq" | "ne" | "gt" | "ge" | "lt" | "le":
                answer = self._possible_comparison(node, wanted=wanted)
            case "is_null" | "is_not_null":
                answer = self._possible_null(node, wanted=wanted is (node.kind == "is_null"))
            case "eq_missing" | "ne_missing":
                answer = self._possible_missing(node, equal=wanted is (node.kind == "eq_missing"))
            case "between_both" | "between_left" | "between_right" | "between_none":
                answer = self._possible_between(node, wanted=wanted)
            case "is_in" | "is_in_or_null":
                answer = self._possible_membership(node) if wanted else None
            case "starts_with":
                answer = self._possible_prefix(node) if wanted else None
        return answer

    def _possible_of_many(self, node: Node, *, wanted: bool) -> pl.Expr | None:
        parts = [self._possible(operand, wanted=wanted) for operand in node.operands]
        known = [_perhaps(part) for part in parts if part is not None]
        if (node.kind == "and") is wanted:
            return pl.all_horizontal(known) if known else None
        return pl.any_horizontal(known) if len(known) == len(parts) else None

    def _possible_flag(self, node: Node, *, wanted: bool) -> pl.Expr | None:
        leaf = self._leaf(node)
        if leaf is None:
            return None
        if leaf.dtype != pl.Boolean():
            raise NotUnderstoodError(f"{node.path} is no boolean, so the predicate is in error")
        return leaf.some_value & _perhaps(leaf.high if wanted else ~leaf.low)

    def _possible_null(self, node: Node, *, wanted: bool) -> pl.Expr | None:
        leaf = self._leaf(node.operands[0])
        if leaf is None:
            return None
        return leaf.some_null if wanted else leaf.some_value

    def _possible_comparison(self, node: Node, *, wanted: bool) -> pl.Expr | None:
        [(kind, left, right)] = node.comparisons
        return self._compared(kind if wanted else _NEGATED[kind], left, right)

    def _compared(self, kind: str, left: Node, right: Node) -> pl.Expr | None:
        leaf, value = self._leaf(left), right.scalar
        if leaf is None or value is None or not _is_monotone(leaf.dtype, value.dtype):
            return None
        return leaf.some_value & _perhaps(_within(kind, leaf.low, leaf.high, right.expression))

    def _possible_missing(self, node: Node, *, equal: bool) -> pl.Expr | None:
        left, right = node.operands if node.operands[0].scalar is None else node.operands[::-1]
        leaf, value = self._leaf(left), right.scalar
        if leaf is None or value is None:
            return None
        if value.item() is None:
            return leaf.some_null if equal else leaf.some_value
        compared = self._compared("eq" if equal else "ne", left, right)
        return compared if equal or compared is None else compared | leaf.some_null

    def _possible_between(self, node: Node, *, wanted: bool) -> pl.Expr | None:
        value, low, high = node.operands
        leaf = self._leaf(value)
        if leaf is None or not _is_separable(leaf.dtype, low.scalar, high.scalar):
            return None
        above, below = (
            self._compared(how if wanted else _NEGATED[how], *compared) for how, *compared in node.comparisons
        )
        if above is None or below is None:
            return None
        return above & below if wanted else above | below

    def _possible_prefix(self, node: Node) -> pl.Expr | None:
        value, prefix = node.operands
        leaf = self._leaf(value)
        text = None if prefix.scalar is None else prefix.scalar.item()
        if leaf is None or leaf.dtype != pl.String() or not isinstance(text, str):
            return None
        return leaf.some_value & _perhaps((leaf.high >= text) & (leaf.low.str.head(len(text)) <= text))

    def _possible_membership(self, node: Node) -> pl.Expr | None:
        leaf = self._leaf(node.operands[0])
        values = node.operands[1].value
        if leaf is None or values is None:
            return None
        if node.kind == "is_in_or_null" and values.null_count():
            return None
        items = _items_as(values.drop_nulls(), leaf.dtype)
        return None if items is None else leaf.some_value & _perhaps(self._holds_any(leaf, items))

    def _holds_any(self, leaf: _Leaf, items: pl.Series) -> pl.Expr:
        """Ask whether an item lies within the bounds: then fewer are below the low one than are up to the high one."""
        if not len(items):
            return pl.lit(value=False)
        bounds = pl.DataFrame(list(self._columns.values())).select(low=leaf.low, high=leaf.high)
        low, high = (bounds[name].to_physical() for name in ("low", "high"))
        items = items.to_physical().sort()
        first = items.search_sorted(low.fill_null(items[0]), side="left")
        last = items.search_sorted(high.fill_null(items[0]), side="right")
        hit = pl.select(pl.when(low.is_not_null() & high.is_not_null()).then(first < last)).to_series()
        name = f"{len(self._columns)}.hit"
        self._columns[name] = hit.alias(name)
        return pl.col(name)

    def _leaf(self, node: Node) -> _Leaf | None:
        """Return what is known of the column or field that a node names; None if it names none."""
        if (path := node.path) is None:
            return None
        if path not in self._leaves:
            if (dtype := type_at(self._schema, path)) is None:
                raise NotUnderstoodError(f"there is no column {path}")
            self._leaves[path] = self._gather(path, dtype)
        return self._leaves[path]

    def _gather(self, path: Path, dtype: pl.DataType) -> _Leaf:
        index = len(self._leaves)
        rows = list(_facts(path, dtype, self._files))
        lows, highs, values, nulls = zip(*rows, strict=True) if rows else ((), (), (), ())
        found = {
            "low": _series(lows, dtype),
            "high": _series(highs, dtype),
            "value": pl.Series(values, dtype=pl.Boolean),
        }
        for key, series in {**found, "null": pl.Series(nulls, dtype=pl.Boolean)}.items():
            self._columns[f"{index}.{key}"] = series.alias(f"{index}.{key}")
        return _Leaf(dtype, *(pl.col(f"{index}.{key}") for key in ("low", "high", "value", "null")))


def _perhaps(answer: pl.Expr) -> pl.Expr:
    return answer.fill_null(value=True)


def _within(kind: str, low: pl.Expr, high: pl.Expr, value: pl.Expr) -> pl.Expr:
    """Ask whether a value between two bounds might compare so; a bound that is cut short is one that no value has."""
    match kind:
        case "gt":
            answer = high > value
        case "ge":
            answer = high >= value
        case "lt":
            answer = low < value
        case "le":
            answer = low <= value
        case "eq":
            answer = (low <= value) & (high >= value)
        case _:
            answer = ~((low == value) & (high == value))
    return answer


def _possible_literal(node: Node, *, wanted: bool) -> pl.Expr | None:
    value = None if node.value is None else node.value.item()
    return pl.lit(value is wanted) if value is None or isinstance(value, bool) else None


def _is_monotone(dtype: pl.DataType, literal: pl.DataType) -> bool:
    """Ask whether Polars compares the two by a cast that keeps the order; text and an Enum are compared as the Enum."""
    if dtype.is_numeric() and not dtype.is_decimal():
        return literal.is_numeric() and not literal.is_decimal()
    if isinstance(dtype, (pl.Date, pl.Datetime)):
        return isinstance(literal, (pl.Date, pl.Datetime))
    return isinstance(dtype, (pl.Duration, pl.Time, pl.String, pl.Boolean)) and dtype.base_type() == literal.base_type()


def _is_separable(dtype: pl.DataType, low: pl.Series | None, high: pl.Series | None) -> bool:
    """Ask whether `is_between` is two comparisons: it casts all three to one type, which may round large integers."""
    if low is None or high is None:
        return False
    if not dtype.is_numeric():
        return low.dtype == high.dtype
    small = all(
        isinstance(value, float) or (isinstance(value, int) and abs(value) <= MAX_EXACT)
        for value in (low.item(), high.item())
    )
    if dtype.is_integer():
        return small and low.dtype.is_integer() and high.dtype.is_integer()
    return small and dtype == pl.Float64()


def _items_as(items: pl.Series, dtype: pl.DataType) -> pl.Series | None:
    """Return the items of a membership test in the column's type, without those it cannot hold; None if unsure."""
    if dtype == pl.Boolean() or not _is_monotone(dtype, dtype):
        return None
    if not len(items) or items.dtype == dtype:
        return items
    if items.dtype.is_integer() and dtype.is_integer():
        return items.cast(dtype, strict=False).drop_nulls()
    return None


# How statistics are brought into the types of the reading schema.


_LeafFacts = tuple[Any, Any, bool, bool]
"""The bounds of a leaf in one file, and whether some row may hold a value, or a null."""


def _facts(path: Path, dtype: pl.DataType, files: Sequence[FileStatistics]) -> Iterator[_LeafFacts]:
    readers: dict[int, Callable[[FileStatistics], _LeafFacts]] = {}
    for file in files:
        reader = readers.get(id(file.schema))
        if reader is None:
            reader = readers[id(file.schema)] = _reader(path, type_at(file.schema, path), dtype)
        yield reader(file)


def _reader(path: Path, source: pl.DataType | None, target: pl.DataType) -> Callable[[FileStatistics], _LeafFacts]:
    """Return how the facts on a leaf are read from files of one schema, in which the leaf has the type `source`."""
    if source is None:
        return lambda file: (None, None, False, file.rows > 0)
    convert = _converter(source, target)
    guess = 0

    def read(file: FileStatistics) -> _LeafFacts:
        nonlocal guess
        # Files of one schema list their leaves in one order.
        if guess >= len(file.columns) or file.columns[guess].path != path:
            guess = next((at for at, leaf in enumerate(file.columns) if leaf.path == path), 0)
            if not file.columns or file.columns[guess].path != path:
                return None, None, file.rows > 0, file.rows > 0
        leaf = file.columns[guess]
        return convert(leaf.min), convert(leaf.max), leaf.nulls < file.rows, leaf.nulls > 0

    return read


def _converter(source: pl.DataType, target: pl.DataType) -> Callable[[Any], Any]:
    """Return how a bound is brought from the type of a file to that of the reading schema, never rounded or wrapped."""
    if isinstance(target, (pl.Datetime, pl.Duration)) and isinstance(source, (pl.Datetime, pl.Duration)):
        factor = _UNITS[target.time_unit] // _UNITS[source.time_unit]
        return lambda bound: None if bound is None else _checked(bound, source) * factor
    if target.is_float() and source.is_numeric():
        return lambda bound: None if bound is None else float(_checked(bound, source))
    if source == target or (source.is_integer() and target.is_integer()):
        return lambda bound: _checked(bound, source)
    return lambda _bound: None


def _checked(bound: Any, source: pl.DataType) -> Any:
    """Refuse a flag where a number belongs: Python and Polars would take it for 0 or 1."""
    if isinstance(bound, bool) and source != pl.Boolean():
        raise TypeError(f"a bound of {source} is {bound}")
    return bound


def _series(bounds: Sequence[Any], dtype: pl.DataType) -> pl.Series:
    """Return bounds as a column; of types that have none, as nulls that compare with nothing."""
    if dtype.is_temporal():
        physical = pl.Int32 if dtype == pl.Date() else pl.Int64
        return pl.Series(bounds, dtype=physical, strict=True).cast(dtype)
    if _is_monotone(dtype, dtype):
        return pl.Series(bounds, dtype=dtype, strict=True)
    return pl.Series([None] * len(bounds), dtype=pl.Null)
