"""What may be deleted from a store's root, since no reader needs it any more?"""

from collections.abc import Callable
from datetime import timedelta

from metaxy_fs.log.vacuuming.retention import Policy
from metaxy_fs.log.vacuuming.vacuum import Vacuumed
from metaxy_fs.log.vacuuming.vacuum import vacuum as vacuum_root
from metaxy_fs.metadata_store.arguments.features import FeatureLike
from metaxy_fs.metadata_store.arguments.flags import flag
from metaxy_fs.metadata_store.filesystem import FilesystemMetadataStore, storage_of
from metaxy_fs.metadata_store.upkeep.targets import existing_feature


def vacuum(
    store: FilesystemMetadataStore,
    feature: FeatureLike | None = None,
    *,
    dry_run: bool,
    grace: timedelta = timedelta(hours=1),
    retention: timedelta = timedelta(days=7),
    unsafe: bool = False,
    advance: Callable[[int], object] = lambda _count: None,
) -> Vacuumed:
    """Delete the objects of a root that nobody needs any more; no row is ever deleted.

    Manifests go once a compaction has stood for them for the grace. Data files go in two vacuums: the first that finds
    a file which no manifest names writes that down, and one that runs when this is as old as the retention deletes it.
    It may run beside writers, readers, compactions and other vacuums. Ages are by the clock of the storage.

    Args:
        store: Whose root; fallback stores are not touched.
        feature: A Feature class, or a key; all that the root holds by default.
        dry_run: Only say what would be deleted.
        grace: For how long a manifest is kept after another one stands for it; 10 minutes at least.
        retention: For how long a data file is kept after it was first seen that no manifest names it; 2 days at least.
            A scan that was made and not collected for longer may fail.
        unsafe: Take any grace and retention, also those that would lose rows of others; only for a root that nobody
            else uses meanwhile.
        advance: Called with the number of objects that were looked at since the last call.

    Returns:
        Every object that is not needed any more, why, for how long, and what became of it; and the partitions that were
        left as they are, because something in them was not understood.

    Raises:
        ValueError: The grace or the retention is less than is safe.
        FeatureNotFoundError: The root holds nothing of the feature.
        StorageError: The storage does not tell when objects were written, or the root could not be listed.
    """
    policy = Policy(grace=grace, retention=retention, is_safe=not flag(unsafe, name="unsafe"))
    name = existing_feature(store, feature)
    return vacuum_root(
        storage_of(store), policy=policy, dry_run=flag(dry_run, name="dry_run"), feature=name, advance=advance
    )
