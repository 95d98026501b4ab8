"""Which commits does a partition hold?

Theory of operation. A view is made from one listing of a partition's manifests and a get of each. The listing is
ordered so that appends are seen before the compactions that stand for them (see `metaxy_fs.log.layout`). The view is
a function of the set of manifests, whatever the order in which they arrived, and its commits are ordered by `(time,
commit)`.

Manifests are immutable, so those of the last view of a partition are kept, and the next view gets only the new ones.
"""

import threading
from collections.abc import Sequence

import msgspec
import polars as pl

from metaxy_fs.errors import CorruptObjectError, UnsupportedFormatError
from metaxy_fs.ids import LamportClock
from metaxy_fs.log.layout import Partition, commit_of_append, is_compaction
from metaxy_fs.log.manifest import DataFile, Manifest, decode_manifest, refuse_oversized
from metaxy_fs.log.schema import decode_schema
from metaxy_fs.storage.base import ObjectInfo, Storage


class View(msgspec.Struct, frozen=True):
    """The commits of one partition at one moment, in commit order.

    Attributes:
        partition: Whose commits these are.
        manifests: At least one; a partition without a commit does not exist.
    """

    partition: Partition
    manifests: tuple[Manifest, ...]


class LiveFile(msgspec.Struct, frozen=True, gc=False):
    """A data file that is to be read, and the commit that it belongs to."""

    partition: Partition
    manifest: Manifest
    file: DataFile

    @property
    def path(self) -> str:
        """The file's path below the root."""
        return self.partition.data_file(self.file.name)

    @property
    def schema(self) -> pl.Schema:
        """The file's own columns; files of equal schemas share one object."""
        return decode_schema(bytes(self.manifest.schema))


class ViewLoader:
    """Loads views of the partitions of one root. Safe to share between threads.

    Args:
        storage: The root.
        clock: Shown the time of every commit that is seen.
    """

    def __init__(self, storage: Storage, *, clock: LamportClock) -> None:
        self._storage = storage
        self._clock = clock
        self._kept: dict[Partition, dict[str, Manifest]] = {}
        self._lock = threading.Lock()

    def load(self, partition: Partition) -> View | None:
        """Return a view of what is committed now, None if nothing is.

        Raises:
            CorruptObjectError: A manifest is not to be trusted; no row is left out in silence.
        """
        listed = self._list(partition)
        with self._lock:
            kept = self._kept.get(partition, {})
        manifests = {commit: kept[commit] for commit in listed if commit in kept}
        manifests |= self._fetch(partition, {commit: info for commit, info in listed.items() if commit not in kept})
        with self._lock:
            self._kept[partition] = manifests
        ordered = sorted(manifests.values(), key=lambda manifest: (manifest.time, manifest.commit))
        return View(partition, tuple(ordered)) if ordered else None

    def has_commit(self, partition: Partition) -> bool:
        """Whether a partition holds any commit; costs one listing of one name."""
        return bool(self._storage.list(partition.manifests, limit=1))

    def _list(self, partition: Partition) -> dict[str, ObjectInfo]:
        """Return the manifests of single writes by commit."""
        listed = {}
        for info in self._storage.list(partition.manifests):
            name = f"{self._storage.location}/{info.path}"
            if is_compaction(info.path, partition):
                raise UnsupportedFormatError(
                    f"{name} is a compaction, which this metaxy_fs cannot read. Upgrade metaxy_fs."
                )
            commit = commit_of_append(info.path, partition)
            if commit is None:
                raise CorruptObjectError(
                    f"{name} is no manifest, and nothing else belongs there. Remove it if you know it."
                )
            refuse_oversized(info.size, name=name)
            listed[commit] = info
        return listed

    def _fetch(self, partition: Partition, wanted: dict[str, ObjectInfo]) -> dict[str, Manifest]:
        fetched = self._storage.get_many(list(wanted.values())) if wanted else []
        manifests = {}
        for (commit, info), data in zip(wanted.items(), fetched, strict=True):
            name = f"{self._storage.location}/{info.path}"
            manifests[commit] = decode_manifest(data, partition=partition, commit=commit, name=name)
            self._clock.observe(manifests[commit].time)
        return manifests


def live_files(views: Sequence[View]) -> list[LiveFile]:
    """Return the data files of all views, in commit order across them."""
    commits = [(view.partition, manifest) for view in views for manifest in view.manifests]
    commits.sort(key=lambda pair: (pair[1].time, pair[1].commit))
    return [LiveFile(partition, manifest, file) for partition, manifest in commits for file in manifest.files]
