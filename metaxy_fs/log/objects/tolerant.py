"""How are many objects got, some of which may be damaged, gone or out of reach?

`Storage.get_many` raises for the first that is. Here each object comes with its bytes or with what went wrong, and no
more than a few batches are held at a time.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TypeVar

from metaxy_fs.errors import CorruptObjectError, MetaxyError, StorageError
from metaxy_fs.log.objects.decoding import decode_manifest, refuse_oversized
from metaxy_fs.log.objects.layout import Partition
from metaxy_fs.log.objects.manifest import Manifest
from metaxy_fs.log.objects.second_look import taken
from metaxy_fs.parallel import ordered_map
from metaxy_fs.storage.base import ObjectInfo, Storage

Subject = TypeVar("Subject")
Fetched = bytes | StorageError | CorruptObjectError

_BATCH_OBJECTS = 256
_BATCH_BYTES = 64 * 1024 * 1024
_AT_ONCE = 16


def fetch_each(
    storage: Storage, wanted: Iterable[tuple[Subject, ObjectInfo]]
) -> Iterator[tuple[Subject, ObjectInfo, Fetched]]:
    """Yield, in order, each object that is wanted: for whom, its info, and its bytes or the error that says why not.

    `wanted` is taken as it is needed. One batch is fetched while the one before it is used.
    """
    for batch, fetched in ordered_map(partial(_with_bytes, storage), _batches(wanted)):
        for (subject, info), data in zip(batch, fetched, strict=True):
            yield subject, info, data


def decode_each(
    storage: Storage, partition: Partition, listed: Mapping[str, ObjectInfo], *, is_compaction: bool = False
) -> Iterator[tuple[str, ObjectInfo, Manifest | MetaxyError, bytes | None]]:
    """Yield each listed manifest: its commit, its info, it or the error that says why not, and its bytes.

    Those that are too large come first, and without bytes, since they are not got; the others in order. One that could
    not be got has no bytes, `b""`.
    """
    fetchable = {}
    for commit, info in listed.items():
        try:
            refuse_oversized(info.size, name=info.path, is_compaction=is_compaction)
            fetchable[commit] = info
        except CorruptObjectError as error:
            yield commit, info, error, None
    for commit, info, data in fetch_each(storage, fetchable.items()):
        decode = partial(
            decode_manifest, partition=partition, commit=commit, name=info.path, is_compaction=is_compaction
        )
        yield commit, info, _decoded(storage, info, data, decode), data if isinstance(data, bytes) else b""


def _decoded(
    storage: Storage, info: ObjectInfo, data: Fetched, decode: Callable[[bytes], Manifest]
) -> Manifest | MetaxyError:
    if isinstance(data, Exception):
        return data
    try:
        return taken(storage, info, data, decode)
    except (CorruptObjectError, StorageError) as error:
        return error


def _with_bytes(
    storage: Storage, batch: list[tuple[Subject, ObjectInfo]]
) -> tuple[list[tuple[Subject, ObjectInfo]], list[Fetched]]:
    infos = [info for _, info in batch]
    try:
        return batch, list(storage.get_many(infos))
    except (StorageError, CorruptObjectError):
        return batch, list(ordered_map(partial(_get, storage), infos, workers=_AT_ONCE))


def _get(storage: Storage, info: ObjectInfo) -> Fetched:
    try:
        return storage.get_many([info])[0]
    except (StorageError, CorruptObjectError) as error:
        return error


def _batches(wanted: Iterable[tuple[Subject, ObjectInfo]]) -> Iterator[list[tuple[Subject, ObjectInfo]]]:
    batch: list[tuple[Subject, ObjectInfo]] = []
    size = 0
    for subject, info in wanted:
        if batch and (len(batch) == _BATCH_OBJECTS or size + info.size > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((subject, info))
        size += info.size
    if batch:
        yield batch
