"""Find what each store of a chain holds of a feature: the rows of the current partition, and those of the others.

The other partitions are looked for when they are first asked for: most increments need the current one alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from types import MappingProxyType

import msgspec
import polars as pl

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.log import widen
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.chain import chain, layered
from metaxy_fs.metadata_store.features import Declared
from metaxy_fs.metadata_store.operations import Query
from metaxy_fs.metadata_store.read import require_id_columns
from metaxy_fs.metadata_store.retired import scan_retired
from metaxy_fs.metadata_store.scan import Scan
from metaxy_fs.storage.logged import LOGGER
from metaxy_fs.versioning.columns import RETIRED

IdTypes = Mapping[str, pl.DataType]
"""The types of the ids that are compared, as far as they are known."""


def stored_layers(
    store: Backend,
    feature: Declared,
    *,
    columns: frozenset[str],
    id_types: IdTypes = MappingProxyType({}),
    prune: pl.Expr | None = None,
) -> "list[StoredLayer]":
    """Return what the stores of a chain that an increment compares with hold, the nearest first.

    In a chain that falls back by feature, it is the store that reads of the current data version come from: a nearer
    one that holds other versions alone does not hide it. Where no store holds the current data version, it is the first
    that holds any. In a chain that falls back by sample, it is every store that holds any.

    Args:
        store: The first store of the chain.
        feature: The feature.
        columns: The stored columns that are looked at.
        id_types: The types of the ids that are compared with.
        prune: What the ids of rows of any interest satisfy.
    """
    current = feature.definition.partition
    query = Query(key=feature.key, partition=current, columns=columns, prune=prune, with_partition=True)
    stores = list(chain(store, fallback=True))
    if store.fallback_mode == "sample":
        return [StoredLayer(candidate, feature, query, id_types=id_types) for candidate in stores]
    holder = next((candidate for candidate in stores if candidate.has_version(feature.key, current)), None)
    if holder is not None:
        return [StoredLayer(holder, feature, query, id_types=id_types)]
    asked = (StoredLayer(candidate, feature, query, id_types=id_types, may_hold_current=False) for candidate in stores)
    return list(islice((one for one in asked if one.others is not None), 1))


def compared_partitions(store: Backend, feature: Declared) -> Scan | None:
    """Return the ids and the partition of all rows that an increment may compare with, None if there are none.

    Those of the current partitions come last, as the nearest do: a sample that is in one is compared there.
    """
    found = stored_layers(store, feature, columns=frozenset((*feature.spec.id_columns, RETIRED)))
    current = [(one.location, one.current) for one in found if one.current is not None]
    others = [(one.location, one.others) for one in found if one.others is not None]
    return layered([*current, *others]) if current or others else None


def strange_versions(store: Backend, feature: Declared, types: IdTypes) -> frozenset[str]:
    """Return the partitions of a store, other than the current one, whose ids are of types that never match."""
    ids, current = frozenset(feature.spec.id_columns), feature.definition.partition
    strange = []
    for version in store.stored_versions(feature.key):
        try:
            scan = store.scan_rows(Query(key=feature.key, partition=version, columns=ids))
            is_alike = version == current or scan is None or _fits(scan, feature, types)
        except MetadataSchemaError:
            is_alike = version == current
        strange += [] if is_alike else [version]
    return frozenset(strange)


def _fits(scan: Scan, feature: Declared, types: IdTypes) -> bool:
    """Whether the ids of rows are of types that those compared may be of, too."""
    schema = scan.rows.collect_schema()
    ids = [name for name in feature.spec.id_columns if name in types and name in schema]
    return all(widen(types[name], schema[name]) is not None for name in ids)


def warn_of_strange(strange: frozenset[str], feature: Declared, location: str) -> None:
    """Tell the logger which partitions of a store are not compared."""
    LOGGER.warning(
        "The ids of feature '%s' in %s are of other types under %s, so rows of these definitions are not compared.",
        feature.key,
        location,
        ", ".join(sorted(strange)),
    )


class StoredLayer:
    """What one store of a chain holds of a feature.

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
        warn_of_strange(strange, self._feature, self.location)
        return self._others(strange)

    def _others(self, strange: frozenset[str]) -> Scan | None:
        current = frozenset(filter(None, [self._query.partition]))
        # A store may leave the rows of the current partition in: they are of samples that are in it.
        scan = self._scan(msgspec.structs.replace(self._query, partition=None, without=current | strange))
        is_other = scan is not None and any(d.partition != self._query.partition for d in scan.definitions)
        return scan if is_other else None

    def _strange(self) -> frozenset[str]:
        """Return the other partitions whose ids cannot be compared."""
        return strange_versions(self._store, self._feature, self._types)

    @property
    def _types(self) -> IdTypes:
        current = {} if self.current is None else dict(self.current.rows.collect_schema())
        return {**self._id_types, **current}

    def _fits(self, scan: Scan) -> bool:
        return _fits(scan, self._feature, self._types)

    def _scan(self, query: Query) -> Scan | None:
        scan = scan_retired(self._store, query)
        if scan is not None:
            require_id_columns(scan, self._feature.spec)
        return scan


@dataclass(frozen=True)
class KnownLayer:
    """What was looked for in one store of a chain; the attributes are those of `StoredLayer`."""

    location: str
    current: Scan | None
    others: Scan | None
