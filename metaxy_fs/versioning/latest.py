"""Which row of a sample counts, when it was written more than once?"""

from collections.abc import Sequence

import polars as pl


def latest_rows(rows: pl.LazyFrame, *, id_columns: Sequence[str]) -> pl.LazyFrame:
    """Return the last row of each sample, in the order in which those rows stand.

    Args:
        rows: Rows in commit order, so that a later one of a sample replaces an earlier one.
        id_columns: The columns that name a sample.
    """
    return rows.unique(subset=list(id_columns), keep="last", maintain_order=True)
