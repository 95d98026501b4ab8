"""Which commit does each row of a scan belong to?

Rows of a data file do not say whose they are: the manifest does, by naming the file. A row's place in a scan of several
files gives its file, since the manifests count the rows of each.
"""

from collections.abc import Sequence
from typing import Final

import polars as pl

from metaxy_fs.log.view import LiveFile

COMMIT: Final = "_metaxy_commit"
"""The id of a row's commit, text."""

TIME: Final = "_metaxy_time"
"""The time of a row's commit, in microseconds since 1970 (UTC), Int64."""

MARKS: Final = pl.Schema({COMMIT: pl.String(), TIME: pl.Int64()})

ROW_INDEX: Final = "_metaxy_row"
"""The place of a row in a scan of several files; what `mark_commits` needs and takes away."""


def mark_commits(rows: pl.LazyFrame, files: Sequence[LiveFile]) -> pl.LazyFrame:
    """Return the rows with the columns of `MARKS`.

    An as-of join lets predicates on other columns through to the files, and costs the same however many files there
    are; a literal in a scan of each file would cost milliseconds a file.

    Args:
        rows: The rows of all files, in order, with their place as `ROW_INDEX`.
        files: The files, in the order in which they are scanned.
    """
    starts = pl.Series([live.file.rows for live in files], dtype=pl.UInt32).cum_sum().shift(1, fill_value=0)
    commits = [live.manifest.commit for live in files]
    times = [live.manifest.time for live in files]
    # Where files without rows start with one that has some, the last of them counts, and that is the one.
    by_start = pl.DataFrame({ROW_INDEX: starts, COMMIT: commits, TIME: times}, schema_overrides=MARKS)
    return rows.join_asof(by_start.lazy(), on=ROW_INDEX).drop(ROW_INDEX)
