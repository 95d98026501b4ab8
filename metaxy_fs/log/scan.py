"""How do data files become one lazy frame?

Files on a local file system are left to Polars, which reads the columns and row groups that a query needs. Elsewhere
objects are fetched whole, many at once, and only when the frame is collected: the predicate that Polars pushes down
by then prunes files once more. Either way rows come in commit order, and files of different schemas are brought to
one.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

from metaxy_fs.errors import CorruptObjectError
from metaxy_fs.log.marks import MARKS, ROW_INDEX, mark_commits
from metaxy_fs.log.parquet import check_bytes
from metaxy_fs.log.pruning import FileStatistics, may_match
from metaxy_fs.log.schema import column
from metaxy_fs.log.statistics import exact_integers
from metaxy_fs.log.view import LiveFile
from metaxy_fs.log.widening import FileSchema, conform, unify
from metaxy_fs.storage.base import ObjectInfo, Storage

_BATCH_FILES = 256
_BATCH_BYTES = 128 * 1024 * 1024
"""What is fetched at once from a remote root: enough to keep its connections busy, little enough to hold in memory."""


def reading_schema(files: Sequence[LiveFile], *, location: str, columns: Collection[str] | None) -> pl.Schema:
    """Return the schema that the rows of all files fit.

    Args:
        files: In commit order.
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


def scan_files(
    storage: Storage,
    files: Sequence[LiveFile],
    *,
    schema: pl.Schema,
    predicate: pl.Expr | None = None,
    partition_column: str | None = None,
    with_commits: bool = False,
) -> pl.LazyFrame:
    """Return the rows of the files, in order.

    Args:
        storage: Where the files are.
        files: In commit order.
        schema: What `reading_schema` gave.
        predicate: Leave out files of which no row can satisfy it. Rows of other files come unfiltered.
        partition_column: Add a column of this name that gives the version of the partition of each row.
        with_commits: Add the columns of `metaxy_fs.log.marks.MARKS`, which give the commit of each row.
    """
    scan = _Scan(storage, schema, partition_column, with_commits=with_commits)
    kept = scan.prune(files, predicate)
    if not kept:
        return pl.LazyFrame(schema=scan.schema)
    if storage.local_path(kept[0].path) is not None:
        return scan.rows(kept, [_checked_path(storage, live) for live in kept])
    fetch = partial(_fetch_on_demand, scan, kept)
    return register_io_source(fetch, schema=scan.schema, is_pure=True)


class _Scan:
    """How the files of one scan are read, wherever their bytes come from."""

    def __init__(
        self, storage: Storage, schema: pl.Schema, partition_column: str | None, *, with_commits: bool
    ) -> None:
        self.storage = storage
        self._stored = schema
        self._partition_column = partition_column
        self._with_commits = with_commits
        self.schema = self._with_added(schema)

    def prune(self, files: Sequence[LiveFile], predicate: pl.Expr | None) -> list[LiveFile]:
        """Return the files that may hold a row which satisfies the predicate."""
        if predicate is None:
            return list(files)
        statistics = [FileStatistics(live.file.rows, live.schema, live.file.statistics) for live in files]
        # The partition is in no file: the stored columns alone are known, and whatever else is named keeps every file.
        kept = may_match(predicate, schema=self._stored, files=statistics)
        return [live for live, keep in zip(files, kept, strict=True) if keep]

    def rows(self, files: Sequence[LiveFile], sources: Sequence[str] | Sequence[bytes]) -> pl.LazyFrame:
        """Return the rows of the files, read from paths or from bytes, in order.

        Files are taken in runs of one schema and partition, which Polars can scan as one.
        """
        pairs = zip(files, sources, strict=True)
        runs = groupby(pairs, key=lambda pair: (pair[0].partition, bytes(pair[0].manifest.schema)))
        frames = [self._run(list(run)) for _, run in runs]
        return frames[0] if len(frames) == 1 else pl.concat(frames)

    def _run(self, run: Sequence[tuple[LiveFile, Any]]) -> pl.LazyFrame:
        first = run[0][0]
        held = first.schema
        index = ROW_INDEX if self._with_commits else None
        # Directories of a root may look like `key=value`, and may hold characters that mean something in a glob.
        rows = pl.scan_parquet(
            [source for _, source in run], schema=held, glob=False, hive_partitioning=False, row_index_name=index
        )
        if self._partition_column is not None:
            rows = rows.with_columns(pl.lit(first.partition.version).alias(self._partition_column))
        if self._with_commits:
            rows = mark_commits(rows, [live for live, _ in run])
        return conform(rows, source=self._with_added(held), target=self.schema)

    def _with_added(self, schema: pl.Schema) -> pl.Schema:
        partition = {} if self._partition_column is None else {self._partition_column: pl.String()}
        return pl.Schema({**schema, **partition, **(MARKS if self._with_commits else {})})


def _file_schema(live: LiveFile, *, location: str) -> FileSchema:
    is_exact = exact_integers(live.file.statistics, rows=live.file.rows)
    return f"{location}/{live.path}", live.schema, is_exact


def _checked_path(storage: Storage, live: LiveFile) -> str:
    """Return the local path of a file that is there and whole; Polars would not say whose file is missing."""
    path = str(storage.local_path(live.path))
    try:
        size = Path(path).stat().st_size
    except OSError as error:
        reason = f"cannot be read, though it is committed: {error.strerror}"
        raise CorruptObjectError(f"The data file {path} {reason}.") from error
    if size != live.file.bytes:
        raise CorruptObjectError(f"The data file {path} has {size} bytes, {live.file.bytes} were committed.")
    return path


def _fetch_on_demand(  # Polars passes the last four by position
    scan: _Scan,
    files: Sequence[LiveFile],
    with_columns: list[str] | None,
    predicate: pl.Expr | None,
    n_rows: int | None,
    _batch_size: int | None,
) -> Iterator[pl.DataFrame]:
    """Yield rows batch by batch, as Polars pulls them and with what it pushes down.

    The predicate is meant for the first `n_rows` rows: files that it could skip still count towards these.
    """
    for batch in _batches(files if n_rows is not None else scan.prune(files, predicate)):
        rows = scan.rows(batch, _fetch(scan.storage, batch))
        if n_rows is not None:
            rows = rows.head(n_rows)
            n_rows -= sum(live.file.rows for live in batch)
        rows = rows if predicate is None else rows.filter(predicate)
        # A frame without columns would have no rows either: where none is wanted, one carries their number.
        wanted = scan.schema.names()[:1] if with_columns == [] else with_columns
        rows = rows if wanted is None else rows.select(map(column, wanted))
        yield rows.collect()
        if n_rows is not None and n_rows <= 0:
            return


def _fetch(storage: Storage, batch: Sequence[LiveFile]) -> list[bytes]:
    fetched = storage.get_many([ObjectInfo(live.path, live.file.bytes) for live in batch])
    for live, data in zip(batch, fetched, strict=True):
        check_bytes(data, entry=live.file, name=f"{storage.location}/{live.path}")
    return fetched


def _batches(files: Iterable[LiveFile]) -> Iterator[list[LiveFile]]:
    batch: list[LiveFile] = []
    size = 0
    for live in files:
        if batch and (len(batch) == _BATCH_FILES or size + live.file.bytes > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(live)
        size += live.file.bytes
    if batch:
        yield batch
