"""Is everything that a root holds as it should be?

Verification reads every manifest and every data file, and writes nothing. It may run beside writers, compactions and
vacuums: what they put or delete meanwhile is not taken for damage. Objects that cannot be read are reported like those
that are damaged, and only a listing that fails ends it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple

import msgspec

from metaxy_fs.errors import CorruptObjectError, MetaxyError, ObjectNotFoundError, UnsupportedFormatError
from metaxy_fs.log.contents import Contents, check_commit, check_contents
from metaxy_fs.log.decoding import MAX_MANIFEST_BYTES, decode_manifest
from metaxy_fs.log.findings import ORPHAN, REPAIR, RESTORE, UPGRADE, Finding
from metaxy_fs.log.inventory import Inventory, all_partitions, take_inventory
from metaxy_fs.log.layout import STORE_FILE, Partition
from metaxy_fs.log.manifest import DataFile, Manifest
from metaxy_fs.log.partition import decode_info
from metaxy_fs.log.root import decode_root
from metaxy_fs.log.tolerant import Fetched, fetch_each
from metaxy_fs.parallel import ordered_map
from metaxy_fs.storage.base import ObjectInfo, Storage

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
    tally = _Tally(progress or (lambda _done, _known: None))
    partitions = all_partitions(storage, feature=feature)
    findings = list(_check_root(storage, expected=bool(partitions)))
    for partition in partitions:
        findings += _check_partition(storage, take_inventory(storage, partition), tally)
    return Verification(
        findings=tuple(sorted(findings)),
        partitions=len(partitions),
        commits=tally.commits,
        files=tally.files,
        bytes=tally.bytes,
    )


class _Tally:
    """What was checked so far."""

    def __init__(self, progress: Progress) -> None:
        self.commits = self.files = self.bytes = self.known = 0
        self._progress = progress

    def add(self, files: "Sequence[_Checked]") -> None:
        self.commits += 1
        self.files += sum(1 for file in files if file.size)
        self.bytes += sum(file.size for file in files)
        self._progress(self.bytes, self.known)


class _Checked(NamedTuple):
    """A data file of a manifest, how much of it was read, and what was found; None if the commit is gone meanwhile."""

    manifest: Manifest
    size: int
    contents: Contents | None


def _check_root(storage: Storage, *, expected: bool) -> Iterator[Finding]:
    try:
        decode_root(storage.get(STORE_FILE), name=STORE_FILE)
    except ObjectNotFoundError:
        if expected:
            yield Finding(STORE_FILE, "warning", "is missing", "The next write puts it there again.")
    except MetaxyError as error:
        yield _unusable(STORE_FILE, error, remedy=f"Writers refuse the root. {RESTORE}")


def _check_partition(storage: Storage, inventory: Inventory, tally: _Tally) -> Iterator[Finding]:
    tally.known += sum(info.size for info in inventory.data.values())
    yield from _check_definition(storage, inventory)
    yield from _out_of_place(inventory)
    unusable: dict[str, Finding] = {}
    named: dict[str, str] = {}
    manifests = _manifests(storage, inventory, unusable)
    for manifest, files in _by_commit(_checked_files(storage, inventory.partition, manifests)):
        contents = [file.contents for file in files if file.contents is not None]
        if len(contents) < len(files):
            continue
        tally.add(files)
        yield from _named_twice(manifest, inventory.partition, named)
        for found in contents:
            yield from found.findings
        yield from check_commit(manifest, contents, path=inventory.partition.append_manifest(manifest.commit))
    yield from unusable.values()
    yield from _orphans(inventory, named, unusable)


def _check_definition(storage: Storage, inventory: Inventory) -> Iterator[Finding]:
    path = inventory.partition.definition_file
    if inventory.definition is None:
        if inventory.appends:
            yield Finding(path, "warning", "is missing", "The next write to the partition puts it there again.")
        return
    try:
        info = decode_info(storage.get(path), name=path)
    except MetaxyError as error:
        yield _unusable(path, error, remedy=f"Writers refuse the partition. {RESTORE}")
        return
    if Partition(".".join(info.feature), info.definition.version[:16]) != inventory.partition:
        problem = f"describes the feature {list(info.feature)!r} under data version {info.definition.version!r}"
        yield Finding(path, "error", problem, f"Writers refuse the partition. {RESTORE}")


def _out_of_place(inventory: Inventory) -> Iterator[Finding]:
    for info in inventory.misplaced:
        remedy = "Move it elsewhere if you know it: readers refuse the partition while it is there."
        yield Finding(info.path, "error", "is no manifest, and nothing else belongs there", remedy)
    for info in inventory.strange:
        yield Finding(info.path, "note", "is none of the objects of a partition", "Nobody reads it; move it elsewhere.")


def _manifests(storage: Storage, inventory: Inventory, unusable: dict[str, Finding]) -> Iterator[Manifest]:
    """Yield the manifests that can be read, and note the others and their commits in `unusable`."""
    small = [(commit, info) for commit, info in inventory.appends.items() if info.size <= MAX_MANIFEST_BYTES]
    for commit in inventory.appends.keys() - dict(small):
        path, size = inventory.appends[commit].path, inventory.appends[commit].size
        unusable[commit] = Finding(path, "error", f"has {size} bytes, more than any manifest has", REPAIR)
    for commit, info, data in fetch_each(storage, small):
        try:
            if isinstance(data, Exception):
                raise data
            yield decode_manifest(data, partition=inventory.partition, commit=commit, name=info.path)
        except ObjectNotFoundError:  # deleted since it was listed, because something else stands for its commit
            continue
        except MetaxyError as error:
            unusable[commit] = _unusable(info.path, error, remedy=REPAIR)


def _checked_files(storage: Storage, partition: Partition, manifests: Iterable[Manifest]) -> Iterator[_Checked]:
    wanted = (
        ((manifest, file), ObjectInfo(partition.data_file(file.name), file.bytes))
        for manifest in manifests
        for file in manifest.files
    )
    yield from ordered_map(partial(_check_file, storage, partition), fetch_each(storage, wanted))


def _check_file(
    storage: Storage, partition: Partition, fetched: tuple[tuple[Manifest, DataFile], ObjectInfo, Fetched]
) -> _Checked:
    (manifest, file), info, data = fetched
    if isinstance(data, bytes):
        contents = check_contents(data, manifest=manifest, file=file, path=info.path)
        return _Checked(manifest, info.size, contents)
    if isinstance(data, ObjectNotFoundError) and _is_gone(storage, partition.append_manifest(manifest.commit)):
        return _Checked(manifest, 0, None)
    return _Checked(manifest, 0, Contents((_missing_rows(info.path, data),)))


def _is_gone(storage: Storage, path: str) -> bool:
    try:
        storage.get(path)
    except ObjectNotFoundError:
        return True
    return False


def _by_commit(checked: Iterable[_Checked]) -> Iterator[tuple[Manifest, list[_Checked]]]:
    for _, files in groupby(checked, key=lambda file: file.manifest.commit):
        found = list(files)
        yield found[0].manifest, found


def _named_twice(manifest: Manifest, partition: Partition, named: dict[str, str]) -> Iterator[Finding]:
    """Yield the files of a commit that another one names too: their rows would be read twice."""
    for file in manifest.files:
        other = named.setdefault(file.name, manifest.commit)
        if other != manifest.commit:
            problem = f"names the data file {file.name}, which belongs to commit {other}"
            yield Finding(partition.append_manifest(manifest.commit), "error", problem, RESTORE)


def _orphans(inventory: Inventory, named: dict[str, str], unusable: dict[str, Finding]) -> Iterator[Finding]:
    """Yield the data files that no manifest names; those of a manifest that cannot be read are no orphans."""
    spared = tuple(f"{commit}-" for commit in unusable)
    for name, info in inventory.data.items():
        if name not in named and not name.startswith(spared):
            since = f" since {info.modified:%Y-%m-%d %H:%M} UTC" if info.modified else ""
            yield Finding(info.path, "note", f"is an orphan{since}: no manifest names it", ORPHAN)


def _missing_rows(path: str, error: MetaxyError) -> Finding:
    if isinstance(error, ObjectNotFoundError):
        return Finding(path, "error", "is missing, though it is committed", RESTORE)
    if isinstance(error, CorruptObjectError):
        return Finding(path, "error", "has another size than was committed", RESTORE)
    return _unusable(path, error, remedy=RESTORE)


def _unusable(path: str, error: MetaxyError, *, remedy: str) -> Finding:
    """Return the finding on an object that could not be got or decoded."""
    if isinstance(error, UnsupportedFormatError):
        return Finding(path, "error", f"was written by a newer metaxy_fs: {error}", UPGRADE)
    return Finding(path, "error", f"cannot be used: {error}", remedy)
