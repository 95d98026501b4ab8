"""Verify a root: read all that it holds, and report what is damaged, lost or left over.

Verification reads every manifest and every data file, and writes nothing. It may run beside writers, compactions and
vacuums: what they put or delete meanwhile is not taken for damage. Objects that cannot be read are reported like those
that are damaged, and only a listing that fails ends it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import chain

import msgspec

from metaxy_fs.errors import MetaxyError, StorageError
from metaxy_fs.ids import wall_clock
from metaxy_fs.log.clock_skew import REMEDY, Arrivals, problem
from metaxy_fs.log.descriptions import find_info, find_root
from metaxy_fs.log.layout import STORE_FILE, Inventory, Partition, all_partitions, owners_of_data_file, take_inventory
from metaxy_fs.log.manifest import Manifest
from metaxy_fs.log.resolve import Covers, resolve
from metaxy_fs.log.snapshots import SnapshotRefs, read_snapshot_refs
from metaxy_fs.log.unreferenced import losses, pinned_losses
from metaxy_fs.log.verified_io import GONE, LOST, ORPHAN, RESTORE, SUPERSEDED, Finding
from metaxy_fs.log.verify_manifests import Checked, TypesFound, check_further, check_manifests, read_manifests, unusable
from metaxy_fs.log.view import ATTEMPTS
from metaxy_fs.markup import count
from metaxy_fs.storage.base import Storage

Progress = Callable[[int, int], object]
"""Called with the bytes that were checked so far, and those that are known to be there."""


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What a verification has found.

    Attributes:
        findings: What is not as it should be, sorted by object.
        partitions: How many partitions were looked at.
        commits: How many commits have manifests that can be read.
        files: How many data files were read.
        bytes: The size of these.
    """

    findings: tuple[Finding, ...]
    partitions: int
    commits: int
    files: int
    bytes: int

    @property
    def is_sound(self) -> bool:
        """Whether there is no error and no warning."""
        return all(finding.severity == "note" for finding in self.findings)


def verify(storage: Storage, *, feature: str | None = None, progress: Progress | None = None) -> Verification:
    """Check the objects of a root, or of one feature of it.

    Args:
        storage: The root.
        feature: The parts of the feature's key joined by `.`.
        progress: Called after each data file, by one thread at a time.

    Raises:
        StorageError: The root could not be listed.
    """
    so_far = _VerifyProgress(progress or (lambda _done, _known: None))
    partitions = all_partitions(storage, feature=feature)
    findings = list(_check_root(storage, expected=bool(partitions)))
    refs = read_snapshot_refs(storage)
    findings += [unusable(info.path, error, remedy=RESTORE) for info, error in refs.damaged]
    for partition in partitions:
        findings += _check_partition(storage, partition, refs, so_far)
    gone = [partition for partition in refs.commits if feature is None or partition.feature == feature]
    findings += [finding for partition in set(gone) - set(partitions) for finding in _unpinned(refs, partition, ())]
    return Verification(
        findings=tuple(sorted(findings)),
        partitions=len(partitions),
        commits=so_far.commits,
        files=so_far.files,
        bytes=so_far.bytes,
    )


class _VerifyProgress:
    """What was checked so far."""

    def __init__(self, progress: Progress) -> None:
        self.commits = self.files = self.bytes = self.known = 0
        self._progress = progress

    def add(self, checked: Checked) -> None:
        self.files += checked.files
        self.bytes += checked.bytes
        self._progress(self.bytes, self.known)


def _check_root(storage: Storage, *, expected: bool) -> Iterator[Finding]:
    try:
        is_there = find_root(storage) is not None
    except MetaxyError as error:
        yield unusable(STORE_FILE, error, remedy=f"Writers refuse the root. {RESTORE}")
        return
    if expected and not is_there:
        remedy = (
            "The next write puts it there again, for the hash_algorithm that its store was opened for, sha256 by "
            "default: name the root's own, if it is another one."
        )
        yield Finding(STORE_FILE, "warning", "is missing", remedy)
    elif not is_there and storage.list("", limit=1):
        problem = "is missing, and there is no feature: this is no root, though something is here"
        yield Finding(STORE_FILE, "error", problem, "Verify the root itself, which may be above or below.")
    elif not is_there:
        yield Finding(
            STORE_FILE,
            "note",
            "is missing, and nothing else is here",
            "Correct the name of the root, if it is misspelt.",
        )


def _check_partition(
    storage: Storage, partition: Partition, refs: SnapshotRefs, so_far: _VerifyProgress
) -> Iterator[Finding]:
    damaged: dict[str, Finding] = {}
    inventory, compactions = _compactions(storage, partition, damaged)
    yield from _check_definition(storage, inventory)
    yield from check_further(storage, partition, inventory.types)
    yield from _out_of_place(inventory)
    covers = {commit: Covers(manifest.covers) for commit, manifest in compactions.items()}
    covered = frozenset[str]().union(*(one.ids for one in covers.values()))
    counting = resolve(inventory.appends, covers)
    living = [compactions[commit] for commit in sorted(counting.compactions)]
    so_far.known += sum(info.size for info in inventory.data.values())
    named: dict[str, str] = {}
    types = TypesFound(partition)
    arrivals = Arrivals.of(inventory.appends | inventory.compactions, now=wall_clock())
    for checked in check_manifests(storage, partition, chain(_appends(storage, inventory, covered, damaged), living)):
        so_far.add(checked)
        so_far.commits += not checked.manifest.covers
        types.add(checked.manifest)
        yield from _named_twice(checked.manifest, partition, named)
        yield from checked.findings
        yield from _ahead(checked.manifest, partition, arrivals)
    so_far.commits += len(covered)
    yield from types.conflicts()
    yield from damaged.values()
    present = inventory.appends.keys() | covered
    yield from _unpinned(refs, partition, present)
    if not damaged:
        lost = list(_lost(storage, inventory, [name for name in inventory.data if name not in named], present))
        yield from lost
        named |= _evidence(inventory, {finding.path for finding in lost})
        yield from _unneeded(inventory, named, covered, dead=compactions.keys() - counting.compactions.keys())


def _ahead(manifest: Manifest, partition: Partition, arrivals: Arrivals) -> Iterator[Finding]:
    """Yield that a single write claims another time than the one at which it counts."""
    for time in arrivals.times_that_count({manifest.commit: manifest}).values():
        yield Finding(partition.append_manifest(manifest.commit), "warning", problem(manifest, counts=time), REMEDY)


def _unpinned(refs: SnapshotRefs, partition: Partition, present: Collection[str]) -> Iterator[Finding]:
    """Yield the snapshots that name commits which nothing holds."""
    for loss in pinned_losses(partition, refs.commits.get(partition, {}), present):
        yield Finding(loss.path, "error", loss.problem, GONE)


def _lost(
    storage: Storage, inventory: Inventory, unnamed: Collection[str], present: Collection[str]
) -> Iterator[Finding]:
    """Yield what shows that there were commits which nothing holds."""
    try:
        for loss in losses(storage, inventory, unnamed=unnamed, present=present):
            yield Finding(loss.path, "error" if loss.commits else "warning", loss.problem, LOST)
    except StorageError as error:
        yield unusable(str(inventory.partition), error, remedy=RESTORE)


def _evidence(inventory: Inventory, paths: Collection[str]) -> dict[str, str]:
    """Return the data files that may hold lost commits, given the objects that tell of these; they are no orphans."""
    lost = {owner for name, info in inventory.data.items() if info.path in paths for owner in owners_of_data_file(name)}
    return {name: "" for name in inventory.data if owners_of_data_file(name)[0] in lost}


def _compactions(
    storage: Storage, partition: Partition, damaged: dict[str, Finding], *, attempts: int = ATTEMPTS
) -> tuple[Inventory, dict[str, Manifest]]:
    """Return what a partition holds, and all compactions that can be read; the listing is made again if one is gone."""
    damaged.clear()
    inventory = take_inventory(storage, partition)
    listed = inventory.compactions
    found = dict(read_manifests(storage, partition, listed, damaged=damaged, is_compaction=True))
    if None in found.values() and attempts > 1:
        return _compactions(storage, partition, damaged, attempts=attempts - 1)
    return inventory, {commit: manifest for commit, manifest in found.items() if manifest is not None}


def _appends(
    storage: Storage, inventory: Inventory, covered: frozenset[str], damaged: dict[str, Finding]
) -> Iterator[Manifest]:
    """Yield the appends that live; those that are gone since they were listed have a successor by now."""
    uncovered = {commit: info for commit, info in inventory.appends.items() if commit not in covered}
    for _, manifest in read_manifests(storage, inventory.partition, uncovered, damaged=damaged):
        if manifest is not None:
            yield manifest


def _check_definition(storage: Storage, inventory: Inventory) -> Iterator[Finding]:
    path = inventory.partition.definition_file
    try:
        info = find_info(storage, inventory.partition)
    except MetaxyError as error:
        yield unusable(path, error, remedy=f"Writers refuse the partition. {RESTORE}")
        return
    if info is None:
        if inventory.appends or inventory.compactions:
            yield Finding(path, "warning", "is missing", "The next write to the partition puts it there again.")
        return
    if Partition(".".join(info.feature), info.definition.version[:16]) != inventory.partition:
        problem = f"describes the feature {list(info.feature)!r} under data version {info.definition.version!r}"
        yield Finding(path, "error", problem, f"Writers refuse the partition. {RESTORE}")


def _out_of_place(inventory: Inventory) -> Iterator[Finding]:
    for info in inventory.misplaced:
        remedy = "Move it elsewhere if you know it: readers refuse the partition while it is there."
        yield Finding(info.path, "error", "is no manifest, and nothing else belongs there", remedy)
    for info in inventory.stray:
        problem = "is a file of the system or of a tool, and is passed over"
        yield Finding(info.path, "note", problem, "Nobody reads it; remove it if no tool is at work there.")
    for info in inventory.strange:
        yield Finding(info.path, "note", "is none of the objects of a partition", "Nobody reads it; move it elsewhere.")


def _named_twice(manifest: Manifest, partition: Partition, named: dict[str, str]) -> Iterator[Finding]:
    """Yield the files of an append that another one names too: their rows would be read twice."""
    for name in (file.name for file in manifest.named_files):
        other = named.setdefault(name, manifest.commit)
        if other != manifest.commit and not manifest.covers:
            problem = f"names the data file {name}, which belongs to commit {other}"
            yield Finding(partition.append_manifest(manifest.commit), "error", problem, RESTORE)


def _unneeded(
    inventory: Inventory, named: Mapping[str, str], covered: AbstractSet[str], *, dead: AbstractSet[str]
) -> Iterator[Finding]:
    """Yield what nobody needs: what compactions stand for, all in one, and each orphan."""
    unnamed = {name: info for name, info in inventory.data.items() if name not in named}
    superseded = {name for name in unnamed if not {*owners_of_data_file(name)}.isdisjoint(covered | dead)}
    manifests = (inventory.appends.keys() & covered) | dead
    if manifests or superseded:
        several = f"{count(len(manifests), 'manifest')} and {count(len(superseded), 'data file')}"
        problem = f"holds {several} that compactions stand for"
        yield Finding(str(inventory.partition), "note", problem, SUPERSEDED)
    for name in unnamed.keys() - superseded:
        info = unnamed[name]
        since = f" since {info.modified:%Y-%m-%d %H:%M} UTC" if info.modified else ""
        yield Finding(info.path, "note", f"is an orphan{since}: no manifest names it", ORPHAN)
