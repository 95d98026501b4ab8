"""Find what the intact files of a lost compaction hold.

Each row in a file that a compaction has written says whose it is, and the commit table says how many rows each commit
has. So the commits that are whole in the files which are right can be told from those that are not, and a view of these
commits alone is what a new compaction is made from.
"""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet

import msgspec
import polars as pl

from metaxy_fs.log.checking.compacted import COUNTS
from metaxy_fs.log.checking.contents import check_contents
from metaxy_fs.log.files.commit_columns import COMMIT, TIME
from metaxy_fs.log.history.restrict import restrict
from metaxy_fs.log.objects.layout import Partition
from metaxy_fs.log.objects.manifest import DataFile, Manifest
from metaxy_fs.log.objects.tolerant import fetch_each
from metaxy_fs.log.views.live import files_of, place
from metaxy_fs.log.views.view import View
from metaxy_fs.storage.base import ObjectInfo, Storage


def salvage(
    storage: Storage, partition: Partition, manifest: Manifest, table: pl.DataFrame, *, wanted: AbstractSet[str]
) -> View | None:
    """Return what the intact files of a compaction hold of some commits, those alone that are whole; None for nothing.

    Args:
        storage: The root.
        partition: Where the compaction is.
        manifest: The compaction.
        table: Its commit table.
        wanted: Commits that it covers.
    """
    intact = list(_intact(storage, partition, manifest))
    held = pl.concat([COUNTS.to_frame(), *(commits for _, commits in intact)])
    held = held.group_by(COMMIT, TIME).agg(pl.col("rows").sum().alias("there"))
    said = table.rename({"commit": COMMIT, "time": TIME})
    both = said.join(held, on=[COMMIT, TIME], how="left").with_columns(pl.col("there").fill_null(0))
    whole = frozenset(both.filter(pl.col("there") == pl.col("rows")).get_column(COMMIT)) & wanted
    if not whole or not any(rows for rows in both.filter(pl.col(COMMIT).is_in(sorted(whole)))["rows"]):
        return None
    files = tuple(file for file, _ in intact)
    remains = msgspec.structs.replace(manifest, files=files, rows=sum(file.rows for file in files))
    view = View(partition, (remains,), tuple(sorted(files_of(partition, remains), key=place)))
    return restrict(view, whole, table_of=lambda _manifest: table)


def _intact(storage: Storage, partition: Partition, manifest: Manifest) -> Iterator[tuple[DataFile, pl.DataFrame]]:
    """Yield the data files of a compaction that are right, and what each holds of each commit."""
    wanted = ((file, ObjectInfo(partition.data_file(file.name), file.bytes)) for file in manifest.files)
    for file, info, data in fetch_each(storage, wanted):
        if isinstance(data, bytes):
            commits = check_contents(data, manifest=manifest, file=file, path=info.path).commits
            if commits is not None:
                yield file, commits
