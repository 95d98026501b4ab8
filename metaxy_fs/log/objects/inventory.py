"""Which objects does a partition hold, sorted by what they are?

Readers look at manifests alone. Who verifies, repairs or vacuums a partition looks at everything that is there.
"""

from collections.abc import Iterable

import msgspec

from metaxy_fs.log.objects.layout import (
    Partition,
    commit_of_append,
    commit_of_compaction,
    commit_of_copy_mark,
    commit_of_damaged,
    is_data_file_name,
    is_decided_write,
    is_feature_directory,
    is_kept_write,
    is_partition_directory,
    is_stray,
    is_vacuum_record,
    number_of_types,
)
from metaxy_fs.storage.base import ObjectInfo, Storage


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """The objects of one partition as one listing shows them.

    Attributes:
        partition: Whose objects these are.
        definition: Its description.
        appends: The manifests of single writes, by commit.
        compactions: Those that stand for many, by commit.
        data: The data files, by name.
        types: The types of columns that were agreed on after the description, by number.
        records: What vacuums have noted.
        copies: What says that a copy brings a compaction, by that.
        damaged: What repair found in the place of manifests and keeps as evidence, by commit.
        misplaced: What is below `_manifests` and is no manifest; readers refuse the partition because of it.
        stray: What systems and tools put anywhere; readers pass over it, also below `_manifests`.
        strange: What is none of the objects of a partition; readers do not look at it.
    """

    partition: Partition
    definition: ObjectInfo | None
    appends: dict[str, ObjectInfo]
    compactions: dict[str, ObjectInfo]
    data: dict[str, ObjectInfo]
    types: dict[int, ObjectInfo]
    records: tuple[ObjectInfo, ...]
    copies: dict[str, ObjectInfo]
    damaged: dict[str, ObjectInfo]
    misplaced: tuple[ObjectInfo, ...]
    stray: tuple[ObjectInfo, ...]
    strange: tuple[ObjectInfo, ...]


def take_inventory(storage: Storage, partition: Partition) -> Inventory:
    """Return what a partition holds; appends are listed before compactions (see `metaxy_fs.log.objects.layout`)."""
    listed = storage.list(str(partition))
    stray = tuple(info for info in listed if is_stray(info.path, partition, size=info.size))
    return _sorted(partition, [info for info in listed if info not in stray] if stray else listed, stray)


def all_partitions(storage: Storage, *, feature: str | None = None) -> list[Partition]:
    """Return every partition that there is, sorted, also those that hold no commit.

    Args:
        storage: The root.
        feature: The parts of a feature's key joined by `.`; all features by default.
    """
    features = storage.list_directories("") if feature is None else [feature]
    return [
        Partition(name, version)
        for name in features
        if is_feature_directory(name)
        for version in storage.list_directories(name)
        if is_partition_directory(version)
    ]


def _sorted(partition: Partition, objects: Iterable[ObjectInfo], stray: tuple[ObjectInfo, ...]) -> Inventory:
    definition: ObjectInfo | None = None
    appends: dict[str, ObjectInfo] = {}
    compactions: dict[str, ObjectInfo] = {}
    data: dict[str, ObjectInfo] = {}
    records: list[ObjectInfo] = []
    copies: dict[str, ObjectInfo] = {}
    damaged: dict[str, ObjectInfo] = {}
    misplaced: list[ObjectInfo] = []
    strange: list[ObjectInfo] = []
    by_commit = (
        (commit_of_append, appends),
        (commit_of_compaction, compactions),
        (commit_of_damaged, damaged),
        (commit_of_copy_mark, copies),
    )
    for info in objects:
        name = info.path.removeprefix(f"{partition}/")
        if info.path == partition.definition_file:
            definition = info
        elif is_data_file_name(name):
            data[name] = info
        elif found := [(held, commit) for of, held in by_commit if (commit := of(info.path, partition)) is not None]:
            [(held, commit)] = found
            held[commit] = info
        elif is_vacuum_record(info.path, partition):
            records.append(info)
        elif info.path.startswith(f"{partition.manifests}/"):
            misplaced.append(info)
        elif not is_kept_write(info.path, partition) and not is_decided_write(info.path, partition):
            strange.append(info)
    numbered = [(number_of_types(info.path, partition), info) for info in strange]
    return Inventory(
        partition=partition,
        definition=definition,
        appends=appends,
        compactions=compactions,
        data=data,
        types={number: info for number, info in numbered if number is not None},
        records=tuple(records),
        copies=copies,
        damaged=damaged,
        misplaced=tuple(misplaced),
        stray=stray,
        strange=tuple(info for number, info in numbered if number is None),
    )
