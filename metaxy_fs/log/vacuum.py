"""Delete what nothing needs any more: old manifests, data files, and what was left over.

Theory of operation. Vacuum is the only thing that deletes. In a partition it removes

- manifests that others stand for (see `metaxy_fs.log.unreferenced`), past the grace;
- data files that no manifest names, once that has been so for the retention. It writes that down when it first sees it,
  and a later vacuum deletes (see `metaxy_fs.log.unreferenced`). Files of writes that died and files that a
  compaction has rewritten are treated alike;
- what else lies about: records that say nothing any more, puts that were cut short.

The retention has to outlast everything that goes by an old view of the partition: readers, who fail without harm, and
above all writers and compactors, who put a manifest at most a day after they began. A file that was written less than a
day ago is not even noted, because its manifest may be on its way.

A file is named if an append that counts names it, or any compaction that is listed, dead or not. A manifest that names
a file again, put late by a stalled compactor, is still listed when the next vacuum comes, or was deleted by one that
noted first when the file ceased to be named.

Where anything in a partition is not understood, a live compaction is not whole, or something shows that there were
commits which no manifest holds (see `metaxy_fs.log.unreferenced`), nothing of it is deleted: what is left of their
rows is in files that no manifest names.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Literal, NamedTuple

import msgspec

from metaxy_fs.errors import CorruptObjectError, MetaxyError, ObjectNotFoundError, StorageError
from metaxy_fs.ids import random_token, timestamp_id
from metaxy_fs.log.commit import NAMED_WRITE
from metaxy_fs.log.descriptions import find_root
from metaxy_fs.log.layout import (
    CLOCK,
    STORE_FILE,
    Partition,
    all_partitions,
    commit_of_append,
    compaction_of_table,
    holds_objects,
    is_clock_probe,
)
from metaxy_fs.log.named_writes import keep_write
from metaxy_fs.log.snapshots import SnapshotRefs, read_snapshot_refs
from metaxy_fs.log.unreferenced import (
    Loss,
    PartitionState,
    Policy,
    VacuumRecords,
    appends_with_successors,
    compactions_with_successors,
    encode_records,
    losses,
    missing_files,
    pinned_losses,
    read_partition_state,
    read_vacuum_records,
)
from metaxy_fs.log.verified_io import Finding, put_idempotent, storage_time
from metaxy_fs.log.view import ATTEMPTS
from metaxy_fs.parallel import ordered_map
from metaxy_fs.storage.base import NoRoomError, ObjectInfo, Storage

RemovalState = Literal["deleted", "deletable", "waiting", "failed"]


class Removal(msgspec.Struct, frozen=True, order=True):
    """An object that is not needed any more, and what becomes of it.

    Attributes:
        path: The object, below the root.
        state: `"deleted"`. `"deletable"`: it would be deleted, this was a dry run. `"waiting"`: it is too early.
            `"failed"`: the storage did not delete it.
        reason: Why it is not needed; what went wrong, if something did.
        age: For how long it has not been needed.
        bytes: Its size.
    """

    path: str
    state: RemovalState
    reason: str
    age: timedelta
    bytes: int


AT_ONCE = 16
"""How many objects are deleted side by side."""

_LOOK = "Look for the damage with `metaxy-fs verify`; vacuum goes on once it is repaired."


class Vacuumed(msgspec.Struct, frozen=True, kw_only=True):
    """What a vacuum has deleted, or would.

    Attributes:
        removals: Every object that is not needed any more, sorted.
        skipped: The partitions of which nothing was deleted, because something in them was not understood.
    """

    removals: tuple[Removal, ...]
    skipped: tuple[Finding, ...]


def vacuum(
    storage: Storage,
    *,
    policy: Policy,
    dry_run: bool,
    feature: str | None = None,
    at_once: int = AT_ONCE,
    advance: Callable[[int], object] = lambda _count: None,
) -> Vacuumed:
    """Delete what nobody needs any more from a root, or from one feature of it.

    Args:
        storage: The root.
        policy: For how long things are kept.
        dry_run: Only say what would be done; the one object that is put, and deleted, asks the storage for its time.
        feature: The parts of the feature's key joined by `.`.
        at_once: How many objects are deleted side by side.
        advance: Called with the number of objects that were looked at since the last call.

    Raises:
        StorageError: There is no root, the storage tells no times, or the root could not be listed.
        CorruptObjectError: What is said to be one cannot be read.
    """
    _refuse_other_places(storage)
    # Before anything is listed: all commits that a snapshot names which is there now are found by a listing after that.
    run = _VacuumRun(storage, policy, storage_time(storage), read_snapshot_refs(storage), dry_run, at_once, advance)
    removals = list(run.perform(_litter(run, feature or "")))
    skipped = []
    for partition in all_partitions(storage, feature=feature):
        try:
            removals += _vacuum_partition(run, partition)
        except (CorruptObjectError, StorageError) as error:
            skipped.append(Finding(str(partition), "error", f"was left as it is: {error}", _LOOK))
    return Vacuumed(removals=tuple(sorted(removals)), skipped=tuple(skipped))


def _refuse_other_places(storage: Storage) -> None:
    """Refuse to delete where nothing shows that the objects are those of this library."""
    if find_root(storage) is None:
        raise StorageError(
            f"{storage.location} is no root of metaxy_fs: it has no {STORE_FILE}. Nothing was deleted. Give the "
            "directory that was given when it was written; where that object was lost, the next write puts it there "
            "again.",
            root=storage.location,
        )


class _VacuumRun(NamedTuple):
    """One vacuum: where, by which rules, when by the clock of the storage, and what snapshots name."""

    storage: Storage
    policy: Policy
    now: datetime
    refs: SnapshotRefs
    dry_run: bool
    at_once: int
    advance: Callable[[int], object]

    def perform(
        self, removals: Iterable[Removal], *, before: Callable[[str], object] = lambda _path: None
    ) -> Iterator[Removal]:
        """Delete what is deletable, unless this is a dry run, and yield what became of each object, failed or not.

        Args:
            removals: Objects that are not needed any more.
            before: Called with the path of each object that is going to be deleted.
        """
        act = partial(self._deleted, before)
        for removal in map(act, removals) if self.at_once == 1 else ordered_map(act, removals, workers=self.at_once):
            self.advance(1)
            yield removal

    def _deleted(self, before: Callable[[str], object], removal: Removal) -> Removal:
        if removal.state != "deletable" or self.dry_run:
            return removal
        try:
            before(removal.path)
            self.storage.delete(removal.path)
        except MetaxyError as error:
            return msgspec.structs.replace(removal, state="failed", reason=f"{removal.reason}; {error}")
        return msgspec.structs.replace(removal, state="deleted")

    def perform_all(self, groups: Iterable[Iterable[Removal]], *, before: Callable[[str], object]) -> list[Removal]:
        """Delete what is deletable of several groups, each to its end before the next is begun."""
        return [removal for group in groups for removal in self.perform(group, before=before)]

    def due(self, info: ObjectInfo, reason: str, *, since: datetime, wait: timedelta) -> Removal:
        """Return what is to become of an object that has not been needed since some time."""
        age = self.now - since
        return Removal(info.path, "deletable" if age >= wait else "waiting", reason, age, info.size)

    def is_quiescent(self, info: ObjectInfo) -> bool:
        """Whether an object is so old that its writer has no more to do with it."""
        return info.modified is not None and self.now - info.modified >= self.policy.quiescent_after


class _Notes(NamedTuple):
    """What the next vacuum has to know.

    Attributes:
        unnamed: Data files that no manifest names from now on.
        named: Data files that are named again.
    """

    unnamed: set[str]
    named: set[str]


def _vacuum_partition(run: _VacuumRun, partition: Partition) -> Iterator[Removal]:
    state, records = _understood(run, partition)
    compactions = list(_compactions(run, state))
    leaving = {removal.path for removal in compactions if removal.state == "deletable"}
    notes = _notes(run, state, records, leaving=leaving)
    keep_write = partial(_keep_write, run.storage, partition)
    old = [*_data_files(run, state, records, notes)], [*_appends(run, state)]
    if not run.dry_run:
        # Before anything is deleted, since afterwards nothing tells when a file ceased to be named.
        try:
            _record(run, partition, notes)
        except NoRoomError:
            # What an earlier record lets go may go without another one, and so may the manifests of writes, whose files
            # are unnamed as soon as a compaction covers them. Those of compactions have to wait for the record.
            yield from run.perform_all(old, before=keep_write)
            old = [], []
            _record(run, partition, notes)
    yield from run.perform_all(old, before=keep_write)
    yield from run.perform(compactions)
    yield from run.perform([*_records(run, state, records, notes), *_damaged(run, state), *_copies(run, state)])


def _record(run: _VacuumRun, partition: Partition, notes: "_Notes") -> None:
    for record in encode_records(unnamed=notes.unnamed, named=notes.named):
        name = timestamp_id(int(run.now.timestamp() * 1_000_000), random_token())
        put_idempotent(run.storage, partition.vacuum_record(name), record)


def _understood(run: _VacuumRun, partition: Partition) -> tuple[PartitionState, VacuumRecords]:
    """Return what a partition holds, if it lacks nothing that was committed, and what earlier vacuums have noted.

    A compaction may come while the partition is listed: its files are put behind the place that the listing has reached
    and its manifest before it. Another vacuum may delete a record that was listed. The next listing shows all or none.

    Raises:
        CorruptObjectError: Something is missing.
    """
    for info, error in run.refs.damaged:
        raise CorruptObjectError(f"the snapshot {run.storage.location}/{info.path} may name commits of it: {error}")
    for _ in range(ATTEMPTS - 1):
        state = read_partition_state(run.storage, partition)
        with suppress(ObjectNotFoundError, CorruptObjectError):
            return _whole(run, state)
    return _whole(run, read_partition_state(run.storage, partition))


def _whole(run: _VacuumRun, state: PartitionState) -> tuple[PartitionState, VacuumRecords]:
    """Return the state of a partition and the records, if nothing is missing of what was committed."""
    storage, location = run.storage, run.storage.location
    for path in _lacking(storage, state):
        raise CorruptObjectError(f"{path} is not there as committed.")
    records = read_vacuum_records(storage, state.inventory.records)
    for loss in _losses(run, state):
        raise CorruptObjectError(f"{location}/{loss.path} {loss.problem}: files that no manifest names may hold them.")
    return state, records


def _losses(run: _VacuumRun, state: PartitionState) -> Iterator[Loss]:
    """Yield what shows that commits are lost."""
    partition, commits = state.inventory.partition, state.commits
    yield from pinned_losses(partition, run.refs.commits.get(partition, {}), commits)
    yield from losses(
        run.storage, state.inventory, unnamed=state.inventory.data.keys() - state.named(), present=commits
    )


def _lacking(storage: Storage, state: PartitionState) -> Iterator[str]:
    """Yield the data files that a live compaction names and that are not there in full."""
    for commit in state.living:
        for name in missing_files(state.compactions[commit], state.inventory):
            yield f"{storage.location}/{state.inventory.partition.data_file(name)}"


def _appends(run: _VacuumRun, state: PartitionState) -> Iterator[Removal]:
    for commit, since in appends_with_successors(state.covers, state.inventory).items():
        yield run.due(state.inventory.appends[commit], "a compaction stands for it", since=since, wait=run.policy.grace)


def _keep_write(storage: Storage, partition: Partition, path: str) -> None:
    """Keep what a retry of a named write has to be compared with, since its manifest is going to be deleted."""
    commit = commit_of_append(path, partition)
    if commit is not None and commit.startswith(NAMED_WRITE):
        keep_write(storage, storage, partition, commit)


def _compactions(run: _VacuumRun, state: PartitionState) -> Iterator[Removal]:
    for commit, since in compactions_with_successors(state.covers, state.inventory).items():
        yield run.due(
            state.inventory.compactions[commit], "another compaction stands for it", since=since, wait=run.policy.grace
        )


def _notes(run: _VacuumRun, state: PartitionState, records: VacuumRecords, *, leaving: set[str]) -> _Notes:
    """Return what has changed since the last vacuum, and what is going to change because of this one."""
    now = state.named()
    soon = state.named(
        commit for commit in state.compactions if state.inventory.compactions[commit].path not in leaving
    )
    notes = _Notes(set(), set())
    for name, info in state.inventory.data.items():
        is_noted = records.unnamed_since(name) is not None
        if name in soon:
            notes.named.update([name] if is_noted else [])
        elif name in now or (not is_noted and run.is_quiescent(info)):
            notes.unnamed.add(name)
    return notes


def _data_files(run: _VacuumRun, state: PartitionState, records: VacuumRecords, notes: _Notes) -> Iterator[Removal]:
    named = state.named()
    for name, info in state.inventory.data.items():
        since = run.now if name in notes.unnamed else records.unnamed_since(name)
        if since is not None and name not in named:
            yield run.due(info, "no manifest names it", since=since, wait=run.policy.retention)


def _records(run: _VacuumRun, state: PartitionState, records: VacuumRecords, notes: _Notes) -> Iterator[Removal]:
    superfluous = set(records.superfluous(state.inventory.data.keys() - notes.unnamed - notes.named))
    for info in state.inventory.records:
        if info.path in superfluous and info.modified is not None:
            yield run.due(info, "nothing that it says counts any more", since=info.modified, wait=timedelta(0))


def _damaged(run: _VacuumRun, state: PartitionState) -> Iterator[Removal]:
    """Yield what repair has kept of manifests that are there again."""
    for commit, info in state.inventory.damaged.items():
        is_there = commit in state.inventory.appends or any(
            covers.intersection({commit}) for covers in state.covers.values()
        )
        if is_there and info.modified is not None:
            yield run.due(info, "repair has replaced it", since=info.modified, wait=run.policy.retention)


def _copies(run: _VacuumRun, state: PartitionState) -> Iterator[Removal]:
    """Yield what says that a copy brings a compaction which is there, or of which nothing is there any more."""
    tables = set(map(compaction_of_table, state.inventory.data))
    for commit, info in state.inventory.copies.items():
        is_there = commit in state.inventory.compactions
        if info.modified is not None and (is_there or commit not in tables):
            wait = timedelta(0) if is_there else run.policy.quiescent_after
            yield run.due(info, "the copy has ended", since=info.modified, wait=wait)


def _litter(run: _VacuumRun, directory: str) -> Iterator[Removal]:
    """Yield what is no part of the format and was left by processes that died."""
    for info in run.storage.list_temporaries(directory):
        if info.modified is not None and holds_objects(info.path.rpartition("/")[0]):
            yield run.due(info, "a put was cut short", since=info.modified, wait=run.policy.quiescent_after)
    for info in run.storage.list(CLOCK):
        if info.modified is not None and is_clock_probe(info.path):
            yield run.due(info, "it asked for the time", since=info.modified, wait=run.policy.quiescent_after)
