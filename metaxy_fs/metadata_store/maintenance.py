"""Maintain a root: compact, vacuum, verify and repair what it holds."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from datetime import timedelta

from metaxy_fs._version import WRITER
from metaxy_fs.ids import shared_clock
from metaxy_fs.log import (
    FANOUT,
    Compaction,
    Copied,
    Finding,
    Log,
    Options,
    Policy,
    Progress,
    Removal,
    Restoration,
    Vacuumed,
    Verification,
    ViewLoader,
    commits_due,
    compact_partition,
    repair_root,
    vacuum_root,
    verify_root,
)
from metaxy_fs.markup import count
from metaxy_fs.metadata_store.features import FeatureLike, flag
from metaxy_fs.metadata_store.filesystem import FilesystemMetadataStore, storage_of
from metaxy_fs.metadata_store.promotion import copy_metadata
from metaxy_fs.metadata_store.publishing import publish, published_features
from metaxy_fs.metadata_store.roots import existing_feature
from metaxy_fs.storage.logged import LOGGER

__all__ = [
    "Compaction",
    "Copied",
    "Finding",
    "Removal",
    "Restoration",
    "Vacuumed",
    "Verification",
    "compact",
    "copy_metadata",
    "repair",
    "vacuum",
    "verify",
]


def compact(
    store: FilesystemMetadataStore,
    feature: FeatureLike | None = None,
    *,
    full: bool = False,
    cluster: bool = False,
    fan: int = FANOUT,
    republish: bool = False,
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
        fan: How many manifests of a level are compacted into one: fewer leave less to read, and rewrite more often.
        republish: Publish features again that are published, once they are compacted; see `publish`.
        progress: Called with how many rows of a step were read and written so far, and how many are going to be.

    Returns:
        What was done, step by step; nothing if nothing was due.

    Raises:
        ValueError: `fan` is less than 2.
        FeatureNotFoundError: The root holds nothing of the feature.
        CorruptObjectError: Something that is stored cannot be trusted. It is left as it is.
        StorageError: The root failed.

    Examples:
        >>> store.write_metadata(Video, rows)
        >>> [done] = compact(store, full=True)
        >>> done.commits, done.files_before, done.files_after
        (2, 2, 1)
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
    compactions = [
        done
        for name in names
        for partition in log.partitions(name)
        for done in compact_partition(storage, loader, partition, clock=clock, options=options)
    ]
    if flag(republish, name="republish"):
        _republish(store, names)
    return compactions


def commits_to_compact(
    store: FilesystemMetadataStore, feature: FeatureLike | None, *, full: bool, cluster: bool
) -> int:
    """Return how many commits `compact` would compact now; each step may make another one due."""
    storage = storage_of(store)
    clock = shared_clock(storage.identity)
    log, loader = Log(storage, clock=clock), ViewLoader(storage, clock=clock)
    options = Options(writer=WRITER, full=full or cluster, cluster=cluster)
    name = existing_feature(store, feature)
    names = log.features() if name is None else [name]
    return sum(commits_due(loader, partition, options) for name in names for partition in log.partitions(name))


def vacuum(
    store: FilesystemMetadataStore,
    feature: FeatureLike | None = None,
    *,
    dry_run: bool,
    grace: timedelta = timedelta(hours=1),
    retention: timedelta = timedelta(days=7),
    unsafe: bool = False,
    republish: bool = False,
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
        republish: First publish features again that are published, so that their tables name nothing that is going to
            be deleted; see `publish`.
        advance: Called with the number of objects that were looked at since the last call.

    Returns:
        Every object that is not needed any more, why, for how long, and what became of it; and the partitions that were
        left as they are, because something in them was not understood.

    Raises:
        ValueError: The grace or the retention is less than is safe.
        FeatureNotFoundError: The root holds nothing of the feature.
        StorageError: The storage does not tell when objects were written, or the root could not be listed.

    Examples:
        >>> store.write_metadata(Video, rows)
        >>> done = compact(store, full=True)
        >>> [(removal.state, removal.reason) for removal in vacuum(store, dry_run=True).removals][0]
        ('waiting', '...')
    """
    policy = Policy(grace=grace, retention=retention, is_safe=not flag(unsafe, name="unsafe"))
    name = existing_feature(store, feature)
    if flag(republish, name="republish") and not dry_run:
        _republish(store, store.log.features() if name is None else [name])
    done = vacuum_root(
        storage_of(store), policy=policy, dry_run=flag(dry_run, name="dry_run"), feature=name, advance=advance
    )
    _report(
        store,
        "vacuum (dry run)" if dry_run else "vacuum",
        [removal.state for removal in done.removals],
        others=len(done.skipped),
    )
    return done


def verify(
    store: FilesystemMetadataStore, feature: FeatureLike | None = None, *, progress: Progress | None = None
) -> Verification:
    """Check every object of a store's root, or of one feature in all its data versions, against all that is said of it.

    Reads every manifest and every data file, a bounded number at a time, and writes nothing. It may run beside writers:
    what they do meanwhile is not taken for damage. Fallback stores are not looked at.

    Args:
        store: Where to look.
        feature: A Feature class, or a key; all that the root holds by default.
        progress: Called as the work goes on with the bytes of data files that were checked, and with those that are
            known to be there.

    Returns:
        The findings: what is wrong with which object, how bad it is, and what to do; and how much was looked at.

    Raises:
        FeatureNotFoundError: The root holds nothing of the feature.
        StorageError: The root could not be listed.

    Examples:
        >>> found = verify(store)
        >>> found.is_sound, found.commits, found.files
        (True, 1, 1)
    """
    name = existing_feature(store, feature)
    done = verify_root(storage_of(store), feature=name, progress=progress)
    _report(store, f"verify of {count(done.commits, 'commit')}", [finding.severity for finding in done.findings])
    return done


def repair(
    store: FilesystemMetadataStore,
    feature: FeatureLike | None = None,
    *,
    dry_run: bool,
    vouched: Collection[str] = (),
) -> list[Restoration]:
    """Make the manifests again that were damaged or lost, from the footers of their data files, where these are whole.

    Nothing is guessed. A manifest that is there, but damaged, is made again if every data file of its commit is there
    and right. One that is gone leaves nothing that tells it from a write which died before it committed, so it is made
    again only if it is vouched for. What is replaced is kept below `_damaged`. Data files are never changed.

    Do not vacuum at the same time.

    Args:
        store: Where to look; fallback stores are not.
        feature: A Feature class, or a key; all that the root holds by default.
        dry_run: Only say what would be done.
        vouched: Commits that existed although nothing shows it, by their names in an earlier answer.

    Returns:
        Every commit whose manifest is damaged or gone, and what became of it; those that are neither proven nor vouched
        for too, if all of their data files are there.

    Raises:
        FeatureNotFoundError: The root holds nothing of the feature.
        ObjectNotFoundError: There is no lost commit of a name that was vouched for.
        StorageError: The root could not be read or written; what was put back stays.

    Examples:
        >>> repair(store, dry_run=True)
        []
    """
    name = existing_feature(store, feature)
    done = repair_root(storage_of(store), feature=name, vouched=vouched, dry_run=flag(dry_run, name="dry_run"))
    _report(store, "repair (dry run)" if dry_run else "repair", [restoration.state for restoration in done])
    return done


def _republish(store: FilesystemMetadataStore, names: Iterable[str]) -> None:
    for key in published_features(store, names):
        publish(store, key)


def _report(store: FilesystemMetadataStore, job: str, states: Iterable[str], *, others: int = 0) -> None:
    """Log what a job did: how many objects, or findings, there are of each state."""
    counted = [f"{count} {state}" for state, count in sorted(Counter(states).items())]
    counted += [f"{count(others, 'partition')} left as before"] if others else []
    LOGGER.info("%s: %s: %s", store.location, job, ", ".join(counted) or "nothing found")
