"""Commit prepared writes together: workers put data files, and one driver puts the manifest of them all.

Theory of operation. A worker does all of a write but its manifest, and returns a receipt: what that would have said.
The driver puts one manifest, of the kind that stands for many commits, which lists the data files as they are. So
readers, compactors and vacuums need no rule of their own, and the group is seen whole or not at all.

All writes of a group count at one time, that of the group: no moment shows a part of it, and what others have
committed since a worker began does not come after it. Where two of them hold one sample, the one that was prepared
later counts, by the order of their ids.

A data file that no manifest names is spared by vacuums for a day and the retention. So receipts are refused whose files
are older than a day, by the clock of the storage, since those of workers and drivers may be wrong by days; and if
files are not there, as after a receipt of another root. The driver lists the partition for that, and leaves out what a
compaction which came after the files has already: a driver that comes twice with its receipts does nothing.

The table of commits of a group proves nothing before its manifest is there, while that of a compaction does, whose
commits existed before. So a mark is put first, as copies put it (see `metaxy_fs.log.unreferenced`), and repair
calls a group that was not published unproven.

With a `write_id`, drivers decide before the manifest which of their groups the name stands for (see
`metaxy_fs.log.named_groups`). Whoever finds a decision for equal rows completes that group, from the footer of its
table, however its own receipts came about. `tests/proof/prepared_model.py` is a model of all this.
"""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from datetime import timedelta
from functools import partial
from typing import Final

import msgspec
import polars as pl

from metaxy_fs.errors import (
    CommitStateUnknownError,
    MetadataSchemaError,
    StorageAccessError,
    StorageError,
)
from metaxy_fs.ids import AHEAD, LamportClock, random_token, timestamp_id, wall_clock
from metaxy_fs.log.clock_skew import microseconds
from metaxy_fs.log.commit import MAX_AGE_SECONDS, CommitRequest, may_be_put
from metaxy_fs.log.commit_table import (
    covers_of,
    digest_of,
    encode_table,
    read_tables,
    rebuild_compaction,
    rows_of,
)
from metaxy_fs.log.decoding import MAX_COMPACTION_BYTES
from metaxy_fs.log.layout import Inventory, Partition, commit_table, take_inventory
from metaxy_fs.log.manifest import (
    COPY_MARK,
    FORMAT_VERSION,
    DataFile,
    Manifest,
    encode_manifest,
)
from metaxy_fs.log.named_groups import GroupDecision, GroupName
from metaxy_fs.log.receipts import Attempts
from metaxy_fs.log.resolve import Covers
from metaxy_fs.log.verified_io import put_idempotent, storage_time
from metaxy_fs.log.view import read_manifests, retry_listing
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.logged import LOGGER

_MAX_AGE: Final = MAX_AGE_SECONDS * 1_000_000
_AGAIN: Final = "Nothing was committed; prepare these rows again."


def commit_group(
    storage: Storage, request: CommitRequest, attempts: Attempts, *, clock: LamportClock
) -> Manifest | None:
    """Commit prepared writes together; None if they are committed already.

    Args:
        storage: The root.
        request: Where they belong, and what is said of all of them; its rows do not matter.
        attempts: The writes; one of which another attempt is committed is left out.
        clock: Gives the group its time.

    Raises:
        MetadataSchemaError: A write names its samples by other columns.
        WriteConflictError: The `write_id` was used for other rows.
        CommitStateUnknownError: The manifest's put failed, and so did the question whether it had landed.
        StorageError: Nothing is committed: a receipt is too old, its files are not there, or the root failed.
    """
    writes = attempts.writes
    for write in writes:
        _refuse_other_samples(request, write)
    committed, deadline = retry_listing(partial(_look, storage, request.partition, attempts))
    new = tuple(write for write in writes if write.commit not in committed)
    if not new:
        return None
    name = GroupName.of(storage, request, writes)
    if name is not None and (decision := name.find()) is not None:
        return _complete(storage, request.partition, name, decision)
    deadline.start((file.name, file.bytes, write.time) for write in new for file in write.files)
    deadline.check()
    manifest, data = _put_table(storage, request, new, clock=clock, deadline=deadline)
    if name is not None:
        decision = name.decide(manifest, first=new[0].commit)
        if decision.commit != manifest.commit:
            return _complete(storage, request.partition, name, decision)
    deadline.check()
    _put_manifest(storage, request.partition, manifest, data)
    LOGGER.info(
        "%s: committed %d rows of feature %s together, which %d tasks had prepared, as %s",
        *(storage.location, manifest.rows, request.partition.feature, len(new), manifest.commit),
    )
    return manifest


class _Deadline:
    """Until when data files may be committed that no manifest names, by the clock of the storage if it has one.

    Args:
        storage: The root.
        inventory: What the partition holds.
        now: The time of the storage, just before that was listed; None if it tells none.
        looked: When this machine was about to ask for it: the longer that took, the older files seem.
    """

    def __init__(self, storage: Storage, inventory: Inventory, *, now: int | None, looked: int) -> None:
        self._storage = storage
        self._inventory = inventory
        self._looked = looked
        self._oldest = looked
        self.now = now

    def start(self, files: Iterable[tuple[str, int, int]]) -> None:
        """Refuse data files that are not there, and note the oldest.

        Args:
            files: The name, the size and the time of each, as its writer has them.
        """
        offset = 0 if self.now is None else self._looked - self.now
        for name, size, time in files:
            info = self._inventory.data.get(name)
            if info is None or info.size != size:
                raise StorageError(
                    f"{self._storage.location}/{self._inventory.partition.data_file(name)} was prepared and is not "
                    f"there: that was in another root, or a vacuum has removed it. {_AGAIN}"
                )
            known = self.now is not None and info.modified is not None
            written = microseconds(info.modified) + offset if known and info.modified is not None else time
            self._oldest = min(self._oldest, written)

    def check(self) -> None:
        """Refuse what is too old by now.

        Raises:
            StorageError: It has to be prepared again.
        """
        age = wall_clock() - self._oldest
        if age > _MAX_AGE:
            raise StorageError(
                f"Rows in {self._storage.location}/{self._inventory.partition} were prepared "
                f"{timedelta(microseconds=age)} ago, and a vacuum may remove them {timedelta(seconds=MAX_AGE_SECONDS)} "
                f"after that. {_AGAIN}"
            )


def _look(storage: Storage, partition: Partition, attempts: Attempts) -> tuple[AbstractSet[str], _Deadline]:
    """Return which writes are committed, or other attempts at their tasks, and until when the others may be."""
    writes, others = attempts
    looked, now = wall_clock(), _now(storage)
    inventory = take_inventory(storage, partition)
    ids = frozenset(write.commit for write in writes).union(*others.values())
    infos = [inventory.data.get(file.name) for write in writes for file in write.files]
    times = [info.modified for info in infos if info is not None and info.modified is not None]
    # A file that is gone may have been there before all others: a compaction of it is as old.
    oldest = min(times, default=None) if len(times) == len(infos) else None
    since = {
        commit: info
        for commit, info in inventory.compactions.items()
        if oldest is None or info.modified is None or info.modified >= oldest
    }
    committed = ids & inventory.appends.keys()
    for _, manifest in read_manifests(storage, partition, since, is_compaction=True):
        committed |= Covers(manifest.covers).intersection(ids)
    committed |= {commit for commit, later in others.items() if not later.isdisjoint(committed)}
    return committed, _Deadline(storage, inventory, now=now, looked=looked)


def _refuse_other_samples(request: CommitRequest, write: Manifest) -> None:
    """Refuse a write that one manifest cannot say together with the others."""
    if (write.definition, write.id_columns) != (request.definition, request.id_columns):
        raise MetadataSchemaError(
            f"Prepared commit {write.commit} of {request.partition} names its samples by {list(write.id_columns)} and "
            f"has the containers {sorted(write.definition.containers)}; the feature has {list(request.id_columns)} and "
            f"{sorted(request.definition.containers)}. {_AGAIN}"
        )


def _now(storage: Storage) -> int | None:
    """Return the time of a storage, None if it tells none: then nothing is vacuumed there either."""
    try:
        return microseconds(storage_time(storage))
    except StorageAccessError:
        raise
    except StorageError:
        return None


def _put_table(
    storage: Storage, request: CommitRequest, writes: Sequence[Manifest], *, clock: LamportClock, deadline: _Deadline
) -> tuple[Manifest, bytes]:
    """Put the table of commits of a group, and what says that it proves nothing; return the manifest to put."""
    time = _time(writes, clock=clock, now=deadline.now)
    commit = timestamp_id(time + 1, random_token())
    numbers: dict[bytes, int] = {}
    schemas = [numbers.setdefault(bytes(write.schema), len(numbers)) for write in writes]
    tags = dict(request.tags) or msgspec.UNSET
    table = rows_of([msgspec.structs.replace(write, time=time, tags=tags) for write in writes], schemas)
    listed = Manifest(
        format_version=FORMAT_VERSION,
        commit=commit,
        time=time + 1,
        feature=request.feature,
        definition=request.definition,
        id_columns=request.id_columns,
        schema=msgspec.Raw(next(iter(numbers))),
        writer=request.writer,
        rows=sum(write.rows for write in writes),
        digest=digest_of(table),
        files=tuple(_listed(writes, schemas, time=time)),
        schemas=tuple(msgspec.Raw(schema) for schema in [*numbers][1:]),
    )
    data, entry = encode_table(table, manifest=listed, name=commit_table(commit))
    manifest = msgspec.structs.replace(listed, covers=covers_of(table), commits=entry)
    encoded = _encoded(storage, request.partition, manifest)
    put_idempotent(storage, request.partition.copy_mark(commit), COPY_MARK)
    deadline.check()
    put_idempotent(storage, request.partition.data_file(entry.name), data)
    return manifest, encoded


def _time(writes: Sequence[Manifest], *, clock: LamportClock, now: int | None) -> int:
    """Return the time at which all writes of a group count: after all that workers and driver have seen.

    A clock that is far ahead is not followed, as with any write (see `metaxy_fs.log.clock_skew`).
    """
    latest = (wall_clock() if now is None else now) + AHEAD
    prepared = max((write.time for write in writes if write.time < latest), default=0)
    clock.observe(prepared)
    time = clock.tick()
    if time > latest and now is not None:
        return max(now, prepared + 1)
    clock.observe(time + 1)
    return time


def _listed(writes: Sequence[Manifest], schemas: Sequence[int], *, time: int) -> Iterable[DataFile]:
    for write, schema in zip(writes, schemas, strict=True):
        offset = 0
        for file in write.files:
            yield msgspec.structs.replace(file, schema=schema, commit=write.commit, time=time, offset=offset)
            offset += file.rows


def _encoded(storage: Storage, partition: Partition, manifest: Manifest) -> bytes:
    data = encode_manifest(manifest)
    if len(data) > MAX_COMPACTION_BYTES:
        raise StorageError(
            f"The manifest of {len(manifest.files)} prepared data files of {storage.location}/{partition} would have "
            f"{len(data)} bytes, more than the {MAX_COMPACTION_BYTES} that readers take. Nothing was committed; commit "
            "the receipts in several calls, or prepare fewer and larger parts."
        )
    return data


def _put_manifest(storage: Storage, partition: Partition, manifest: Manifest, data: bytes) -> None:
    path = partition.compaction_manifest(manifest.commit)
    try:
        put_idempotent(storage, path, data)
    except StorageError as error:
        if not may_be_put(error):
            raise
        raise CommitStateUnknownError(
            f"The rows were prepared, but whether they are committed is unknown: {error}. Commit the same receipts "
            "again: that does nothing if they are.",
            path=path,
        ) from error


def _complete(storage: Storage, partition: Partition, name: GroupName, decision: GroupDecision) -> Manifest | None:
    """Make sure that the group is committed which a name stands for; None if it is already.

    Raises:
        WriteConflictError: It has other rows, or was not committed in time.
    """
    name.refuse_other_rows(decision)
    committed, manifest, deadline = retry_listing(partial(_look_for, storage, partition, name, decision))
    if committed:
        return None
    if manifest is None:
        raise name.used_up()
    try:
        deadline.start((file.name, file.bytes, file.time or 0) for file in manifest.files)
        deadline.check()
    except StorageError as error:
        raise name.used_up() from error
    _put_manifest(storage, partition, manifest, encode_manifest(manifest))
    return manifest


def _look_for(
    storage: Storage, partition: Partition, name: GroupName, decision: GroupDecision
) -> tuple[bool, Manifest | None, _Deadline]:
    """Return whether a group is committed, and else its manifest, if its table is there."""
    looked, now = wall_clock(), _now(storage)
    inventory = take_inventory(storage, partition)
    deadline = _Deadline(storage, inventory, now=now, looked=looked)
    table = commit_table(decision.commit)
    manifest = None
    if table in inventory.data:
        data = storage.get(partition.data_file(table))
        manifest = rebuild_compaction(data, name=table, partition=partition)[0]
    group = frozenset([decision.first]) if manifest is None else Covers(manifest.covers).ids
    committed = group & inventory.appends.keys()
    holders = []
    for _, each in read_manifests(storage, partition, inventory.compactions, is_compaction=True):
        if held := Covers(each.covers).intersection(group):
            committed |= held
            holders.append(each)
    if manifest is None and holders and not _was_published(storage, partition, decision, holders):
        return False, None, deadline
    if committed and committed != group:
        raise name.torn(len(committed), of=len(group))
    return bool(committed), manifest, deadline


def _was_published(
    storage: Storage, partition: Partition, decision: GroupDecision, holders: Sequence[Manifest]
) -> bool:
    """Whether one of the writes of a group counts as of the group, and was not committed otherwise."""
    token = decision.commit.rpartition("-")[2]
    tables = read_tables(storage, partition, holders)
    times = [time for table in tables for time in table.filter(pl.col("commit") == decision.first)["time"]]
    return any(timestamp_id(time + 1, token) == decision.commit for time in times)
