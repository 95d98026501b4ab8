"""Which manifests are damaged or lost, and which of them may be put back?

Theory of operation. The data files of a commit suffice to make its manifest again (see `metaxy_fs.log.rebuild`). They
do not tell whether there ever was one: a write that died before it put its manifest leaves the same files, and was
never committed. To restore such a manifest would make rows visible that their writer believes to be lost, and may have
written again. So repair goes by evidence that a commit existed:

- something that is no manifest lies where the manifest was: an object of that name was put by its writer alone;
- repair itself found that once, and keeps it in `_damaged`, so that an interrupted repair is taken up again;
- the user names the data files, and thereby vouches for the commit.

What is only complete is reported and left alone. Data files are never changed, and an object that is replaced is kept.
"""

from collections.abc import Collection, Iterator, Sequence
from hashlib import sha256
from typing import Literal, NamedTuple

import msgspec

from metaxy_fs.errors import CorruptObjectError, MetaxyError, ObjectNotFoundError, UnsupportedFormatError
from metaxy_fs.ids import random_token, timestamp_id, wall_clock
from metaxy_fs.log.commit import put_settled
from metaxy_fs.log.decoding import MAX_MANIFEST_BYTES, decode_manifest
from metaxy_fs.log.inventory import Inventory, all_partitions, take_inventory
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.ledger import encode_record
from metaxy_fs.log.manifest import Manifest, encode_manifest
from metaxy_fs.log.rebuild import Fragment, read_fragment, rebuild_manifest
from metaxy_fs.log.tolerant import Fetched, fetch_each
from metaxy_fs.storage.base import Storage

State = Literal["restored", "restorable", "unproven", "lost"]


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
    state: State
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
    for partition in all_partitions(storage, feature=feature):
        for restoration, manifest in _judged(_survey(storage, take_inventory(storage, partition)), vouched):
            found.append(restoration)
            if restoration.state == "restorable" and manifest is not None and not dry_run:
                _restore(storage, partition, manifest)
                found[-1] = msgspec.structs.replace(restoration, state="restored")
    if unknown := sorted(set(vouched) - {restoration.name for restoration in found}):
        raise ObjectNotFoundError(
            f"{storage.location} has no lost commit with data files that are named {unknown[0]}-<n>.parquet."
        )
    return sorted(found)


class _Group(NamedTuple):
    """Data files whose names begin alike, and the manifest that they make, or why they make none."""

    name: str
    manifest: Manifest | None
    reason: str


class _Survey(NamedTuple):
    """What there is to go by in a partition.

    Attributes:
        damages: What is wrong with the manifests that were there, by commit.
        remains: What is left of them, as far as it can be got.
        intact: The commits whose manifests are right.
        groups: The data files that no manifest names.
    """

    partition: Partition
    damages: dict[str, str]
    remains: dict[str, bytes]
    intact: set[str]
    groups: list[_Group]


def _survey(storage: Storage, inventory: Inventory) -> _Survey:
    survey = _Survey(inventory.partition, {}, {}, set(), [])
    for commit in inventory.damaged:
        survey.damages[commit] = "its manifest was damaged, and its repair was not finished"
    named = set(_named_files(storage, inventory, survey))
    orphans = [(name, info) for name, info in inventory.data.items() if name not in named]
    fragments: dict[str, list[Fragment | MetaxyError]] = {}
    for name, _, data in fetch_each(storage, orphans):
        fragments.setdefault(name.rpartition("-")[0], []).append(_fragment(data, name=name))
    survey.groups.extend(_group(name, found, inventory.partition) for name, found in fragments.items())
    return survey


def _named_files(storage: Storage, inventory: Inventory, survey: _Survey) -> Iterator[str]:
    """Yield the data files that readable manifests name, and note what is known of the manifests."""
    small = [(commit, info) for commit, info in inventory.appends.items() if info.size <= MAX_MANIFEST_BYTES]
    for commit in inventory.appends.keys() - dict(small):
        survey.damages[commit] = "its manifest is larger than any can be"
    for commit, info, data in fetch_each(storage, small):
        try:
            if isinstance(data, Exception):
                raise data
            manifest = decode_manifest(data, partition=inventory.partition, commit=commit, name=info.path)
        except UnsupportedFormatError:
            survey.intact.add(commit)
        except CorruptObjectError as error:
            survey.damages[commit] = str(error)
            survey.remains[commit] = data if isinstance(data, bytes) else b""
        else:
            survey.intact.add(commit)
            survey.damages.pop(commit, None)
            yield from (file.name for file in manifest.files)


def _fragment(data: Fetched, *, name: str) -> Fragment | MetaxyError:
    if isinstance(data, Exception):
        return data
    try:
        return read_fragment(data, name=name)
    except CorruptObjectError as error:
        return error


def _group(name: str, found: Sequence[Fragment | MetaxyError], partition: Partition) -> _Group:
    try:
        for each in found:
            if isinstance(each, MetaxyError):
                raise each
        return _Group(
            name, rebuild_manifest([each for each in found if isinstance(each, Fragment)], partition=partition), ""
        )
    except MetaxyError as error:
        return _Group(name, None, str(error))


def _judged(survey: _Survey, vouched: Collection[str]) -> Iterator[tuple[Restoration, Manifest | None]]:
    """Yield what may become of each commit whose manifest is not there, and the manifest, if there is one."""
    for commit, damage in survey.damages.items():
        yield _of_damaged(survey, commit, damage, vouched)
    for group in survey.groups:
        manifest = group.manifest
        if manifest is not None and manifest.commit not in survey.intact and manifest.commit not in survey.damages:
            is_vouched = group.name in vouched
            reason = "you vouch for it" if is_vouched else "nothing shows that it was ever committed"
            yield _restoration(survey, group, "restorable" if is_vouched else "unproven", reason), manifest


def _of_damaged(
    survey: _Survey, commit: str, damage: str, vouched: Collection[str]
) -> tuple[Restoration, Manifest | None]:
    whole = [group for group in survey.groups if group.manifest is not None and group.manifest.commit == commit]
    # Several attempts of a write with a write_id may have left all of their files; one of them was committed.
    chosen = [group for group in whole if group.name in vouched] or whole
    if len(chosen) > 1:
        remains = survey.remains.get(commit, b"")
        chosen = [group for group in whole if f'"{group.name}-'.encode() in remains]
    if len(chosen) == 1:
        return _restoration(survey, chosen[0], "restorable", damage), chosen[0].manifest
    reason = f"{damage}; {_why_lost(survey, commit, whole)}"
    return Restoration(survey.partition.append_manifest(commit), "lost", commit, reason), None


def _why_lost(survey: _Survey, commit: str, whole: Sequence[_Group]) -> str:
    if whole:
        return (
            f"the data files of several attempts are there, vouch for one of {', '.join(each.name for each in whole)}"
        )
    broken = [group.reason for group in survey.groups if f"{group.name}-".startswith(f"{commit}-")]
    return broken[0] if broken else "none of its data files is there"


def _restoration(survey: _Survey, group: _Group, state: State, reason: str) -> Restoration:
    if group.manifest is None:
        raise AssertionError("unreachable: only what can be made again is restored")
    path = survey.partition.append_manifest(group.manifest.commit)
    return Restoration(path, state, group.name, reason, group.manifest.rows)


def _restore(storage: Storage, partition: Partition, manifest: Manifest) -> None:
    """Put a manifest; what is in its place is kept, before it is removed, as evidence that the commit existed."""
    path = partition.append_manifest(manifest.commit)
    try:
        damaged = storage.get(path)
    except ObjectNotFoundError:
        pass
    else:
        put_settled(storage, partition.damaged_manifest(manifest.commit, sha256(damaged).hexdigest()[:16]), damaged)
        storage.delete(path)
    # A vacuum may have noted long ago that nothing names the data files.
    record = encode_record(unnamed=(), named=[file.name for file in manifest.files])
    put_settled(storage, partition.vacuum_record(timestamp_id(wall_clock(), random_token())), record)
    put_settled(storage, path, encode_manifest(manifest))
