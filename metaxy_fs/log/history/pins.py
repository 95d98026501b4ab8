"""Tell which commits have to be there, since snapshots name them."""

from functools import partial
from typing import NamedTuple

from metaxy_fs.errors import MetaxyError, ObjectNotFoundError
from metaxy_fs.log.history.snapshots import MAX_SNAPSHOT_BYTES, Snapshot, decode_snapshot
from metaxy_fs.log.objects.layout import SNAPSHOTS, Partition, snapshot_of
from metaxy_fs.log.objects.second_look import taken
from metaxy_fs.log.objects.tolerant import fetch_each
from metaxy_fs.storage.base import ObjectInfo, Storage


class Pins(NamedTuple):
    """What the snapshots of a root name of its own commits.

    Attributes:
        commits: The commits of each partition, by the snapshot that names them.
        damaged: The snapshots that cannot be read, and why.
    """

    commits: dict[Partition, dict[str, frozenset[str]]]
    damaged: list[tuple[ObjectInfo, MetaxyError]]

    def naming(self, partition: Partition) -> dict[str, str]:
        """Return each commit of a partition that is named, and a snapshot that names it."""
        found = self.commits.get(partition, {})
        return {commit: name for name, commits in found.items() for commit in commits}


def read_pins(storage: Storage) -> Pins:
    """Return what the snapshots of a root name; those that are dropped meanwhile are left out."""
    pins = Pins({}, [])
    listed = [info for info in storage.list(SNAPSHOTS) if snapshot_of(info.path) and info.size <= MAX_SNAPSHOT_BYTES]
    for _, info, data in fetch_each(storage, ((None, info) for info in listed)):
        try:
            if isinstance(data, Exception):
                raise data
            decode = partial(decode_snapshot, storage=storage, path=info.path)
            _add(pins, taken(storage, info, data, decode))
        except ObjectNotFoundError:
            continue
        except MetaxyError as error:
            pins.damaged.append((info, error))
    return pins


def _add(pins: Pins, snapshot: Snapshot) -> None:
    own = [feature for store in snapshot.stores if store.location is None for feature in store.features]
    for feature in own:
        for pinned in feature.partitions:
            partition = Partition(".".join(feature.feature), pinned.version)
            pins.commits.setdefault(partition, {})[snapshot.name] = pinned.ids
