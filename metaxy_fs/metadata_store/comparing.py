"""Compare the samples that there should be with what stores hold, range by range.

Each sample is compared with its row in the current partition. Where some sample has none there, the other partitions of
the store are looked at too: for all samples, so that the answer does not depend on how the work is divided.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import polars as pl

from metaxy_fs.log import IdRange, Span
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.chain import fitting
from metaxy_fs.metadata_store.expected import (
    Expected,
    ExpectedSamples,
    same_id_types,
)
from metaxy_fs.metadata_store.features import Declared, check_predicate
from metaxy_fs.metadata_store.pieces import HERE, PieceLimits, divide, have_common_bounds, some_of
from metaxy_fs.metadata_store.read import latest, refuse_unknown, shown_schema
from metaxy_fs.metadata_store.retired import retirements
from metaxy_fs.metadata_store.scan import Scan
from metaxy_fs.metadata_store.stored_layers import KnownLayer, StoredLayer, stored_layers
from metaxy_fs.parallel import ordered_map
from metaxy_fs.versioning.columns import DATA_VERSION, PARTITION, REDO, RETIRED
from metaxy_fs.versioning.content import made_from, version_columns, with_provenance
from metaxy_fs.versioning.increment import Increment
from metaxy_fs.versioning.layers import ComparedLayer, compare_layers, compared_rows, with_same_containers


def compare_with_stored(store: Backend, expected: Expected, *, stale_if: pl.Expr | None) -> "Comparing":
    """Return the comparison of the samples that there should be with what the stores of a chain hold.

    Args:
        store: The first store of the chain.
        expected: The samples.
        stale_if: What asks for a sample to be computed again.

    Raises:
        MetadataSchemaError: The stored rows have other id columns, or lack one that `stale_if` names.
        TypeError: `stale_if` is no expression that names its columns.
    """
    feature = expected.feature
    where = None if expected.selection is None else expected.selection.of_ids
    columns = _columns(feature, stale_if)
    layers = stored_layers(store, feature, columns=columns, id_types=expected.id_types, prune=where)
    if stale_if is not None:
        for layer in layers:
            layer.current = _with_columns(layer, stale_if, feature)
    return Comparing(expected, layers, stale_if)


@dataclass(frozen=True)
class StoredRows:
    """The latest stored row of each sample in some partitions of one store: the current one, or the others.

    Attributes:
        feature: Whose rows they are.
        place: That of the store in the chain.
        scan: All rows of these partitions.
        stale_if: What asks for a sample to be computed again.
        where: What the ids of rows of any interest satisfy; None if all are.
    """

    feature: Declared
    place: int
    scan: Scan
    stale_if: pl.Expr | None = None
    where: pl.Expr | None = None

    def spans(self, column: str) -> Sequence[Span]:
        """Return how the rows lie along an id column."""
        return self.scan.spans(column)

    def dtype(self, column: str) -> pl.DataType:
        """Return the type of an id column."""
        return self.scan.rows.collect_schema()[column]

    def within(self, column: str, id_range: IdRange) -> pl.LazyFrame:
        """Return the rows of a range in commit order.

        They have ids, version and partition, whether they are asked for again, whether they retire the sample and
        until when, and what they were made from, where their version does not tell that.
        """
        ids = self.feature.spec.id_columns
        rows = latest(self.scan, id_columns=ids, column=column, within=id_range, where=self.where, with_retired=True)
        asked = pl.lit(value=False) if self.stale_if is None else self.stale_if.fill_null(value=False)
        schema = rows.collect_schema()
        made = made_from(schema, self.feature.spec)
        return rows.select(*ids, DATA_VERSION, *made, PARTITION, asked.alias(REDO), *retirements(schema))


@dataclass(frozen=True)
class Comparing:
    """One comparison.

    Attributes:
        expected: The samples that there should be.
        layers: What the stores hold, the nearest first.
        stale_if: What asks for a sample to be computed again.
        limits: How much is compared at once.
    """

    expected: Expected
    layers: Sequence[StoredLayer | KnownLayer]
    stale_if: pl.Expr | None
    limits: PieceLimits = HERE

    def increments(self) -> Iterator[Increment]:
        """Yield the increment range by range; all have the same columns."""
        parts, ranges = self.division()
        if parts is None:
            yield from self._at_once(ranges[0], self._current(), may_divide=True)
        else:
            yield from ordered_map(partial(self.compared_within, parts), ranges)

    def division(self) -> tuple[Sequence[StoredRows] | None, list[IdRange]]:
        """Return the stored rows that are compared, those of the current partition last, and the ranges to do that in.

        Where there is one range, the rows are None: its samples tell whether other partitions are looked at.
        """
        current = self._current()
        ranges = self._ranges(current)
        if len(ranges) == 1:
            return None, ranges
        others = [
            rows for rows in self._others(range(len(self.layers))) if self._is_lacking(rows.place, ranges, current)
        ]
        parts = [*others, *current]
        return parts, self._ranges(parts) if others else ranges

    def compared_within(self, parts: Sequence[StoredRows], id_range: IdRange) -> Increment:
        """Return the increment of a range, compared with some stored rows."""
        piece, frames = self._read(id_range, parts)
        return self._compared(piece, parts, frames)

    def within(self, id_range: IdRange) -> Iterator[Increment]:
        """Yield the increment of a range of the first id column alone, in one piece; that of all where it has none."""
        current = self._current()
        is_divisible = have_common_bounds([*self.expected.inputs, *current], self._column)
        return self._at_once(id_range, current) if is_divisible else self.increments()

    @property
    def _column(self) -> str:
        return self.expected.id_columns[0]

    def _current(self) -> list[StoredRows]:
        scans = ((place, layer.current) for place, layer in enumerate(self.layers))
        return self._rows(scans, self.stale_if)

    def _others(self, places: Iterable[int]) -> list[StoredRows]:
        # A sample whose row is there is stale in any case, so whether it is asked for again makes no difference.
        scans = ((place, self.layers[place].others) for place in places)
        return self._rows(scans, None)

    def _rows(self, scans: Iterable[tuple[int, Scan | None]], stale_if: pl.Expr | None) -> list[StoredRows]:
        feature, selection = self.expected.feature, self.expected.selection
        where = None if selection is None else selection.of_ids
        return [StoredRows(feature, place, scan, stale_if, where) for place, scan in scans if scan is not None]

    def _ranges(self, parts: Sequence[StoredRows]) -> list[IdRange]:
        ranges = divide([*self.expected.inputs, *parts], self._column, self.limits)
        selection, dtype = self.expected.selection, self.expected.id_types.get(self._column)
        if selection is None or dtype is None or len(ranges) == 1:
            return ranges
        return some_of(ranges, selection.ranges(ranges, dtype))

    def _at_once(
        self, id_range: IdRange, current: Sequence[StoredRows], *, may_divide: bool = False
    ) -> Iterator[Increment]:
        """Yield the increment of one range, unless the other partitions that it needs make it too large."""
        piece, frames = self._read(id_range, current)
        others = self._others(p for p in range(len(self.layers)) if self._lacks(piece, p, current, frames))
        parts = [*others, *current]
        if may_divide and others and len(ranges := self._ranges(parts)) > 1:
            yield from ordered_map(partial(self.compared_within, parts), ranges)
            return
        more = self.expected.collected([rows.within(self._column, id_range) for rows in others])
        yield self._compared(piece, parts, [*more, *frames])

    def _is_lacking(self, place: int, ranges: Sequence[IdRange], current: Sequence[StoredRows]) -> bool:
        """Whether some sample has no row in the current partition of a store."""
        own = [rows for rows in current if rows.place == place]

        def lacks(id_range: IdRange) -> bool:
            piece, frames = self._read(id_range, own, with_versions=False)
            return self._lacks(piece, place, own, frames)

        return any(ordered_map(lacks, ranges))

    def _lacks(
        self, piece: ExpectedSamples, place: int, parts: Sequence[StoredRows], frames: Sequence[pl.DataFrame]
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
        self, id_range: IdRange, parts: Sequence[StoredRows], *, with_versions: bool = True
    ) -> tuple[ExpectedSamples, list[pl.DataFrame]]:
        """Return the samples of a range, and what is stored of them in some partitions."""
        expected = self.expected.scans(id_range)
        stored = [rows.within(self._column, id_range) for rows in parts]
        frames = self.expected.collected([*expected, *stored])
        return self.expected.piece(frames[: len(expected)], with_versions=with_versions), frames[len(expected) :]

    def _compared(
        self, piece: ExpectedSamples, parts: Sequence[StoredRows], frames: Sequence[pl.DataFrame]
    ) -> Increment:
        """Return the increment of a piece; of one store, the current partition is the last part."""
        spec = self.expected.feature.spec
        samples, waiting, outside, *aligned = same_id_types([*piece, *frames], spec)
        if outside.height:
            names = list(self.expected.id_columns)
            aligned = [frame.join(outside, on=names, how="anti", maintain_order="left") for frame in aligned]
        found = list(zip(parts, with_same_containers(aligned), strict=True))
        layers = []
        for place in sorted({part.place for part in parts}):
            here = [(part.scan.definitions, frame) for part, frame in found if part.place == place]
            stored = [frame for _, frame in here]
            rows = stored[0] if len(stored) == 1 else compared_rows(stored[1], stored[0], id_columns=spec.id_columns)
            layers.append(ComparedLayer(rows, [each for definitions, _ in here for each in definitions]))
        increment = compare_layers(
            samples,
            waiting,
            layers,
            id_columns=spec.id_columns,
            parent_columns=self.expected.id_columns,
            current=self.expected.feature.definition,
        )
        new, stale = (with_provenance(frame, spec) for frame in (increment.new, increment.stale))
        orphaned, selection = increment.orphaned, self.expected.selection
        if selection is not None:
            orphaned = selection.orphaned(orphaned, samples=samples)
        return replace(increment, new=new, stale=stale, orphaned=orphaned)


def _with_columns(layer: StoredLayer, stale_if: pl.Expr, feature: Declared) -> Scan | None:
    """Return the rows of the current partition with all columns that a predicate names; null where others have them."""
    current, named = layer.current, set(stale_if.meta.root_names())
    is_complete = current is not None and named <= set(current.columns)
    others = None if is_complete else layer.others
    scans = [(layer.location, scan) for scan in (current, others) if scan is not None]
    fitted = fitting(scans)
    if not fitted:
        return None
    refuse_unknown(named, fitted[0], feature.key)
    check_predicate(stale_if.fill_null(value=False), shown_schema(fitted[0]), name="stale_if", key=feature.key)
    return None if current is None else fitted[0]


def _columns(feature: Declared, stale_if: pl.Expr | None) -> frozenset[str]:
    """Return the stored columns that an increment looks at."""
    looked_at = (*feature.spec.id_columns, *version_columns(feature.spec), RETIRED)
    if stale_if is None:
        return frozenset(looked_at)
    if not isinstance(stale_if, pl.Expr) or stale_if.meta.has_multiple_outputs():
        raise TypeError(
            f"stale_if takes a Polars expression that names its columns, such as pl.col('status') == 'failed', got "
            f"{stale_if!r}."
        )
    return frozenset((*looked_at, *stale_if.meta.root_names()))
