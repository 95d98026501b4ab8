"""Keep the rows of a store as files below a root, or as objects in memory."""

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import msgspec
import polars as pl

from metaxy_fs._version import WRITER
from metaxy_fs.errors import SpecError
from metaxy_fs.forks import refuse_lost_threads
from metaxy_fs.hashing import DEFAULT_ALGORITHM, HashAlgorithm, check_algorithm
from metaxy_fs.ids import shared_clock
from metaxy_fs.log import (
    STORE_FILE,
    Chunks,
    CommitRequest,
    Definition,
    Holdings,
    Log,
    Partition,
    PartitionInfo,
    Receipt,
    Upkeep,
    View,
    are_exact,
    check_threshold,
    column_names,
)
from metaxy_fs.metadata_store.backend import FallbackMode
from metaxy_fs.metadata_store.base import MetadataStore
from metaxy_fs.metadata_store.operations import COMMITS, Append, Moment, PreparedWrites, Query, StoredSpec
from metaxy_fs.metadata_store.scan import Scan
from metaxy_fs.parallel import asked
from metaxy_fs.spec import FeatureKey, FeatureSpec
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.cache import DEFAULT_BYTES, CachedStorage, DiskCache
from metaxy_fs.storage.logged import logged
from metaxy_fs.storage.memory import MemoryStorage
from metaxy_fs.storage.open import open_storage
from metaxy_fs.versioning.columns import PARTITION
from metaxy_fs.versioning.definition import DefinitionVersion

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


class _Settings(NamedTuple):
    """How a store uses its root."""

    hash_algorithm: str | None
    cache: DiskCache | None
    compact_after: int | None


class FilesystemMetadataStore(MetadataStore):
    """A store of plain files below a root: a local directory, a prefix of a bucket, or what else fsspec reaches.

    Every write is a new immutable Parquet file and a manifest whose appearance commits it. There is no lock, no
    server and no limit to how many processes write at once. A root that does not exist yet is an empty store, made by
    the first write.

    Args:
        root: A path or a URL, such as `"./metadata"`, `"s3://bucket/prefix"` or `"gs://bucket/prefix"`; or a storage of
            your own, which passes `metaxy_fs.testing.StorageSuite`.
        fallback_stores: Stores to read from, nearest first, where this one lacks a feature.
        fallback_mode: Whether they are read by feature or by sample; see `MetadataStore`.
        storage_options: Handed to the fsspec filesystem of the URL untouched; never shown or stored.
        filesystem: A ready fsspec filesystem to reach the root through, instead of `storage_options`.
        hash_algorithm: What the versions of rows are hashed with, from the first write to the root on. By default that
            is what the root records, sha256 for a new one. A root that records another than is asked for is refused
            where rows are written or versions calculated, with a HashAlgorithmError.
        cache_dir: A directory of this machine to keep what was fetched of a remote root in, for this and other
            processes; none by default. What there is at all is still asked of the root, each time. A local root needs
            none.
        cache_bytes: What the cache may take; what was not used for the longest time gives way. 4 GiB by default.
        compact_after: Compact a partition of this root once more than so many of its writes wait for it, 10 to 10,000;
            None leaves that to `compact`. A few of all writes look, in whatever process, and the one that finds it due
            returns after the compaction. That never fails the write: an error is logged.
        tags: What every commit that is made through this store says of itself, strings by name; see
            `MetadataStore.write_metadata`. No secrets: tags are stored as they are.

    Raises:
        ImportError: The package for this kind of root is not installed; the message says which extra to install.
        ValueError: There is no kind of root of that name, the options are not for it, there is no such algorithm, or
            `compact_after` or `cache_bytes` is out of range, or the tags cannot be kept.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] | Storage,
        *,
        fallback_stores: Sequence[MetadataStore] = (),
        fallback_mode: FallbackMode = "feature",
        storage_options: Mapping[str, Any] | None = None,
        filesystem: "AbstractFileSystem | None" = None,
        hash_algorithm: HashAlgorithm | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int = DEFAULT_BYTES,
        compact_after: int | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        if hash_algorithm is not None:
            check_algorithm(hash_algorithm)
        if compact_after is not None:
            check_threshold(compact_after)
        super().__init__(fallback_stores=fallback_stores, fallback_mode=fallback_mode, tags=tags)
        cache = None if cache_dir is None else DiskCache(cache_dir, max_bytes=cache_bytes)
        storage = open_storage(root, storage_options=storage_options, filesystem=filesystem)
        self._use(storage, _Settings(hash_algorithm, cache, compact_after))

    def __getstate__(self) -> dict[str, Any]:
        # Where the rows are: another process learns for itself what it has seen of them.
        return {
            "storage": self._storage,
            "fallback_stores": self.fallback_stores,
            "fallback_mode": self.fallback_mode,
            "tags": dict(self.tags),
            "settings": self._settings._replace(hash_algorithm=self._log.expected_algorithm),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__init__(
            fallback_stores=state["fallback_stores"], fallback_mode=state["fallback_mode"], tags=state["tags"]
        )
        self._use(state["storage"], state["settings"])

    def _use(self, storage: Storage, settings: "_Settings") -> None:
        storage = logged(storage)
        clock = shared_clock(storage.identity)
        self._storage = storage
        self._settings = settings
        # Reads alone go through the cache: maintenance looks at what the root really holds.
        is_local = storage.local_path(STORE_FILE) is not None
        read = storage if settings.cache is None or is_local else CachedStorage(storage, settings.cache)
        self._log = Log(read, clock=clock, hash_algorithm=settings.hash_algorithm)
        threshold = settings.compact_after
        self._upkeep = None if threshold is None else Upkeep(storage, clock=clock, more_than=threshold)

    @property
    def location(self) -> str:
        return self._storage.location

    @property
    def hash_algorithm(self) -> str:
        return self._log.hash_algorithm()

    @property
    def storage(self) -> Storage:
        """The root's objects, for maintenance."""
        return self._storage

    @property
    def log(self) -> Log:
        """What reads and writes the root's commits."""
        return self._log

    @property
    def takes_chunks(self) -> bool:
        return True

    def append_rows(self, append: Append) -> None:
        self._log.append(_request(append, append.chunks), spec=msgspec.json.encode(append.spec))

    def prepare_rows(self, append: Append, *, task_id: str | None) -> Receipt:
        spec = msgspec.json.encode(append.spec)
        return self._log.prepare(_request(append, append.chunks), spec=spec, task_id=task_id)

    def commit_prepared_rows(self, writes: PreparedWrites) -> None:
        spec = msgspec.json.encode(writes.spec)
        self._log.commit_prepared(_request(writes, Chunks.of(pl.DataFrame())), writes.receipts, spec=spec)

    def refuse_types(self, spec: FeatureSpec, partition: str, rows: Chunks) -> None:
        super().refuse_types(spec, partition, rows)
        self._log.refuse_types(Partition(spec.key.dotted, partition), rows, feature=str(spec.key))

    def after_commits(self, key: FeatureKey, partition: str, *, commits: int) -> None:
        if self._upkeep is not None:
            self._upkeep.after_commits(Partition(key.dotted, partition), commits=commits)

    def scan_rows(self, query: Query) -> Scan | None:
        views = self._views(query)
        if not views:
            return None
        marker = PARTITION if query.with_partition else None
        selection = self._log.select(
            views,
            columns=query.columns,
            predicate=query.prune,
            partition_column=marker,
            with_commits=query.with_commits,
            schema=query.schema,
        )
        return Scan(
            rows=selection.rows,
            columns=column_names(selection.files),
            id_columns=_latest_id_columns(views),
            definitions=[_definition(view) for view in views],
            parts=selection,
            is_exact=partial(are_exact, selection.files),
        )

    def list_files(self, query: Query) -> pl.DataFrame | None:
        views = self._views(query)
        return self._log.list_files(views, id_columns=_latest_id_columns(views)) if views else None

    def stored_versions(self, key: FeatureKey) -> list[str]:
        return [partition.version for partition in self._log.partitions(key.dotted)]

    def stored_features(self) -> list[FeatureKey]:
        return sorted(FeatureKey.parse(name) for name in self._log.features())

    def stored_commits(self, key: FeatureKey) -> pl.DataFrame:
        return self._log.commits(key.dotted).cast(COMMITS)

    def stored_specs(self, key: FeatureKey, partitions: Sequence[str]) -> dict[str, StoredSpec]:
        kept = self._log.descriptions(Partition(key.dotted, version) for version in partitions)
        found = map(_stored_spec, kept)
        return {stored.definition.partition: stored for stored in found if stored is not None}

    def stored_holdings(self, key: FeatureKey) -> list[Holdings]:
        return self._log.holdings(key.dotted)

    @property
    def identity(self) -> str:
        return self._storage.identity

    @property
    def is_written(self) -> bool:
        return self._log.has_root()

    def has_version(self, key: FeatureKey, partition: str) -> bool:
        return self._log.has_commit(Partition(key.dotted, partition))

    @property
    def snapshot_storage(self) -> Storage:
        return self._storage

    def _views(self, query: Query) -> list[View]:
        feature = query.key.dotted
        if query.at is None and query.partition is None:
            return self._log.views(feature, without=query.without)
        partitions = self._partitions(feature, query.at) if query.partition is None else [query.partition]
        views = asked(
            lambda version: self._view(Partition(feature, version), query.at),
            [version for version in partitions if version not in query.without],
            is_remote=self._storage.is_remote,
        )
        return [view for view in views if view is not None]

    def _view(self, partition: Partition, at: Moment | None) -> View | None:
        if at is None:
            return self._log.view(partition)
        commits = None if at.commits is None else at.commits.get(partition.version, frozenset())
        return self._log.view_at(partition, commits=commits, until=at.until)

    def _partitions(self, feature: str, at: Moment | None) -> Iterable[str]:
        if at is not None and at.commits is not None:
            return sorted(at.commits)
        return [partition.version for partition in self._log.partitions(feature)]


class InMemoryMetadataStore(FilesystemMetadataStore):
    """A store that lives and dies with the process: for tests, notebooks and examples.

    Its answers and errors are those of any `FilesystemMetadataStore`.

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
        super().__init__(
            MemoryStorage(),
            fallback_stores=fallback_stores,
            fallback_mode=fallback_mode,
            hash_algorithm=hash_algorithm,
            tags=tags,
        )

    def __reduce__(self) -> NoReturn:
        # A copy in another process would take writes that nobody else ever sees.
        raise TypeError(
            "an InMemoryMetadataStore lives in one process and cannot be pickled: use a FilesystemMetadataStore on a "
            "local directory to share rows"
        )


def storage_of(store: MetadataStore) -> Storage:
    """Return the objects of a store's root.

    Raises:
        TypeError: The store keeps none.
    """
    refuse_lost_threads()
    if not isinstance(store, FilesystemMetadataStore):
        raise TypeError(f"expected a FilesystemMetadataStore, whose root holds objects; got {store!r}")
    return store.storage


def _request(writes: Append | PreparedWrites, rows: Chunks) -> CommitRequest:
    """Return what the log is asked to commit."""
    definition = writes.definition
    return CommitRequest(
        partition=Partition(writes.spec.key.dotted, definition.partition),
        feature=tuple(writes.spec.key.parts),
        definition=Definition(definition.version, definition.containers),
        id_columns=tuple(writes.spec.id_columns),
        rows=rows,
        writer=WRITER,
        write_id=writes.write_id,
        tags=writes.tags,
    )


def _stored_spec(info: PartitionInfo) -> StoredSpec | None:
    """Return a declaration, None if a later metaxy_fs made it that has more to say."""
    try:
        spec = msgspec.json.decode(info.spec, type=FeatureSpec)
    except (msgspec.MsgspecError, SpecError):
        return None
    return StoredSpec(spec, DefinitionVersion(info.definition.version, info.definition.containers))


def _definition(view: View) -> DefinitionVersion:
    definition = view.manifests[-1].definition
    return DefinitionVersion(definition.version, definition.containers)


def _latest_id_columns(views: Sequence[View]) -> Sequence[str]:
    _, manifest = max((view.last_commit for view in views), key=lambda last: last[0])
    return manifest.id_columns
