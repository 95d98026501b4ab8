"""Into which pieces is the work on a feature divided, so that memory holds few of them at a time?

A piece is a range of the first id column, in all that is read: upstream rows, stored rows, and the samples that a
caller gave. All rows of one sample lie in one piece, and pieces are worked on apart. What is sorted by id is read once;
where files overlap, row groups at the ends of ranges are read twice. So pieces are larger where many files overlap.
"""

from collections.abc import Sequence
from typing import Protocol

import polars as pl

from metaxy_fs.log.files.parquet import ROW_GROUP_ROWS
from metaxy_fs.log.reading.ranges import EVERYTHING, IdRange, Span, depth, plan_ranges

PIECE_ROWS = 2**18
"""How many rows of each input a piece has, about: enough to keep all processors busy."""

_ROW_GROUPS = 4
"""How many row groups of a file a range is to take at least, where many files overlap."""


class Input(Protocol):
    """Rows that are taken range by range."""

    def spans(self, column: str) -> Sequence[Span]:
        """Return how they lie along an id column; without bounds where they cannot be divided by it."""

    def dtype(self, column: str) -> pl.DataType | None:
        """Return the type of the id column, None if they have none of that name."""


def divide(inputs: Sequence[Input], column: str) -> list[IdRange]:
    """Return the ranges of an id column that the pieces of some inputs hold, in order."""
    if not have_common_bounds(inputs, column):
        return [EVERYTHING]
    spans = [each.spans(column) for each in inputs]
    if sum(span.rows for each in spans for span in each) <= PIECE_ROWS:
        return [EVERYTHING]
    rows = max(PIECE_ROWS, *(_ROW_GROUPS * ROW_GROUP_ROWS * (depth(each) - 1) for each in spans))
    return plan_ranges([span for each in spans for span in each], rows=rows * len(inputs))


def have_common_bounds(inputs: Sequence[Input], column: str) -> bool:
    """Whether all inputs can be divided by a column, and bounds in its types compare as the values do."""
    dtypes = [each.dtype(column) for each in inputs]
    known = [dtype for dtype in dtypes if dtype is not None]
    if len(known) < len(dtypes) or not known:
        return False
    return all(dtype.is_integer() for dtype in known) or len(set(known)) == 1
