"""Is a data file to blame where Polars fails?

A checksum tells that the bytes are those of their writer, not that the writer meant well.
"""

import polars as pl

from metaxy_fs.errors import CorruptObjectError
from metaxy_fs.log.views.live import LiveFile

READ_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What Polars raises where it cannot read a file; a panic is no Exception, and must not end the process either."""


def refuse_unreadable(source: str | bytes, live: LiveFile, *, name: str) -> None:
    """Read a data file by itself, and say what is wrong with it.

    Args:
        source: Its path, or its bytes.
        live: What its manifest says of it.
        name: What to call it.

    Raises:
        CorruptObjectError: It cannot be read, or holds other columns or another number of rows than were committed.
    """
    try:
        rows = pl.read_parquet(source, glob=False, hive_partitioning=False)
    except READ_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise CorruptObjectError(f"The data file {name} is no Parquet file that can be read: {reason}.") from error
    if rows.schema != live.stored_schema:
        raise CorruptObjectError(
            f"The data file {name} has other columns than its manifest gives: {dict(rows.schema)}."
        )
    if rows.height != live.file.rows:
        raise CorruptObjectError(f"The data file {name} has {rows.height} rows, its manifest says {live.file.rows}.")
