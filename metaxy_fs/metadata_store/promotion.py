"""Copy the commits of a feature from one store into another, unchanged."""

from collections.abc import Callable
from typing import Literal

import polars as pl

from metaxy_fs.errors import HashAlgorithmError
from metaxy_fs.log import Copied, Partition, copy_partition, find_root, open_for_writing, refuse_overwriting_storage
from metaxy_fs.metadata_store.backend import Backend, Query
from metaxy_fs.metadata_store.chain import not_found, report_corruption
from metaxy_fs.metadata_store.features import FeatureLike, find_declaration
from metaxy_fs.metadata_store.filesystem import FilesystemMetadataStore, storage_of
from metaxy_fs.metadata_store.read import latest
from metaxy_fs.spec import FeatureKey
from metaxy_fs.storage.logged import LOGGER
from metaxy_fs.versioning.columns import RESERVED_COMMIT

Progress = Callable[[int, int], object]
"""Called with the bytes of data files that are dealt with so far, and with those that are known of."""


def copy_metadata(
    feature: FeatureLike,
    *,
    source: FilesystemMetadataStore,
    target: FilesystemMetadataStore,
    which: Literal["all", "latest"] = "all",
    snapshot: str | None = None,
    versions: Literal["current", "all"] = "current",
    progress: Progress = lambda _done, _known: None,
) -> Copied:
    """Copy commits of a feature from the root of one store into that of another, byte for byte.

    Rows are not decoded. Ids and times of commits stay as they are, so a copy can be repeated: what the target has is
    not copied again, one that was cut short goes on, and readers of the target see each commit whole or not at all.
    Both roots may be written, compacted and vacuumed meanwhile. Fallback stores are not looked at. Between two roots of
    GCS, and of S3 where it copies on a condition, that are opened with the same options, the service copies.

    Commits that a compaction keeps in one file come together: if one of them is asked for, the target gets all.

    Args:
        feature: A Feature class, or a key.
        source: Whose commits.
        target: Where to.
        which: `"all"` commits, or those that hold the `"latest"` row of any sample; reads of latest rows are then the
            same, if the target has no rows of its own.
        snapshot: The name of a snapshot that the source keeps: copy nothing that it does not see.
        versions: `"current"` copies what was written under the present declaration; `"all"`, and a key that is in no
            active graph, every data version.
        progress: Called after each data file.

    Raises:
        FeatureNotFoundError: The source has no such commit.
        SnapshotError: The source keeps no such snapshot.
        WriteConflictError: A write_id stands for other rows in the target; nothing was copied.
        MetadataSchemaError: A column has a type that does not go with that in the target; nothing was copied.
        ObjectExistsError: The target holds another object under a name that is needed.
        HashAlgorithmError: The versions in the two roots are hashed with two algorithms.
        TypeError: A store is not one of files.
        StorageError: A root could not be read or written; what was copied stays.

    Examples:
        >>> production = open_store("./production")
        >>> copied = copy_metadata(Video, source=store, target=production)
        >>> copied.added, production.read_metadata(Video).height
        (1, 2)
    """
    if which not in ("all", "latest"):
        raise ValueError(f'which is "all" or "latest", got {which!r}.')
    if versions not in ("current", "all"):
        raise ValueError(f'versions is "current" or "all", got {versions!r}.')
    roots = storage_of(source), storage_of(target)
    _prepare(source, target)
    declared = find_declaration(feature)
    key = declared if isinstance(declared, FeatureKey) else declared.key
    current = None if isinstance(declared, FeatureKey) or versions == "all" else declared.definition.partition
    seen = source if snapshot is None else source.at(snapshot)
    chosen = _chosen(seen, key, current, only_latest=which == "latest")
    if not chosen:
        raise not_found(key, partition=current, store=seen, fallback=False)
    total, progress_of_all = Copied(), _PartitionProgress(progress)
    for version, commits in chosen.items():
        partition = Partition(key.dotted, version)
        total += copy_partition(*roots, partition, commits=commits, advance=progress_of_all.advance)
        progress_of_all.next()
    LOGGER.info(
        "%s: copied %d commits of feature %s from %s, %d of them new, in %d files of %d bytes",
        target.location,
        total.commits,
        key.dotted,
        source.location,
        total.added,
        total.files,
        total.bytes,
    )
    return total


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


def _chosen(seen: Backend, key: FeatureKey, current: str | None, *, only_latest: bool) -> dict[str, frozenset[str]]:
    """Return the commits that are asked for, by the version of their partition."""
    commits = seen.stored_commits(key)
    commits = commits if current is None else commits.filter(pl.col("partition") == current)
    needed = _latest_commits(seen, key, current) if only_latest else None
    if needed is not None:
        commits = commits.filter(pl.col("commit").is_in(needed.implode()))
    grouped = commits.group_by("partition").agg("commit").sort("partition")
    return {version: frozenset(ids) for version, ids in grouped.iter_rows()}


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
