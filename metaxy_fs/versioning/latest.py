"""Which row of a sample counts, when it was written more than once?"""

from collections.abc import Sequence

import polars as pl


def latest_rows(rows: pl.LazyFrame, *, id_columns: Sequence[str]) -> pl.LazyFrame:
    """Return the last row of each sample, in the order in which those rows stand.

    Args:
        rows: Rows in commit order, so that a later one of a sample replaces an earlier one.
        id_columns: The columns that name a sample.
    """
    sample = pl.col(id_columns[0]) if len(id_columns) == 1 else pl.struct(id_columns)
    # Half the time of `unique(keep="last", maintain_order=True)`, which builds the rows that it throws away.
    return rows.filter(sample.is_last_distinct())
