"""The columns of a data file that the library keeps for itself."""

from typing import Final

import polars as pl

from metaxy_fs.reserved import COMMIT, ORDINAL, RETIRED, TIME

__all__ = ["COMMIT", "COMMIT_COLUMNS", "ORDINAL", "RETIRED", "TIME"]

COMMIT_COLUMNS: Final = pl.Schema({COMMIT: pl.String(), TIME: pl.Int64(), ORDINAL: pl.UInt32()})
"""The last columns of a file that a compaction has written."""
