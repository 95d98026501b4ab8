"""How are the stores of a chain read as one, sample by sample?

Their rows come one store after the other, the farthest first. So the last row of a sample, which is the one that
counts, is that of the nearest store which has any.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import polars as pl

from metaxy_fs.log.objects.widening import conform, unify
from metaxy_fs.log.reading.ranges import EVERYTHING, IdRange, Span
from metaxy_fs.metadata_store.backends.scan import Change, Layer, Scan


def layered(scans: Sequence[tuple[str, Scan]]) -> Scan:
    """Return what several stores hold of one query as one scan.

    Args:
        scans: The location of each store, and what it holds; the nearest first.

    Raises:
        MetadataSchemaError: The types of a column in two stores have no type in common.
    """
    if len(scans) == 1:
        return scans[0][1]
    fitted = fitting(scans)[::-1]
    parts = _LayeredParts(fitted)
    definitions = {each.partition: each for scan in fitted for each in scan.definitions}
    return Scan(
        rows=parts.rows(),
        columns=list(dict.fromkeys(name for scan in fitted[::-1] for name in scan.columns)),
        id_columns=fitted[-1].id_columns,
        definitions=list(definitions.values()),
        parts=parts,
        is_exact=lambda path: all(scan.is_exact(path) for scan in fitted),
    )


def fitting(scans: Sequence[tuple[str, Scan]]) -> list[Scan]:
    """Return the scans with columns of the same names and types."""
    if len(scans) < 2:
        return [scan for _, scan in scans]
    schemas = [scan.rows.collect_schema() for _, scan in scans]
    described = [(name, schema, scan.is_exact) for (name, scan), schema in zip(scans, schemas, strict=True)]
    target = unify(described)
    return [
        scan.mapped(partial(conform, source=schema, target=target), columns=scan.columns)
        for (_, scan), schema in zip(scans, schemas, strict=True)
    ]


@dataclass(frozen=True)
class _LayeredParts:
    """The parts of several scans, the farthest first."""

    scans: Sequence[Scan]
    column: str = ""
    id_range: IdRange = EVERYTHING

    def spans(self, column: str) -> list[Span]:
        return [span for scan in self.scans for span in scan.spans(column)]

    def rows(self) -> pl.LazyFrame:
        return pl.concat([scan.rows for scan in self.scans])

    def within(self, column: str, id_range: IdRange) -> "_LayeredParts":
        return replace(self, column=column, id_range=id_range)

    def layers(self) -> list[Layer]:
        return [layer for scan in self.scans for layer in scan.layers(column=self.column, within=self.id_range)]

    def mapped(self, change: Change) -> "_LayeredParts":
        return replace(self, scans=[scan.mapped(change, columns=scan.columns) for scan in self.scans])
