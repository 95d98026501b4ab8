"""Which stored rows does an increment compare with?"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from metaxy_fs.log.reading.ranges import IdRange, Span
from metaxy_fs.metadata_store.arguments.features import Declared
from metaxy_fs.metadata_store.arguments.predicates import check_predicate
from metaxy_fs.metadata_store.backends.backend import Backend, Query
from metaxy_fs.metadata_store.backends.layered import fitting
from metaxy_fs.metadata_store.backends.scan import Scan
from metaxy_fs.metadata_store.reading.queries import compared_scans, latest, refuse_unknown, require_id_columns
from metaxy_fs.versioning.columns import DATA_VERSION, PARTITION, REDO, RETIRED
from metaxy_fs.versioning.definition import DefinitionVersion


@dataclass(frozen=True)
class StoredRows:
    """The latest stored row of each sample, in one store.

    Attributes:
        feature: Whose rows they are.
        scan: The rows under all definitions.
        stale_if: What asks for a sample to be computed again.
    """

    feature: Declared
    scan: Scan
    stale_if: pl.Expr | None

    @property
    def definitions(self) -> Sequence[DefinitionVersion]:
        """The versions of the definition that the rows were written under."""
        return self.scan.definitions

    def spans(self, column: str) -> Sequence[Span]:
        """Return how the rows lie along an id column."""
        return self.scan.spans(column)

    def dtype(self, column: str) -> pl.DataType:
        """Return the type of an id column."""
        return self.scan.rows.collect_schema()[column]

    def within(self, column: str, id_range: IdRange) -> pl.LazyFrame:
        """Return the rows of a range in commit order: ids, version, partition, and whether they are asked for again."""
        ids = self.feature.spec.id_columns
        rows = latest(self.scan, id_columns=ids, column=column, within=id_range)
        asked = pl.lit(value=False) if self.stale_if is None else self.stale_if.fill_null(value=False)
        return rows.select(*ids, DATA_VERSION, PARTITION, asked.alias(REDO))


def find_stored(store: Backend, feature: Declared, *, stale_if: pl.Expr | None) -> list[StoredRows]:
    """Return the stored rows to compare with, by store, the nearest first; none if no store of the chain has any.

    Raises:
        MetadataSchemaError: They have other id columns, or lack one that `stale_if` names.
        TypeError: `stale_if` is no expression that names its columns.
    """
    query = Query(key=feature.key, partition=None, columns=_columns(feature, stale_if), mark_partition=True)
    scans = compared_scans(store, feature, query)
    for _, scan in scans:
        require_id_columns(scan, feature.spec)
        if stale_if is not None:
            refuse_unknown(set(stale_if.meta.root_names()), scan, feature.key)
            check_predicate(
                stale_if.fill_null(value=False), scan.rows.collect_schema(), name="stale_if", key=feature.key
            )
    return [StoredRows(feature, scan, stale_if) for scan in fitting(scans)]


def _columns(feature: Declared, stale_if: pl.Expr | None) -> frozenset[str]:
    """Return the stored columns that an increment looks at."""
    ids = feature.spec.id_columns
    if stale_if is None:
        return frozenset((*ids, DATA_VERSION, RETIRED))
    if not isinstance(stale_if, pl.Expr) or stale_if.meta.has_multiple_outputs():
        raise TypeError(
            f"stale_if takes a Polars expression that names its columns, such as pl.col('status') == 'failed', got "
            f"{stale_if!r}."
        )
    return frozenset((*ids, DATA_VERSION, RETIRED, *stale_if.meta.root_names()))
