"""The stored rows that an increment compares with, store by store, in the current partition and in others."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from metaxy_fs.log.reading.ranges import IdRange, Span
from metaxy_fs.metadata_store.arguments.features import Declared
from metaxy_fs.metadata_store.arguments.predicates import check_predicate
from metaxy_fs.metadata_store.backends.backend import Backend
from metaxy_fs.metadata_store.backends.layered import fitting
from metaxy_fs.metadata_store.backends.scan import Scan
from metaxy_fs.metadata_store.reading.compared import Compared, IdTypes, compared_stores
from metaxy_fs.metadata_store.reading.queries import latest_or_retired, refuse_unknown, shown_schema
from metaxy_fs.versioning.columns import DATA_VERSION, PARTITION, REDO, RETIRED
from metaxy_fs.versioning.definition import DefinitionVersion


@dataclass(frozen=True)
class StoredRows:
    """The latest stored row of each sample in some partitions of one store.

    Attributes:
        feature: Whose rows they are.
        scan: All rows of these partitions.
        stale_if: What asks for a sample to be computed again.
    """

    feature: Declared
    scan: Scan
    stale_if: pl.Expr | None = None

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
        """Return the rows of a range in commit order.

        They have ids, version and partition, whether they are asked for again, and whether they retire the sample.
        """
        ids = self.feature.spec.id_columns
        rows = latest_or_retired(self.scan, id_columns=ids, column=column, within=id_range)
        asked = pl.lit(value=False) if self.stale_if is None else self.stale_if.fill_null(value=False)
        is_retired = pl.col(RETIRED).fill_null(value=False) if RETIRED in self.scan.columns else pl.lit(value=False)
        return rows.select(*ids, DATA_VERSION, PARTITION, asked.alias(REDO), is_retired.alias(RETIRED))


class StoredLayer:
    """What one store holds of a feature.

    Attributes:
        current: The rows of the current partition, None if it has none.
    """

    def __init__(self, feature: Declared, compared: Compared, *, stale_if: pl.Expr | None) -> None:
        """Look at the current partition.

        Raises:
            MetadataSchemaError: No row that may be compared with has a column that `stale_if` names.
        """
        self._feature = feature
        self._compared = compared
        current = compared.current if stale_if is None else _with_columns(compared, stale_if, feature)
        self.current = None if current is None else StoredRows(feature, current, stale_if)

    @cached_property
    def others(self) -> StoredRows | None:
        """The rows of the other partitions, None if there are none; looked for when this is first asked for."""
        # A sample whose row is there is stale in any case, so whether it is asked for again makes no difference.
        scan = self._compared.others
        return None if scan is None else StoredRows(self._feature, scan)


def find_stored(store: Backend, feature: Declared, *, stale_if: pl.Expr | None, id_types: IdTypes) -> list[StoredLayer]:
    """Return the stored rows to compare with, by store, the nearest first.

    Args:
        store: The first store of the chain.
        feature: Whose rows they are.
        stale_if: What asks for a sample to be computed again.
        id_types: The types of the ids that there should be.

    Raises:
        MetadataSchemaError: They have other id columns, or lack one that `stale_if` names.
        TypeError: `stale_if` is no expression that names its columns.
    """
    compared = compared_stores(store, feature, columns=_columns(feature, stale_if), id_types=id_types)
    return [StoredLayer(feature, one, stale_if=stale_if) for one in compared]


def _with_columns(compared: Compared, stale_if: pl.Expr, feature: Declared) -> Scan | None:
    """Return the rows of the current partition with all columns that a predicate names; null where others have them."""
    current, named = compared.current, set(stale_if.meta.root_names())
    is_complete = current is not None and named <= set(current.columns)
    others = None if is_complete else compared.others
    scans = [(compared.location, scan) for scan in (current, others) if scan is not None]
    fitted = fitting(scans)
    if not fitted:
        return None
    refuse_unknown(named, fitted[0], feature.key)
    check_predicate(stale_if.fill_null(value=False), shown_schema(fitted[0]), name="stale_if", key=feature.key)
    return None if current is None else fitted[0]


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
