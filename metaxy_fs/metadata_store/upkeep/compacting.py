"""How are the many small writes of a store's root made few and large?"""

from collections.abc import Callable

from metaxy_fs._version import WRITER
from metaxy_fs.ids import shared_clock
from metaxy_fs.log.compacting.compaction import Compaction, Options, compact_partition
from metaxy_fs.log.compacting.tiers import FAN
from metaxy_fs.log.log import Log
from metaxy_fs.log.views.view import ViewLoader
from metaxy_fs.metadata_store.arguments.features import FeatureLike
from metaxy_fs.metadata_store.arguments.flags import flag
from metaxy_fs.metadata_store.filesystem import FilesystemMetadataStore, storage_of
from metaxy_fs.metadata_store.upkeep.targets import existing_feature


def compact(
    store: FilesystemMetadataStore,
    feature: FeatureLike | None = None,
    *,
    full: bool = False,
    cluster: bool = False,
    fan: int = FAN,
    progress: Callable[[int, int], object] | None = None,
) -> list[Compaction]:
    """Merge small data files of a root into large ones, and many manifests into few; rows and their order stay.

    It may run beside writers, readers, vacuums and other compactions, may be stopped at any time and run again. Nothing
    is deleted: `vacuum` removes what compactions stand for.

    Args:
        store: Whose root; fallback stores are not touched.
        feature: A Feature class, or a key; all that the root holds by default. All its data versions are compacted.
        full: Compact everything, also where few writes have come since the last time.
        cluster: Compact everything, and rewrite large files, too, whose ids overlap: then each holds a range of ids of
            its own, so that few ids are found in few files.
        fan: How many manifests of a tier are compacted into one: fewer leave less to read, and rewrite more often.
        progress: Called with how many rows of a step were read and written so far, and how many are going to be.

    Returns:
        What was done, step by step; nothing if nothing was due.

    Raises:
        ValueError: `fan` is less than 2.
        FeatureNotFoundError: The root holds nothing of the feature.
        CorruptObjectError: Something that is stored cannot be trusted. It is left as it is.
        StorageError: The root failed.
    """
    if fan < 2:
        raise ValueError(f"fan is 2 or more, got {fan!r}.")
    cluster = flag(cluster, name="cluster")
    full = flag(full, name="full") or cluster
    storage = storage_of(store)
    clock = shared_clock(storage.identity)
    log, loader = Log(storage, clock=clock), ViewLoader(storage, clock=clock)
    options = Options(writer=WRITER, fan=fan, full=full, cluster=cluster, progress=progress)
    name = existing_feature(store, feature)
    names = log.features() if name is None else [name]
    return [
        done
        for name in names
        for partition in log.partitions(name)
        for done in compact_partition(storage, loader, partition, clock=clock, options=options)
    ]
