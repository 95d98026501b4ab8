"""How do data files of different schemas become one frame, in commit order?"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import polars as pl

from metaxy_fs.log.files.commit_columns import COMMIT, COMMIT_COLUMNS
from metaxy_fs.log.objects.schema import column
from metaxy_fs.log.objects.widening import conform
from metaxy_fs.log.reading.marks import MARKS, mark_commits, mark_partitions
from metaxy_fs.log.reading.order import without
from metaxy_fs.log.views.live import LiveFile
from metaxy_fs.reserved import ROW_OF_SCAN as ROW_INDEX

Source = str | bytes
"""A data file as Polars takes it: its path, or its bytes."""


class FileFrames:
    """Makes frames of the files of one scan, wherever their bytes come from.

    Args:
        schema: What the rows of all files are brought to.
        partition_column: Adds a column of this name that gives the version of the partition of each row.
        with_commits: Whether to add the columns of `metaxy_fs.log.reading.marks.MARKS`.
    """

    def __init__(self, schema: pl.Schema, *, partition_column: str | None, with_commits: bool) -> None:
        self._partition_column = partition_column
        self.stored = schema
        self.schema = pl.Schema({**self._with_partition(schema), **(MARKS if with_commits else {})})
        self._sortable = pl.Schema({**self.schema, **COMMIT_COLUMNS})

    def unsorted(
        self,
        files: Sequence[LiveFile],
        sources: Sequence[Source],
        *,
        is_mixed: bool,
        columns: Callable[[LiveFile], Sequence[str]],
    ) -> pl.LazyFrame:
        """Return the rows of files one after the other; where they are mixed, with all columns of commits.

        Files are taken in runs that Polars can scan as one.

        Args:
            files: The files.
            sources: Where the bytes of each are.
            is_mixed: Whether their rows have to be sorted.
            columns: Tells which of its columns are in the source of a file; the others become null.
        """
        target = self._sortable if is_mixed else self.schema
        runs = groupby(zip(files, sources, strict=True), key=lambda pair: self._kind(*pair))
        frames = [self._run(list(run), target, columns) for _, run in runs]
        return frames[0] if len(frames) == 1 else pl.concat(frames)

    def _run(
        self,
        run: Sequence[tuple[LiveFile, Source]],
        target: pl.Schema,
        columns: Callable[[LiveFile], Sequence[str]],
    ) -> pl.LazyFrame:
        files = [live for live, _ in run]
        first, held = files[0], files[0].stored_schema
        is_marked = not first.is_rewritten and COMMIT in target
        is_spread = self._partition_column is not None and any(live.partition != first.partition for live in files)
        place = [ROW_INDEX] if is_marked or is_spread else []
        sources: list[Any] = [source for _, source in run]
        # Directories of a root may look like `key=value`, and may hold characters that mean something in a glob.
        rows = pl.scan_parquet(
            sources,
            schema=held,
            glob=False,
            hive_partitioning=False,
            # Polars tests predicates on the bounds of a row group as if arithmetic never overflowed.
            use_statistics=False,
            row_index_name=ROW_INDEX if place else None,
        )
        held = pl.Schema({name: held[name] for name in columns(first)})
        rows = rows.select(map(column, (*held, *place)))
        if first.excluded:
            rows = without(rows, first.excluded)
        if (name := self._partition_column) is not None:
            one = pl.lit(first.partition.version).alias(name)
            rows = mark_partitions(rows, files, name=name) if is_spread else rows.with_columns(one)
        if is_marked:
            rows = mark_commits(rows, files)
        source = pl.Schema({**self._with_partition(held), **(COMMIT_COLUMNS if is_marked else {})})
        return conform(rows.drop(place), source=source, target=target)

    def _with_partition(self, schema: pl.Schema) -> pl.Schema:
        added = {} if self._partition_column is None else {self._partition_column: pl.String()}
        return pl.Schema({**schema, **added})

    def _kind(self, live: LiveFile, source: Source) -> tuple[Any, ...]:
        """Return what files that are scanned as one have in common.

        Of a large file there may be no more than some row groups, and then the places of rows do not tell its
        partition.
        """
        apart = live.partition if self._partition_column is not None and live.file.columns else None
        return type(source), apart, live.manifest.schema_of(live.file), live.is_rewritten, live.excluded


def without_empty_chunks(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows in chunks of which none is empty: what writes a frame chunk by chunk may take one for the end."""
    has_empty = any(0 in column.chunk_lengths() for column in rows.get_columns())
    return rows.rechunk() if has_empty and rows.height else rows
