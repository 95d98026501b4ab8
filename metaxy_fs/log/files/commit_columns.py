"""The columns of a data file that the library keeps for itself."""

from typing import Final

import polars as pl

COMMIT: Final = "_metaxy_commit"
"""The id of a row's commit, text."""

TIME: Final = "_metaxy_time"
"""The time of a row's commit, in microseconds since 1970 (UTC), Int64."""

ORDINAL: Final = "_metaxy_ordinal"
"""How many rows of its commit come before a row, UInt32."""

COMMIT_COLUMNS: Final = pl.Schema({COMMIT: pl.String(), TIME: pl.Int64(), ORDINAL: pl.UInt32()})
"""The last columns of a file that a compaction has written."""

RETIRED: Final = "_metaxy_retired"
"""Whether a row retires its sample, Boolean; a column of the commit itself, which few commits have."""
