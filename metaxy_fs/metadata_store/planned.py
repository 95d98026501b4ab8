"""A store as it would be after a run of some features: its own rows, and the rows that the run would commit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import polars as pl

from metaxy_fs.errors import StorageAccessError
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.chain import layered
from metaxy_fs.metadata_store.operations import Append, Query, StoredSpec
from metaxy_fs.metadata_store.scan import Scan
from metaxy_fs.spec import FeatureKey
from metaxy_fs.versioning.columns import PARTITION, RETIRED
from metaxy_fs.versioning.definition import DefinitionVersion


@dataclass(frozen=True)
class Addition:
    """The rows that a run would add to a feature.

    Attributes:
        definition: What they are written under.
        id_columns: What names a sample.
        rows: Those of samples that are stored already, with their other columns as they are.
        bare: Those of new samples: ids and versions alone.
        retired: The ids of samples that the run would retire.
        pending: What is to be computed, with the cause.
        is_first: Whether it would be the first commit of the feature, although it has no rows.
    """

    definition: DefinitionVersion
    id_columns: Sequence[str]
    rows: pl.DataFrame
    bare: pl.DataFrame
    retired: pl.DataFrame
    pending: pl.DataFrame
    is_first: bool

    def __bool__(self) -> bool:
        """Whether the run would commit anything: a later one without samples does not."""
        return self.is_first or self.has_rows

    @property
    def has_rows(self) -> bool:
        """Whether any sample would be written or retired."""
        return bool(self.rows.height or self.bare.height or self.retired.height)


class PlannedStore(Backend):
    """The first store of a chain, as it would be after a run of some features.

    Args:
        store: The store as it is.
        added: What the run would add, by feature.
        hidden: The features whose new samples are left out.
    """

    def __init__(
        self, store: Backend, added: Mapping[FeatureKey, Addition], hidden: frozenset[FeatureKey] = frozenset()
    ) -> None:
        super().__init__(fallback_stores=store.fallback_stores, fallback_mode=store.fallback_mode)
        self._store = store
        self._added = added
        self._hidden = hidden

    @property
    def location(self) -> str:
        return f"{self._store.location} as planned"

    @property
    def hash_algorithm(self) -> str:
        return self._store.hash_algorithm

    def append_rows(self, append: Append) -> NoReturn:
        raise StorageAccessError(f"{self.location} is read-only.", feature=append.spec.key.dotted, root=self.location)

    def scan_rows(self, query: Query) -> Scan | None:
        stored, planned = self._store.scan_rows(query), self._planned(query)
        if stored is None or planned is None:
            return planned if stored is None else stored
        return layered([(self.location, planned), (self._store.location, stored)])

    def stored_versions(self, key: FeatureKey) -> list[str]:
        addition = self._added.get(key)
        added = [addition.definition.partition] if addition else []
        return sorted({*self._store.stored_versions(key), *added})

    def stored_features(self) -> list[FeatureKey]:
        return sorted({*self._store.stored_features(), *(key for key, addition in self._added.items() if addition)})

    def stored_commits(self, key: FeatureKey) -> pl.DataFrame:
        return self._store.stored_commits(key)

    def stored_specs(self, key: FeatureKey, partitions: Sequence[str]) -> Mapping[str, StoredSpec]:
        return self._store.stored_specs(key, partitions)

    def _planned(self, query: Query) -> Scan | None:
        """Return the rows that would be added, in what a query asks of them."""
        addition = self._added.get(query.key)
        if not addition or query.partition not in (None, addition.definition.partition):
            return None
        is_hidden = query.key in self._hidden
        if is_hidden and addition.rows.is_empty() and addition.retired.is_empty() and not addition.is_first:
            return None  # a scan without rows would lack the columns for which the new rows are hidden
        bare = addition.bare.clear() if is_hidden else addition.bare
        retired = [addition.retired.with_columns(pl.lit(value=True).alias(RETIRED))] if addition.retired.height else []
        rows = pl.concat([addition.rows, bare, *retired], how="diagonal_relaxed").sort(addition.id_columns)
        columns = rows.columns
        if query.columns is not None:
            rows = rows.select(name for name in columns if name in query.columns)
        if query.with_partition:
            rows = rows.with_columns(pl.lit(addition.definition.partition).alias(PARTITION))
        return Scan(
            rows=rows.lazy(),
            columns=columns,
            id_columns=addition.id_columns,
            definitions=[addition.definition],
            may_repeat=False,
        )
