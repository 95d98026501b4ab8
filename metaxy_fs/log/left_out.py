"""Leave the rows of some samples out of what is copied: find them, and number the others anew.

A manifest is copied as it is if none of its files holds such a row. Statistics tell of most files that they cannot; of
the others the ids are read. All files of the manifest count, and all of their rows, also those that others answer for.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Final

import msgspec
import polars as pl

from metaxy_fs.log.chunks import COMMIT_COLUMNS
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.manifest import Manifest
from metaxy_fs.log.merge import merge_batches, stored_rows
from metaxy_fs.log.prune import may_match
from metaxy_fs.log.schema import column
from metaxy_fs.log.statistics import FileStatistics
from metaxy_fs.log.values import holds_any, values_as_stored
from metaxy_fs.log.view import LiveFile, files_of
from metaxy_fs.parallel import ordered_map
from metaxy_fs.reserved import COMMIT, ORDINAL, RETIRED, SHIFT
from metaxy_fs.storage.base import Storage

LEFT_OUT: Final = pl.Schema({COMMIT: pl.String(), ORDINAL: COMMIT_COLUMNS[ORDINAL], RETIRED: pl.Boolean()})
"""The commit of a row that is left out, its place there, and whether it retires its sample."""

_MERGED_AT_ONCE = 2


class LeftOut(msgspec.Struct, frozen=True):
    """Rows that are left out of some commits.

    Attributes:
        rows: Which ones, as a frame of `LEFT_OUT`.
    """

    rows: pl.DataFrame

    def from_rows(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """Return stored rows, with the columns of commits, without those that are left out, in any order.

        The others of a commit are numbered from 0 on, as they would be if it had never had those.
        """
        kept = rows.join(self.rows.lazy(), on=[COMMIT, ORDINAL], how="anti")
        before = self.rows.sort(ORDINAL).select(
            COMMIT, ORDINAL, (pl.col(ORDINAL).cum_count().over(COMMIT)).cast(LEFT_OUT[ORDINAL]).alias(SHIFT)
        )
        # Each commit is sorted, which Polars cannot see of a group.
        shifted = kept.sort(ORDINAL).join_asof(before.lazy(), on=ORDINAL, by=COMMIT, check_sortedness=False)
        return shifted.with_columns(pl.col(ORDINAL) - pl.col(SHIFT).fill_null(0)).drop(SHIFT)

    def from_table(self, table: pl.DataFrame) -> pl.DataFrame:
        """Return a table of commits with the numbers of rows that are kept."""
        counts = self.rows.group_by(pl.col(COMMIT).alias("commit")).agg(
            fewer=pl.len().cast(pl.Int64), fewer_retired=pl.col(RETIRED).sum().cast(pl.Int64)
        )
        found = table.join(counts, on="commit", how="left", maintain_order="left")
        fewer, fewer_retired = (pl.col(name).fill_null(0) for name in ("fewer", "fewer_retired"))
        return found.with_columns(rows=pl.col("rows") - fewer, retired=pl.col("retired") - fewer_retired).select(
            table.columns
        )


def rows_to_leave_out(storage: Storage, partition: Partition, manifest: Manifest, ids: pl.DataFrame) -> pl.DataFrame:
    """Return which rows of the files of a manifest are left out, as a frame of `LEFT_OUT`.

    Args:
        storage: The root.
        partition: Where the manifest is.
        manifest: Any manifest.
        ids: The values of some id columns; rows that have those of one of its rows are left out.

    Raises:
        MetadataSchemaError: An id column has values of another kind.
        ObjectNotFoundError: A file is gone.
        CorruptObjectError: A file is not what its manifest says.
    """
    live = sorted((each for each in files_of(partition, manifest) if each.file.rows), key=lambda each: each.file.schema)
    found = [LEFT_OUT.to_frame()]
    for _, of_schema in groupby(live, key=lambda each: each.file.schema):
        found += _found_in(storage, list(of_schema), ids)
    return pl.concat(found)


def _found_in(storage: Storage, files: Sequence[LiveFile], ids: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield the rows of files of one schema that are left out."""
    schema = files[0].schema
    wanted = values_as_stored(ids, schema, feature="/".join(files[0].manifest.feature))
    if not wanted.height:
        return
    statistics = [FileStatistics(live.file.rows, live.schema, live.file.statistics) for live in files]
    maybe = may_match(holds_any(wanted), schema=schema, files=statistics)
    batches = merge_batches(live for live, is_possible in zip(files, maybe, strict=True) if is_possible)
    yield from ordered_map(partial(_matching, storage, wanted), batches, workers=_MERGED_AT_ONCE)


def _matching(storage: Storage, ids: pl.DataFrame, batch: Sequence[LiveFile]) -> pl.DataFrame:
    rows = stored_rows(storage, batch)
    is_retired = pl.col(RETIRED).fill_null(value=False) if RETIRED in batch[0].schema else pl.lit(value=False)
    named = rows.join(ids.lazy(), on=[column(name) for name in ids.columns], how="semi")
    return named.select(COMMIT, ORDINAL, is_retired.alias(RETIRED)).collect()
