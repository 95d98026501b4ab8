"""Rows in memory: frames that are made one after the other, because all may not fit, and the columns of commits."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import polars as pl

from metaxy_fs.reserved import COMMIT, ORDINAL, RETIRED, TIME

COMMIT_COLUMNS: Final = pl.Schema({COMMIT: pl.String(), TIME: pl.Int64(), ORDINAL: pl.UInt32()})
"""The last columns of a file that a compaction has written."""

MAX_FILE_ROWS = 2**19
"""How many rows a data file holds at most: enough to be read fast, little enough to be fetched and held whole."""

MAX_FILE_BYTES = 2**28
"""How many bytes of memory the rows of a data file take at most, where one row alone does not take more."""


@dataclass(frozen=True)
class Chunks:
    """Rows of one schema, in order, in frames that are made when they are asked for.

    Attributes:
        schema: The columns of every frame.
        make: Gives the frames, from the first on at each call.
    """

    schema: pl.Schema
    make: Callable[[], Iterable[pl.DataFrame]]

    def __iter__(self) -> Iterator[pl.DataFrame]:
        return iter(self.make())

    def collect(self) -> pl.DataFrame:
        """Return all rows as one frame."""
        frames = list(self)
        return frames[0] if len(frames) == 1 else pl.concat([self.schema.to_frame(), *frames])

    @classmethod
    def of(cls, frame: pl.DataFrame) -> "Chunks":
        """Return the rows of a frame as its only chunk."""
        return cls(frame.schema, lambda: [frame])


def file_sized(chunks: Chunks) -> Iterator[pl.DataFrame]:
    """Yield the rows in frames that each fill a data file, the last one excepted; one without rows if there is none."""
    return _regrouped(chunks, rows_a_file)


def have_equal_rows(left: Chunks, right: Chunks) -> bool:
    """Whether two sequences of chunks of one schema and as many rows hold the same rows in the same order."""
    pairs = zip(*(_regrouped(chunks, lambda _: MAX_FILE_ROWS) for chunks in (left, right)), strict=True)
    return all(first.equals(second) for first, second in pairs)


def _regrouped(chunks: Chunks, limit_of: Callable[[pl.DataFrame], int]) -> Iterator[pl.DataFrame]:
    gathered: list[pl.DataFrame] = []
    height, is_first = 0, True
    for frame in chunks:
        gathered.append(frame)
        height += frame.height
        if height >= (limit := limit_of(frame)):
            full = list(_joined(gathered).iter_slices(limit))
            rest = [full.pop()] if full[-1].height < limit else []
            yield from full
            gathered, height, is_first = rest, sum(each.height for each in rest), False
    if height or is_first:
        yield _joined(gathered or [chunks.schema.to_frame()])


def _joined(frames: list[pl.DataFrame]) -> pl.DataFrame:
    return frames[0] if len(frames) == 1 else pl.concat(frames)


def rows_a_file(frame: pl.DataFrame) -> int:
    """Return how many rows like those of a frame fill a data file."""
    row_bytes = max(1, int(frame.estimated_size()) // max(1, frame.height))
    return max(1, min(MAX_FILE_ROWS, MAX_FILE_BYTES // row_bytes))


def count_retired(rows: pl.DataFrame) -> int:
    """Return how many rows retire a sample."""
    return int(rows.get_column(RETIRED).sum()) if RETIRED in rows.columns else 0
