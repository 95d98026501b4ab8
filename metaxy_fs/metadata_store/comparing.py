"""Compare the samples that there should be with what stores hold, range by range.

Each sample is compared with its row in the current partition. Where some sample has none there, the other partitions of
the store are looked at too: for all samples, so that the answer does not depend on how the work is divided.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from metaxy_fs.log import IdRange
from metaxy_fs.metadata_store.expected import Expected, ExpectedSamples, same_id_types
from metaxy_fs.metadata_store.stored import StoredLayer, StoredRows
from metaxy_fs.metadata_store.upstream import divide, have_common_bounds
from metaxy_fs.parallel import ordered_map
from metaxy_fs.versioning.columns import DATA_VERSION
from metaxy_fs.versioning.increment import ComparedLayer, Increment, compared_rows
from metaxy_fs.versioning.layers import compare_layers


class _ChainPart(NamedTuple):
    """Rows of the store in one place of the chain: of its current partition, or of its others."""

    place: int
    rows: StoredRows


@dataclass(frozen=True)
class Comparing:
    """One comparison.

    Attributes:
        expected: The samples that there should be.
        layers: What the stores hold, the nearest first.
    """

    expected: Expected
    layers: Sequence[StoredLayer]

    def increments(self) -> Iterator[Increment]:
        """Yield the increment range by range; all have the same columns."""
        current = self._current()
        ranges = self._ranges(current)
        if len(ranges) > 1:
            yield from self._divided(ranges, current)
            return
        piece, frames = self._read(ranges[0], current)
        others = self._others(self._lacking(piece, current, frames))
        if others and len(self._ranges([*others, *current])) > 1:
            yield from self._all_of(self._ranges([*others, *current]), [*others, *current])
            return
        more = self.expected.collected(self._scans(ranges[0], others))
        yield self._compared(piece, [*others, *current], [*more, *frames])

    def within(self, id_range: IdRange) -> Iterator[Increment]:
        """Yield the increment of a range of the first id column alone, in one piece; that of all where it has none."""
        if not have_common_bounds([*self.expected.inputs, *(part.rows for part in self._current())], self._column):
            yield from self.increments()
            return
        piece, frames = self._read(id_range, current := self._current())
        others = self._others(self._lacking(piece, current, frames))
        more = self.expected.collected(self._scans(id_range, others))
        yield self._compared(piece, [*others, *current], [*more, *frames])

    @property
    def _column(self) -> str:
        return self.expected.id_columns[0]

    def _current(self) -> list[_ChainPart]:
        parts = ((place, layer.current) for place, layer in enumerate(self.layers))
        return [_ChainPart(place, rows) for place, rows in parts if rows is not None]

    def _others(self, places: Sequence[int]) -> list[_ChainPart]:
        parts = ((place, self.layers[place].others) for place in places)
        return [_ChainPart(place, rows) for place, rows in parts if rows is not None]

    def _ranges(self, parts: Sequence[_ChainPart]) -> list[IdRange]:
        return divide([*self.expected.inputs, *(part.rows for part in parts)], self._column)

    def _divided(self, ranges: Sequence[IdRange], current: Sequence[_ChainPart]) -> Iterator[Increment]:
        """Yield the increment of several ranges, once it is known which other partitions are needed."""
        others = [
            part for part in self._others(range(len(self.layers))) if self._is_lacking(part.place, ranges, current)
        ]
        parts = [*others, *current]
        yield from self._all_of(self._ranges(parts) if others else ranges, parts)

    def _all_of(self, ranges: Sequence[IdRange], parts: Sequence[_ChainPart]) -> Iterator[Increment]:
        def compare(id_range: IdRange) -> Increment:
            piece, frames = self._read(id_range, parts)
            return self._compared(piece, parts, frames)

        return ordered_map(compare, ranges)

    def _is_lacking(self, place: int, ranges: Sequence[IdRange], current: Sequence[_ChainPart]) -> bool:
        """Whether some sample has no row in the current partition of a store."""
        own = [part for part in current if part.place == place]

        def lacks(id_range: IdRange) -> bool:
            piece, frames = self._read(id_range, own, with_versions=False)
            return self._lacks(piece, place, own, frames)

        return any(ordered_map(lacks, ranges))

    def _lacking(
        self, piece: ExpectedSamples, parts: Sequence[_ChainPart], frames: Sequence[pl.DataFrame]
    ) -> list[int]:
        """Return the places of the stores in whose current partition some sample of a piece has no row."""
        return [place for place in range(len(self.layers)) if self._lacks(piece, place, parts, frames)]

    def _lacks(
        self, piece: ExpectedSamples, place: int, parts: Sequence[_ChainPart], frames: Sequence[pl.DataFrame]
    ) -> bool:
        """Whether some sample of a piece, also one that waits, has no row in the current partition of a store."""
        names = list(self.expected.id_columns)
        wanted = piece.samples.select(names)
        if piece.waiting.height:
            wanted = pl.concat(same_id_types([wanted, piece.waiting.select(names)], self.expected.feature.spec))
        frame_there = next((frame for part, frame in zip(parts, frames, strict=True) if part.place == place), None)
        if frame_there is None:
            return not wanted.is_empty()
        samples, rows = same_id_types([wanted, frame_there.select(names)], self.expected.feature.spec)
        return not samples.equals(rows) and not samples.join(rows, on=names, how="anti").is_empty()

    def _read(
        self, id_range: IdRange, parts: Sequence[_ChainPart], *, with_versions: bool = True
    ) -> tuple[ExpectedSamples, list[pl.DataFrame]]:
        """Return the samples of a range, and what is stored of them in some partitions."""
        expected = self.expected.scans(id_range)
        frames = self.expected.collected([*expected, *self._scans(id_range, parts)])
        return self.expected.piece(frames[: len(expected)], with_versions=with_versions), frames[len(expected) :]

    def _scans(self, id_range: IdRange, parts: Sequence[_ChainPart]) -> list[pl.LazyFrame]:
        return [part.rows.within(self._column, id_range) for part in parts]

    def _compared(
        self, piece: ExpectedSamples, parts: Sequence[_ChainPart], frames: Sequence[pl.DataFrame]
    ) -> Increment:
        """Return the increment of a piece; of one store, the current partition is the last part."""
        spec = self.expected.feature.spec
        samples, waiting, *aligned = same_id_types([piece.samples, piece.waiting, *frames], spec)
        found = list(zip(parts, _with_same_containers(aligned), strict=True))
        layers = [
            _layer([one for one in found if one[0].place == place], id_columns=spec.id_columns)
            for place in sorted({part.place for part in parts})
        ]
        return compare_layers(
            samples,
            waiting,
            layers,
            id_columns=spec.id_columns,
            parent_columns=self.expected.id_columns,
            current=self.expected.feature.definition,
        )


def _layer(found: Sequence[tuple[_ChainPart, pl.DataFrame]], *, id_columns: Sequence[str]) -> ComparedLayer:
    """Return the rows of one store to compare with."""
    stored = [frame for _, frame in found]
    rows = stored[0] if len(stored) == 1 else compared_rows(stored[1], stored[0], id_columns=id_columns)
    return ComparedLayer(rows, [definition for part, _ in found for definition in part.rows.definitions])


def _with_same_containers(frames: Sequence[pl.DataFrame]) -> list[pl.DataFrame]:
    """Return stored rows whose versions have the containers of all; null where a partition has none of a container."""
    names = [[field.name for field in _version_type(frame).fields] for frame in frames]
    every = list(dict.fromkeys(name for several in names for name in several))
    return [
        frame if several == every else frame.with_columns(_with_containers(several, every))
        for frame, several in zip(frames, names, strict=True)
    ]


def _with_containers(names: Sequence[str], every: Sequence[str]) -> pl.Expr:
    version, missing = pl.col(DATA_VERSION).struct, pl.lit(None, dtype=pl.String)
    return pl.struct((version.field(name) if name in names else missing).alias(name) for name in every).alias(
        DATA_VERSION
    )


def _version_type(frame: pl.DataFrame) -> pl.Struct:
    dtype = frame.schema[DATA_VERSION]
    return dtype if isinstance(dtype, pl.Struct) else pl.Struct({})
