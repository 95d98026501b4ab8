"""What do all manifests of a partition say together, for somebody who is going to delete by it?"""

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from functools import partial
from typing import NamedTuple

from metaxy_fs.errors import CorruptObjectError, ObjectNotFoundError
from metaxy_fs.log.objects.decoding import decode_manifest, refuse_oversized
from metaxy_fs.log.objects.inventory import Inventory, take_inventory
from metaxy_fs.log.objects.layout import Partition
from metaxy_fs.log.objects.manifest import Manifest
from metaxy_fs.log.objects.second_look import taken
from metaxy_fs.log.objects.tolerant import fetch_each
from metaxy_fs.log.views.resolve import Covers, resolve
from metaxy_fs.log.views.view import ATTEMPTS
from metaxy_fs.storage.base import ObjectInfo, Storage


class Survey(NamedTuple):
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


def survey(storage: Storage, partition: Partition) -> Survey:
    """Return what a partition holds.

    Raises:
        CorruptObjectError: Something in it is not understood, so that nobody can tell what it needs.
        StorageError: It could not be read.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return _survey(storage, take_inventory(storage, partition))
        except ObjectNotFoundError:  # a manifest was deleted since it was listed
            continue
    return _survey(storage, take_inventory(storage, partition))


def _survey(storage: Storage, inventory: Inventory) -> Survey:
    if inventory.misplaced:
        raise CorruptObjectError(f"{storage.location}/{inventory.misplaced[0].path} is no manifest.")
    compactions = {
        manifest.commit: manifest
        for manifest in _manifests(storage, inventory, inventory.compactions, is_compaction=True)
    }
    covers = {commit: Covers(manifest.covers) for commit, manifest in compactions.items()}
    counting = resolve(inventory.appends, covers)
    uncovered = {commit: info for commit, info in inventory.appends.items() if commit in counting.appends}
    appends = _manifests(storage, inventory, uncovered, is_compaction=False)
    appended = frozenset(name for manifest in appends for name in _names(manifest))
    return Survey(inventory, compactions, covers, counting.compactions.keys(), appended)


def _manifests(
    storage: Storage, inventory: Inventory, listed: dict[str, ObjectInfo], *, is_compaction: bool
) -> Iterator[Manifest]:
    for info in listed.values():
        refuse_oversized(info.size, name=f"{storage.location}/{info.path}", is_compaction=is_compaction)
    for commit, info, data in fetch_each(storage, listed.items()):
        if isinstance(data, Exception):
            raise data
        name = f"{storage.location}/{info.path}"
        decode = partial(
            decode_manifest,
            partition=inventory.partition,
            commit=commit,
            name=name,
            is_compaction=is_compaction,
        )
        yield taken(storage, info, data, decode)


def _names(manifest: Manifest) -> Iterator[str]:
    return (file.name for file in manifest.named_files)
