"""Which data files does a scan read, and how can they be taken in parts?

A part is what lies in a range of one id column, or a group of files in which no sample stands twice. Files of a remote
root that are taken range by range are fetched once, into files of this machine: ranges end within files, and each would
fetch these again.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import msgspec
import polars as pl

from metaxy_fs.errors import ObjectNotFoundError
from metaxy_fs.log.reading.local_files import LocalFiles
from metaxy_fs.log.reading.ranges import IdRange, Span, span_of
from metaxy_fs.log.reading.repeats import distinct_groups
from metaxy_fs.log.reading.scan import Replan, renewed, scan_files
from metaxy_fs.log.reading.staging import StagedStorage
from metaxy_fs.log.views.live import LiveFile
from metaxy_fs.log.views.view import ATTEMPTS
from metaxy_fs.storage.base import Storage

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
        within_range: The test of a range that all rows satisfy.
        change: What is done to every frame.
        staged: Keeps files that several ranges need, for as long as the selection, and those that are made from it,
            live: whoever takes ranges holds it until their rows are read.
        local_files: Looks at files of a local root before they are read.
    """

    storage: Storage
    files: Sequence[LiveFile]
    schema: pl.Schema
    predicate: pl.Expr | None = None
    partition_column: str | None = None
    with_commits: bool = False
    replan: Replan | None = None
    within_range: pl.Expr | None = None
    change: Callable[[pl.LazyFrame], pl.LazyFrame] | None = None
    staged: StagedStorage
    local_files: LocalFiles = field(default_factory=LocalFiles, compare=False)
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
            storage=self.storage if self._is_local else self.staged,
            files=_touching(id_range, self.files, self.spans(column)),
            predicate=predicate if self.predicate is None else self.predicate & predicate,
            within_range=predicate,
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
        if not (is_distinct and is_small and self._is_local and self._are_there()):
            return [(self.rows, False)]
        try:
            return [(self._rows(first, None), True), (self._rows(rest, None), len(later) == 1 and later[0][1])]
        except ObjectNotFoundError:
            return [(self.rows, False)]

    def mapped(self, change: Callable[[pl.LazyFrame], pl.LazyFrame]) -> "Selection":
        """Return the selection with a change that is made to every frame; one that looks at each row alone."""
        before = self.change
        return replace(self, change=change if before is None else lambda rows: change(before(rows)))

    @property
    def _is_local(self) -> bool:
        """Whether the files are, or will be by the time they are read, in the local file system."""
        if self.storage is self.staged or not self.files:
            return True
        return self.storage.local_path(self.files[0].path) is not None

    def _are_there(self) -> bool:
        """Whether no local file is gone: commits of a group cannot be looked for apart from those of the others."""
        paths = [self.storage.local_path(live.path) for live in self.files]
        return all(path is None or os.path.lexists(path) for path in paths)

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
            local_files=LocalFiles(are_right=True) if self.storage is self.staged else self.local_files,
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


def _replan_within(replan: Replan, column: str, id_range: IdRange) -> list[LiveFile]:
    files = replan()
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
    return span if live.manifest.id_columns[0] == column else msgspec.structs.replace(span, fences=())


def _height(files: Sequence[LiveFile]) -> int:
    return sum(live.file.rows for live in files)
