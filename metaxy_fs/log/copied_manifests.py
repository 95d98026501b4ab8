"""What a copy takes of a partition: manifests, and the objects that they name.

Where rows are left out, the manifests that hold any are written anew: a compaction by itself, since another one may
stand for some of its commits too, and writes together, as many as are merged at once.

Objects that the target has already are relied on where they are what is wanted, and where no vacuum may be about to
remove them.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec
import polars as pl

from metaxy_fs.errors import ObjectExistsError, StorageError
from metaxy_fs.log.commit import MAX_AGE_SECONDS, NAMED_WRITE
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.left_out import LeftOut
from metaxy_fs.log.manifest import CommitTable, DataFile, Manifest
from metaxy_fs.log.merge import BATCH_BYTES, BATCH_FILES, BATCH_ROWS
from metaxy_fs.log.resolve import Covers
from metaxy_fs.log.verified_io import refetch, storage_time
from metaxy_fs.log.view import View
from metaxy_fs.parallel import batched, one
from metaxy_fs.storage.base import ObjectInfo, Storage

_BATCH_FILES = 256


class NamedObject(NamedTuple):
    """A data file or a commit table that a manifest names."""

    path: str
    entry: DataFile | CommitTable


class CopiedManifest(NamedTuple):
    """A manifest that is to be copied, what it names, and the named writes that it stands for."""

    manifest: Manifest
    objects: Sequence[NamedObject]
    named: Sequence[str]


class RewrittenManifests(NamedTuple):
    """Manifests that become one compaction in the target, the named writes among them, and the rows that it lacks."""

    manifests: Sequence[Manifest]
    named: Sequence[str]
    left_out: LeftOut

    @property
    def bytes(self) -> int:
        """The size of the data files in the source."""
        return sum(file.bytes for manifest in self.manifests for file in manifest.files)


def commit_ids(manifest: Manifest) -> frozenset[str]:
    """Return the commits that a manifest stands for."""
    return Covers(manifest.covers).ids if manifest.covers else frozenset([manifest.commit])


def copied_manifest(found: View, manifest: Manifest) -> CopiedManifest:
    """Return a manifest of the source with what it names, and the named writes that a retry has to find."""
    partition = found.partition
    entries: list[DataFile | CommitTable] = [*manifest.files]
    entries += [] if manifest.commits is None else [manifest.commits]
    is_compacted = bool(manifest.covers) or manifest.commit in found.ahead
    return CopiedManifest(
        manifest,
        [NamedObject(partition.data_file(entry.name), entry) for entry in entries],
        _named([manifest]) if is_compacted else [],
    )


def rewritten_manifests(found: Sequence[tuple[Manifest, pl.DataFrame]]) -> Iterator[RewrittenManifests]:
    """Yield manifests of the source that are written anew, in groups that become one.

    Args:
        found: Those that hold rows which are left out, and these rows.
    """
    appends: dict[bytes, list[tuple[Manifest, pl.DataFrame]]] = {}
    for manifest, rows in found:
        alike = msgspec.json.encode((manifest.feature, manifest.definition, manifest.id_columns))
        appends.setdefault(manifest.commit.encode() if manifest.covers else alike, []).append((manifest, rows))
    sizes = (one, BATCH_FILES), (_rows_of, BATCH_ROWS), (_bytes_of, BATCH_BYTES)
    for group in (group for alike in appends.values() for group in batched(alike, *sizes)):
        manifests = [manifest for manifest, _ in group]
        yield RewrittenManifests(manifests, _named(manifests), LeftOut(pl.concat([rows for _, rows in group])))


def _rows_of(item: tuple[Manifest, pl.DataFrame]) -> int:
    return item[0].rows


def _bytes_of(item: tuple[Manifest, pl.DataFrame]) -> int:
    return sum(file.bytes for file in item[0].files)


def _named(manifests: Iterable[Manifest]) -> list[str]:
    return sorted({commit for each in manifests for commit in commit_ids(each) if commit.startswith(NAMED_WRITE)})


def present_objects(
    target: Storage, partition: Partition, existing: View | None, items: Sequence[CopiedManifest]
) -> frozenset[str]:
    """Return the paths of wanted objects that the target has.

    Raises:
        ObjectExistsError: One of them has another size.
        StorageError: One of them may be removed by a vacuum at any moment.
    """
    wanted = {each.path: each.entry for item in items for each in item.objects}
    listed = [info for info in target.list(str(partition)) if info.path in wanted]
    for info in listed:
        if info.size != wanted[info.path].bytes:
            raise ObjectExistsError(f"{target.location}/{info.path} already exists with other content.")
    named = frozenset() if existing is None else {live.path for live in existing.files}
    unnamed = [info for info in listed if info.path not in named and info.modified is not None]
    if unnamed:
        oldest = min(unnamed, key=lambda info: info.modified or datetime.max.replace(tzinfo=UTC))
        now = storage_time(target)
        if oldest.modified is not None and now - oldest.modified > timedelta(seconds=MAX_AGE_SECONDS):
            raise StorageError(
                f"{target.location}/{oldest.path} was left by a copy that was cut short on {oldest.modified:%Y-%m-%d}, "
                "and a vacuum may be about to remove it. Let vacuum remove such files, or remove them yourself while "
                "no vacuum runs, and copy again."
            )
    return frozenset(info.path for info in listed)


def intact_bytes(storage: Storage, wanted: NamedObject) -> bytes | None:
    """Return the bytes of an object, None if they are not those that its manifest describes."""
    info = ObjectInfo(wanted.path, wanted.entry.bytes)
    [data] = storage.get_many([info])
    if not _is_right(data, wanted.entry):
        data = refetch(storage, info)
    return data if _is_right(data, wanted.entry) else None


def _is_right(data: bytes, entry: DataFile | CommitTable) -> bool:
    return hashlib.sha256(data).hexdigest() == entry.sha256


def batches(items: Iterable[CopiedManifest]) -> Iterator[list[CopiedManifest]]:
    """Yield manifests in groups that name a bounded number of objects, if one alone does not name more."""
    return batched(items, (lambda item: len(item.objects), _BATCH_FILES))
