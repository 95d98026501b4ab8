"""How do data files become one lazy frame?

Files on a local file system are left to Polars, which reads the columns and row groups that a query needs. Elsewhere objects are
fetched whole, many at once, and only when the frame is collected: the predicate that Polars pushes down by then prunes files once
more. Either way rows come in commit order, and files of different schemas are brought to one.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby

import polars as pl
from polars.io.plugins import register_io_source

from metaxy_fs.errors import CorruptObjectError
from metaxy_fs.log.parquet import check_bytes
from metaxy_fs.log.pruning import FileStatistics, may_match
from metaxy_fs.log.schema import FileSchema, conform, decode_schema, unify
from metaxy_fs.log.statistics import exact_integers
from metaxy_fs.log.view import LiveFile
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
    schemas = dict.fromkeys(bytes(live.manifest.schema) for live in files)
    return list(dict.fromkeys(name for schema in schemas for name in decode_schema(schema)))


def scan_files(
    storage: Storage,
    files: Sequence[LiveFile],
    *,
    schema: pl.Schema,
    predicate: pl.Expr | None = None,
    partition_column: str | None = None,
) -> pl.LazyFrame:
    """Return the rows of the files, in order.

    Args:
        storage: Where the files are.
        files: In commit order.
        schema: What `reading_schema` gave.
        predicate: Leave out files of which no row can satisfy it. Rows of other files come unfiltered.
        partition_column: Add a column of this name that gives the version of the partition of each row.
    """
    if partition_column is not None:
        schema = pl.Schema({**schema, partition_column: pl.String()})
    kept = _prune(files, schema=schema, predicate=predicate)
    read = partial(_scan_run, schema=schema, partition_column=partition_column)
    if not kept:
        return pl.LazyFrame(schema=schema)
    if storage.local_path(kept[0].path) is not None:
        return _concat(read(run, [_checked_path(storage, live) for live in run]) for run in _runs(kept))
    return register_io_source(partial(_fetching_source, storage, kept, schema, read), schema=schema, is_pure=True)


def _file_schema(live: LiveFile, *, location: str) -> FileSchema:
    is_exact = exact_integers(live.file.statistics, rows=live.file.rows)
    return f"{location}/{live.path}", decode_schema(bytes(live.manifest.schema)), is_exact


def _prune(files: Sequence[LiveFile], *, schema: pl.Schema, predicate: pl.Expr | None) -> list[LiveFile]:
    if predicate is None:
        return list(files)
    statistics = [
        FileStatistics(live.file.rows, decode_schema(bytes(live.manifest.schema)), live.file.statistics) for live in files
    ]
    kept = may_match(predicate, schema=schema, files=statistics)
    return [live for live, keep in zip(files, kept, strict=True) if keep]


def _runs(files: Iterable[LiveFile]) -> Iterator[list[LiveFile]]:
    """Split files, keeping their order, into runs of one schema and partition, which Polars can scan as one."""
    for _, run in groupby(files, key=lambda live: (live.partition, bytes(live.manifest.schema))):
        yield list(run)


def _scan_run(
    run: Sequence[LiveFile], sources: Sequence[str] | Sequence[bytes], *, schema: pl.Schema, partition_column: str | None
) -> pl.LazyFrame:
    """Return the rows of files of one schema, brought to the reading schema; extra columns are those left out of it."""
    held = decode_schema(bytes(run[0].manifest.schema))
    # Directories of a root may look like `key=value`, and may hold characters that mean something in a glob.
    rows = pl.scan_parquet(list(sources), schema=held, glob=False, hive_partitioning=False)
    if partition_column is not None:
        rows = rows.with_columns(pl.lit(run[0].partition.version).alias(partition_column))
        held = pl.Schema({**held, partition_column: pl.String()})
    return conform(rows, source=held, target=schema)


def _concat(frames: Iterable[pl.LazyFrame]) -> pl.LazyFrame:
    frames = list(frames)
    return frames[0] if len(frames) == 1 else pl.concat(frames)


def _checked_path(storage: Storage, live: LiveFile) -> str:
    """Return the local path of a file that is there and whole; Polars would not say whose file is missing."""
    path = str(storage.local_path(live.path))
    try:
        size = os.path.getsize(path)
    except OSError as error:
        raise CorruptObjectError(f"The data file {path} cannot be read, though it is committed: {error.strerror}.") from error
    if size != live.file.bytes:
        raise CorruptObjectError(f"The data file {path} has {size} bytes, {live.file.bytes} were committed.")
    return path


def _fetching_source(
    storage: Storage,
    files: Sequence[LiveFile],
    schema: pl.Schema,
    read: Callable[[Sequence[LiveFile], Sequence[bytes]], pl.LazyFrame],
    with_columns: list[str] | None,
    predicate: pl.Expr | None,
    n_rows: int | None,
    batch_size: int | None,
) -> Iterator[pl.DataFrame]:
    """Yield rows batch by batch, for Polars to pull (the last four arguments are what it pushes down)."""
    kept = _prune(files, schema=schema, predicate=predicate)
    for batch in _batches(kept):
        rows = _fetch(storage, batch, read)
        if predicate is not None:
            rows = rows.filter(predicate)
        if with_columns is not None:
            rows = rows.select(with_columns)
        frame = (rows if n_rows is None else rows.head(n_rows)).collect()
        yield frame
        if n_rows is not None:
            n_rows -= frame.height
            if n_rows <= 0:
                return


def _fetch(
    storage: Storage, batch: Sequence[LiveFile], read: Callable[[Sequence[LiveFile], Sequence[bytes]], pl.LazyFrame]
) -> pl.LazyFrame:
    fetched = storage.get_many([ObjectInfo(live.path, live.file.bytes) for live in batch])
    for live, data in zip(batch, fetched, strict=True):
        check_bytes(data, entry=live.file, name=f"{storage.location}/{live.path}")
    remaining = iter(fetched)
    return _concat(read(run, [next(remaining) for _ in run]) for run in _runs(batch))


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
