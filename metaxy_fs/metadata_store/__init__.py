"""Stores: where the rows of features are written, read and compared.

What answers questions and what keeps roots in order is looked up where it is first used: most processes that open a
store do without.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

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
from metaxy_fs.log import Receipt
from metaxy_fs.metadata_store.base import MetadataStore
from metaxy_fs.metadata_store.buffer import WriteBuffer
from metaxy_fs.metadata_store.filesystem import FilesystemMetadataStore, InMemoryMetadataStore
from metaxy_fs.metadata_store.opening import open_store
from metaxy_fs.metadata_store.operations import COMMITS, Append, Moment, Query
from metaxy_fs.metadata_store.scan import Scan
from metaxy_fs.metadata_store.tables import CommitRecord, TableMetadataStore
from metaxy_fs.versioning.increment import Increment, LazyIncrement

if TYPE_CHECKING:
    from metaxy_fs.insight.diff import Diff
    from metaxy_fs.insight.explanation import Explanation
    from metaxy_fs.insight.fingerprint import FeatureFingerprint, Fingerprint, FingerprintCheck
    from metaxy_fs.insight.plan import Plan
    from metaxy_fs.insight.trace import Trace
    from metaxy_fs.metadata_store.maintenance import (
        Compaction,
        Copied,
        Finding,
        Removal,
        Restoration,
        Vacuumed,
        Verification,
        compact,
        copy_metadata,
        repair,
        vacuum,
        verify,
    )
    from metaxy_fs.metadata_store.materialize import Materialization
    from metaxy_fs.metadata_store.publishing import Published, publish
    from metaxy_fs.metadata_store.rebase import Rebased
    from metaxy_fs.metadata_store.tasks import ReadTask, UpdateTask

__all__ = [
    "COMMITS",
    "Append",
    "CommitRecord",
    "CommitStateUnknownError",
    "Compaction",
    "Copied",
    "CorruptObjectError",
    "DependencyError",
    "Diff",
    "Explanation",
    "FeatureFingerprint",
    "FeatureNotFoundError",
    "FilesystemMetadataStore",
    "Finding",
    "Fingerprint",
    "FingerprintCheck",
    "ForkedProcessError",
    "HashAlgorithmError",
    "InMemoryMetadataStore",
    "Increment",
    "LazyIncrement",
    "Materialization",
    "MetadataSchemaError",
    "MetadataStore",
    "MetaxyError",
    "Moment",
    "ObjectExistsError",
    "ObjectNotFoundError",
    "Plan",
    "Published",
    "Query",
    "ReadTask",
    "Rebased",
    "Receipt",
    "Removal",
    "Restoration",
    "Scan",
    "SnapshotError",
    "SpecError",
    "StorageAccessError",
    "StorageError",
    "TableMetadataStore",
    "Trace",
    "UnsupportedFormatError",
    "UpdateTask",
    "Vacuumed",
    "Verification",
    "WriteBuffer",
    "WriteConflictError",
    "compact",
    "copy_metadata",
    "open_store",
    "publish",
    "repair",
    "vacuum",
    "verify",
]

_UPKEEP: Final = "metaxy_fs.metadata_store.maintenance"
_HOMES: Final = {
    "Diff": "metaxy_fs.insight.diff",
    "Explanation": "metaxy_fs.insight.explanation",
    "FeatureFingerprint": "metaxy_fs.insight.fingerprint",
    "Fingerprint": "metaxy_fs.insight.fingerprint",
    "FingerprintCheck": "metaxy_fs.insight.fingerprint",
    "Materialization": "metaxy_fs.metadata_store.materialize",
    "Plan": "metaxy_fs.insight.plan",
    "Published": "metaxy_fs.metadata_store.publishing",
    "Rebased": "metaxy_fs.metadata_store.rebase",
    "ReadTask": "metaxy_fs.metadata_store.tasks",
    "Trace": "metaxy_fs.insight.trace",
    "UpdateTask": "metaxy_fs.metadata_store.tasks",
    "publish": "metaxy_fs.metadata_store.publishing",
}
"""Where the names are that are looked up at their first use and are not of upkeep."""

if not TYPE_CHECKING:  # a type checker would take the function for a promise that there is every name

    def __getattr__(name: str) -> Any:
        """Return a name at its first use."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOMES.get(name, _UPKEEP)), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
