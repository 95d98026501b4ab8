"""Find what the intact files of a lost compaction hold.

Each row in a file that a compaction has written says whose it is, and the commit table says how many rows each commit
has. So the commits that are whole in the files which are right can be told from those that are not, and a view of these
commits alone is what a new compaction is made from.

Theory of operation. The data files of a commit suffice to make its manifest again (see
`metaxy_fs.log.recovery`). They do not tell whether there ever was one: a write that died before it put its
manifest leaves the same files, and was never committed. To restore such a manifest would make rows visible that their
writer believes to be lost, and may have written again. So repair goes by evidence that a commit existed:

- something that is no manifest lies where the manifest was: an object of that name was put by its writer alone;
- repair itself found that once, and keeps it in `_damaged`, so that an interrupted repair is taken up again;
- the commit table of a compaction lists it: who compacts has seen the manifests of all that it covers. That of a copy
  or of prepared writes proves nothing as long as its mark is there (see `metaxy_fs.log.prepared`);
- a snapshot names it: who makes one has seen it too;
- the user names the data files, and thereby says that the commit existed.

The commit table proves the same of a compaction's own manifest, which its footer holds, if commits that it lists would
else be lost. Whether there was a compaction is no question: it adds nothing to commits that there were. Where some of
its data files are damaged or missing, the commits that the others hold whole are compacted anew (see
`metaxy_fs.log.repair`); the manifest itself comes back once its files do.

A write whose clock was far ahead counts as of its arrival, and a manifest that is put back would arrive now. So it also
gets a compaction of its own, with the time at which it counted as far as its data files tell.

What is only complete is reported and left alone. Data files are never changed, and the damaged manifest of a write is
kept.
"""

from collections.abc import Collection, Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from hashlib import sha256
from itertools import chain
from typing import Literal

import msgspec
import polars as pl

from metaxy_fs._version import WRITER
from metaxy_fs.errors import CorruptObjectError, ObjectNotFoundError
from metaxy_fs.ids import random_token, shared_clock, timestamp_id, wall_clock
from metaxy_fs.log.clock_skew import Arrivals, counting_at
from metaxy_fs.log.compact import compact_manifests, compact_view
from metaxy_fs.log.compactor import Options
from metaxy_fs.log.decoding import MAX_MANIFEST_BYTES
from metaxy_fs.log.layout import Inventory, Partition, all_partitions, take_inventory
from metaxy_fs.log.manifest import DataFile, Manifest, encode_manifest
from metaxy_fs.log.recovery import AttemptFiles, RecoveryInputs, Table, gather
from metaxy_fs.log.snapshots import SnapshotRefs, read_snapshot_refs
from metaxy_fs.log.unreferenced import encode_records
from metaxy_fs.log.verified_io import fetch_each, put_idempotent
from metaxy_fs.log.verify_contents import COUNTS, check_contents
from metaxy_fs.log.verify_manifests import check_manifests
from metaxy_fs.log.view import View, files_of, manifest_path, place, retry_listing
from metaxy_fs.log.view_subset import restrict
from metaxy_fs.markup import count
from metaxy_fs.reserved import COMMIT, TIME
from metaxy_fs.storage.base import ObjectInfo, Storage


def salvage(
    storage: Storage, partition: Partition, manifest: Manifest, table: pl.DataFrame, *, wanted: AbstractSet[str]
) -> View | None:
    """Return what the intact files of a compaction hold of some commits, those alone that are whole; None for nothing.

    Args:
        storage: The root.
        partition: Where the compaction is.
        manifest: The compaction.
        table: Its commit table.
        wanted: Commits that it covers.
    """
    intact = list(_intact(storage, partition, manifest))
    found = pl.concat([COUNTS.to_frame(), *(commits for _, commits in intact)])
    found = found.group_by(COMMIT, TIME).agg(pl.col("rows").sum().alias("there"))
    said = table.rename({"commit": COMMIT, "time": TIME})
    both = said.join(found, on=[COMMIT, TIME], how="left").with_columns(pl.col("there").fill_null(0))
    whole = frozenset(both.filter(pl.col("there") == pl.col("rows")).get_column(COMMIT)) & wanted
    if not whole or not any(rows for rows in both.filter(pl.col(COMMIT).is_in(sorted(whole)))["rows"]):
        return None
    files = tuple(file for file, _ in intact)
    remains = msgspec.structs.replace(manifest, files=files, rows=sum(file.rows for file in files))
    view = View(partition, (remains,), tuple(sorted(files_of(partition, remains), key=place)))
    return restrict(view, whole, table_of=lambda _manifest: table)


def _intact(storage: Storage, partition: Partition, manifest: Manifest) -> Iterator[tuple[DataFile, pl.DataFrame]]:
    """Yield the data files of a compaction that are right, and what each holds of each commit."""
    wanted = ((file, ObjectInfo(partition.data_file(file.name), file.bytes)) for file in manifest.files)
    for file, info, data in fetch_each(storage, wanted):
        if isinstance(data, bytes):
            commits = check_contents(data, manifest=manifest, file=file, path=info.path).commits
            if commits is not None:
                yield file, commits


_MOVE = (
    "Restore the file from a backup, or move the manifest out of the root and repair again: what the other files hold "
    "is then restored"
)

RestorationState = Literal["restored", "restorable", "unproven", "lost"]


class Restoration(msgspec.Struct, frozen=True, order=True):
    """A manifest that is damaged or lost, and what becomes of it.

    Attributes:
        path: The manifest, below the root.
        state: `"restored"`: it was put back. `"restorable"`: it would be, this was a dry run. `"unproven"`: its data
            files are all there, but nothing shows that the commit ever existed; name it to vouch for it. `"lost"`: it
            cannot be put back.
        name: What the names of its data files begin with; by this name it is vouched for.
        reason: How the commit is known, or why it is lost.
        rows: How many rows it has.
    """

    path: str
    state: RestorationState
    name: str
    reason: str
    rows: int = 0


def repair(
    storage: Storage, *, feature: str | None = None, vouched: Collection[str] = (), dry_run: bool
) -> list[Restoration]:
    """Put back the manifests of a root, or of one feature of it, that provably existed and can be made again.

    Args:
        storage: The root.
        feature: The parts of the feature's key joined by `.`.
        vouched: Names of commits (see `Restoration.name`) that existed although nothing shows it.
        dry_run: Only say what would be done.

    Raises:
        ObjectNotFoundError: There are no data files of a name that was vouched for.
        StorageError: The root could not be listed, or a manifest not be put.
    """
    found: list[Restoration] = []
    refs = read_snapshot_refs(storage)
    for partition in all_partitions(storage, feature=feature):
        inventory, inputs = retry_listing(partial(_look, storage, partition, refs))
        for restoration, restored in chain(
            _of_compactions(storage, inputs), _of_unpublished(storage, inputs, vouched), _of_writes(inputs, vouched)
        ):
            found.append(restoration)
            if restoration.state == "restorable" and restored is not None and not dry_run:
                _restore(storage, partition, restored, counts=_time_that_counts(inputs, inventory, restored))
                found[-1] = msgspec.structs.replace(restoration, state="restored")
    if unknown := sorted(set(vouched) - {restoration.name for restoration in found}):
        raise ObjectNotFoundError(
            f"{storage.location} has no lost commit with data files that are named {unknown[0]}-<n>.parquet."
        )
    return sorted(found)


def _look(storage: Storage, partition: Partition, refs: SnapshotRefs) -> tuple[Inventory, RecoveryInputs]:
    """Return what a partition holds, and what there is to go by; a vacuum beside it may delete what was listed."""
    inventory = take_inventory(storage, partition)
    return inventory, gather(storage, inventory, pinned=refs.naming(partition))


Judgement = tuple[Restoration, Manifest | View | None]
"""What may become of commits, and the manifest to put, or what a new compaction is to hold."""


def _of_compactions(storage: Storage, inputs: RecoveryInputs) -> Iterator[Judgement]:
    """Yield the compactions that are damaged, and those that are gone and of which commits are lost with them."""
    partition, broken = inputs.partition, dict(inputs.broken)
    for table in inputs.tables:
        commit = table.manifest.commit
        missing = table.digests.keys() - inputs.present
        damage = broken.pop(commit, None)
        if damage is None and not missing:
            continue
        reason = damage or f"nothing else holds {len(missing)} of the commits in its table"
        problem = _problem_with(storage, partition, table.manifest)
        path = partition.compaction_manifest(commit)
        if problem is None:
            yield Restoration(path, "restorable", commit, reason, table.manifest.rows), table.manifest
            inputs.present.update(table.digests)
        elif damage is not None:
            yield Restoration(path, "lost", commit, f"{reason}; {problem}. {_MOVE}"), None
        else:
            yield from _of_remains(storage, inputs, table, f"{reason}; {problem}")
    for commit, damage in broken.items():
        reason = f"{damage}; the table of its commits is not there"
        yield Restoration(partition.compaction_manifest(commit), "lost", commit, reason), None


def _of_unpublished(storage: Storage, inputs: RecoveryInputs, vouched: Collection[str]) -> Iterator[Judgement]:
    """Yield what a copy or a driver was about to publish that is all there: prepared writes are no commits by then."""
    for table in inputs.unpublished:
        manifest = table.manifest
        is_new = inputs.present.isdisjoint(table.digests)
        if is_new and _problem_with(storage, inputs.partition, manifest) is None:
            is_vouched = manifest.commit in vouched
            reason = "you vouch for it" if is_vouched else "nothing shows that its manifest was ever put"
            state: RestorationState = "restorable" if is_vouched else "unproven"
            path = inputs.partition.compaction_manifest(manifest.commit)
            yield Restoration(path, state, manifest.commit, reason, manifest.rows), manifest
            inputs.present.update(table.digests)


def _of_remains(storage: Storage, inputs: RecoveryInputs, table: Table, reason: str) -> Iterator[Judgement]:
    """Yield what the files that are whole hold of a compaction which is gone, and what they do not."""
    partition, commit = inputs.partition, table.manifest.commit
    path, missing = partition.compaction_manifest(commit), table.digests.keys() - inputs.present
    remains = salvage(storage, partition, table.manifest, table.rows, wanted=missing)
    if remains is not None:
        rows = int(table.rows.filter(pl.col("commit").is_in(sorted(remains.commits)))["rows"].sum())
        reason = f"{reason}; its other files hold {count(len(remains.commits), 'commit')} whole"
        yield Restoration(path, "restorable", commit, reason, rows), remains
        missing -= remains.commits
        inputs.present.update(remains.commits)
    if missing:
        reason = f"{reason}; not whole in its other files: {count(len(missing), 'commit')}, such as {min(missing)}"
        yield Restoration(path, "lost", commit, reason), None


def _problem_with(storage: Storage, partition: Partition, manifest: Manifest) -> str | None:
    """Return why a compaction must not be put, None if all that it names is there and right."""
    for checked in check_manifests(storage, partition, [manifest]):
        errors = [finding for finding in checked.findings if finding.severity == "error"]
        return f"{errors[0].path} {errors[0].problem}" if errors else None
    return "a data file of it is missing"


def _of_writes(inputs: RecoveryInputs, vouched: Collection[str]) -> Iterator[Judgement]:
    """Yield the writes that no manifest answers for which is right."""
    for commit, damage in inputs.damages.items():
        if commit not in inputs.present:
            yield _of_damaged(inputs, commit, damage, vouched)
    for group in inputs.groups:
        manifest = group.manifest
        if manifest is not None and manifest.commit not in inputs.present and manifest.commit not in inputs.damages:
            proof = _proof(inputs, group, manifest, vouched)
            reason = proof or "nothing shows that it was ever committed"
            yield _restoration(inputs, group, manifest, "restorable" if proof else "unproven", reason)


def _proof(inputs: RecoveryInputs, group: AttemptFiles, manifest: Manifest, vouched: Collection[str]) -> str | None:
    """Return what shows that a commit existed whose manifest is gone."""
    if group.name in vouched:
        return "you vouch for it"
    if (snapshot := inputs.pinned.get(manifest.commit)) is not None and _is_only_attempt(inputs, manifest):
        return f"the snapshot {snapshot!r} names it"
    # The digest tells the attempt of a named write that was committed from another one with other rows.
    tables = [table for table in inputs.tables if table.digests.get(manifest.commit) == manifest.digest]
    return f"the compaction {tables[0].manifest.commit} has seen it" if tables else None


def _is_only_attempt(inputs: RecoveryInputs, manifest: Manifest) -> bool:
    """Whether no other data files make a commit of the same id, as those of another attempt of a named write do."""
    commits = [group.manifest.commit for group in inputs.groups if group.manifest is not None]
    return commits.count(manifest.commit) == 1


def _of_damaged(inputs: RecoveryInputs, commit: str, damage: str, vouched: Collection[str]) -> Judgement:
    whole = [group for group in inputs.groups if group.manifest is not None and group.manifest.commit == commit]
    # Several attempts of a write with a write_id may have left all of their files; one of them was committed.
    chosen = [group for group in whole if group.name in vouched] or whole
    if len(chosen) > 1:
        remains = inputs.remains.get(commit, b"")
        chosen = [group for group in whole if f'"{group.name}-'.encode() in remains]
    if len(chosen) == 1 and chosen[0].manifest is not None:
        return _restoration(inputs, chosen[0], chosen[0].manifest, "restorable", damage)
    reason = f"{damage}; {_why_lost(inputs, commit, whole)}"
    return Restoration(inputs.partition.append_manifest(commit), "lost", commit, reason), None


def _why_lost(inputs: RecoveryInputs, commit: str, whole: Sequence[AttemptFiles]) -> str:
    if whole:
        names = ", ".join(each.name for each in whole)
        return f"the data files of several attempts are there, vouch for one of {names}"
    broken = [group.reason for group in inputs.groups if f"{group.name}-".startswith(f"{commit}-")]
    return broken[0] if broken else "none of its data files is there"


def _restoration(
    inputs: RecoveryInputs, group: AttemptFiles, manifest: Manifest, state: RestorationState, reason: str
) -> Judgement:
    path = inputs.partition.append_manifest(manifest.commit)
    return Restoration(path, state, group.name, reason, manifest.rows), manifest


def _restore(storage: Storage, partition: Partition, restored: Manifest | View, *, counts: int | None) -> None:
    """Put a manifest, or a compaction of what is left of one.

    What is in the place of a write's manifest is kept, before it is removed, as evidence that it existed.

    Args:
        storage: The root.
        partition: Where it belongs.
        restored: What is put.
        counts: The time at which a write counts, if that is another one than it claims.
    """
    manifests = [restored] if isinstance(restored, Manifest) else restored.manifests
    # A vacuum may have noted long ago that nothing names the data files.
    names = [file.name for manifest in manifests for file in manifest.named_files]
    for record in encode_records(unnamed=(), named=names):
        put_idempotent(storage, partition.vacuum_record(timestamp_id(wall_clock(), random_token())), record)
    clock = shared_clock(storage.identity)
    if not isinstance(restored, Manifest):
        compact_view(storage, restored, clock=clock, options=Options(writer=WRITER))
        return
    path = manifest_path(partition, restored)
    if not restored.covers:
        _keep_damaged(storage, partition, restored.commit)
    if counts is not None:
        compact_manifests(storage, partition, [counting_at(restored, counts)], clock=clock)
    storage.delete(path)
    put_idempotent(storage, path, encode_manifest(restored))


def _time_that_counts(inputs: RecoveryInputs, inventory: Inventory, restored: Manifest | View) -> int | None:
    """Return the time at which a write counts whose clock was far ahead, None if that is the one which it claims."""
    if not isinstance(restored, Manifest) or restored.covers:
        return None
    times = [dict(table.rows.select("commit", "time").iter_rows()).get(restored.commit) for table in inputs.tables]
    counts = next((time for time in times if time is not None), None)
    if counts is None:  # the data files arrived just before the manifest did
        infos = [inventory.data[file.name] for file in restored.files]
        last = max(infos, key=lambda info: (info.modified is not None, info.modified))
        listed = {**inventory.appends, **inventory.compactions, restored.commit: last}
        counts = (
            Arrivals.of(listed, now=wall_clock()).times_that_count({restored.commit: restored}).get(restored.commit)
        )
    return None if counts == restored.time else counts


def _keep_damaged(storage: Storage, partition: Partition, commit: str) -> None:
    path = partition.append_manifest(commit)
    try:
        [damaged] = storage.get_optional([path], max_bytes=MAX_MANIFEST_BYTES)
    except CorruptObjectError as error:  # it is larger; that there was something is what has to be kept
        damaged = str(error).encode()
    if damaged is not None:
        put_idempotent(storage, partition.damaged_manifest(commit, sha256(damaged).hexdigest()[:16]), damaged)
