"""Rows of data files while somebody takes them: a few batches ahead, and of each only what is wanted.

Many files are read at once, and the next are fetched or looked at while the rows of some are decoded. Of each batch
only the columns and rows that are wanted are kept.

They are put into a temporary directory of this machine (see `tempfile`), which goes when the last who reads them does.
Data files never change, so what was fetched stays true.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import polars as pl

from metaxy_fs.errors import ObjectNotFoundError
from metaxy_fs.log.columns import COMMIT, COMMIT_COLUMNS
from metaxy_fs.log.fetch import FilePart, Need, fetch, fetch_whole, in_batches, planned
from metaxy_fs.log.frames import FileFrames, FileGroup, FileSource, file_groups, in_commit_order
from metaxy_fs.log.local_files import READ_ERRORS, refuse_unreadable
from metaxy_fs.log.schema import column
from metaxy_fs.log.view import LiveFile
from metaxy_fs.parallel import ordered_map
from metaxy_fs.scratch import ScratchDirectory, writing_to
from metaxy_fs.storage.base import ForwardingStorage, Storage


class Supply(Protocol):
    """Where the bytes of data files come from."""

    @property
    def batches_ahead(self) -> int:
        """How many batches are held at once, taken or on their way."""

    def batches(self, files: Sequence[LiveFile], need: Need) -> Iterator[Any]:
        """Yield what is taken at once of some files, in their order."""

    def take(self, batch: Any) -> tuple[Sequence[LiveFile], Sequence[FileSource]]:
        """Return the files of a batch, and what Polars is to read of each: bytes that their manifests describe.

        Raises:
            ObjectNotFoundError: One is gone.
            CorruptObjectError: What is needed of one is not what its manifest describes; the message names it.
        """

    def refuse_damaged(self, files: Sequence[LiveFile]) -> None:
        """Look for the file that is to blame where Polars could not read some.

        Raises:
            CorruptObjectError: A file is not what its manifest describes, or is no Parquet file.
        """


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


class RemoteFiles:
    """The files of a remote root.

    Args:
        storage: The root.
    """

    batches_ahead = 4

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def batches(self, files: Sequence[LiveFile], need: Need) -> Iterator[list[FilePart]]:
        """Yield files and parts of files that are fetched at once."""
        return in_batches(planned(self._storage, files, need))

    def take(self, batch: list[FilePart]) -> tuple[list[LiveFile], list[bytes]]:
        """Fetch a batch."""
        return [piece.live for piece in batch], fetch(self._storage, batch)

    def refuse_damaged(self, files: Sequence[LiveFile]) -> None:
        """Fetch whole what was perhaps fetched in pieces, which compares it with its checksum, and read each."""
        for live in files:
            [data] = fetch_whole(self._storage, [live])
            refuse_unreadable(data, live, name=f"{self._storage.location}/{live.path}")


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


class StagedStorage(ForwardingStorage):
    """A remote storage of which data files are kept here once they were fetched. Safe to share between threads.

    Args:
        storage: The remote one.
    """

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage)
        self._scratch: ScratchDirectory | None = None
        self._paths: dict[str, str] = {}
        self._lock = threading.Lock()

    def fetch(self, files: Sequence[LiveFile]) -> None:
        """Have some data files here, each of which is then at its `local_path`.

        Raises:
            ObjectNotFoundError: One is gone.
            CorruptObjectError: One is not what its manifest describes.
        """
        with self._lock:
            scratch = self._scratch = self._scratch or ScratchDirectory()
            for batch in in_batches(FilePart(live) for live in files if live.path not in self._paths):
                for (live, _), data in zip(batch, fetch(self._storage, batch), strict=True):
                    path = scratch.path(f"{len(self._paths)}.parquet")
                    with writing_to(Path(path)):
                        Path(path).write_bytes(data)
                    self._paths[live.path] = path

    def local_path(self, path: str) -> str | None:
        return self._paths.get(path)
