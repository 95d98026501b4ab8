"""Divide work into ranges of ids that each hold a bounded number of rows.

Data files are sorted by id, and their statistics give the bounds of the first id column, and split points: values
that cut a large file in parts of equal size. Ranges are cut at such values alone, so that a range takes whole parts
of sorted files. Where files overlap, a range also takes what begins before it, at most one part of each file more
than was asked for. Rows of one value are never divided.

One commit holds a sample once, and so do the files that a compaction has written of one schema, unless it says that
samples repeat. Files whose ids lie in ranges that do not overlap share none, and the statistics prove that, so that a
history of appends can be read without looking for the latest row of each sample.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Hashable, Iterable, Sequence
from operator import itemgetter
from typing import Any

import msgspec
import polars as pl

from metaxy_fs.log.manifest import CommitKey, DataFile
from metaxy_fs.log.schema import column
from metaxy_fs.log.view import LiveFile


class Span(msgspec.Struct, frozen=True, gc=False):
    """How the rows of one sorted run, such as a data file, lie along a column.

    Attributes:
        rows: How many there are.
        low: No value is less; None if that is not known.
        high: No value is greater; None if that is not known.
        split_points: Values that cut the run in parts of about the same size, ascending.
    """

    rows: int
    low: Any = None
    high: Any = None
    split_points: tuple[Any, ...] = ()


class IdRange(msgspec.Struct, frozen=True, gc=False):
    """Values of the first id column from `low` on and below `high`; None stands for no limit.

    Values are those of statistics: of dates and times the integers that stand for them.

    Attributes:
        low: The least value; None if there is no limit.
        high: What all values are below; None if there is no limit.
        is_part: Whether the ranges beside it are read, too, so that most of each file is read in the end.
    """

    low: Any = None
    high: Any = None
    is_part: bool = False

    def __bool__(self) -> bool:
        """Whether there is any limit."""
        return self.low is not None or self.high is not None

    def touches(self, span: Span) -> bool:
        """Whether rows of a span may lie in the range."""
        if span.low is None or span.high is None:
            return True
        return (self.low is None or span.high >= self.low) and (self.high is None or span.low < self.high)

    def intersection(self, other: "IdRange") -> "IdRange | None":
        """Return the values that lie in two ranges, None where there are none."""
        lows = [low for low in (self.low, other.low) if low is not None]
        highs = [high for high in (self.high, other.high) if high is not None]
        low, high = max(lows, default=None), min(highs, default=None)
        return None if low is not None and high is not None and low >= high else IdRange(low, high, self.is_part)

    def predicate(self, name: str, dtype: pl.DataType) -> pl.Expr | None:
        """Return the test whether a column of a type holds a value of the range; None if every value is."""
        limits = []
        if self.low is not None:
            limits.append(column(name) >= _literal(self.low, dtype))
        if self.high is not None:
            limits.append(column(name) < _literal(self.high, dtype))
        return pl.all_horizontal(limits) if limits else None


EVERYTHING = IdRange()


def span_of(file: DataFile, name: str) -> Span:
    """Return what the manifest says of a column of a data file."""
    leaf = next((leaf for leaf in file.statistics if leaf.path == (name,)), None)
    if leaf is None or leaf.min is None or leaf.max is None:
        return Span(file.rows)
    return Span(file.rows, leaf.min, leaf.max, file.split_points)


def plan_ranges(spans: Iterable[Span], *, rows: int) -> list[IdRange]:
    """Return consecutive ranges that together hold every value, each with about so many rows of the spans.

    One range without limits where the bounds of some span are not known, or do not compare with each other.
    """
    filled = [span for span in spans if span.rows]
    if any(span.low is None or span.high is None for span in filled):
        return [EVERYTHING]
    try:
        return _between(_cuts(sorted(_parts(filled), key=itemgetter(0)), rows))
    except TypeError:  # a stranger's manifest may claim a string as the bound of a number
        return [EVERYTHING]


def within_ranges(spans: Sequence[Span], ranges: Sequence[IdRange]) -> list[list[int]]:
    """Return, for each of some ranges in order that share no value, the places of the spans that it touches."""
    highs = [each.high for each in ranges if each.high is not None]
    found: list[list[int]] = [[] for _ in ranges]
    for place, span in enumerate(spans):
        at = 0 if span.low is None or span.high is None else bisect_right(highs, span.low)
        while at < len(ranges) and ranges[at].touches(span):
            found[at].append(place)
            at += 1
    return found


def depth(spans: Iterable[Span]) -> int:
    """Return how many spans overlap at most, counting those of bounds that are not known, or no order, as all."""
    filled = [span for span in spans if span.rows]
    known = [span for span in filled if span.low is not None and span.high is not None]
    unknown = len(filled) - len(known)
    # At equal values a span begins before another ends: both hold the value.
    try:
        edges = sorted([(span.low, 0) for span in known] + [(span.high, 1) for span in known])
    except TypeError:  # a stranger's manifest may claim a string as the bound of a number
        return len(filled)
    deepest = current = 0
    for _, is_end in edges:
        current += -1 if is_end else 1
        deepest = max(deepest, current)
    return deepest + unknown


def _parts(spans: Sequence[Span]) -> list[tuple[Any, float]]:
    """Return where each part of each span begins, and its rows."""
    return [
        (start, span.rows / (len(span.split_points) + 1)) for span in spans for start in (span.low, *span.split_points)
    ]


def _cuts(parts: Sequence[tuple[Any, float]], rows: int) -> list[Any]:
    cuts: list[Any] = []
    counted, last = 0.0, parts[0][0] if parts else None
    for start, size in parts:
        if counted + size / 2 > rows and start > last:
            cuts.append(start)
            counted, last = 0.0, start
        counted += size
    return cuts


def _between(cuts: Sequence[Any]) -> list[IdRange]:
    is_part = bool(cuts)
    return [IdRange(low, high, is_part) for low, high in zip([None, *cuts], [*cuts, None], strict=True)]


def _literal(value: Any, dtype: pl.DataType) -> pl.Expr:
    return pl.lit(value).cast(dtype) if dtype.is_temporal() else pl.lit(value)


DistinctGroup = tuple[list[LiveFile], bool]
"""Files, and whether it is proven that no sample stands twice in them."""


def distinct_groups(files: Sequence[LiveFile]) -> list[DistinctGroup]:
    """Divide files into consecutive groups, as few as possible, in which no sample stands twice if that can be proven.

    All rows of a group come before those of the next in commit order.

    Args:
        files: Ordered by their first commits.
    """
    filled = [live for live in files if live.file.rows]
    if not filled:
        return [(list(files), True)]
    column = filled[0].manifest.id_columns[0]
    if not _are_comparable(filled, column):
        return [(filled, len({_unit(live) for live in filled}) == 1 and not any(live.file.repeats for live in filled))]
    groups = [_OverlapGroup()]
    for live in filled:
        span = span_of(live.file, column)
        is_apart = groups[-1].is_apart(live, span)
        if not is_apart and groups[-1].files and live.first > groups[-1].end:
            groups.append(_OverlapGroup())
            is_apart = groups[-1].is_apart(live, span)
        groups[-1].add(live, span, is_apart=is_apart)
    return [(group.files, group.is_distinct) for group in groups]


class _OverlapGroup:
    """Files that come together, with their ids' ranges in order as long as those of different units do not overlap."""

    def __init__(self) -> None:
        self.files: list[LiveFile] = []
        self.end: CommitKey = (0, "")
        self.is_distinct = True
        self._units: set[Hashable] = set()
        self._ranges: list[tuple[Any, Any, Hashable]] = []

    def is_apart(self, live: LiveFile, span: Span) -> bool:
        """Whether no sample of a file stands in those that are here, nor twice in the file."""
        if live.file.repeats or not self.is_distinct:
            return False
        unit = _unit(live)
        if self._units <= {unit}:
            return True
        if span.low is None or len(self._ranges) < len(self.files):
            return False
        place = bisect_left(self._ranges, span.low, key=itemgetter(0))
        neighbours = self._ranges[max(0, place - 1) : place + 1]
        return all(other == unit or high < span.low or span.high < low for low, high, other in neighbours)

    def add(self, live: LiveFile, span: Span, *, is_apart: bool) -> None:
        """Add a file."""
        self.is_distinct = is_apart
        self.files.append(live)
        self.end = max(self.end, live.last)
        self._units.add(_unit(live))
        if span.low is not None:
            insort(self._ranges, (span.low, span.high, _unit(live)), key=itemgetter(0))


def _are_comparable(files: Sequence[LiveFile], column: str) -> bool:
    """Whether samples are named by the same columns, and the bounds of the first compare as its values do."""
    columns = {live.manifest.id_columns for live in files}
    dtypes = {live.schema.get(column) for live in files}
    known = [span for span in (span_of(live.file, column) for live in files) if span.low is not None]
    kinds = {type(bound) for span in known for bound in (span.low, span.high)}
    return len(columns) == 1 and len(dtypes) == 1 and len(kinds) <= 1


def _unit(live: LiveFile) -> Hashable:
    """Return what files have in common that share no sample: a commit, or a compaction and the schema."""
    if live.is_rewritten:
        return live.partition, live.manifest.commit, live.file.schema
    return live.partition, live.first
