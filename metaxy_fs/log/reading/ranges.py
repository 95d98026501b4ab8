"""Into which ranges of ids is work divided, so that each holds a bounded number of rows?

Data files are sorted by id, and their statistics give the bounds of the first id column, and fences between: values
that cut a large file in parts of equal size. Ranges are cut at such values alone, so that a range takes whole parts
of sorted files. Where files overlap, a range also takes what begins before it, at most one part of each file more
than was asked for. Rows of one value are never divided.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import polars as pl

from metaxy_fs.log.objects.manifest import DataFile
from metaxy_fs.log.objects.schema import column


class Span(msgspec.Struct, frozen=True, gc=False):
    """How the rows of one sorted run, such as a data file, lie along a column.

    Attributes:
        rows: How many there are.
        low: No value is less; None if that is not known.
        high: No value is greater; None if that is not known.
        fences: Values that cut the run in parts of about the same size, ascending.
    """

    rows: int
    low: Any = None
    high: Any = None
    fences: tuple[Any, ...] = ()


class IdRange(msgspec.Struct, frozen=True, gc=False):
    """Values of the first id column from `low` on and below `high`; None stands for no limit.

    Values are those of statistics: of dates and times the integers that stand for them.
    """

    low: Any = None
    high: Any = None

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
        return None if low is not None and high is not None and low >= high else IdRange(low, high)

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
    return Span(file.rows, leaf.min, leaf.max, file.fences)


def plan_ranges(spans: Iterable[Span], *, rows: int) -> list[IdRange]:
    """Return consecutive ranges that together hold every value, each with about so many rows of the spans.

    One range without limits where the bounds of some span are not known, or do not compare with each other.
    """
    filled = [span for span in spans if span.rows]
    if any(span.low is None or span.high is None for span in filled):
        return [EVERYTHING]
    try:
        return _between(_cuts(sorted(_parts(filled), key=_start), rows))
    except TypeError:  # a stranger's manifest may claim a text as the bound of a number
        return [EVERYTHING]


def depth(spans: Iterable[Span]) -> int:
    """Return how many spans overlap at most, counting those of bounds that are not known, or no order, as all."""
    filled = [span for span in spans if span.rows]
    known = [span for span in filled if span.low is not None and span.high is not None]
    unknown = len(filled) - len(known)
    # At equal values a span begins before another ends: both hold the value.
    try:
        edges = sorted([(span.low, 0) for span in known] + [(span.high, 1) for span in known])
    except TypeError:  # a stranger's manifest may claim a text as the bound of a number
        return len(filled)
    deepest = current = 0
    for _, is_end in edges:
        current += -1 if is_end else 1
        deepest = max(deepest, current)
    return deepest + unknown


def _parts(spans: Sequence[Span]) -> list[tuple[Any, float]]:
    """Return where each part of each span begins, and its rows."""
    return [(start, span.rows / (len(span.fences) + 1)) for span in spans for start in (span.low, *span.fences)]


def _start(part: tuple[Any, float]) -> Any:
    return part[0]


def _cuts(parts: Sequence[tuple[Any, float]], rows: int) -> list[Any]:
    cuts: list[Any] = []
    held, last = 0.0, parts[0][0] if parts else None
    for start, size in parts:
        if held + size / 2 > rows and start > last:
            cuts.append(start)
            held, last = 0.0, start
        held += size
    return cuts


def _between(cuts: Sequence[Any]) -> list[IdRange]:
    return [IdRange(low, high) for low, high in zip([None, *cuts], [*cuts, None], strict=True)]


def _literal(value: Any, dtype: pl.DataType) -> pl.Expr:
    return pl.lit(value).cast(dtype) if dtype.is_temporal() else pl.lit(value)
