"""Which commits make up what a partition holds?"""

from collections.abc import Sequence
from typing import Final

import polars as pl

from metaxy_fs.log.view import View

COMMIT_TABLE: Final = pl.Schema(
    {
        "time": pl.Int64(),
        "commit": pl.String(),
        "rows": pl.Int64(),
        "bytes": pl.Int64(),
        "partition": pl.String(),
        "write_id": pl.String(),
        "writer": pl.String(),
        "compacted": pl.Boolean(),
    }
)


def commit_table(views: Sequence[View]) -> pl.DataFrame:
    """Return one row a commit of the views, in commit order across them; times are microseconds since 1970 (UTC)."""
    rows = [
        (
            manifest.time,
            manifest.commit,
            manifest.rows,
            sum(file.bytes for file in manifest.files),
            view.partition.version,
            manifest.write_id,
            manifest.writer,
            False,
        )
        for view in views
        for manifest in view.manifests
    ]
    return pl.DataFrame(rows, schema=COMMIT_TABLE, orient="row").sort("time", "commit")
