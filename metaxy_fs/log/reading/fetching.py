"""How are the files of a remote root read while somebody takes their rows?

Many objects are fetched at once (see `metaxy_fs.log.pruning.pieces` for what of each), and the next while the rows of
some are decoded. Of each batch only the columns and rows that are wanted are kept.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import msgspec
import polars as pl

from metaxy_fs.log.files.commit_columns import COMMIT, COMMIT_COLUMNS
from metaxy_fs.log.objects.schema import column
from metaxy_fs.log.pruning.divided import Need
from metaxy_fs.log.pruning.pieces import Piece, fetch, fetch_whole, in_batches, planned
from metaxy_fs.log.reading.frames import FileFrames
from metaxy_fs.log.reading.order import Stretch, in_commit_order, stretches
from metaxy_fs.log.reading.unreadable import READ_ERRORS, is_of_reader, refuse_unreadable
from metaxy_fs.log.views.live import LiveFile
from metaxy_fs.parallel import ordered_map
from metaxy_fs.storage.base import Storage

_BATCHES_AHEAD = 4
"""How many batches are held at once, fetched or on their way."""


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
    """Yield the rows of files, ordered by their first commits, batch by batch and in commit order.

    Args:
        storage: Where they are.
        files: The files.
        frames: Makes frames of them.
        wanted: What is asked of their rows.
    """
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
        need = self._need(stretch, self._wanted.predicate)
        kept = self._batches(stretch, need, lambda rows: self._filtered(rows).select(map(column, columns)))
        if not stretch.is_mixed:
            yield from kept
        else:
            held = [self._empty(columns), *kept]
            yield in_commit_order(pl.concat(held).lazy()).select(map(column, self._columns)).collect()

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
        need = self._need(stretch, None)
        if not stretch.is_mixed:
            yield from self._batches(stretch, need, lambda rows: rows.head(limit))
        else:
            firsts = self._batches(stretch, need, lambda rows: in_commit_order(rows).head(limit))
            yield in_commit_order(pl.concat(firsts).lazy()).head(limit).collect()

    def _filtered(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows if self._wanted.predicate is None else rows.filter(self._wanted.predicate)

    def _need(self, stretch: Stretch, predicate: pl.Expr | None) -> Need:
        filtered = [] if self._wanted.predicate is None else self._wanted.predicate.meta.root_names()
        is_marked = stretch.is_mixed or COMMIT in self._frames.schema
        return Need({*self._columns, *filtered}, predicate, self._frames.stored, is_marked)

    def _batches(
        self, stretch: Stretch, need: Need, reduced: Callable[[pl.LazyFrame], pl.LazyFrame]
    ) -> Iterator[pl.DataFrame]:
        """Yield what is kept of the rows of each batch; where they are mixed, with the columns of commits.

        Threads of their own fetch, and do nothing else: Polars may wait for this one, and must not wait for them.
        Where few rows are wanted, a batch is fetched when those before it were not enough.
        """
        batches = in_batches(planned(self._storage, stretch.files, need))
        fetched = partial(_fetched, self._storage)
        is_lazy = self._wanted.rows is not None
        held = map(fetched, batches) if is_lazy else ordered_map(fetched, batches, workers=_BATCHES_AHEAD)
        for batch, sources in held:
            files = [piece.live for piece in batch]
            try:
                rows = self._frames.unsorted(files, sources, is_mixed=stretch.is_mixed, columns=need.of)
                kept = reduced(rows).collect()
            except READ_ERRORS as error:
                self._refuse_damaged(files, error)
                raise
            yield kept

    def _refuse_damaged(self, files: Sequence[LiveFile], error: BaseException) -> None:
        """Fetch whole what was perhaps fetched in pieces, which compares it with its checksum."""
        for live in files:
            [data] = fetch_whole(self._storage, [live])
            if is_of_reader(error):
                refuse_unreadable(data, live, name=f"{self._storage.location}/{live.path}")

    def _empty(self, columns: Iterable[str]) -> pl.DataFrame:
        schema = {**self._frames.schema, **COMMIT_COLUMNS}
        return pl.DataFrame(schema={name: schema[name] for name in columns})


def _fetched(storage: Storage, batch: list[Piece]) -> tuple[list[Piece], list[bytes]]:
    return batch, fetch(storage, batch)
