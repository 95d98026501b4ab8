"""Find what nothing needs any more, and since when, and commits that nothing holds any more.

Theory of operation. A manifest is dead as soon as another one covers all that it does and more, or the same with a
greater id (see `metaxy_fs.log.resolve`); a successor is such another one. A reader that lists the manifests meanwhile
must meet the dead one or a successor of it. It lists appends before compactions, so it meets a successor of an append
that is gone. Compactions lie in one directory, which some storages list in any order: a reader may pass the place of a
successor before that is put, and the place of the dead one after that is deleted. So a manifest is only deleted once it
has a successor that is older than any listing takes, the grace. Then every successor because of which something is
deleted during a listing was there when the listing began, and so was the greatest of them, which nothing deletes before
the listing ends.

The successor that counts for the grace need not live; those that live must be whole, since reads depend on them.

Theory of operation. The age of a data file says nothing: one that was live until a minute ago may be years old, and who
has planned to read it, or to list it again in a compaction, has to find it for a while. When it ceased to be named is
written nowhere, since the manifests that named it are deleted soon. So a vacuum writes down what it finds unnamed, in a
record that is put before anything is deleted, and a later vacuum deletes what has been unnamed for long enough by the
storage's own time. Of several statements on a file the newest counts. One that no longer holds is taken back by a later
record: a file that is named again, as by a compaction that was planned before, begins anew once it is not.

Commits never end. So where something shows that a commit existed, and no manifest holds it, a manifest was damaged,
moved or left behind by a copy, and what is left of its rows lies in files that no manifest names. Three things show it:
a snapshot names the commit; a commit table lists it; or `repair` has kept what was in the place of its manifest. That
data files hold rows of it shows nothing: so do those of a copy that was cut short. Neither does a table that a copy has
brought whose mark, in `_copies`, is still there. Vacuum deletes nothing of such a partition, and `verify` calls it an
error.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from functools import partial
from io import BytesIO
from itertools import islice
from typing import Final, NamedTuple

import msgspec
import polars as pl

from metaxy_fs.errors import CorruptObjectError, ObjectNotFoundError
from metaxy_fs.log.commit import SETTLED_AFTER
from metaxy_fs.log.layout import Inventory, Partition, compaction_of_table, snapshot_file, take_inventory
from metaxy_fs.log.manifest import FORMAT_VERSION, Manifest, decode_object
from metaxy_fs.log.resolve import Covers, resolve
from metaxy_fs.log.verified_io import Fetched, decode_or_refetch, fetch_each
from metaxy_fs.log.view import read_manifests, retry_listing
from metaxy_fs.markup import count
from metaxy_fs.storage.base import ObjectInfo, Storage


def appends_with_successors(covers: Mapping[str, Covers], inventory: Inventory) -> dict[str, datetime]:
    """Return each append that a compaction covers, and since when one does."""
    since: dict[str, datetime] = {}
    for commit, own in covers.items():
        if (written := inventory.compactions[commit].modified) is not None:
            for covered in own.intersection(inventory.appends.keys()):
                since[covered] = min(written, since.get(covered, written))
    return since


def compactions_with_successors(covers: Mapping[str, Covers], inventory: Inventory) -> dict[str, datetime]:
    """Return each compaction that is dead, and since when there is one because of which it is."""
    since: dict[str, datetime] = {}
    for commit, own in covers.items():
        successors = [inventory.compactions[successor].modified for successor in _successors(commit, own, covers)]
        if times := [written for written in successors if written is not None]:
            since[commit] = min(times)
    return since


def missing_files(manifest: Manifest, inventory: Inventory) -> Iterator[str]:
    """Yield the data files that a manifest names and that are not there in full."""
    for file in manifest.named_files:
        listed = inventory.data.get(file.name)
        if listed is None or listed.size != file.bytes:
            yield file.name


def _successors(commit: str, own: Covers, covers: Mapping[str, Covers]) -> Iterator[str]:
    some = frozenset([next(iter(own.ids))])
    for other, theirs in covers.items():
        # Nearly all that do not cover the whole do not cover any one commit of it either.
        if other == commit or not theirs.intersection(some) or not own.ids <= theirs.ids:
            continue
        if len(own.ids) < len(theirs.ids) or commit < other:
            yield other


MIN_GRACE: Final = timedelta(minutes=10)
"""A listing of a million names takes a few minutes; a reader whose listing takes longer could miss a commit."""

MIN_RETENTION: Final = timedelta(days=2)
"""Writers and compactors may put a manifest up to a day after they began; another day is for those that stall then."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """For how long a vacuum keeps things; all ages are by the clock of the storage.

    Attributes:
        grace: For how long a manifest is kept after another one stands for it.
        retention: For how long a data file is kept after it was first seen that no manifest names it.
        is_safe: Whether values below the floors are refused; only a root that nobody else uses can do without.

    Raises:
        ValueError: A value is below what the protocol needs.
    """

    grace: timedelta = timedelta(hours=1)
    retention: timedelta = timedelta(days=7)
    is_safe: bool = True

    def __post_init__(self) -> None:
        if self.is_safe and self.grace < MIN_GRACE:
            raise ValueError(
                f"grace is at least {MIN_GRACE}, got {self.grace}: a reader whose listing takes longer could miss a "
                "commit. On a root that nobody else uses, pass unsafe=True."
            )
        if self.is_safe and self.retention < MIN_RETENTION:
            raise ValueError(
                f"retention is at least {MIN_RETENTION}, got {self.retention}: a write may take a day, and would lose "
                "its data files. On a root that nobody else uses, pass unsafe=True."
            )

    @property
    def quiescent_after(self) -> timedelta:
        """How old an object is when its writer has no more to do with it."""
        return min(SETTLED_AFTER, self.retention)


MAX_RECORD_BYTES: Final = 64 * 1024 * 1024
_NAMES_A_RECORD: Final = 100_000
"""A third of what may be in it, at the longest that names may be."""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one vacuum has found.

    Attributes:
        unnamed: The data files that no manifest named, or that a manifest named which this vacuum was going to delete.
        named: Those of which an earlier record says that they were unnamed, and which are named again.
    """

    format_version: int
    unnamed: list[str]
    named: list[str]


class VacuumRecords:
    """What the records of one partition say together.

    Args:
        records: Each with the storage's time of it, by path.
    """

    def __init__(self, records: Mapping[str, tuple[datetime, Record]]) -> None:
        self._since: dict[str, datetime | None] = {}
        self._source: dict[str, str] = {}
        for path, (written, record) in sorted(records.items(), key=lambda item: (item[1][0], item[0])):
            self._since |= dict.fromkeys(record.unnamed, written) | dict.fromkeys(record.named)
            self._source |= dict.fromkeys([*record.unnamed, *record.named], path)
        self._records = frozenset(records)

    def unnamed_since(self, name: str) -> datetime | None:
        """Return from when on a data file is known to be unnamed; None if it is not."""
        return self._since.get(name)

    def superfluous(self, names: Collection[str]) -> Iterator[str]:
        """Yield the records that say nothing which counts of any of these data files."""
        yield from sorted(self._records - {self._source[name] for name in names if name in self._source})


def encode_records(*, unnamed: Collection[str], named: Collection[str]) -> Iterator[bytes]:
    """Yield the bytes of the records that say of data files whether they are named; one but for very many files."""
    statements = [(name, True) for name in sorted(unnamed)] + [(name, False) for name in sorted(named)]
    remaining = iter(statements)
    while some := list(islice(remaining, _NAMES_A_RECORD)):
        lists = ([name for name, is_unnamed in some if is_unnamed is wanted] for wanted in (True, False))
        yield msgspec.json.encode(Record(FORMAT_VERSION, *lists))


def read_vacuum_records(storage: Storage, listed: Collection[ObjectInfo]) -> VacuumRecords:
    """Return what the records of a partition say together.

    Raises:
        CorruptObjectError: One of them is too large, cannot be decoded, or has no time; what it says may count.
        UnsupportedFormatError: A newer metaxy_fs wrote one of them.
        StorageError: One of them cannot be got.
    """
    records = {}
    for info in listed:
        if info.size > MAX_RECORD_BYTES:
            raise CorruptObjectError(
                f"The record {storage.location}/{info.path} has {info.size} bytes, more than the {MAX_RECORD_BYTES} "
                "that one may have. Remove it."
            )
    for written, info, data in fetch_each(storage, ((info.modified, info) for info in listed)):
        if isinstance(data, Exception):
            raise data
        if written is None:
            raise CorruptObjectError(f"{storage.location}/{info.path} has no time.")
        decode = partial(_decoded, name=f"{storage.location}/{info.path}")
        records[info.path] = written, decode_or_refetch(storage, info, data, decode)
    return VacuumRecords(records)


def _decoded(data: bytes, *, name: str) -> Record:
    return decode_object(data, Record, name=f"The record {name}", advice=" Remove it.")


class PartitionState(NamedTuple):
    """A partition as one listing shows it, in which every manifest that counts was understood.

    Attributes:
        inventory: All objects.
        compactions: Every compaction that is listed.
        covers: What each of them stands for.
        living: Those that are not dead.
        appended: The data files of the appends that no compaction covers.
    """

    inventory: Inventory
    compactions: dict[str, Manifest]
    covers: dict[str, Covers]
    living: AbstractSet[str]
    appended: frozenset[str]

    @property
    def commits(self) -> frozenset[str]:
        """The commits that a manifest holds."""
        return frozenset(self.inventory.appends).union(*(covers.ids for covers in self.covers.values()))

    def named(self, compactions: Iterable[str] | None = None) -> frozenset[str]:
        """Return the data files that an append which counts names, or one of some compactions; by default of all."""
        chosen = self.compactions if compactions is None else compactions
        return self.appended.union(*(_names(self.compactions[commit]) for commit in chosen))


def read_partition_state(storage: Storage, partition: Partition) -> PartitionState:
    """Return what a partition holds.

    Raises:
        CorruptObjectError: Something in it is not understood, so that nobody can tell what it needs.
        StorageError: It could not be read.
    """
    return retry_listing(lambda: _partition_state(storage, take_inventory(storage, partition)))


def _partition_state(storage: Storage, inventory: Inventory) -> PartitionState:
    if inventory.misplaced:
        raise CorruptObjectError(f"{storage.location}/{inventory.misplaced[0].path} is no manifest.")
    partition = inventory.partition
    compactions = dict(read_manifests(storage, partition, inventory.compactions, is_compaction=True))
    covers = {commit: Covers(manifest.covers) for commit, manifest in compactions.items()}
    counting = resolve(inventory.appends, covers)
    uncovered = {commit: info for commit, info in inventory.appends.items() if commit in counting.appends}
    appends = read_manifests(storage, partition, uncovered)
    appended = frozenset(name for _, manifest in appends for name in _names(manifest))
    return PartitionState(inventory, compactions, covers, counting.compactions.keys(), appended)


def _names(manifest: Manifest) -> Iterator[str]:
    return (file.name for file in manifest.named_files)


class Loss(NamedTuple):
    """Commits that no manifest holds.

    Attributes:
        path: The object that shows that they existed, below the root.
        problem: What it says, and which of the commits are gone.
        commits: Their ids; none where the object cannot be read, so that nobody knows.
    """

    path: str
    problem: str
    commits: frozenset[str]


def pinned_losses(
    partition: Partition, pinned: Mapping[str, AbstractSet[str]], present: Collection[str]
) -> Iterator[Loss]:
    """Yield the snapshots that name commits which nothing holds.

    Args:
        partition: Whose commits these are.
        pinned: The commits of the partition that each snapshot names.
        present: The commits that a manifest answers for.
    """
    for name, commits in pinned.items():
        if gone := frozenset(commits - set(present)):
            verb = "is" if len(gone) == 1 else "are"
            problem = f"names {count(len(gone), 'commit')} of {partition} that {verb} gone, such as {min(gone)}"
            yield Loss(snapshot_file(name), problem, gone)


def losses(
    storage: Storage, inventory: Inventory, *, unnamed: Collection[str], present: Collection[str]
) -> Iterator[Loss]:
    """Yield what a partition itself shows of commits that nothing holds.

    Args:
        storage: The root.
        inventory: What the partition holds.
        unnamed: The data files and commit tables that no manifest names.
        present: The commits that a manifest answers for.

    Raises:
        StorageError: A table could not be read, so nobody knows what it says.
    """
    present = frozenset(present)
    for commit, info in inventory.damaged.items():
        if commit not in present:
            problem = f"shows that there was a commit {commit}, whose manifest is gone"
            yield Loss(info.path, problem, frozenset([commit]))
    tables = [(name, inventory.data[name]) for name in sorted(unnamed) if _is_evidence(inventory, name)]
    for _, info, data in fetch_each(storage, tables):
        if isinstance(data, ObjectNotFoundError):  # another vacuum has removed it
            continue
        commits = _listed(data)
        if commits is None:
            yield Loss(info.path, "cannot be read, so nobody knows which commits it lists", frozenset())
        elif gone := commits - present:
            problem = f"lists {count(len(gone), 'commit')} that no manifest holds, such as {min(gone)}"
            yield Loss(info.path, problem, gone)


def _is_evidence(inventory: Inventory, name: str) -> bool:
    """Whether a data file is a table of commits of this root, and not of a copy that has not ended."""
    compaction = compaction_of_table(name)
    return compaction is not None and compaction not in inventory.copies


def _listed(data: Fetched) -> frozenset[str] | None:
    """Return the commits that a table lists, None if it cannot be read."""
    if isinstance(data, CorruptObjectError):
        return None
    if isinstance(data, Exception):
        raise data
    try:
        commits = pl.read_parquet(BytesIO(data), columns=["commit"]).get_column("commit")
        return frozenset(commits.cast(pl.String).drop_nulls())
    # A panic is no Exception, and whatever Polars makes of a hostile file must not end the process.
    except (Exception, pl.exceptions.PanicException):  # noqa: BLE001
        return None
