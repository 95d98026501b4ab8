"""The stored rows that samples are compared with: those of the current partition, and of the others on demand."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from types import MappingProxyType
from typing import Final

import msgspec
import polars as pl

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.log import IdRange, Span, widen
from metaxy_fs.metadata_store.backend import Backend, Query
from metaxy_fs.metadata_store.chain import chain, fitting
from metaxy_fs.metadata_store.features import Declared, check_predicate
from metaxy_fs.metadata_store.read import latest_or_retired, refuse_unknown, require_id_columns, shown_schema
from metaxy_fs.metadata_store.scan import Scan
from metaxy_fs.versioning.columns import DATA_VERSION, PARTITION, REDO, RETIRED
from metaxy_fs.versioning.definition import DefinitionVersion

IdTypes = Mapping[str, pl.DataType]
"""The types of the ids that are compared, as far as they are known."""

_LOG: Final = logging.getLogger("metaxy_fs")


class Compared:
    """What one store holds of a feature.

    Attributes:
        current: The rows of the current partition, None if it has no commit.
    """

    def __init__(
        self,
        store: Backend,
        feature: Declared,
        query: Query,
        *,
        id_types: IdTypes = MappingProxyType({}),
        may_hold_current: bool = True,
    ) -> None:
        self._store = store
        self._feature = feature
        self._query = query
        self._id_types = id_types
        self.current = self._scan(query) if may_hold_current else None

    @property
    def location(self) -> str:
        """The location of the store."""
        return self._store.location

    @cached_property
    def others(self) -> Scan | None:
        """The rows of the other partitions, None if none has a commit; looked for when this is first asked for.

        Partitions whose ids are of types that never match those compared are left out, and a warning names them.
        """
        try:
            scan = self._others(frozenset())
        except MetadataSchemaError:
            if not (strange := self._strange()):
                raise
        else:
            if scan is None or self._fits(scan) or not (strange := self._strange()):
                return scan
        _LOG.warning(
            "The ids of feature '%s' in %s are of other types under %s, so rows of these definitions are not compared.",
            self._feature.key,
            self.location,
            ", ".join(sorted(strange)),
        )
        return self._others(strange)

    def _others(self, strange: frozenset[str]) -> Scan | None:
        current = frozenset(filter(None, [self._query.partition]))
        # A store may leave the rows of the current partition in: they are of samples that are in it.
        scan = self._scan(msgspec.structs.replace(self._query, partition=None, without=current | strange))
        is_other = scan is not None and any(d.partition != self._query.partition for d in scan.definitions)
        return scan if is_other else None

    def _strange(self) -> frozenset[str]:
        """Return the other partitions whose ids cannot be compared."""
        versions = self._store.stored_versions(self._feature.key)
        return frozenset(
            version for version in versions if version != self._query.partition and not self._reads(version)
        )

    def _reads(self, version: str) -> bool:
        ids = frozenset(self._feature.spec.id_columns)
        try:
            scan = self._store.scan_rows(msgspec.structs.replace(self._query, partition=version, columns=ids))
        except MetadataSchemaError:
            return False
        return scan is None or self._fits(scan)

    def _fits(self, scan: Scan) -> bool:
        """Whether the ids of rows are of types that those compared may be of, too."""
        types = dict(self._id_types)
        types |= {} if self.current is None else dict(self.current.rows.collect_schema())
        schema = scan.rows.collect_schema()
        ids = [name for name in self._feature.spec.id_columns if name in types and name in schema]
        return all(widen(types[name], schema[name]) is not None for name in ids)

    def _scan(self, query: Query) -> Scan | None:
        scan = self._store.scan_rows(query)
        if scan is not None:
            require_id_columns(scan, self._feature.spec)
        return scan


def compared_stores(
    store: Backend, feature: Declared, *, columns: frozenset[str], id_types: IdTypes = MappingProxyType({})
) -> list[Compared]:
    """Return what the stores of a chain that an increment compares with hold, the nearest first.

    In a chain that falls back by feature, it is the store that reads of the current data version come from: a nearer
    one that holds other versions alone does not hide it. Where no store holds the current data version, it is the first
    that holds any. In a chain that falls back by sample, it is every store that holds any.

    Args:
        store: The first store of the chain.
        feature: The feature.
        columns: The stored columns that are looked at.
        id_types: The types of the ids that are compared with.
    """
    current = feature.definition.partition
    query = Query(key=feature.key, partition=current, columns=columns, with_partition=True)
    stores = list(chain(store, fallback=True))
    if store.fallback_mode == "sample":
        return [Compared(candidate, feature, query, id_types=id_types) for candidate in stores]
    holder = next((candidate for candidate in stores if candidate.has_version(feature.key, current)), None)
    if holder is not None:
        return [Compared(holder, feature, query, id_types=id_types)]
    asked = (Compared(candidate, feature, query, id_types=id_types, may_hold_current=False) for candidate in stores)
    return list(islice((one for one in asked if one.others is not None), 1))


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
