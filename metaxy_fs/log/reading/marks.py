"""Which commit and partition does each row of a scan belong to, and where does it stand among its commit's?

Rows of a file of one commit do not say whose they are: the manifest does, by naming the file. A row's place in a scan
of several files gives its file, since the manifests count the rows of each. In files that compactions have written,
each row says it in three columns of its own.
"""

from collections.abc import Sequence
from typing import Final

import polars as pl

from metaxy_fs.log.files.commit_columns import COMMIT, COMMIT_COLUMNS, ORDINAL, TIME
from metaxy_fs.log.views.live import LiveFile
from metaxy_fs.reserved import ROW_OF_SCAN as ROW_INDEX
from metaxy_fs.reserved import SHIFT as _SHIFT

MARKS: Final = pl.Schema({name: COMMIT_COLUMNS[name] for name in (COMMIT, TIME)})
"""What a scan can give of each row: its commit, and the time of that."""


def mark_commits(rows: pl.LazyFrame, files: Sequence[LiveFile]) -> pl.LazyFrame:
    """Return the rows of files of single commits with the columns of `COMMIT_COLUMNS`.

    An as-of join lets predicates on other columns through to the files, and costs the same however many files there
    are; a literal in a scan of each file would cost milliseconds a file.

    Args:
        rows: The rows of all files, in order, with their place as `ROW_INDEX`, which is kept.
        files: The files, in the order in which they are scanned.
    """
    starts = _starts(files)
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
    return rows.join_asof(by_start.lazy(), on=ROW_INDEX).with_columns(ordinal).drop(_SHIFT)


def mark_partitions(rows: pl.LazyFrame, files: Sequence[LiveFile], *, name: str) -> pl.LazyFrame:
    """Return the rows of files with the version of the partition of each, in a column of this name.

    Args:
        rows: The rows of all files, in order, with their place as `ROW_INDEX`, which is kept.
        files: The files, in the order in which they are scanned.
        name: The column.
    """
    by_start = pl.LazyFrame({ROW_INDEX: _starts(files), name: [live.partition.version for live in files]})
    return rows.join_asof(by_start, on=ROW_INDEX)


def _starts(files: Sequence[LiveFile]) -> pl.Series:
    """Return the place of the first row of each file.

    Where files without rows start with one that has some, the last of them counts, and that is the one.
    """
    return pl.Series([live.file.rows for live in files], dtype=pl.UInt32).cum_sum().shift(1, fill_value=0)
