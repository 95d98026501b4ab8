"""Give the rows of data files as frames, batch by batch, with the columns that give commit, partition and order.

Rows of a file of one commit do not say whose they are: the manifest does, by naming the file. A row's place in a scan
of several files gives its file, since the manifests count the rows of each. In files that compactions have written,
each row says it in three columns of its own.

Rows come in commit order, `(time, commit)`, those of a commit as its writer had them. Files of single commits are put
one after the other. A file that a compaction has written is ordered by id, and holds rows of many commits; it, and
all files whose commits lie among its own, are put together and sorted.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, pairwise, starmap
from typing import Any, Final, NamedTuple

import msgspec
import polars as pl

from metaxy_fs.errors import ObjectNotFoundError
from metaxy_fs.log.chunks import COMMIT_COLUMNS
from metaxy_fs.log.fetch import Supply
from metaxy_fs.log.manifest import CommitKey
from metaxy_fs.log.ranges import span_of
from metaxy_fs.log.read_plan import READ_ERRORS, FileSource, Need
from metaxy_fs.log.schema import column
from metaxy_fs.log.view import LiveFile
from metaxy_fs.log.widening import conform
from metaxy_fs.parallel import ordered_map
from metaxy_fs.reserved import COMMIT, ORDINAL, TIME
from metaxy_fs.reserved import ROW_OF_SCAN as ROW_INDEX
from metaxy_fs.reserved import SHIFT as _SHIFT

COMMIT_COLUMN_TYPES: Final = pl.Schema({name: COMMIT_COLUMNS[name] for name in (COMMIT, TIME)})
"""What a scan can give of each row: its commit, and the time of that."""


def add_commit_columns(rows: pl.LazyFrame, files: Sequence[LiveFile]) -> pl.LazyFrame:
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
        schema_overrides=COMMIT_COLUMN_TYPES,
    )
    ordinal = (pl.col(ROW_INDEX).cast(pl.Int64) - pl.col(_SHIFT)).cast(pl.UInt32).alias(ORDINAL)
    return rows.join_asof(by_start.lazy(), on=ROW_INDEX).with_columns(ordinal).drop(_SHIFT)


def add_partition_columns(rows: pl.LazyFrame, files: Sequence[LiveFile], *, name: str) -> pl.LazyFrame:
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


class FileGroup(NamedTuple):
    """Files whose commits lie together, apart from those of all other files.

    Attributes:
        files: In the order of their first commits.
        is_mixed: Whether their rows have to be sorted; if not, they are in order one file after the other.
    """

    files: list[LiveFile]
    is_mixed: bool


def file_groups(files: Iterable[LiveFile]) -> list[FileGroup]:
    """Divide files, ordered by their first commits, into file_groups whose rows come one after the other."""
    found: list[FileGroup] = []
    for group in _overlapping(files):
        is_mixed = _is_mixed(group)
        if found and not found[-1].is_mixed and not is_mixed:
            found[-1].files.extend(group)
        else:
            found.append(FileGroup(group, is_mixed))
    return found


def _overlapping(files: Iterable[LiveFile]) -> Iterator[list[LiveFile]]:
    """Yield files whose commits lie among each other together; those of other groups come before or after them all."""
    group: list[LiveFile] = []
    end: CommitKey = (0, "")
    for live in files:
        if group and live.first > end:
            yield group
            group = []
        end = max(end, live.last)
        group.append(live)
    if group:
        yield group


def _is_mixed(group: list[LiveFile]) -> bool:
    if not any(live.is_rewritten for live in group):
        return False
    is_unordered = any(live.is_rewritten and live.first != live.last and not live.file.ordered for live in group)
    return is_unordered or not all(starmap(_continues, pairwise(group)))


def _continues(before: LiveFile, live: LiveFile) -> bool:
    """Whether all rows of a file come after those of another, both in order, though they share a commit.

    The rows of a commit are in the order of their ids.
    """
    if not (before.is_rewritten and live.is_rewritten and live.first == before.last):
        return False
    id_column = live.manifest.id_columns[0]
    high, low = span_of(before.file, id_column).high, span_of(live.file, id_column).low
    is_comparable = before.schema.get(id_column) == live.schema.get(id_column) and type(high) is type(low)
    return high is not None and is_comparable and high < low


def in_commit_order(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Sort the rows of a group that is mixed; they have the columns of commits."""
    return rows.sort(TIME, COMMIT, ORDINAL, maintain_order=True)


def without(rows: pl.LazyFrame, excluded: frozenset[str]) -> pl.LazyFrame:
    """Leave out rows of commits that another manifest answers for; the rows have the columns of commits."""
    return rows.filter(~pl.col(COMMIT).is_in(pl.Series(sorted(excluded), dtype=pl.String).implode()))


class FileFrames:
    """Makes frames of the files of one scan, wherever their bytes come from.

    Args:
        schema: What the rows of all files are brought to.
        partition_column: Adds a column of this name that gives the version of the partition of each row.
        with_commits: Whether to add the columns of `metaxy_fs.log.frames.COMMIT_COLUMN_TYPES`.
    """

    def __init__(self, schema: pl.Schema, *, partition_column: str | None, with_commits: bool) -> None:
        self._partition_column = partition_column
        self.stored = schema
        self.schema = pl.Schema({**self._with_partition(schema), **(COMMIT_COLUMN_TYPES if with_commits else {})})
        self._sortable = pl.Schema({**self.schema, **COMMIT_COLUMNS})

    def unsorted(
        self,
        files: Sequence[LiveFile],
        sources: Sequence[FileSource],
        *,
        is_mixed: bool,
        columns: Callable[[LiveFile], Sequence[str]],
        use_statistics: bool = False,
    ) -> pl.LazyFrame:
        """Return the rows of files one after the other; where they are mixed, with all columns of commits.

        Files are taken in runs that Polars can scan as one.

        Args:
            files: The files.
            sources: Where the bytes of each are.
            is_mixed: Whether their rows have to be sorted.
            columns: Tells which of its columns are in the source of a file; the others become null.
            use_statistics: Whether Polars may leave out row groups by their bounds. It tests a predicate on them as if
                arithmetic never overflowed, so that is right for comparisons alone.
        """
        target = self._sortable if is_mixed else self.schema
        runs = groupby(zip(files, sources, strict=True), key=lambda pair: self._kind(*pair))
        frames = [self._run(list(run), target, columns, use_statistics=use_statistics) for _, run in runs]
        return frames[0] if len(frames) == 1 else pl.concat(frames)

    def _run(
        self,
        run: Sequence[tuple[LiveFile, FileSource]],
        target: pl.Schema,
        columns: Callable[[LiveFile], Sequence[str]],
        *,
        use_statistics: bool,
    ) -> pl.LazyFrame:
        files = [live for live, _ in run]
        first, stored_schema = files[0], files[0].stored_schema
        is_marked = not first.is_rewritten and COMMIT in target
        is_spread = self._partition_column is not None and any(live.partition != first.partition for live in files)
        place = [ROW_INDEX] if is_marked or is_spread else []
        sources: list[Any] = [source for _, source in run]
        # Directories of a root may look like `key=value`, and may hold characters that mean something in a glob.
        rows = pl.scan_parquet(
            sources,
            schema=stored_schema,
            glob=False,
            hive_partitioning=False,
            use_statistics=use_statistics,
            row_index_name=ROW_INDEX if place else None,
        )
        stored_schema = pl.Schema({name: stored_schema[name] for name in columns(first)})
        rows = rows.select(map(column, (*stored_schema, *place)))
        if first.excluded:
            rows = without(rows, first.excluded)
        if (name := self._partition_column) is not None:
            one = pl.lit(first.partition.version).alias(name)
            rows = add_partition_columns(rows, files, name=name) if is_spread else rows.with_columns(one)
        if is_marked:
            rows = add_commit_columns(rows, files)
        source = pl.Schema({**self._with_partition(stored_schema), **(COMMIT_COLUMNS if is_marked else {})})
        return conform(rows.drop(place), source=source, target=target)

    def _with_partition(self, schema: pl.Schema) -> pl.Schema:
        added = {} if self._partition_column is None else {self._partition_column: pl.String()}
        return pl.Schema({**schema, **added})

    def _kind(self, live: LiveFile, source: FileSource) -> tuple[Any, ...]:
        """Return what files that are scanned as one have in common.

        Of a large file there may be no more than some row groups, and then the places of rows do not tell its
        partition.
        """
        apart = live.partition if self._partition_column is not None and live.file.columns else None
        return type(source), apart, live.manifest.schema_of(live.file), live.is_rewritten, live.excluded


class Wanted(msgspec.Struct, frozen=True):
    """What Polars asks of a scan.

    Attributes:
        columns: The only columns to give; None for all.
        predicate: What the rows have to satisfy.
        rows: How many to take, before the predicate; None for all.
        is_part: Whether the predicate takes one range of ids, and other scans take those beside it.
    """

    columns: list[str] | None = None
    predicate: pl.Expr | None = None
    rows: int | None = None
    is_part: bool = False


def rows_of_files(
    supply: Supply, files: Sequence[LiveFile], *, frames: FileFrames, wanted: Wanted
) -> Iterator[pl.DataFrame]:
    """Yield the rows of files, ordered by their first commits, batch by batch and in commit order.

    Args:
        supply: Where their bytes come from.
        files: The files.
        frames: Makes frames of them.
        wanted: What is asked of their rows.
    """
    rows = _Rows(supply, frames, wanted)
    if wanted.rows is None:
        for group in file_groups(files):
            yield from rows.all_rows(group)
    else:
        yield from rows.first_rows(file_groups(files), wanted.rows)


class _Rows:
    """How one scan is answered."""

    def __init__(self, supply: Supply, frames: FileFrames, wanted: Wanted) -> None:
        self._supply = supply
        self._frames = frames
        self._wanted = wanted
        # A frame without columns would have no rows either: where none is wanted, one carries their number.
        names = frames.schema.names()
        self._columns = names[:1] if wanted.columns == [] else wanted.columns or names

    def all_rows(self, group: FileGroup) -> Iterator[pl.DataFrame]:
        """Yield the rows of a group that satisfy the predicate."""
        columns = dict.fromkeys([*self._columns, *(COMMIT_COLUMNS if group.is_mixed else ())])
        # Each file is read in the end: it is looked at once, and Polars finds the row groups of each range.
        need = self._need(group, None if self._wanted.is_part else self._wanted.predicate)
        kept = self._batches(group, need, lambda rows: self._filtered(rows).select(map(column, columns)))
        if not group.is_mixed:
            yield from kept
        else:
            parts = [self._empty(columns), *kept]
            yield in_commit_order(pl.concat(parts).lazy()).select(map(column, self._columns)).collect()

    def first_rows(self, found: Iterable[FileGroup], limit: int) -> Iterator[pl.DataFrame]:
        """Yield those of the first rows that satisfy the predicate; files that it could skip count towards these."""
        for group in found:
            for part in self._first_of(group if group.is_mixed else _beginning(group, limit), limit):
                rows = part.head(limit)
                limit -= rows.height
                yield self._filtered(rows.lazy()).select(map(column, self._columns)).collect()
                if limit <= 0:
                    return

    def _first_of(self, group: FileGroup, limit: int) -> Iterator[pl.DataFrame]:
        need = self._need(group, None)
        if not group.is_mixed:
            yield from self._batches(group, need, lambda rows: rows.head(limit))
        else:
            firsts = self._batches(group, need, lambda rows: in_commit_order(rows).head(limit))
            yield in_commit_order(pl.concat(firsts).lazy()).head(limit).collect()

    def _filtered(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows if self._wanted.predicate is None else rows.filter(self._wanted.predicate)

    def _need(self, group: FileGroup, predicate: pl.Expr | None) -> Need:
        filtered = [] if self._wanted.predicate is None else self._wanted.predicate.meta.root_names()
        is_marked = group.is_mixed or COMMIT in self._frames.schema
        return Need({*self._columns, *filtered}, predicate, self._frames.stored, is_marked)

    def _batches(
        self, group: FileGroup, need: Need, reduced: Callable[[pl.LazyFrame], pl.LazyFrame]
    ) -> Iterator[pl.DataFrame]:
        """Yield what is kept of the rows of each batch; where they are mixed, with the columns of commits.

        Threads of their own take them, and do nothing else: Polars may wait for this one, and must not wait for them.
        Where few rows are wanted, a batch is taken when those before it were not enough.
        """
        batches = self._supply.batches(group.files, need)
        is_lazy = self._wanted.rows is not None
        take = self._supply.take
        ready = map(take, batches) if is_lazy else ordered_map(take, batches, workers=self._supply.batches_ahead)
        for files, sources in ready:
            rows = self._frames.unsorted(
                files, sources, is_mixed=group.is_mixed, columns=need.of, use_statistics=self._wanted.is_part
            )
            try:
                kept = reduced(rows).collect()
            except READ_ERRORS:
                # Where the rows alone can be read, it is what was asked of them that fails, and says so without files.
                kept = reduced(self._all_of(rows, files).lazy()).collect()
            except FileNotFoundError as error:
                raise ObjectNotFoundError(f"a data file is gone: {error}") from error
            yield kept

    def _all_of(self, rows: pl.LazyFrame, files: Sequence[LiveFile]) -> pl.DataFrame:
        try:
            return rows.collect()
        except READ_ERRORS:
            self._supply.refuse_damaged(files)
            raise

    def _empty(self, columns: Iterable[str]) -> pl.DataFrame:
        schema = {**self._frames.schema, **COMMIT_COLUMNS}
        return pl.DataFrame(schema={name: schema[name] for name in columns})


def _beginning(group: FileGroup, limit: int) -> FileGroup:
    """Return the first files of a group, which have so many rows together, if it has."""
    files, height = [], 0
    for live in group.files:
        if height >= limit:
            break
        files.append(live)
        height += 0 if live.excluded else live.file.rows
    return FileGroup(files, is_mixed=False)


def without_empty_chunks(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows in chunks of which none is empty: what writes a frame chunk by chunk may take one for the end."""
    has_empty = any(0 in column.chunk_lengths() for column in rows.get_columns())
    return rows.rechunk() if has_empty and rows.height else rows


def by_chunks(rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield rows of some chunks at a time, without a copy: Polars joins frames of one chunk each without one, too."""
    start, height = 0, 0
    lengths = rows.to_series().chunk_lengths() if rows.width else []
    for length in lengths:
        height += length
        if height >= _WORTH_A_FRAME:
            yield rows.slice(start, height)
            start, height = start + height, 0
    if start < rows.height:
        yield rows.slice(start)


_WORTH_A_FRAME = 2**15
"""Rows of small files are given together: each frame costs its time."""
