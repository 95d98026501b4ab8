"""One lazy frame of many data files.

Files are read when the frame is collected, and no more of them than is asked for then: the columns and the predicate
that Polars pushes down leave out columns, files and row groups. Rows come in commit order, and files of different
schemas are brought to one.

A file that is gone was superseded, and nothing else: so the same commits are looked for in other files.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial

import polars as pl
from polars.io.plugins import register_io_source

from metaxy_fs.errors import CorruptObjectError, ObjectNotFoundError
from metaxy_fs.log.objects.schema import Path
from metaxy_fs.log.objects.statistics import FileStatistics, exact_integers
from metaxy_fs.log.objects.widening import FileSchema, unify
from metaxy_fs.log.pruning.matching import may_match
from metaxy_fs.log.reading.fetching import RemoteFiles, Supply, Wanted, taken_rows
from metaxy_fs.log.reading.frames import FileFrames, without_empty_chunks
from metaxy_fs.log.reading.local_files import LocalFiles
from metaxy_fs.log.views.live import LiveFile
from metaxy_fs.log.views.view import ATTEMPTS
from metaxy_fs.storage.base import Storage

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
    held = (live.file for live in files if path[0] in live.schema)
    return all(exact_integers(file.statistics, rows=file.rows)(path) for file in held)


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
) -> pl.LazyFrame:
    """Return the rows of the files, in commit order.

    Args:
        storage: Where the files are.
        files: Ordered by their first commits.
        schema: What `reading_schema` gave.
        predicate: Leave out files of which no row can satisfy it. Rows of other files come unfiltered.
        partition_column: Add a column of this name that gives the version of the partition of each row.
        with_commits: Add the columns of `metaxy_fs.log.reading.marks.MARKS`, which give the commit of each row.
        replan: Called where a file is gone, a bounded number of times.
        local_files: What is known of the files of a local root.
    """
    frames = FileFrames(schema, partition_column=partition_column, with_commits=with_commits)
    plan = _Plan(files, frames=frames, predicate=predicate, replan=replan)
    if not plan.files:
        return pl.LazyFrame(schema=frames.schema)
    is_local = storage.local_path(plan.files[0].path) is not None
    supply = (local_files or LocalFiles()).of(storage) if is_local else RemoteFiles(storage)
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
            f"A data file is gone, though it is committed: {error} Look for what is wrong with `verify`."
        ) from error
    return replan()


class _Plan:
    """The files of a scan, until one is gone: then those that hold the same commits now."""

    def __init__(
        self,
        files: Sequence[LiveFile],
        *,
        frames: FileFrames,
        predicate: pl.Expr | None,
        replan: Replan | None,
    ) -> None:
        self.frames = frames
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
    plan: _Plan,
    with_columns: list[str] | None,
    predicate: pl.Expr | None,
    n_rows: int | None,
    _batch_size: int | None,
) -> Iterator[pl.DataFrame]:
    """Yield rows batch by batch, as Polars pulls them and with what it pushes down.

    The predicate is meant for the first `n_rows` rows: files that it could skip still count towards these.
    """
    wanted = Wanted(with_columns, predicate, n_rows)
    given = 0
    for attempt in range(ATTEMPTS):
        files = plan.files if n_rows is not None else plan.prune(plan.files, predicate)
        try:
            taken = taken_rows(supply, files, frames=plan.frames, wanted=wanted)
            for rows in _beyond(given, taken):
                given += rows.height
                if rows.height:
                    yield without_empty_chunks(rows)
        except ObjectNotFoundError as error:
            plan.renew(error, attempt=attempt)
        else:
            return


def _beyond(skipped: int, frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Leave out the rows that were given before a file was gone: the same commits have the same rows in one order."""
    for rows in frames:
        rest = rows.slice(min(skipped, rows.height))
        skipped -= rows.height - rest.height
        yield rest
