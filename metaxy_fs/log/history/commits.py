"""Which commits make up what partitions hold?"""

from collections.abc import Callable, Sequence
from typing import Final

import polars as pl

from metaxy_fs.log.objects.layout import Partition
from metaxy_fs.log.objects.manifest import Manifest
from metaxy_fs.log.views.view import View

HISTORY: Final = pl.Schema(
    {
        "time": pl.Int64(),
        "commit": pl.String(),
        "rows": pl.Int64(),
        "retired": pl.Int64(),
        "bytes": pl.Int64(),
        "partition": pl.String(),
        "write_id": pl.String(),
        "writer": pl.String(),
        "compacted": pl.Boolean(),
        "tags": pl.String(),
    }
)
"""What is known of a commit. `rows` leaves out those that retire a sample, which `retired` counts."""

TableOf = Callable[[Partition, Manifest], pl.DataFrame]
"""Gives the commit table of a compaction."""


def commits_of(views: Sequence[View], *, table_of: TableOf) -> pl.DataFrame:
    """Return one row a commit of the views, in commit order across them; times are microseconds since 1970 (UTC).

    Raises:
        ObjectNotFoundError: A commit table is gone, since a larger compaction has replaced its own.
    """
    frames = [_commits(view, table_of) for view in views]
    return pl.concat([HISTORY.to_frame(), *frames]).sort("time", "commit")


def digests_of(view: View, *, table_of: TableOf) -> dict[str, str]:
    """Return the digest of the rows of every commit of a view.

    Raises:
        ObjectNotFoundError: A commit table is gone, since a larger compaction has replaced its own.
    """
    digests = {manifest.commit: manifest.digest for manifest in view.manifests if not manifest.covers}
    for manifest in view.manifests:
        if manifest.covers:
            digests.update(table_of(view.partition, manifest).select("commit", "digest").iter_rows())
    return digests


def _commits(view: View, table_of: TableOf) -> pl.DataFrame:
    version = pl.lit(view.partition.version).alias("partition")
    appends = [_described(manifest) for manifest in view.manifests if not manifest.covers]
    tables = [table_of(view.partition, manifest) for manifest in view.manifests if manifest.covers]
    compacted = [table.with_columns(version, compacted=True).select(*HISTORY) for table in tables]
    single = pl.DataFrame(appends, schema=HISTORY, orient="row").with_columns(version)
    # Compactions that live may have commits in common, of which their tables say the same.
    commits = pl.concat([single, *compacted]).unique("commit", keep="first", maintain_order=True)
    commits = commits.with_columns(pl.col("rows") - pl.col("retired"))
    return commits if view.only is None else commits.filter(pl.col("commit").is_in(sorted(view.only)))


def _described(manifest: Manifest) -> tuple[object, ...]:
    size = sum(file.bytes for file in manifest.files)
    counts = (manifest.rows, manifest.retired, size)
    written = (manifest.write_id, manifest.writer)
    return (manifest.time, manifest.commit, *counts, None, *written, False, manifest.tags_as_json)
