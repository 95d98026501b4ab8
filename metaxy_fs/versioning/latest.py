"""Which row of a sample counts, when it was written more than once?"""

from collections.abc import Sequence

import polars as pl


def latest_rows(layers: Sequence[tuple[pl.LazyFrame, bool]], *, id_columns: Sequence[str]) -> pl.LazyFrame:
    """Return the last row of each sample, in the order in which those rows stand.

    Args:
        layers: Rows in commit order, in one or more consecutive groups, each with whether no sample stands twice in it;
            a later row of a sample replaces an earlier one.
        id_columns: The columns that name a sample.
    """
    ids = [pl.col(name) for name in id_columns]
    latest: list[pl.LazyFrame] = []
    later: list[pl.LazyFrame] = []
    for rows, is_distinct in reversed(layers):
        # Half the time of `unique(keep="last", maintain_order=True)`, which builds the rows that it throws away.
        found = rows if is_distinct else rows.filter(_sample(id_columns).is_last_distinct())
        if later:
            found = found.join(pl.concat(later), on=ids, how="anti", maintain_order="left")
        latest.append(found)
        later.append(rows.select(ids))
    return latest[0] if len(latest) == 1 else pl.concat(latest[::-1])


def _sample(id_columns: Sequence[str]) -> pl.Expr:
    return pl.col(id_columns[0]) if len(id_columns) == 1 else pl.struct(id_columns)
