"""Copy the commits of a feature, or of a whole root, from one store into another."""

from collections.abc import Callable, Mapping
from typing import Literal

import polars as pl

from metaxy_fs.errors import FeatureNotFoundError, HashAlgorithmError
from metaxy_fs.log import (
    Copied,
    Partition,
    copy_partition,
    find_root,
    find_snapshot,
    open_for_writing,
    put_snapshot,
    refuse_overwriting_storage,
    snapshots_of,
)
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.base import MetadataStore
from metaxy_fs.metadata_store.chain import not_found, report_corruption
from metaxy_fs.metadata_store.copied_rows import copy_rows
from metaxy_fs.metadata_store.exclusions import Exclude, exclusions
from metaxy_fs.metadata_store.features import FeatureLike, find_declaration
from metaxy_fs.metadata_store.filesystem import FilesystemMetadataStore, storage_of
from metaxy_fs.metadata_store.operations import Query
from metaxy_fs.metadata_store.read import latest
from metaxy_fs.spec import FeatureKey
from metaxy_fs.storage.logged import LOGGER
from metaxy_fs.versioning.columns import RESERVED_COMMIT

Progress = Callable[[int, int], object]
"""Called with the bytes of data files that are dealt with so far, and with those that are known of."""


def copy_metadata(
    feature: FeatureLike | None = None,
    *,
    source: MetadataStore,
    target: MetadataStore,
    which: Literal["all", "latest"] = "all",
    snapshot: str | None = None,
    versions: Literal["current", "all"] = "current",
    exclude: Exclude | None = None,
    progress: Progress = lambda _done, _known: None,
) -> Copied:
    """Copy commits of a feature, or of all, from the root of one store into that of another, byte for byte.

    Ids and times of commits stay as they are, so a copy can be repeated: what the target has is not copied again, one
    that was cut short goes on, and readers of the target see each commit whole or not at all. Both roots may be
    written, compacted and vacuumed meanwhile. Fallback stores are not looked at. Between two roots of GCS, and of S3
    where it copies on a condition, that are opened with the same options, the service copies.

    Commits that a compaction keeps in one file come together: if one of them is asked for, the target gets all.

    Between a store of files and one of another kind, such as a database, rows are copied instead, commit by commit in
    their order, and may be again. Commits then keep their tags and `write_id`, and get ids and times of the target.

    Without a feature, every data version of every feature is copied, and then the snapshots that there were before,
    which see the same commits in the target. Stores of two kinds share no snapshots.

    With `exclude`, no object of the target holds a row of these samples, nor a bound of their ids. Their commits keep
    ids, times and tags, and count fewer rows. Only id columns are compared. Repeat such a copy with the same `exclude`
    alone.

    Args:
        feature: A Feature class, a key, or a text such as `"video/frames"`; all features by default.
        source: Whose commits.
        target: Where to.
        which: `"all"` commits, or those that hold the `"latest"` row of any sample; reads of latest rows are then the
            same, if the target has no rows of its own. Snapshots are copied with `"all"`.
        snapshot: The name of a snapshot that the source keeps: copy nothing that it does not see, and of snapshots it
            alone.
        versions: `"current"` copies what was written under the present declaration; `"all"`, and a key that is in no
            active graph, every data version.
        exclude: Samples to leave out: a frame of ids, for every feature that has all of its columns among its id
            columns; or the samples of each feature, such as `{"video/frames": ids}` or the `rows` of a trace, of
            which the id columns count.
        progress: Called after each data file.

    Returns:
        How many commits were copied, how many the target lacked, and how many rows were left out of these.

    Raises:
        FeatureNotFoundError: The source has no such commit, or lacks a feature that `exclude` names.
        SnapshotError: The source keeps no such snapshot.
        WriteConflictError: A write_id stands for other rows in the target, or a commit would bring rows there that an
            earlier copy has left out; nothing was copied of the feature.
        MetadataSchemaError: `exclude` names no samples of what is copied, or a column has a type that does not go with
            that in the target; nothing was copied of the feature.
        ObjectExistsError: The target holds another object under a name that is needed, or rows that are to be left out.
        HashAlgorithmError: The versions in the two roots are hashed with two algorithms.
        TypeError: It is no store; or `exclude` is given, and one of the two is not a store of files.
        SpecError: The source does not keep what the rows were declared as, which a store of another kind has to have.
        StorageError: A root could not be read or written; what was copied stays.

    Examples:
        >>> production = open_store("./production")
        >>> copied = copy_metadata(Video, source=store, target=production)
        >>> copied.added, production.read_metadata(Video).height
        (1, 2)
        >>> without = open_store("./without")
        >>> copy_metadata(source=store, target=without, exclude=store.read_metadata(Video).select("sample_id")).left_out
        2
    """
    if which not in ("all", "latest"):
        raise ValueError(f'which is "all" or "latest", got {which!r}.')
    if versions not in ("current", "all"):
        raise ValueError(f'versions is "current" or "all", got {versions!r}.')
    if not (isinstance(source, FilesystemMetadataStore) and isinstance(target, FilesystemMetadataStore)):
        if exclude is not None or not (isinstance(source, MetadataStore) and isinstance(target, MetadataStore)):
            storage_of(source), storage_of(target)
        seen = source if snapshot is None else source.at(snapshot)
        chosen = _chosen_features(seen, feature, versions, only_latest=which == "latest")
        return copy_rows(source, target, chosen, progress=progress)
    storage_of(source), storage_of(target)
    _prepare(source, target)
    snapshots = _snapshots(source, snapshot) if feature is None and which == "all" else {}
    seen = source if snapshot is None else source.at(snapshot)
    chosen = _chosen_features(seen, feature, versions, only_latest=which == "latest")
    excluded = {} if exclude is None else exclusions(source, list(chosen), exclude)
    total, progress_of_all = Copied(), _PartitionProgress(progress)
    for partition, commits in chosen.items():
        total += copy_partition(
            source.storage,
            target.storage,
            partition,
            commits=commits,
            advance=progress_of_all.advance,
            exclude=excluded.get(partition),
        )
        progress_of_all.next()
    total += Copied(snapshots=_copy_snapshots(source, target, snapshots))
    LOGGER.info(
        "%s: copied %d commits of feature %s from %s, %d of them new, in %d files of %d bytes; left out %d rows",
        target.location,
        total.commits,
        ", ".join(dict.fromkeys(partition.feature for partition in chosen)),
        source.location,
        total.added,
        total.files,
        total.bytes,
        total.left_out,
    )
    return total


def _snapshots(source: FilesystemMetadataStore, name: str | None) -> dict[str, int]:
    """Return the time of each snapshot that is copied; commits that are looked for later are all that these see."""
    found = snapshots_of(source.storage)
    return {snapshot.name: snapshot.time for snapshot in found if name in (None, snapshot.name)}


def _copy_snapshots(
    source: FilesystemMetadataStore, target: FilesystemMetadataStore, snapshots: Mapping[str, int]
) -> int:
    """Keep the snapshots of the source in the target, but for those that were dropped meanwhile; return how many."""
    copied = 0
    for name, time in snapshots.items():
        snapshot = find_snapshot(source.storage, name)
        if snapshot is not None and snapshot.time == time:  # not another one, that sees what was not copied
            if find_snapshot(target.storage, name) != snapshot:
                put_snapshot(target.storage, snapshot, hash_algorithm=target.hash_algorithm)
            copied += 1
    return copied


class _PartitionProgress:
    """What was said of the progress of several partitions, one after the other."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._before = 0
        self._known = 0

    def advance(self, done: int, total: int) -> None:
        """Say how far one partition is."""
        self._known = total
        self._progress(self._before + done, self._before + total)

    def next(self) -> None:
        """Go on to another partition."""
        self._before += self._known
        self._known = 0


def _prepare(source: FilesystemMetadataStore, target: FilesystemMetadataStore) -> None:
    """Make sure that the versions of both roots can stand side by side, and that the target overwrites nothing."""
    theirs, ours = _hash_algorithm(source), _hash_algorithm(target)
    if theirs != ours:
        raise HashAlgorithmError(
            f"The versions of rows are hashed with {theirs} in {source.location}, and with {ours} in "
            f"{target.location}. Copy between roots of one algorithm; a new root is made with that of the source by "
            f"hash_algorithm={theirs!r}.",
            root=target.location,
        )
    root = open_for_writing(target.storage, hash_algorithm=ours)
    refuse_overwriting_storage(target.storage, root, hence="a copy could replace what is there")


def _hash_algorithm(store: FilesystemMetadataStore) -> str:
    """Return what a root records now; the store remembers what it did, and the root may be another one since."""
    remembered = store.hash_algorithm  # or refused, if the store was opened for another one
    found = find_root(store.storage)
    return remembered if found is None else found.hash_algorithm


def _chosen_features(
    seen: Backend, feature: FeatureLike | None, versions: str, *, only_latest: bool
) -> dict[Partition, frozenset[str]]:
    """Return the commits that are asked for, by partition."""
    if feature is None:
        every = [_chosen(seen, key, None, only_latest=only_latest) for key in seen.stored_features()]
        if not every:
            raise FeatureNotFoundError(
                f"{seen.location} has no rows of any feature: correct its name, or write to it first.",
                roots=[seen.location],
                root=seen.location,
            )
        return {partition: commits for chosen in every for partition, commits in chosen.items()}
    declared = find_declaration(feature)
    key = declared if isinstance(declared, FeatureKey) else declared.key
    current = None if isinstance(declared, FeatureKey) or versions == "all" else declared.definition.partition
    chosen = _chosen(seen, key, current, only_latest=only_latest)
    if not chosen:
        raise not_found(key, partition=current, store=seen, fallback=False)
    return chosen


def _chosen(
    seen: Backend, key: FeatureKey, current: str | None, *, only_latest: bool
) -> dict[Partition, frozenset[str]]:
    """Return the commits of a feature that are asked for, by partition."""
    commits = seen.stored_commits(key)
    commits = commits if current is None else commits.filter(pl.col("partition") == current)
    needed = _latest_commits(seen, key, current) if only_latest else None
    if needed is not None:
        commits = commits.filter(pl.col("commit").is_in(needed.implode()))
    grouped = commits.group_by("partition").agg("commit").sort("partition")
    return {Partition(key.dotted, version): frozenset(ids) for version, ids in grouped.iter_rows()}


@report_corruption
def _latest_commits(seen: Backend, key: FeatureKey, current: str | None) -> pl.Series | None:
    """Return the commits that hold the latest row of some sample; None if all do, or there are no rows."""
    scan = seen.scan_rows(Query(key=key, partition=current, with_commits=True))
    if scan is None or not scan.may_repeat:
        return None
    # A commit that retires the sample is among them: without it, an older row would count again in the target.
    rows = latest(scan, id_columns=scan.id_columns, with_retired=True)
    found = rows.select(pl.col(RESERVED_COMMIT).unique()).collect().to_series()
    return found if found.len() else None
