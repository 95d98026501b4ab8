"""Where do rows wait that are more than memory should hold?

In files of a temporary directory of this process (see `tempfile`), which goes when the last who uses it does.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
from polars.io.plugins import register_io_source

from metaxy_fs.log.files.parquet import ROW_GROUP_ROWS
from metaxy_fs.log.objects.schema import column
from metaxy_fs.scratch import ScratchDirectory, writing_to


class Spool:
    """Frames of one schema, kept in files in the order in which they were added.

    Args:
        schema: Their columns.
    """

    def __init__(self, schema: pl.Schema) -> None:
        self.schema = schema
        self._scratch = ScratchDirectory()
        self._heights: dict[str, int] = {}

    @property
    def height(self) -> int:
        """How many rows there are."""
        return sum(self._heights.values())

    def add(self, frame: pl.DataFrame) -> str:
        """Write a frame and return its path."""
        path = self._scratch.path(f"{len(self._heights)}.parquet")
        # Read once or twice by this process: what is quick to write and to read counts, not what is small.
        with writing_to(Path(path)):
            frame.write_parquet(path, compression="lz4", row_group_size=ROW_GROUP_ROWS)
        self._heights[path] = frame.height
        return path

    def rows_of(self, paths: Sequence[str]) -> pl.LazyFrame:
        """Return the rows of some of the files, for a query that ends while the spool is held."""
        if not paths:
            return self.schema.to_frame().lazy()
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
