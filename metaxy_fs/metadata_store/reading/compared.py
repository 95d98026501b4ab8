"""The stored rows that samples are compared with: those of the current partition, and of the others on demand."""

import logging
from collections.abc import Mapping
from functools import cached_property
from itertools import islice
from types import MappingProxyType
from typing import Final

import msgspec
import polars as pl

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.log.objects.widening import widen
from metaxy_fs.metadata_store.arguments.features import Declared
from metaxy_fs.metadata_store.backends.backend import Backend, Query
from metaxy_fs.metadata_store.backends.chain import chain
from metaxy_fs.metadata_store.backends.scan import Scan
from metaxy_fs.metadata_store.reading.queries import require_id_columns

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
        held = scan.rows.collect_schema()
        ids = [name for name in self._feature.spec.id_columns if name in types and name in held]
        return all(widen(types[name], held[name]) is not None for name in ids)

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
    query = Query(key=feature.key, partition=current, columns=columns, mark_partition=True)
    stores = list(chain(store, fallback=True))
    if store.fallback_mode == "sample":
        return [Compared(candidate, feature, query, id_types=id_types) for candidate in stores]
    holder = next((candidate for candidate in stores if candidate.has_version(feature.key, current)), None)
    if holder is not None:
        return [Compared(holder, feature, query, id_types=id_types)]
    asked = (Compared(candidate, feature, query, id_types=id_types, may_hold_current=False) for candidate in stores)
    return list(islice((one for one in asked if one.others is not None), 1))
