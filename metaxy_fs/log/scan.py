"""One lazy frame of many data files.

Files are read when the frame is collected, and no more of them than is asked for then: the columns and the predicate
that Polars pushes down leave out columns, files and row groups. Rows come in commit order, and files of different
schemas are brought to one.

A file that is gone was superseded, and nothing else: so the same commits are looked for in other files.

A part is what lies in a range of one id column, or a group of files in which no sample stands twice. Files of a remote
root that are taken range by range are fetched once, into files of this machine: ranges end within files, and each would
fetch these again.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Protocol

import msgspec
import polars as pl
from polars.io.plugins import register_io_source

from metaxy_fs.errors import CorruptObjectError, ObjectNotFoundError
from metaxy_fs.log.fetch import RemoteFiles, StagedStorage, Supply
from metaxy_fs.log.frames import FileFrames, Wanted, by_chunks, rows_of_files, without_empty_chunks
from metaxy_fs.log.local_files import LocalFiles
from metaxy_fs.log.manifest import CommitKey
from metaxy_fs.log.predicates import is_range_of
from metaxy_fs.log.prune import may_match
from metaxy_fs.log.ranges import IdRange, Span, distinct_groups, span_of
from metaxy_fs.log.schema import Path
from metaxy_fs.log.seen import SeenCommits
from metaxy_fs.log.statistics import FileStatistics, exact_integers
from metaxy_fs.log.view import ATTEMPTS, LiveFile, View
from metaxy_fs.log.widening import FileSchema, unify
from metaxy_fs.storage.base import Storage

_ORDERED = (pl.datatypes.IntegerType, pl.datatypes.TemporalType, pl.String)
"""Types whose bounds hold all values; those of floats say nothing of NaN."""

Replan = Callable[[], Sequence[LiveFile]]
"""Looks for other files that hold the same commits."""


def reading_schema(files: Sequence[LiveFile], *, location: str, columns: Collection[str] | None) -> pl.Schema:
    """Return the schema that the rows of all files fit.

    Args:
        files: Ordered by their first commits.
        location: The root, for messages.
        columns: Leave all other columns out, and pass over those that do not exist; None keeps every one.

    Raises:
        MetadataSchemaError: Two files hold types of one column that have no type in common.
    """
    described = [_file_schema(live, location=location) for live in files]
    return unify(described, columns=None if columns is None else set(columns))


def column_names(files: Iterable[LiveFile]) -> list[str]:
    """Return the names of all columns that any file has, in the order of their first appearance."""
    schemas = {id(schema): schema for schema in (live.schema for live in files)}
    return list(dict.fromkeys(name for schema in schemas.values() for name in schema))


def are_exact(files: Iterable[LiveFile], path: Path) -> bool:
    """Whether the integers at a path are proven to lie within +-2**53, in all files that have its column."""
    files_with_column = (live.file for live in files if path[0] in live.schema)
    return all(exact_integers(file.statistics, rows=file.rows)(path) for file in files_with_column)


def scan_files(
    storage: Storage,
    files: Sequence[LiveFile],
    *,
    schema: pl.Schema,
    predicate: pl.Expr | None = None,
    partition_column: str | None = None,
    with_commits: bool = False,
    replan: Replan | None = None,
    local_files: LocalFiles | None = None,
    divided_by: str | None = None,
) -> pl.LazyFrame:
    """Return the rows of the files, in commit order.

    Args:
        storage: Where the files are.
        files: Ordered by their first commits.
        schema: What `reading_schema` gave.
        predicate: Leave out files of which no row can satisfy it. Rows of other files come unfiltered.
        partition_column: Add a column of this name that gives the version of the partition of each row.
        with_commits: Add the columns of `metaxy_fs.log.frames.COMMIT_COLUMN_TYPES`, which give the commit of each row.
        replan: Called where a file is gone, a bounded number of times.
        local_files: What is known of the files of a local root.
        divided_by: The id column whose ranges are read apart, where this is one and the others are read, too.
    """
    frames = FileFrames(schema, partition_column=partition_column, with_commits=with_commits)
    plan = _ScanPlan(files, frames=frames, predicate=predicate, replan=replan, divided_by=divided_by)
    if not plan.files:
        return pl.LazyFrame(schema=frames.schema)
    is_local = storage.local_path(plan.files[0].path) is not None
    supply = (local_files or LocalFiles(storage)) if is_local else RemoteFiles(storage)
    return register_io_source(partial(_read_on_demand, supply, plan), schema=frames.schema, is_pure=True)


def renewed(replan: Replan | None, error: ObjectNotFoundError, *, attempt: int) -> Sequence[LiveFile]:
    """Return other files that hold the same commits, where one is gone.

    Args:
        replan: Looks for them; None if nobody can.
        error: What says that it is gone.
        attempt: How often that was done before.

    Raises:
        ObjectNotFoundError: Nobody can tell.
        CorruptObjectError: That was done often enough.
    """
    if replan is None:
        raise error
    if attempt == ATTEMPTS - 1:
        raise CorruptObjectError(
            f"A data file is gone, though it is committed: {error} Look for what is wrong with `verify`.",
            feature=error.feature,
            root=error.root,
            path=error.path,
        ) from error
    return replan()


class _ScanPlan:
    """The files of a scan, until one is gone: then those that hold the same commits now."""

    def __init__(
        self,
        files: Sequence[LiveFile],
        *,
        frames: FileFrames,
        predicate: pl.Expr | None,
        replan: Replan | None,
        divided_by: str | None,
    ) -> None:
        self.frames = frames
        self._divided_by = divided_by
        self._predicate = predicate
        self._replan = replan
        self.files = self.prune(files, predicate)

    def prune(self, files: Sequence[LiveFile], predicate: pl.Expr | None) -> list[LiveFile]:
        """Return the files that may hold a row which satisfies the predicate."""
        if predicate is None:
            return list(files)
        statistics = [FileStatistics(live.file.rows, live.schema, live.file.statistics) for live in files]
        # The partition is in no file: the stored columns alone are known, and whatever else is named keeps every file.
        kept = may_match(predicate, schema=self.frames.stored, files=statistics)
        return [live for live, keep in zip(files, kept, strict=True) if keep]

    def is_part(self, predicate: pl.Expr | None) -> bool:
        """Whether a predicate takes one range of ids, of files that are read in ranges."""
        name = self._divided_by
        if predicate is None or name is None or not isinstance(self.frames.stored[name], _ORDERED):
            return False
        return is_range_of(predicate, name)

    def renew(self, error: ObjectNotFoundError, *, attempt: int) -> None:
        """Look where the same commits are now.

        Raises:
            ObjectNotFoundError: Nobody can tell.
            CorruptObjectError: That was done often enough.
        """
        self.files = self.prune(renewed(self._replan, error, attempt=attempt), self._predicate)


def _file_schema(live: LiveFile, *, location: str) -> FileSchema:
    is_exact = exact_integers(live.file.statistics, rows=live.file.rows)
    return f"{location}/{live.path}", live.schema, is_exact


def _read_on_demand(  # Polars passes the last four by position
    supply: Supply,
    plan: _ScanPlan,
    with_columns: list[str] | None,
    predicate: pl.Expr | None,
    n_rows: int | None,
    _batch_size: int | None,
) -> Iterator[pl.DataFrame]:
    """Yield rows batch by batch, as Polars pulls them and with what it pushes down.

    The predicate is meant for the first `n_rows` rows: files that it could skip still count towards these.
    """
    wanted = Wanted(with_columns, predicate, n_rows, plan.is_part(predicate))
    given = 0
    for attempt in range(ATTEMPTS):
        files = plan.files if n_rows is not None else plan.prune(plan.files, predicate)
        try:
            found = rows_of_files(supply, files, frames=plan.frames, wanted=wanted)
            for rows in _after_first(given, found):
                given += rows.height
                if rows.height:
                    yield from by_chunks(without_empty_chunks(rows))
        except ObjectNotFoundError as error:
            plan.renew(error, attempt=attempt)
        else:
            return


def _after_first(skipped: int, frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Leave out the rows that were given before a file was gone: the same commits have the same rows in one order."""
    for rows in frames:
        rest = rows.slice(min(skipped, rows.height))
        skipped -= rows.height - rest.height
        yield rest


class SameCommits(Protocol):
    """Looks for the same commits in other files, where one is gone."""

    def __call__(self, *, after: CommitKey | None = None, until: CommitKey | None = None) -> Sequence[LiveFile]:
        """Return the files of those after one commit and up to another; of all by default."""


_WORTHWHILE = 2
"""How many times as many rows as all others the first group has to have, to be looked through apart from them."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Data files that are read together.

    Attributes:
        storage: Where they are.
        files: Ordered by their first commits.
        schema: What their rows are brought to.
        predicate: Files of which no row satisfies it are left out.
        partition_column: The column that gives the partition of each row, if it is wanted.
        with_commits: Whether each row is to say which commit it belongs to.
        replan: Looks for the same commits in other files, where one is gone.
        seen: These commits, a partition each.
        within_range: The test of a range that all rows satisfy.
        divided_by: The id column of the range, if those beside it are read, too.
        change: What is done to every frame.
        staged: Keeps files that several ranges need, for as long as the selection, and those that are made from it,
            live: the reader of ranges keeps it until their rows are read.
        local_files: Looks at files of a local root before they are read.
    """

    storage: Storage
    files: Sequence[LiveFile]
    schema: pl.Schema
    predicate: pl.Expr | None = None
    partition_column: str | None = None
    with_commits: bool = False
    replan: SameCommits | None = None
    seen: Sequence[View | SeenCommits] = ()
    within_range: pl.Expr | None = None
    divided_by: str | None = None
    change: Callable[[pl.LazyFrame], pl.LazyFrame] | None = None
    staged: StagedStorage
    local_files: LocalFiles = field(compare=False)
    _spans: dict[str, list[Span]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def rows(self) -> pl.LazyFrame:
        """All rows in commit order."""
        return self._rows(self.files, self.replan)

    def spans(self, column: str) -> list[Span]:
        """Return the bounds of each file in an id column; without bounds where they do not compare with each other."""
        if column not in self._spans:
            self._spans[column] = _spans_along(self.files, column)
        return self._spans[column]

    def within(self, column: str, id_range: IdRange) -> "Selection":
        """Return those rows alone whose value in an id column lies in a range."""
        predicate = id_range.predicate(column, self.schema[column])
        if predicate is None:
            return self
        return replace(
            self,
            storage=self.staged if id_range.is_part and not self._is_local else self.storage,
            files=_touching(id_range, self.files, self.spans(column)),
            predicate=predicate if self.predicate is None else self.predicate & predicate,
            within_range=predicate,
            divided_by=column if id_range.is_part else None,
            replan=None if self.replan is None else partial(_replan_within, self.replan, column, id_range),
        )

    def layers(self) -> list[tuple[pl.LazyFrame, bool]]:
        """Return the rows in consecutive groups, the earliest first, each with whether no sample stands twice in it."""
        groups = distinct_groups(self.files)
        if len(groups) < 2:
            return [(self.rows, all(is_distinct for _, is_distinct in groups))]
        (first, is_distinct), *later = groups
        rest = [live for files, _ in later for live in files]
        is_small = _WORTHWHILE * _height(rest) <= _height(first)
        if not (is_distinct and is_small and self._is_local):
            return [(self.rows, False)]
        before = after = None
        if self.replan is not None:
            end = max(live.last for live in first)
            before, after = partial(self.replan, until=end), partial(self.replan, after=end)
        return [(self._rows(first, before), True), (self._rows(rest, after), len(later) == 1 and later[0][1])]

    def mapped(self, change: Callable[[pl.LazyFrame], pl.LazyFrame]) -> "Selection":
        """Return the selection with a change that is made to every frame; one that looks at each row alone."""
        before = self.change
        return replace(self, change=change if before is None else partial(_changed, before, change))

    def needed(self) -> list[LiveFile]:
        """Return the files that may hold a row which satisfies the predicate."""
        frames = FileFrames(self.schema, partition_column=self.partition_column, with_commits=self.with_commits)
        plan = _ScanPlan(self.files, frames=frames, predicate=self.predicate, replan=None, divided_by=None)
        return plan.files

    @property
    def _is_local(self) -> bool:
        """Whether the files are, or will be by the time they are read, in the local file system."""
        if self.storage is self.staged or not self.files:
            return True
        return self.storage.local_path(self.files[0].path) is not None

    def _rows(self, files: Sequence[LiveFile], replan: Replan | None) -> pl.LazyFrame:
        if self.storage is self.staged:
            files, replan = self._staged(files, replan), None
        rows = scan_files(
            self.storage,
            files,
            schema=self.schema,
            predicate=self.predicate,
            partition_column=self.partition_column,
            with_commits=self.with_commits,
            replan=replan,
            # What is staged was checked when it was fetched.
            local_files=LocalFiles(self.staged, are_right=True) if self.storage is self.staged else self.local_files,
            divided_by=self.divided_by,
        )
        rows = rows if self.within_range is None else rows.filter(self.within_range)
        return rows if self.change is None else self.change(rows)

    def _staged(self, files: Sequence[LiveFile], replan: Replan | None) -> Sequence[LiveFile]:
        """Have files in the local file system, or others that hold the same commits; return which."""
        for attempt in range(ATTEMPTS):
            try:
                self.staged.fetch(files)
            except ObjectNotFoundError as error:
                files = renewed(replan, error, attempt=attempt)
            else:
                return files
        raise AssertionError("unreachable: the last attempt returns or raises")


def _changed(
    first: Callable[[pl.LazyFrame], pl.LazyFrame], then: Callable[[pl.LazyFrame], pl.LazyFrame], rows: pl.LazyFrame
) -> pl.LazyFrame:
    return then(first(rows))


def _replan_within(
    replan: SameCommits,
    column: str,
    id_range: IdRange,
    *,
    after: CommitKey | None = None,
    until: CommitKey | None = None,
) -> list[LiveFile]:
    files = replan(after=after, until=until)
    return _touching(id_range, files, _spans_along(files, column))


def _touching(id_range: IdRange, files: Sequence[LiveFile], spans: Sequence[Span]) -> list[LiveFile]:
    return [live for span, live in zip(spans, files, strict=True) if id_range.touches(span)]


def _spans_along(files: Sequence[LiveFile], column: str) -> list[Span]:
    dtypes = {live.schema.get(column) for live in files}
    if len(dtypes) > 1 and not all(dtype is not None and dtype.is_integer() for dtype in dtypes):
        return [Span(live.file.rows) for live in files]
    return [_span(live, column) for live in files]


def _span(live: LiveFile, column: str) -> Span:
    span = span_of(live.file, column)
    # Fences are values of the first id column; along another one the rows lie anyhow.
    return span if live.manifest.id_columns[0] == column else msgspec.structs.replace(span, split_points=())


def _height(files: Sequence[LiveFile]) -> int:
    return sum(live.file.rows for live in files)
