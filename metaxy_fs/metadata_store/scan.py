"""The answer of a backend to a query: rows, and how to take them range by range."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import polars as pl

from metaxy_fs.log.ranges import EVERYTHING, IdRange, Span
from metaxy_fs.log.widening import IsExact, unproven
from metaxy_fs.versioning.definition import DefinitionVersion

ScanLayer = tuple[pl.LazyFrame, bool]
"""Rows in commit order, and whether it is proven that no sample stands twice among them."""


Change = Callable[[pl.LazyFrame], pl.LazyFrame]


class Parts(Protocol):
    """The rows of a scan, and how they lie along a column that names samples."""

    def spans(self, column: str) -> Sequence[Span]:
        """Return the bounds of each run of rows; without bounds where nothing is known."""

    @property
    def rows(self) -> pl.LazyFrame:
        """All rows in commit order."""

    def within(self, column: str, id_range: IdRange) -> "Parts":
        """Return those rows alone whose value in the column lies in a range."""

    def layers(self) -> Sequence[ScanLayer]:
        """Return the rows in consecutive groups, the earliest first, each with whether no sample stands twice in it."""

    def mapped(self, change: Change) -> "Parts":
        """Return the parts with a change that is made to every frame; one that looks at each row alone."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What a backend holds of a query.

    Attributes:
        rows: The rows in commit order, those of one commit in the order of their ids.
        columns: The names of all columns, whichever of them were asked for.
        id_columns: What names a sample in the latest commit.
        definitions: The versions of the definition that the rows were written under.
        may_repeat: Whether some sample may stand in two rows; False is a proof that none does, and spares the search.
        parts: How the rows can be taken range by range, where the backend knows; without, all are taken at once.
        is_exact: Whether the integers at a path are proven to lie within +-2**53, and so may stand beside floats.
    """

    rows: pl.LazyFrame
    columns: Sequence[str]
    id_columns: Sequence[str]
    definitions: Sequence[DefinitionVersion]
    may_repeat: bool = True
    parts: Parts | None = None
    is_exact: IsExact = unproven

    def spans(self, column: str) -> Sequence[Span]:
        """Return how the rows lie along a column that names samples."""
        return [Span(1)] if self.parts is None else self.parts.spans(column)

    def dtype(self, column: str) -> pl.DataType | None:
        """Return the type of a column, None if there is none of that name."""
        return self.rows.collect_schema().get(column)

    def layers(self, *, column: str = "", within: IdRange = EVERYTHING) -> Sequence[ScanLayer]:
        """Return the rows, or those of a range of a column; see `Parts.layers`."""
        if self.parts is not None:
            return (self.parts.within(column, within) if within else self.parts).layers()
        predicate = within.predicate(column, self.rows.collect_schema()[column]) if within else None
        return [(self.rows if predicate is None else self.rows.filter(predicate), not self.may_repeat)]

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process takes the rows from the parts, and asks of no integer whether it is exact.
        return _of_parts, (self.parts, list(self.columns), tuple(self.id_columns), list(self.definitions))

    def mapped(self, change: Change, *, columns: Sequence[str]) -> "Scan":
        """Return the scan with a change that is made to its rows, whichever way they are taken."""
        parts = None if self.parts is None else self.parts.mapped(change)
        return replace(self, rows=change(self.rows), columns=columns, parts=parts)


def _of_parts(
    parts: Parts, columns: Sequence[str], id_columns: Sequence[str], definitions: Sequence[DefinitionVersion]
) -> Scan:
    return Scan(rows=parts.rows, columns=columns, id_columns=id_columns, definitions=definitions, parts=parts)
