"""What a kind of store implements, by subclassing `MetadataStore`.

Types are compared with what this process has seen and with nothing else: no root is listed before a write. A store of
files asks its root besides (see `metaxy_fs.log.types`).
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final, Literal

import polars as pl

from metaxy_fs.errors import StorageError
from metaxy_fs.hashing import DEFAULT_ALGORITHM
from metaxy_fs.interrupts import let_ctrl_c_end_waits
from metaxy_fs.log.chunks import Chunks
from metaxy_fs.log.holdings import Holdings
from metaxy_fs.log.manifest import check_tags
from metaxy_fs.log.receipts import Receipt
from metaxy_fs.log.types import AgreedTypes
from metaxy_fs.metadata_store.operations import Append, PreparedWrites, Query, StoredSpec
from metaxy_fs.metadata_store.scan import Scan
from metaxy_fs.spec import FeatureKey, FeatureSpec
from metaxy_fs.storage.base import Storage


class SeenSchemas:
    """The types of the columns that one store has read or written, by partition. Safe to share between threads."""

    def __init__(self) -> None:
        self._seen: dict[tuple[FeatureKey, str], AgreedTypes] = {}
        self._lock = threading.Lock()

    def check(self, spec: FeatureSpec, partition: str, rows: Chunks) -> None:
        """Refuse rows that could not be read together with what was seen; none at all can always be.

        Raises:
            MetadataSchemaError: A column has a type that has none in common with the one seen.
        """
        seen = self.of(spec.key, partition)
        if seen.conflicts(rows.schema) and any(frame.height for frame in rows):
            replace(seen, id_columns=spec.id_columns).refuse_conflicts(rows.schema, feature=str(spec.key))

    def add(self, key: FeatureKey, partition: str, schema: pl.Schema) -> None:
        """Remember a schema that was read or written; what does not fit is passed over."""
        with self._lock:
            seen = self._seen.get((key, partition), AgreedTypes())
            strange = set(seen.conflicts(schema))
            known = pl.Schema({name: dtype for name, dtype in schema.items() if name not in strange})
            self._seen[key, partition] = seen.added(seen.further(known))

    def of(self, key: FeatureKey, partition: str) -> AgreedTypes:
        """Return the types that were seen in a partition."""
        with self._lock:
            return self._seen.get((key, partition), AgreedTypes())


FallbackMode = Literal["feature", "sample"]
"""How a chain is read: from the first store that has a feature, or each sample from the nearest store that has it."""


_OF_BACKENDS: Final = frozenset(
    {
        "after_commits",
        "append_rows",
        "commit_prepared_rows",
        "has_version",
        "identity",
        "is_written",
        "list_files",
        "log",
        "prepare_rows",
        "refuse_types",
        "scan_rows",
        "seen",
        "snapshot_storage",
        "stored_commits",
        "stored_features",
        "stored_graph",
        "stored_holdings",
        "stored_specs",
        "stored_versions",
        "takes_chunks",
    }
)
"""What a new kind of store implements, and users do not call."""


class Backend(ABC):
    """A place that keeps rows, and the places to look in where it lacks a feature.

    Args:
        fallback_stores: Those other places, nearest first.
        fallback_mode: Whether one place gives all rows of a feature, or each sample is taken from the nearest place.
        tags: What every commit that is made through this store says of itself, strings by name.

    Raises:
        TypeError: A fallback store is none.
        ValueError: There is no such mode, or the tags cannot be kept.
    """

    def __init__(
        self,
        *,
        fallback_stores: "Sequence[Backend]" = (),
        fallback_mode: FallbackMode = "feature",
        tags: Mapping[str, str] | None = None,
    ) -> None:
        if fallback_mode not in ("feature", "sample"):
            raise ValueError(f'fallback_mode is "feature" or "sample", got {fallback_mode!r}.')
        for store in fallback_stores if isinstance(fallback_stores, Iterable) else [None]:
            if not isinstance(store, Backend):
                raise TypeError(
                    f"fallback_stores takes a list of stores, got {fallback_stores!r}; open_store opens one from a "
                    "path or URL."
                )
        self._fallback_stores = tuple(fallback_stores)
        self._fallback_mode = fallback_mode
        self._tags = check_tags(tags)
        self.seen = SeenSchemas()
        let_ctrl_c_end_waits()

    def __dir__(self) -> list[str]:
        # Completion shows what users call, and nothing else.
        return sorted(set(super().__dir__()) - _OF_BACKENDS)

    @property
    def fallback_stores(self) -> "tuple[Backend, ...]":
        """The stores that are read, in order, where this one lacks a feature."""
        return self._fallback_stores

    @property
    def tags(self) -> Mapping[str, str]:
        """What every commit that is made through this store says of itself, unless the call says otherwise."""
        return MappingProxyType(self._tags)

    @property
    def takes_chunks(self) -> bool:
        """Whether `append_rows` takes the chunks of an append one by one, which may be more than memory holds."""
        return False

    @property
    def fallback_mode(self) -> FallbackMode:
        """How the fallback stores are read when this store is asked."""
        return self._fallback_mode

    @property
    @abstractmethod
    def location(self) -> str:
        """Where the rows are, as a person would say it; holds no credentials."""

    @property
    def hash_algorithm(self) -> str:
        """The algorithm that the versions of rows are hashed with, one of `metaxy_fs.hashing.ALGORITHMS`.

        Raises:
            HashAlgorithmError: It is another one than the store was opened for.
        """
        return DEFAULT_ALGORITHM

    @abstractmethod
    def append_rows(self, append: Append) -> None:
        """Add the rows of one write, all or none, after all that this process has seen.

        Raises:
            MetadataSchemaError: The partition's rows name their samples by other columns.
            WriteConflictError: The `write_id` was used for other rows.
            StorageError: The rows could not be written.
        """

    def prepare_rows(self, append: Append, *, task_id: str | None) -> Receipt:  # noqa: ARG002  # for those that can
        """Store the rows of one write so that nobody sees them before `commit_prepared_rows`; some backends can.

        Raises:
            StorageError: This store cannot, or the rows could not be stored.
        """
        raise self._cannot_prepare()

    def commit_prepared_rows(self, writes: PreparedWrites) -> None:  # noqa: ARG002  # for those that can
        """Commit prepared writes together, all or none; those that are committed already stay as they are.

        Raises:
            WriteConflictError: The `write_id` was used for other rows.
            StorageError: This store cannot, a receipt is too old, or its rows are not there.
        """
        raise self._cannot_prepare()

    def _cannot_prepare(self) -> StorageError:
        return StorageError(
            f"{self.location} cannot commit writes together that others have prepared; take a FilesystemMetadataStore, "
            "or write each part with write_metadata.",
            root=self.location,
        )

    def refuse_types(self, spec: FeatureSpec, partition: str, rows: Chunks) -> None:
        """Refuse rows that are going to be appended, and whose types do not fit those that are known in the partition.

        Raises:
            MetadataSchemaError: A column has a type that has none in common with the one known.
        """
        self.seen.check(spec, partition, rows)

    def after_commits(self, key: FeatureKey, partition: str, *, commits: int) -> None:  # noqa: B027  # most do nothing
        """Do what keeps a partition in order after so many commits to it, which stand whatever becomes of this.

        Backends that have something to do override this; it raises no error.
        """

    @abstractmethod
    def scan_rows(self, query: Query) -> Scan | None:
        """Return the rows of a feature, None only if it is certain that there is no commit of it (to be seen).

        Raises:
            MetadataSchemaError: The types of a column in two commits have no type in common.
            StorageError: The rows could not be looked for.
        """

    @abstractmethod
    def stored_versions(self, key: FeatureKey) -> list[str]:
        """Return the versions of the partitions of a feature that hold any commit, sorted."""

    @abstractmethod
    def stored_features(self) -> list[FeatureKey]:
        """Return the features that hold any commit, sorted."""

    @abstractmethod
    def stored_commits(self, key: FeatureKey) -> pl.DataFrame:
        """Return the commits of a feature in commit order, whatever their partition, as a frame of `COMMITS`.

        A commit that was rewritten with others is still one row. There is none if there is no commit.

        Raises:
            StorageError: The commits could not be looked for.
        """

    def list_files(self, query: Query) -> pl.DataFrame | None:  # noqa: ARG002  # for those that keep files
        """Return the data files that hold the rows of a feature, None only if it is certain that there is no commit.

        Backends that keep Parquet files override this.

        Raises:
            StorageError: This store keeps no files.
        """
        raise StorageError(
            f"{self.location} keeps no data files that others could read; ask it for rows.",
            root=self.location,
        )

    @property
    def identity(self) -> str | None:
        """What tells the place of the rows from any other, the same at each moment; None where nothing does.

        A commit has the same rows in every look at one place. Its copy in another may lack some, left out on purpose.
        """
        return None

    @property
    def is_written(self) -> bool:
        """Whether anything was ever written here; backends that can tell override this."""
        return True

    def stored_specs(self, key: FeatureKey, partitions: Sequence[str]) -> Mapping[str, StoredSpec]:  # noqa: ARG002
        """Return the declarations that the first writers of some partitions of a feature made, as far as they are kept.

        Explanations name earlier code versions by them, and they tell the graph of what is stored; backends that keep
        declarations override this.

        Args:
            key: The feature.
            partitions: The versions of the partitions.

        Raises:
            StorageError: They could not be looked for.
        """
        return {}

    def stored_holdings(self, key: FeatureKey) -> Sequence[Holdings]:  # noqa: ARG002  # of those that keep files
        """Return what each partition of a feature takes up, and what upkeep would change there.

        Backends that leave their upkeep to metaxy_fs override this.
        """
        return ()

    def has_version(self, key: FeatureKey, partition: str) -> bool:
        """Whether a partition of a feature holds any commit; backends that know a shorter way override this."""
        return partition in self.stored_versions(key)

    @property
    def snapshot_storage(self) -> Storage:
        """Where snapshots are kept, below `_snapshots`; backends that can keep objects override this.

        Raises:
            StorageError: This store keeps none.
        """
        raise StorageError(
            f"{self.location} cannot keep snapshots; a store of files can.",
            root=self.location,
        )
