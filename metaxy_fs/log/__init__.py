"""The log: commits as files below one root, and the rows that they hold.

This is its face: the layers above import names from here, and no module below. Those of maintenance are looked up at
their first use, so that opening a store imports none of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from metaxy_fs.log.chunks import Chunks
from metaxy_fs.log.commit import CommitRequest
from metaxy_fs.log.compact_after import Upkeep, check_threshold
from metaxy_fs.log.descriptions import (
    PartitionInfo,
    find_info,
    find_root,
    open_for_writing,
    refuse_overwriting_storage,
)
from metaxy_fs.log.frames import without_empty_chunks
from metaxy_fs.log.holdings import Holdings
from metaxy_fs.log.layout import STORE_FILE, Partition, all_partitions, is_partition_directory, is_snapshot_name
from metaxy_fs.log.levels import FANOUT
from metaxy_fs.log.log import Log
from metaxy_fs.log.manifest import Definition, check_tags
from metaxy_fs.log.parquet import ROW_GROUP_ROWS
from metaxy_fs.log.portable import PortableSelection, encode_files
from metaxy_fs.log.predicates import Node, NotUnderstoodError, balanced, conjuncts, conjuncts_on, flattened
from metaxy_fs.log.prune import matching_ranges
from metaxy_fs.log.ranges import EVERYTHING, IdRange, Span, depth, plan_ranges, within_ranges
from metaxy_fs.log.receipts import Receipt
from metaxy_fs.log.scan import Selection, are_exact, column_names
from metaxy_fs.log.schema import column, decode_schema, encode_schema, instance, unstorable
from metaxy_fs.log.snapshots import (
    UNKNOWN_SCHEMA,
    PinnedFeature,
    PinnedPartition,
    PinnedStore,
    Snapshot,
    drop_snapshot,
    find_snapshot,
    known_schema,
    put_snapshot,
    snapshot_names,
    snapshots_of,
)
from metaxy_fs.log.statistics import MAX_EXACT, column_statistics, exact_in, split_points
from metaxy_fs.log.types import AgreedTypes, fitting, large_in
from metaxy_fs.log.values import holds_any, values_as_stored
from metaxy_fs.log.verified_io import Finding
from metaxy_fs.log.view import LiveFile, View, ViewLoader
from metaxy_fs.log.widening import FileSchema, conform, differ_in_order_alone, unify, unproven, widen

if TYPE_CHECKING:
    from metaxy_fs.log.compact import commits_due, compact_partition
    from metaxy_fs.log.compactor import Compaction, Options
    from metaxy_fs.log.copy import Copied, copy_partition
    from metaxy_fs.log.delta import Published, publish_view
    from metaxy_fs.log.delta_log import has_delta_log
    from metaxy_fs.log.repair import Restoration
    from metaxy_fs.log.repair import repair as repair_root
    from metaxy_fs.log.unreferenced import Policy
    from metaxy_fs.log.vacuum import Removal, Vacuumed
    from metaxy_fs.log.vacuum import vacuum as vacuum_root
    from metaxy_fs.log.verify import Progress, Verification
    from metaxy_fs.log.verify import verify as verify_root

__all__ = [
    "EVERYTHING",
    "FANOUT",
    "MAX_EXACT",
    "ROW_GROUP_ROWS",
    "STORE_FILE",
    "UNKNOWN_SCHEMA",
    "AgreedTypes",
    "Chunks",
    "CommitRequest",
    "Compaction",
    "Copied",
    "Definition",
    "FileSchema",
    "Finding",
    "Holdings",
    "IdRange",
    "LiveFile",
    "Log",
    "Node",
    "NotUnderstoodError",
    "Options",
    "Partition",
    "PartitionInfo",
    "PinnedFeature",
    "PinnedPartition",
    "PinnedStore",
    "Policy",
    "PortableSelection",
    "Progress",
    "Published",
    "Receipt",
    "Removal",
    "Restoration",
    "Selection",
    "Snapshot",
    "Span",
    "Upkeep",
    "Vacuumed",
    "Verification",
    "View",
    "ViewLoader",
    "all_partitions",
    "are_exact",
    "balanced",
    "check_tags",
    "check_threshold",
    "column",
    "column_names",
    "column_statistics",
    "commits_due",
    "compact_partition",
    "conform",
    "conjuncts",
    "conjuncts_on",
    "copy_partition",
    "decode_schema",
    "depth",
    "differ_in_order_alone",
    "drop_snapshot",
    "encode_files",
    "encode_schema",
    "exact_in",
    "find_info",
    "find_root",
    "find_snapshot",
    "fitting",
    "flattened",
    "has_delta_log",
    "holds_any",
    "instance",
    "is_partition_directory",
    "is_snapshot_name",
    "known_schema",
    "large_in",
    "matching_ranges",
    "open_for_writing",
    "plan_ranges",
    "publish_view",
    "put_snapshot",
    "refuse_overwriting_storage",
    "repair_root",
    "snapshot_names",
    "snapshots_of",
    "split_points",
    "unify",
    "unproven",
    "unstorable",
    "vacuum_root",
    "values_as_stored",
    "verify_root",
    "widen",
    "within_ranges",
    "without_empty_chunks",
]

_MAINTENANCE: Final = {
    "Compaction": ("compactor", "Compaction"),
    "Options": ("compactor", "Options"),
    "commits_due": ("compact", "commits_due"),
    "compact_partition": ("compact", "compact_partition"),
    "Copied": ("copy", "Copied"),
    "copy_partition": ("copy", "copy_partition"),
    "Published": ("delta", "Published"),
    "has_delta_log": ("delta_log", "has_delta_log"),
    "publish_view": ("delta", "publish_view"),
    "Restoration": ("repair", "Restoration"),
    "repair_root": ("repair", "repair"),
    "Policy": ("unreferenced", "Policy"),
    "Removal": ("vacuum", "Removal"),
    "Vacuumed": ("vacuum", "Vacuumed"),
    "vacuum_root": ("vacuum", "vacuum"),
    "Progress": ("verify", "Progress"),
    "Verification": ("verify", "Verification"),
    "verify_root": ("verify", "verify"),
}
"""The module of each name of maintenance, and its name there."""

if not TYPE_CHECKING:  # a type checker would take the function for a promise that there is every name

    def __getattr__(name: str) -> Any:
        """Return a name of maintenance at its first use."""
        if name not in _MAINTENANCE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, there = _MAINTENANCE[name]
        value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), there)
        return value
