"""Versioned feature metadata as plain files: what there is, in which version, and what has to be computed again.

Names are looked up where they are first used: a module that only declares features never waits for Polars.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from metaxy_fs._version import __version__

if TYPE_CHECKING:
    from metaxy_fs.config import Config, load_config
    from metaxy_fs.errors import ConfigError
    from metaxy_fs.metadata_store import (
        CommitStateUnknownError,
        Compaction,
        Copied,
        CorruptObjectError,
        DependencyError,
        Diff,
        Explanation,
        FeatureFingerprint,
        FeatureNotFoundError,
        FilesystemMetadataStore,
        Finding,
        Fingerprint,
        FingerprintCheck,
        ForkedProcessError,
        HashAlgorithmError,
        Increment,
        InMemoryMetadataStore,
        LazyIncrement,
        Materialization,
        MetadataSchemaError,
        MetadataStore,
        MetaxyError,
        ObjectExistsError,
        ObjectNotFoundError,
        Plan,
        Published,
        ReadTask,
        Rebased,
        Receipt,
        Removal,
        Restoration,
        SnapshotError,
        SpecError,
        StorageAccessError,
        StorageError,
        Trace,
        UnsupportedFormatError,
        UpdateTask,
        Vacuumed,
        Verification,
        WriteBuffer,
        WriteConflictError,
        compact,
        copy_metadata,
        open_store,
        publish,
        repair,
        vacuum,
        verify,
    )
    from metaxy_fs.report import write_report
    from metaxy_fs.spec import (
        ALL,
        SAME_NAME,
        ContainerDep,
        ContainerKey,
        ContainerSpec,
        Feature,
        FeatureDep,
        FeatureGraph,
        FeatureKey,
        FeatureSpec,
        GraphNote,
    )

__all__ = [
    "ALL",
    "SAME_NAME",
    "CommitStateUnknownError",
    "Compaction",
    "Config",
    "ConfigError",
    "ContainerDep",
    "ContainerKey",
    "ContainerSpec",
    "Copied",
    "CorruptObjectError",
    "DependencyError",
    "Diff",
    "Explanation",
    "Feature",
    "FeatureDep",
    "FeatureFingerprint",
    "FeatureGraph",
    "FeatureKey",
    "FeatureNotFoundError",
    "FeatureSpec",
    "FilesystemMetadataStore",
    "Finding",
    "Fingerprint",
    "FingerprintCheck",
    "ForkedProcessError",
    "GraphNote",
    "HashAlgorithmError",
    "InMemoryMetadataStore",
    "Increment",
    "LazyIncrement",
    "Materialization",
    "MetadataSchemaError",
    "MetadataStore",
    "MetaxyError",
    "ObjectExistsError",
    "ObjectNotFoundError",
    "Plan",
    "Published",
    "ReadTask",
    "Rebased",
    "Receipt",
    "Removal",
    "Restoration",
    "SnapshotError",
    "SpecError",
    "StorageAccessError",
    "StorageError",
    "Trace",
    "UnsupportedFormatError",
    "UpdateTask",
    "Vacuumed",
    "Verification",
    "WriteBuffer",
    "WriteConflictError",
    "__version__",
    "compact",
    "copy_metadata",
    "load_config",
    "open_store",
    "publish",
    "repair",
    "vacuum",
    "verify",
    "write_report",
]

_HOMES: Final = ("spec", "errors", "metadata_store", "config", "report")
"""Where the names are, the quickest to import first."""

if not TYPE_CHECKING:  # a type checker would take the function for a promise that there is every name

    def __getattr__(name: str) -> Any:
        """Return a public name, or one of the modules that hold them, at its first use."""
        if name in (*_HOMES, "sources"):
            return import_module(f"{__name__}.{name}")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        homes = (import_module(f"{__name__}.{home}") for home in _HOMES)
        value = next(getattr(home, name) for home in homes if hasattr(home, name))
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
