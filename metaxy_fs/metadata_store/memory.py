"""What does a store without any files look like?"""

import threading
from collections.abc import Mapping, Sequence
from typing import NoReturn

import msgspec
import polars as pl

from metaxy_fs._version import WRITER
from metaxy_fs.errors import MetadataSchemaError, WriteConflictError
from metaxy_fs.hashing import DEFAULT_ALGORITHM, HashAlgorithm, check_algorithm
from metaxy_fs.ids import LamportClock, random_token, timestamp_id
from metaxy_fs.log.statistics import exact_in
from metaxy_fs.log.types import AgreedTypes
from metaxy_fs.log.widening import FileSchema, conform, differ_in_order_alone, unify
from metaxy_fs.metadata_store.backend import COMMITS, Append, FallbackMode, Query
from metaxy_fs.metadata_store.base import MetadataStore
from metaxy_fs.metadata_store.scan import Scan
from metaxy_fs.spec import FeatureKey, FeatureSpec
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.memory import MemoryStorage
from metaxy_fs.versioning.columns import PARTITION, RESERVED_COMMIT, RESERVED_TIME


class _Commit(msgspec.Struct, frozen=True):
    """One write that was taken."""

    append: Append
    commit: str
    time: int

    @property
    def rows(self) -> pl.DataFrame:
        return self.append.rows

    @property
    def key(self) -> FeatureKey:
        return self.append.spec.key

    @property
    def partition(self) -> str:
        return self.append.definition.partition


class InMemoryMetadataStore(MetadataStore):
    """A store that lives and dies with the process: for tests, notebooks and examples.

    Args:
        fallback_stores: Stores to read from where this one lacks a feature.
        fallback_mode: Whether they are read by feature or by sample; see `MetadataStore`.
        hash_algorithm: What the versions of rows are hashed with.
        tags: What every commit says of itself, strings by name; see `MetadataStore.write_metadata`.

    Raises:
        ValueError: There is no such algorithm, or the tags cannot be kept.

    Examples:
        >>> store = InMemoryMetadataStore()
        >>> store.list_features()
        []
    """

    def __init__(
        self,
        *,
        fallback_stores: Sequence[MetadataStore] = (),
        fallback_mode: FallbackMode = "feature",
        hash_algorithm: HashAlgorithm = DEFAULT_ALGORITHM,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        check_algorithm(hash_algorithm)
        super().__init__(fallback_stores=fallback_stores, fallback_mode=fallback_mode, tags=tags)
        self._hash_algorithm = hash_algorithm
        self._commits: list[_Commit] = []
        self._types: dict[tuple[FeatureKey, str], AgreedTypes] = {}
        self._clock = LamportClock()
        self._lock = threading.Lock()
        self._snapshots = MemoryStorage()

    def __reduce__(self) -> NoReturn:
        # A copy in another process would take writes that nobody else ever sees.
        raise TypeError(
            "an InMemoryMetadataStore lives in one process and cannot be pickled: use a FilesystemMetadataStore on a "
            "local directory to share rows"
        )

    @property
    def location(self) -> str:
        return "memory"

    @property
    def hash_algorithm(self) -> str:
        return self._hash_algorithm

    def append_rows(self, append: Append) -> None:
        with self._lock:
            self._refuse_other_id_columns(append)
            place = append.spec.key, append.definition.partition
            append, types = append.fitted(self._types.get(place, AgreedTypes(append.spec.id_columns)))
            earlier = next((held for held in self._commits if _is_same_write(held, append)), None)
            if earlier is None:
                time = self._clock.tick()
                self._commits.append(_Commit(append, timestamp_id(time, random_token()), time))
                self._types[place] = types
            elif not _are_same_rows(earlier.rows, append.rows):
                raise WriteConflictError(
                    f"The write_id {append.write_id!r} of feature '{append.spec.key}' names a commit of "
                    f"{earlier.rows.height} rows; the {append.rows.height} rows given now are not the same. Use "
                    "another write_id for other rows.",
                    feature=append.spec.key.dotted,
                    root=self.location,
                    write_id=append.write_id,
                )

    def scan_rows(self, query: Query) -> Scan | None:
        found = [held for held in self._of(query.key) if _is_asked_for(held, query)]
        if not found:
            return None
        schema = unify(
            [_described(held) for held in found], columns=None if query.columns is None else set(query.columns)
        )
        definitions = [held.append.definition for held in found]
        return Scan(
            rows=pl.concat([_marked(held, schema, query) for held in found]),
            columns=list(dict.fromkeys(name for held in found for name in held.rows.columns)),
            id_columns=found[-1].append.spec.id_columns,
            definitions=list({definition.partition: definition for definition in definitions}.values()),
            may_repeat=len(found) > 1,
            is_exact=lambda path: all(exact_in(held.rows)(path) for held in found if path[0] in held.rows.schema),
        )

    def stored_versions(self, key: FeatureKey) -> list[str]:
        return sorted({held.partition for held in self._of(key)})

    def stored_features(self) -> list[FeatureKey]:
        return sorted({held.key for held in self._commits})

    @property
    def snapshot_storage(self) -> Storage:
        return self._snapshots

    def stored_commits(self, key: FeatureKey) -> pl.DataFrame:
        return pl.DataFrame([_described_commit(held) for held in self._of(key)], schema=COMMITS, orient="row")

    def stored_specs(self, key: FeatureKey, partitions: Sequence[str]) -> list[FeatureSpec]:
        found = {held.partition: held.append.spec for held in reversed(self._of(key))}
        return [found[partition] for partition in partitions if partition in found]

    def _refuse_other_id_columns(self, append: Append) -> None:
        for held in self._of(append.spec.key):
            ids = held.append.spec.id_columns
            if held.partition == append.definition.partition and sorted(ids) != sorted(append.spec.id_columns):
                raise MetadataSchemaError(
                    f"Feature '{append.spec.key}' names its samples by {list(append.spec.id_columns)}, but rows that "
                    f"are stored under the same data version name them by {list(ids)}. Give the feature another key."
                )

    def _of(self, key: FeatureKey) -> list[_Commit]:
        return [held for held in self._commits if held.key == key]


def _is_asked_for(held: _Commit, query: Query) -> bool:
    if query.partition not in (None, held.partition) or held.partition in query.without:
        return False
    return query.at is None or query.at.sees(partition=held.partition, commit=held.commit, time=held.time)


def _is_same_write(held: _Commit, append: Append) -> bool:
    return (
        append.write_id is not None
        and held.append.write_id == append.write_id
        and held.key == append.spec.key
        and held.partition == append.definition.partition
    )


def _are_same_rows(held: pl.DataFrame, given: pl.DataFrame) -> bool:
    """Compare rows in whichever order their columns come; Polars calls equal values of different types equal."""
    if not differ_in_order_alone(held.schema, given.schema):
        return False
    return held.equals(conform(given.lazy(), source=given.schema, target=held.schema).collect())


def _marked(held: _Commit, schema: pl.Schema, query: Query) -> pl.LazyFrame:
    """Return the rows of a commit in the schema of all, with the marks that the query asks for."""
    marks = {PARTITION: pl.lit(held.partition)} if query.with_partition else {}
    if query.with_commits:
        marks |= {RESERVED_COMMIT: pl.lit(held.commit), RESERVED_TIME: pl.lit(held.time, dtype=pl.Int64)}
    return conform(held.rows.lazy(), source=held.rows.schema, target=schema).with_columns(**marks)


def _described_commit(held: _Commit) -> tuple[object, ...]:
    return (
        held.time,
        held.commit,
        held.rows.height - held.append.retired,
        held.append.retired,
        int(held.rows.estimated_size()),
        held.partition,
        held.append.write_id,
        WRITER,
        False,
        held.append.tags_as_json,
    )


def _described(held: _Commit) -> FileSchema:
    name = f"a write of {held.rows.height} rows of feature '{held.key}'"
    return name, held.rows.schema, exact_in(held.rows)
