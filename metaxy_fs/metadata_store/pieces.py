"""Divide increments and calculations into pieces, ranges of the first id column that hold few rows each.

A piece is a range in all that is read: upstream rows, stored rows, and the samples that a caller gave. All rows of one
sample lie in one piece, and pieces are worked on apart, so memory holds few rows at a time. What is sorted by id is
read once; where files overlap, row groups at the ends of ranges are read twice. So pieces are larger where many files
overlap.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import polars as pl

from metaxy_fs.log import EVERYTHING, MAX_EXACT, ROW_GROUP_ROWS, IdRange, Span, depth, plan_ranges

PIECE_ROWS = 2**18
"""How many rows of each input a piece has, about: enough to keep all processors busy."""

_EXACT_TIME = 2**62

_ROW_GROUPS = 4
"""How many row groups of a file a range is to take at least, where many files overlap."""


class Input(Protocol):
    """Rows that are taken range by range."""

    def spans(self, column: str) -> Sequence[Span]:
        """Return how they lie along an id column; without bounds where they cannot be divided by it."""

    def dtype(self, column: str) -> pl.DataType | None:
        """Return the type of the id column, None if they have none of that name."""


class PieceLimits(NamedTuple):
    """How much a piece holds, about.

    Attributes:
        rows: Rows of each input; None for `PIECE_ROWS`, which keep this process busy.
        files: Files of all inputs together; None where their number makes no difference.
    """

    rows: int | None = None
    files: int | None = None


HERE: Final = PieceLimits()
"""What a piece holds that this process works on."""


def divide(inputs: Sequence[Input], column: str, limits: PieceLimits = HERE) -> list[IdRange]:
    """Return the ranges of an id column that the pieces of some inputs hold, in order."""
    if not have_common_bounds(inputs, column):
        return [EVERYTHING]
    spans = [each.spans(column) for each in inputs]
    together = [span for each in spans for span in each]
    is_few = limits.files is None or len(together) <= limits.files
    most = PIECE_ROWS if limits.rows is None else limits.rows
    if is_few and sum(span.rows for span in together) <= most:
        return [EVERYTHING]
    depths = [depth(each) for each in spans]
    rows = max(most, *(_ROW_GROUPS * ROW_GROUP_ROWS * (each - 1) for each in depths)) * len(inputs)
    if limits.files is None:
        return plan_ranges(together, rows=rows)
    # A file counts as so many rows besides, that a piece has no more of them than it may; those that overlap anyway.
    charge = rows // max(limits.files, sum(depths))
    charged = [msgspec.structs.replace(span, rows=span.rows + charge) for span in together if span.rows]
    return plan_ranges(charged, rows=rows)


def clipped(ranges: Sequence[IdRange], samples: Input, column: str) -> list[IdRange]:
    """Return the ranges without what lies before the first of some samples and after the last: one at least.

    Args:
        ranges: What `divide` gave for inputs with these samples among them.
        samples: The only ones that matter.
        column: The first id column.
    """
    spans = [span for span in samples.spans(column) if span.rows]
    if not spans or any(span.low is None or span.high is None for span in spans):
        return list(ranges)
    dtype = samples.dtype(column)
    low, high = min(span.low for span in spans), max(span.high for span in spans)
    limits = IdRange(_exact(low, dtype), _following(high, dtype))
    found = [each for id_range in ranges if (each := id_range.intersection(limits)) is not None]
    return some_of(ranges, found)


def some_of(ranges: Sequence[IdRange], found: list[IdRange]) -> list[IdRange]:
    """Return those ranges that are read; of files it is not worth it to take all of them if that is not most."""
    is_most = 2 * len(found) > len(ranges)
    return found if is_most else [msgspec.structs.replace(each, is_part=False) for each in found]


def have_common_bounds(inputs: Sequence[Input], column: str) -> bool:
    """Whether all inputs can be divided by a column, and bounds in its types compare as the values do."""
    dtypes = [each.dtype(column) for each in inputs]
    known = [dtype for dtype in dtypes if dtype is not None]
    if len(known) < len(dtypes) or not known:
        return False
    return all(dtype.is_integer() for dtype in known) or len(set(known)) == 1


def _exact(bound: Any, dtype: pl.DataType | None) -> Any:
    """Return a bound that compares with any number as it is; None for one that may be rounded."""
    limit = _EXACT_TIME if dtype is not None and dtype.is_temporal() else MAX_EXACT
    return None if isinstance(bound, int) and abs(bound) >= limit else bound


def _following(bound: Any, dtype: pl.DataType | None) -> Any:
    """Return the value that follows a bound, None where that is not sure."""
    if isinstance(bound, str):
        return bound + "\0"
    return bound + 1 if isinstance(bound, int) and _exact(bound, dtype) is not None else None
