"""Which commit does each row of a scan belong to, and where does it stand among that commit's?

Rows of a file of one commit do not say whose they are: the manifest does, by naming the file. A row's place in a scan
of several files gives its file, since the manifests count the rows of each. In files that compactions have written,
each row says it in three columns of its own.
"""

from collections.abc import Sequence
from typing import Final

import polars as pl

from metaxy_fs.log.files.commit_columns import COMMIT, COMMIT_COLUMNS, ORDINAL, TIME
from metaxy_fs.log.views.live import LiveFile

MARKS: Final = pl.Schema({name: COMMIT_COLUMNS[name] for name in (COMMIT, TIME)})
"""What a scan can give of each row: its commit, and the time of that."""

ROW_INDEX: Final = "_metaxy_row"
"""The place of a row in a scan of several files; what `mark_commits` needs and takes away."""

_SHIFT = "_metaxy_shift"


def mark_commits(rows: pl.LazyFrame, files: Sequence[LiveFile]) -> pl.LazyFrame:
    """Return the rows of files of single commits with the columns of `COMMIT_COLUMNS`.

    An as-of join lets predicates on other columns through to the files, and costs the same however many files there
    are; a literal in a scan of each file would cost milliseconds a file.

    Args:
        rows: The rows of all files, in order, with their place as `ROW_INDEX`.
        files: The files, in the order in which they are scanned.
    """
    starts = pl.Series([live.file.rows for live in files], dtype=pl.UInt32).cum_sum().shift(1, fill_value=0)
    # Where files without rows start with one that has some, the last of them counts, and that is the one.
    by_start = pl.DataFrame(
        {
            ROW_INDEX: starts,
            COMMIT: [live.first[1] for live in files],
            TIME: [live.first[0] for live in files],
            _SHIFT: starts.cast(pl.Int64) - pl.Series([live.offset for live in files], dtype=pl.Int64),
        },
        schema_overrides=MARKS,
    )
    ordinal = (pl.col(ROW_INDEX).cast(pl.Int64) - pl.col(_SHIFT)).cast(pl.UInt32).alias(ORDINAL)
    return rows.join_asof(by_start.lazy(), on=ROW_INDEX).with_columns(ordinal).drop(ROW_INDEX, _SHIFT)
