"""Where do the rows of features live, and what can be asked of them?"""

from metaxy_fs.errors import (
    CommitStateUnknownError,
    CorruptObjectError,
    DependencyError,
    FeatureNotFoundError,
    ForkedProcessError,
    HashAlgorithmError,
    MetadataSchemaError,
    MetaxyError,
    ObjectExistsError,
    ObjectNotFoundError,
    SnapshotError,
    SpecError,
    StorageAccessError,
    StorageError,
    UnsupportedFormatError,
    WriteConflictError,
)
from metaxy_fs.log.checking.repair import Restoration
from metaxy_fs.log.checking.verify import Verification
from metaxy_fs.log.compacting.compaction import Compaction
from metaxy_fs.log.history.copying import Copied
from metaxy_fs.log.objects.findings import Finding
from metaxy_fs.log.vacuuming.removal import Removal
from metaxy_fs.log.vacuuming.vacuum import Vacuumed
from metaxy_fs.metadata_store.backends.backend import COMMITS, Append, Moment, Query
from metaxy_fs.metadata_store.backends.scan import Scan
from metaxy_fs.metadata_store.base import MetadataStore
from metaxy_fs.metadata_store.filesystem import FilesystemMetadataStore
from metaxy_fs.metadata_store.memory import InMemoryMetadataStore
from metaxy_fs.metadata_store.open import open_store
from metaxy_fs.metadata_store.upkeep.compacting import compact
from metaxy_fs.metadata_store.upkeep.promotion import copy_metadata
from metaxy_fs.metadata_store.upkeep.repairing import repair
from metaxy_fs.metadata_store.upkeep.vacuuming import vacuum
from metaxy_fs.metadata_store.upkeep.verifying import verify
from metaxy_fs.metadata_store.writing.buffering import WriteBuffer
from metaxy_fs.versioning.explanation import Explanation
from metaxy_fs.versioning.increment import Increment, LazyIncrement

__all__ = [
    "COMMITS",
    "Append",
    "CommitStateUnknownError",
    "Compaction",
    "Copied",
    "CorruptObjectError",
    "DependencyError",
    "Explanation",
    "FeatureNotFoundError",
    "FilesystemMetadataStore",
    "Finding",
    "ForkedProcessError",
    "HashAlgorithmError",
    "InMemoryMetadataStore",
    "Increment",
    "LazyIncrement",
    "MetadataSchemaError",
    "MetadataStore",
    "MetaxyError",
    "Moment",
    "ObjectExistsError",
    "ObjectNotFoundError",
    "Query",
    "Removal",
    "Restoration",
    "Scan",
    "SnapshotError",
    "SpecError",
    "StorageAccessError",
    "StorageError",
    "UnsupportedFormatError",
    "Vacuumed",
    "Verification",
    "WriteBuffer",
    "WriteConflictError",
    "compact",
    "copy_metadata",
    "open_store",
    "repair",
    "vacuum",
    "verify",
]
