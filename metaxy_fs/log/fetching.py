"""How are the files of a remote root read while somebody takes their rows?

Objects are fetched whole, many at once. Of each batch only the columns and rows that are wanted are kept.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec
import polars as pl

from metaxy_fs.log.frames import FileFrames
from metaxy_fs.log.live import COMMIT_COLUMNS, LiveFile
from metaxy_fs.log.order import Stretch, in_commit_order, stretches
from metaxy_fs.log.parquet import check_bytes
from metaxy_fs.log.schema import column
from metaxy_fs.log.unreadable import READ_ERRORS, is_of_reader, refuse_unreadable
from metaxy_fs.storage.base import ObjectInfo, Storage

BATCH_FILES = 256
BATCH_BYTES = 128 * 1024 * 1024
"""What is fetched at once: enough to keep the connections of a root busy, little enough to hold in memory."""


class Wanted(msgspec.Struct, frozen=True):
    """What Polars asks of a scan.

    Attributes:
        columns: The only columns to give; None for all.
        predicate: What the rows have to satisfy.
        rows: How many to take, before the predicate; None for all.
    """

    columns: list[str] | None = None
    predicate: pl.Expr | None = None
    rows: int | None = None


def fetched_rows(
    storage: Storage, files: Sequence[LiveFile], *, frames: FileFrames, wanted: Wanted
) -> Iterator[pl.DataFrame]:
    """Yield the rows of files, ordered by their first commits, batch by batch and in commit order."""
    fetch = _Fetch(storage, frames, wanted)
    if wanted.rows is None:
        for stretch in stretches(files):
            yield from fetch.all_rows(stretch)
    else:
        yield from fetch.first_rows(stretches(files), wanted.rows)


class _Fetch:
    """How one scan of a remote root is answered."""

    def __init__(self, storage: Storage, frames: FileFrames, wanted: Wanted) -> None:
        self._storage = storage
        self._frames = frames
        self._wanted = wanted
        # A frame without columns would have no rows either: where none is wanted, one carries their number.
        names = frames.schema.names()
        self._columns = names[:1] if wanted.columns == [] else wanted.columns or names

    def all_rows(self, stretch: Stretch) -> Iterator[pl.DataFrame]:
        """Yield the rows of a stretch that satisfy the predicate."""
        columns = dict.fromkeys([*self._columns, *(COMMIT_COLUMNS if stretch.is_mixed else ())])
        kept = self._batches(stretch, lambda rows: self._filtered(rows).select(map(column, columns)))
        if not stretch.is_mixed:
            yield from kept
        else:
            yield in_commit_order(pl.concat(kept).lazy()).select(map(column, self._columns)).collect()

    def first_rows(self, found: Iterable[Stretch], limit: int) -> Iterator[pl.DataFrame]:
        """Yield those of the first rows that satisfy the predicate; files that it could skip count towards these."""
        for stretch in found:
            for held in self._first_of(stretch, limit):
                rows = held.head(limit)
                limit -= rows.height
                yield self._filtered(rows.lazy()).select(map(column, self._columns)).collect()
                if limit <= 0:
                    return

    def _first_of(self, stretch: Stretch, limit: int) -> Iterator[pl.DataFrame]:
        if not stretch.is_mixed:
            yield from self._batches(stretch, lambda rows: rows.head(limit))
        else:
            firsts = self._batches(stretch, lambda rows: in_commit_order(rows).head(limit))
            yield in_commit_order(pl.concat(firsts).lazy()).head(limit).collect()

    def _filtered(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows if self._wanted.predicate is None else rows.filter(self._wanted.predicate)

    def _batches(self, stretch: Stretch, reduced: Callable[[pl.LazyFrame], pl.LazyFrame]) -> Iterator[pl.DataFrame]:
        """Yield what is kept of the rows of each batch; where they are mixed, with the columns of commits."""
        for batch in batches(stretch.files):
            fetched = fetch(self._storage, batch)
            try:
                rows = reduced(self._frames.unsorted(batch, fetched, is_mixed=stretch.is_mixed)).collect()
            except READ_ERRORS as error:
                if is_of_reader(error):
                    for live, data in zip(batch, fetched, strict=True):
                        refuse_unreadable(data, live, name=f"{self._storage.location}/{live.path}")
                raise
            yield rows


def fetch(storage: Storage, batch: Sequence[LiveFile]) -> list[bytes]:
    """Return the bytes of data files, which are those that their manifests vouch for."""
    fetched = storage.get_many([ObjectInfo(live.path, live.file.bytes) for live in batch])
    for live, data in zip(batch, fetched, strict=True):
        check_bytes(data, entry=live.file, name=f"{storage.location}/{live.path}")
    return fetched


def batches(files: Iterable[LiveFile]) -> Iterator[list[LiveFile]]:
    """Yield the files in groups that are fetched at once."""
    batch: list[LiveFile] = []
    size = 0
    for live in files:
        if batch and (len(batch) == BATCH_FILES or size + live.file.bytes > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(live)
        size += live.file.bytes
    if batch:
        yield batch
