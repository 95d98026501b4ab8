"""What is there to go by, where manifests of a partition are damaged or lost?"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import polars as pl

from metaxy_fs.errors import CorruptObjectError, MetaxyError, UnsupportedFormatError
from metaxy_fs.log.checking.rebuild import Fragment, read_fragment, rebuild_compaction, rebuild_manifest
from metaxy_fs.log.objects.inventory import Inventory
from metaxy_fs.log.objects.layout import Partition, compaction_of_table, owners_of_data_file
from metaxy_fs.log.objects.manifest import Manifest
from metaxy_fs.log.objects.tolerant import Fetched, decode_each, fetch_each
from metaxy_fs.log.views.resolve import Covers
from metaxy_fs.storage.base import ObjectInfo, Storage


class Group(NamedTuple):
    """Data files whose names begin alike, and the manifest of the write that they make, or why they make none."""

    name: str
    manifest: Manifest | None
    reason: str


class Table(NamedTuple):
    """A commit table that no manifest names, what it says of each commit, and the compaction that it makes."""

    manifest: Manifest
    rows: pl.DataFrame

    @property
    def digests(self) -> dict[str, str]:
        """The digest of each commit."""
        return dict(self.rows.select("commit", "digest").iter_rows())


class Evidence(NamedTuple):
    """What there is to go by in a partition.

    Attributes:
        partition: Where this is.
        damages: What is wrong with the manifests of writes that were there, by commit.
        remains: What is left of them, as far as it can be got.
        broken: What is wrong with the compactions that are there, by their ids.
        held: The commits that a manifest answers for which is right.
        pinned: The commits that snapshots name, and one that does.
        groups: Data files that no manifest names.
        tables: Commit tables that no manifest names, the latest first.
    """

    partition: Partition
    damages: dict[str, str]
    remains: dict[str, bytes]
    broken: dict[str, str]
    held: set[str]
    pinned: dict[str, str]
    groups: list[Group]
    tables: list[Table]


def gather(storage: Storage, inventory: Inventory, *, pinned: dict[str, str]) -> Evidence:
    """Return what there is to go by.

    Args:
        storage: The root.
        inventory: What the partition holds.
        pinned: The commits that snapshots name, and one that does.

    Raises:
        UnsupportedFormatError: A newer metaxy_fs has compacted the partition.
        StorageError: A manifest could not be got, so nobody can tell whether it is damaged.
    """
    found = Evidence(inventory.partition, {}, {}, {}, set(), pinned, [], [])
    found.damages.update(dict.fromkeys(inventory.damaged, "its manifest was damaged, and its repair was not finished"))
    named = {*_of_compactions(storage, inventory, found)}
    named |= {*_of_appends(storage, inventory, found)}
    settled = found.held | inventory.compactions.keys() - found.broken.keys()
    unnamed = [(name, info) for name, info in inventory.data.items() if name not in named]
    # What a copy that was cut short has left shows no commit of this root.
    own = [(name, info) for name, info in unnamed if _compaction(name) not in inventory.copies.keys() - found.broken]
    _read_tables(storage, own, found)
    settled |= {table.manifest.commit for table in found.tables}
    orphans = [(name, info) for name, info in unnamed if settled.isdisjoint(owners_of_data_file(name))]
    _read_groups(storage, orphans, found)
    return found


def _compaction(name: str) -> str:
    return compaction_of_table(name) or ""


def _of_compactions(storage: Storage, inventory: Inventory, found: Evidence) -> Iterator[str]:
    """Yield the data files that compactions name, and note what is known of these."""
    for commit, manifest in _decoded(storage, inventory, inventory.compactions, found.broken, is_compaction=True):
        if isinstance(manifest, Manifest):
            found.held.update(Covers(manifest.covers).ids)
            yield from (file.name for file in manifest.named_files)
        elif manifest is None:
            raise UnsupportedFormatError(
                f"{storage.location}/{inventory.compactions[commit].path} was written by a newer metaxy_fs. Upgrade "
                "metaxy_fs."
            )


def _of_appends(storage: Storage, inventory: Inventory, found: Evidence) -> Iterator[str]:
    """Yield the data files that the manifests of writes name which count, and note what is known of these."""
    uncovered = {commit: info for commit, info in inventory.appends.items() if commit not in found.held}
    for commit, manifest in _decoded(storage, inventory, uncovered, found.damages, remains=found.remains):
        found.held.add(commit)
        if manifest is not None:
            yield from (file.name for file in manifest.files)
    for commit in found.held & found.damages.keys():
        del found.damages[commit]


def _decoded(
    storage: Storage,
    inventory: Inventory,
    listed: dict[str, ObjectInfo],
    damages: dict[str, str],
    *,
    is_compaction: bool = False,
    remains: dict[str, bytes] | None = None,
) -> Iterator[tuple[str, Manifest | None]]:
    """Yield the manifests that are right, None for one of a newer format, and note what is wrong with the others."""
    found = decode_each(storage, inventory.partition, listed, is_compaction=is_compaction)
    for commit, _, manifest, data in found:
        match manifest:
            case Manifest():
                yield commit, manifest
            case UnsupportedFormatError():
                yield commit, None
            case CorruptObjectError():
                damages[commit] = str(manifest)
                if remains is not None and data is not None:
                    remains[commit] = data
            case _:
                raise manifest


def _read_tables(storage: Storage, unnamed: Iterable[tuple[str, ObjectInfo]], found: Evidence) -> None:
    listed = [(name, info) for name, info in unnamed if compaction_of_table(name) is not None]
    for name, _, data in fetch_each(storage, listed):
        if isinstance(data, bytes):
            try:
                manifest, table = rebuild_compaction(data, name=name, partition=found.partition)
            except CorruptObjectError:
                continue
            found.tables.append(Table(manifest, table))
    found.tables.sort(key=lambda table: table.manifest.commit, reverse=True)


def _read_groups(storage: Storage, unnamed: Iterable[tuple[str, ObjectInfo]], found: Evidence) -> None:
    fragments: dict[str, list[Fragment | MetaxyError]] = {}
    for name, _, data in fetch_each(storage, unnamed):
        fragments.setdefault(name.rpartition("-")[0], []).append(_fragment(data, name=name))
    found.groups.extend(_group(name, parts, found.partition) for name, parts in fragments.items())


def _fragment(data: Fetched, *, name: str) -> Fragment | MetaxyError:
    if isinstance(data, Exception):
        return data
    try:
        return read_fragment(data, name=name)
    except CorruptObjectError as error:
        return error


def _group(name: str, found: Sequence[Fragment | MetaxyError], partition: Partition) -> Group:
    parts = []
    for each in found:
        if isinstance(each, MetaxyError):
            return Group(name, None, str(each))
        parts.append(each)
    try:
        return Group(name, rebuild_manifest(parts, partition=partition), "")
    except MetaxyError as error:
        return Group(name, None, str(error))
