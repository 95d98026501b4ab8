"""The stored rows that samples are compared with: those of the current partition, and of the others on demand."""

from functools import cached_property
from itertools import islice

import msgspec

from metaxy_fs.metadata_store.arguments.features import Declared
from metaxy_fs.metadata_store.backends.backend import Backend, Query
from metaxy_fs.metadata_store.backends.chain import chain
from metaxy_fs.metadata_store.backends.scan import Scan
from metaxy_fs.metadata_store.reading.queries import require_id_columns


class Compared:
    """What one store holds of a feature.

    Attributes:
        current: The rows of the current partition, None if it has no commit.
    """

    def __init__(self, store: Backend, feature: Declared, query: Query, *, may_hold_current: bool = True) -> None:
        self._store = store
        self._feature = feature
        self._query = query
        self.current = self._scan(query) if may_hold_current else None

    @property
    def location(self) -> str:
        """The location of the store."""
        return self._store.location

    @cached_property
    def others(self) -> Scan | None:
        """The rows of the other partitions, None if none has a commit; looked for when this is first asked for."""
        # A store may leave the rows of the current partition in: they are of samples that are in it.
        scan = self._scan(msgspec.structs.replace(self._query, partition=None, without=self._query.partition))
        is_other = scan is not None and any(d.partition != self._query.partition for d in scan.definitions)
        return scan if is_other else None

    def _scan(self, query: Query) -> Scan | None:
        scan = self._store.scan_rows(query)
        if scan is not None:
            require_id_columns(scan, self._feature.spec)
        return scan


def compared_stores(store: Backend, feature: Declared, *, columns: frozenset[str]) -> list[Compared]:
    """Return what the stores of a chain that an increment compares with hold, the nearest first.

    In a chain that falls back by feature, it is the store that reads of the current data version come from: a nearer
    one that holds other versions alone does not hide it. Where no store holds the current data version, it is the first
    that holds any. In a chain that falls back by sample, it is every store that holds any.

    Args:
        store: The first store of the chain.
        feature: The feature.
        columns: The stored columns that are looked at.
    """
    current = feature.definition.partition
    query = Query(key=feature.key, partition=current, columns=columns, mark_partition=True)
    stores = list(chain(store, fallback=True))
    if store.fallback_mode == "sample":
        return [Compared(candidate, feature, query) for candidate in stores]
    holder = next((candidate for candidate in stores if candidate.has_version(feature.key, current)), None)
    if holder is not None:
        return [Compared(holder, feature, query)]
    asked = (Compared(candidate, feature, query, may_hold_current=False) for candidate in stores)
    return list(islice((one for one in asked if one.others is not None), 1))
