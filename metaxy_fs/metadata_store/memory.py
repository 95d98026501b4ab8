"""What does a store without any files look like?"""

import threading
from collections.abc import Sequence
from functools import partial

import polars as pl

from metaxy_fs.errors import MetadataSchemaError, WriteConflictError
from metaxy_fs.log.statistics import column_statistics, exact_integers
from metaxy_fs.log.widening import FileSchema, conform, unify
from metaxy_fs.metadata_store.backend import Append, Query, Scan
from metaxy_fs.metadata_store.base import MetadataStore
from metaxy_fs.spec import FeatureKey
from metaxy_fs.versioning.columns import PARTITION


class InMemoryMetadataStore(MetadataStore):
    """A store that lives and dies with the process: for tests, notebooks and examples.

    Args:
        fallback_stores: Stores to read from where this one lacks a feature.

    Examples:
        >>> store = InMemoryMetadataStore()
        >>> store.list_features()
        []
    """

    def __init__(self, *, fallback_stores: Sequence[MetadataStore] = ()) -> None:
        super().__init__(fallback_stores=fallback_stores)
        self._appends: list[Append] = []
        self._lock = threading.Lock()

    @property
    def location(self) -> str:
        return "memory"

    def append_rows(self, append: Append) -> None:
        with self._lock:
            self._refuse_other_id_columns(append)
            earlier = next((held for held in self._appends if _is_same_write(held, append)), None)
            if earlier is None:
                self._appends.append(append)
            elif not _are_same_rows(earlier.rows, append.rows):
                raise WriteConflictError(
                    f"The write_id {append.write_id!r} of feature '{append.spec.key}' names a commit of "
                    f"{earlier.rows.height} rows; the {append.rows.height} rows given now are not the same. Use "
                    "another write_id for other rows."
                )

    def scan_rows(self, query: Query) -> Scan | None:
        found = [held for held in self._of(query.key) if query.partition in (None, held.definition.partition)]
        if not found:
            return None
        schema = unify(
            [_described(held) for held in found], columns=None if query.columns is None else set(query.columns)
        )
        frames = [conform(held.rows.lazy(), source=held.rows.schema, target=schema) for held in found]
        if query.mark_partition:
            frames = [
                frame.with_columns(pl.lit(held.definition.partition).alias(PARTITION))
                for frame, held in zip(frames, found, strict=True)
            ]
        return Scan(
            rows=pl.concat(frames),
            columns=list(dict.fromkeys(name for held in found for name in held.rows.columns)),
            id_columns=found[-1].spec.id_columns,
            definitions=list({held.definition.partition: held.definition for held in found}.values()),
            may_repeat=len(found) > 1,
        )

    def stored_versions(self, key: FeatureKey) -> list[str]:
        return sorted({held.definition.partition for held in self._of(key)})

    def stored_features(self) -> list[FeatureKey]:
        return sorted({held.spec.key for held in self._appends})

    def _refuse_other_id_columns(self, append: Append) -> None:
        for held in self._of(append.spec.key):
            same_partition = held.definition.partition == append.definition.partition
            if same_partition and sorted(held.spec.id_columns) != sorted(append.spec.id_columns):
                raise MetadataSchemaError(
                    f"Feature '{append.spec.key}' names its samples by {list(append.spec.id_columns)}, but rows that "
                    f"are stored under the same data version name them by {list(held.spec.id_columns)}. Give the "
                    "feature another key."
                )

    def _of(self, key: FeatureKey) -> list[Append]:
        return [held for held in self._appends if held.spec.key == key]


def _is_same_write(held: Append, append: Append) -> bool:
    return (
        append.write_id is not None
        and held.write_id == append.write_id
        and held.spec.key == append.spec.key
        and held.definition.partition == append.definition.partition
    )


def _are_same_rows(held: pl.DataFrame, given: pl.DataFrame) -> bool:
    """Polars calls equal values of different types equal."""
    return held.schema == given.schema and held.equals(given)


def _described(held: Append) -> FileSchema:
    name = f"a write of {held.rows.height} rows of feature '{held.spec.key}'"
    return (
        name,
        held.rows.schema,
        partial(_is_exact, held.rows),
    )


def _is_exact(rows: pl.DataFrame, path: tuple[str, ...]) -> bool:
    """Answer what only a clash of integers with floats asks, from statistics that are made for that alone."""
    return exact_integers(column_statistics(rows), rows=rows.height)(path)
