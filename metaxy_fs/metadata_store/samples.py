"""Spill samples that do not fit into memory to files of this machine.

In files of a temporary directory of this process (see `tempfile`), which goes when the last who uses it does.

What fits into memory is there already: it is sorted by id once, and every range is a slice. A LazyFrame may be larger:
its rows are sorted in runs, and kept in files until they are wanted.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

from metaxy_fs.log import ROW_GROUP_ROWS, Chunks, IdRange, Span, column, column_statistics, plan_ranges, split_points
from metaxy_fs.metadata_store.frames import FrameLike, is_sorted, refuse_repeated, to_frame
from metaxy_fs.reserved import PLACE
from metaxy_fs.scratch import ScratchDirectory, writing_to
from metaxy_fs.spec import FeatureSpec
from metaxy_fs.versioning.columns import DATA_VERSION


class Spool:
    """Frames of one schema, kept in files in the order in which they were added.

    Args:
        schema: Their columns.
        held_bytes: How much of them is kept in memory instead, the first ones.
    """

    def __init__(self, schema: pl.Schema, *, held_bytes: int = 0) -> None:
        self.schema = schema
        self._scratch = ScratchDirectory()
        self._heights: dict[str, int] = {}
        self._held: dict[str, pl.DataFrame] = {}
        self._room = held_bytes

    @property
    def height(self) -> int:
        """How many rows there are."""
        return sum(self._heights.values())

    def add(self, frame: pl.DataFrame) -> str:
        """Write a frame, if there is no room for it, and return its path."""
        path = self._scratch.path(f"{len(self._heights)}.parquet")
        if (size := int(frame.estimated_size())) <= self._room:
            self._room -= size
            self._held[path], self._heights[path] = frame, frame.height
            return path
        self._room = 0
        # Read once or twice by this process: what is quick to write and to read counts, not what is small.
        with writing_to(Path(path)):
            frame.write_parquet(path, compression="lz4", row_group_size=ROW_GROUP_ROWS, statistics=False)
        self._heights[path] = frame.height
        return path

    def rows_of(self, paths: Sequence[str]) -> pl.LazyFrame:
        """Return the rows of some of the files, for a query that ends while the spool is held."""
        if not paths:
            return self.schema.to_frame().lazy()
        if self._held:
            return pl.concat(self._held[path].lazy() if path in self._held else self._scan([path]) for path in paths)
        return self._scan(paths)

    def _scan(self, paths: Sequence[str]) -> pl.LazyFrame:
        return pl.scan_parquet(
            list(paths), schema=self.schema, glob=False, hive_partitioning=False, use_statistics=False
        )

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """Yield the frames again."""
        return (self.rows_of([path]).collect() for path in self._heights)

    def scan(self) -> pl.LazyFrame:
        """Return the rows as a LazyFrame that keeps the files for as long as it, or what is made from it, lives."""

        def read(
            with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _batch_size: int | None
        ) -> Iterator[pl.DataFrame]:
            for path, height in self._heights.items():
                rows = self.rows_of([path])
                # The predicate is meant for the first rows: what it leaves out counts towards these.
                rows = rows if n_rows is None else rows.head(n_rows)
                rows = rows if predicate is None else rows.filter(predicate)
                # A frame without columns would have no rows either: where none is wanted, one carries their number.
                wanted = self.schema.names()[:1] if with_columns == [] else with_columns
                yield (rows if wanted is None else rows.select(map(column, wanted))).collect()
                n_rows = None if n_rows is None else n_rows - height
                if n_rows is not None and n_rows <= 0:
                    return

        return register_io_source(read, schema=self.schema, is_pure=True)


RUN_ROWS = 2**19
"""How many rows of a LazyFrame are sorted at once."""


def given_samples(
    frame: FrameLike, spec: FeatureSpec, *, check: Callable[[pl.DataFrame], pl.DataFrame]
) -> "HeldSamples | SpooledSamples":
    """Return the samples of a frame.

    Args:
        frame: One row a sample.
        spec: The feature that they are samples of.
        check: Returns the rows of a frame as they are wanted, or raises; of a LazyFrame it is given some at a time.
    """
    if isinstance(frame, pl.LazyFrame):
        return SpooledSamples(frame, spec, check=check)
    return HeldSamples(check(to_frame(frame)), spec)


class HeldSamples:
    """Samples that are held in memory.

    Attributes:
        frame: As they were handed in.
    """

    def __init__(self, frame: pl.DataFrame, spec: FeatureSpec) -> None:
        """Sort the samples, if they are not: what is needed of each, and where it stands if there is more."""
        self.frame = frame
        self._spec = spec
        needed = [*spec.id_columns, *([DATA_VERSION] if spec.is_root else [])]
        narrow = frame.select(needed)
        self._is_sorted = is_sorted(narrow, spec.id_columns)
        if not self._is_sorted:
            narrow = narrow.with_row_index(PLACE).sort(spec.id_columns)
        elif len(needed) < len(frame.columns):
            narrow = narrow.with_row_index(PLACE)
        self._narrow = narrow
        self._ids = _physical(narrow.get_column(spec.id_columns[0]))

    @property
    def schema(self) -> pl.Schema:
        """The columns with which the samples were handed in."""
        return self.frame.schema

    def spans(self, column: str) -> list[Span]:
        """Return how the samples lie along the first id column; along others they do not."""
        is_first = column == self._spec.id_columns[0]
        return [_span(self._narrow.get_column(column)) if is_first else Span(self.frame.height)]

    def dtype(self, column: str) -> pl.DataType:
        """Return the type of an id column."""
        return self.frame.schema[column]

    def within(self, id_range: IdRange) -> pl.LazyFrame:
        """Return the samples of a range, sorted by id: what is needed of each, and perhaps its place."""
        start = 0 if id_range.low is None else self._first_at(id_range.low)
        end = self._narrow.height if id_range.high is None else self._first_at(id_range.high)
        return self._narrow.slice(start, end - start).lazy()

    def filled(self, made: pl.DataFrame) -> pl.DataFrame:
        """Return rows that were made of samples with all columns of these, as they were handed in."""
        if PLACE in made.columns:
            samples = self.frame[made.get_column(PLACE)]
        else:
            samples = made.select(pl.col(name).cast(dtype) for name, dtype in self.frame.schema.items())
        added = [name for name in made.columns if name != PLACE and name not in self.frame.columns]
        return samples.hstack(made.select(added))

    def restored(self, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
        """Return what was made of all ranges as `filled`, in the order in which the samples were handed in."""
        made = pl.concat(frames)
        return self.filled(made if self._is_sorted else made.sort(PLACE))

    def _first_at(self, value: Any) -> int:
        return bisect_left(range(self._ids.len()), value, key=self._ids.__getitem__)


class SpooledSamples:
    """Samples of a LazyFrame, in sorted runs that are kept in files.

    Attributes:
        schema: Their columns.
    """

    def __init__(
        self, frame: pl.LazyFrame, spec: FeatureSpec, *, check: Callable[[pl.DataFrame], pl.DataFrame]
    ) -> None:
        """Take the rows of the frame, run by run; see `given_samples`."""
        self.schema = check(frame.collect_schema().to_frame()).schema
        self._id_columns = list(spec.id_columns)
        self._spool = Spool(self.schema)
        self._runs: list[tuple[Span, str]] = []
        for run in frame.collect_batches(chunk_size=RUN_ROWS):
            self._add(check(to_frame(run)))
        for id_range in self._ranges():
            refuse_repeated(self.within(id_range).select(self._id_columns).collect(), spec)

    def spans(self, column: str) -> list[Span]:
        """Return how the runs lie along the first id column; along others they do not."""
        is_first = column == self._id_columns[0]
        return [span if is_first else Span(span.rows) for span, _ in self._runs]

    def dtype(self, column: str) -> pl.DataType:
        """Return the type of an id column."""
        return self.schema[column]

    def within(self, id_range: IdRange) -> pl.LazyFrame:
        """Return the samples of a range, sorted by id."""
        paths = [path for span, path in self._runs if id_range.touches(span)]
        rows = self._spool.rows_of(paths)
        name = self._id_columns[0]
        predicate = id_range.predicate(name, self.schema[name])
        rows = rows if predicate is None else rows.filter(predicate)
        return rows if len(paths) == 1 else rows.sort(self._id_columns)

    def chunks(self) -> Chunks:
        """Return all samples in the order of their ids."""
        return Chunks(self.schema, lambda: (self.within(id_range).collect() for id_range in self._ranges()))

    def filled(self, made: pl.DataFrame) -> pl.DataFrame:
        """Return rows that were made of samples with the columns of these, as they were handed in."""
        casts = [pl.col(name).cast(self.schema[name]) for name in self._id_columns]
        return made.with_columns(casts)

    def restored(self, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
        """Return what was made of all ranges as `filled`, sorted by id."""
        return self.filled(pl.concat(frames))

    def _ranges(self) -> list[IdRange]:
        return plan_ranges([span for span, _ in self._runs], rows=RUN_ROWS)

    def _add(self, run: pl.DataFrame) -> None:
        ordered = run.sort(self._id_columns)
        self._runs.append((_span(ordered.get_column(self._id_columns[0])), self._spool.add(ordered)))


def _span(ids: pl.Series) -> Span:
    """Return how a sorted column lies."""
    (leaf,) = column_statistics(ids.to_frame(), id_column=ids.name)
    return Span(len(ids), leaf.min, leaf.max, split_points(ids, every=ROW_GROUP_ROWS))


def _physical(ids: pl.Series) -> pl.Series:
    """Return ids as the bounds of ranges have them."""
    return ids.to_physical() if ids.dtype.is_temporal() else ids
