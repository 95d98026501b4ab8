"""Get an object and check it, get it again where it is wrong, and put one whose answer may be lost.

An answer can be whole and wrong: a broken proxy or cache has sent another one, or a bit was flipped on the way. The
object itself may be as it was written. So what a checksum, or a decoder, refuses is fetched once more before the object
is called corrupt. That costs a request where something is wrong, and nothing elsewhere.

`Storage.get_many` raises for the first that is. Here each object comes with its bytes or with what went wrong, and no
more than a few batches are held at a time.

A put that fails has an unknown outcome: the request may have been applied and its answer lost. The writer then gets
the object back. The same bytes mean success, absence means that the same bytes are put again under the same name, and
anything else means that somebody else holds the name.

Small objects say it, which are never changed: the first writer puts them, and each later one gets them and refuses what
it cannot agree to. A process does so once, before the first object that depends on it. Jobs that write once pay for
that with each write, so those that a write needs are got at once, and the ones that are missing are put at once.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from functools import partial
from typing import Final, Literal, NamedTuple, TypeVar

import msgspec

from metaxy_fs.errors import (
    CorruptObjectError,
    MetaxyError,
    ObjectExistsError,
    StorageAccessError,
    StorageError,
    about,
)
from metaxy_fs.ids import elapsed, pause, random_token
from metaxy_fs.log.decoding import decode_manifest, refuse_oversized
from metaxy_fs.log.layout import Partition, clock_probe, feature_of
from metaxy_fs.log.manifest import Manifest
from metaxy_fs.parallel import asked, batched, one, ordered_map
from metaxy_fs.storage.base import NoRoomError, NotDurableError, ObjectInfo, ObjectRange, Storage

Severity = Literal["error", "warning", "note"]


class Finding(msgspec.Struct, frozen=True, order=True):
    """One thing that is not as it should be, and what to do about it.

    Attributes:
        path: The object, below the root.
        severity: `"error"`: rows are wrong, lost, or cannot be read or written. `"warning"`: all rows are right, but
            something that protects them is gone. `"note"`: nothing is wrong, but it is worth knowing.
        problem: What is the matter with the object.
        remedy: What to do.
    """

    path: str
    severity: Severity
    problem: str
    remedy: str


RESTORE = (
    "Restore it from a backup or from an earlier version of it in the bucket, and find out who changed it; until then "
    "reads that need it fail."
)
UNSEEN = "Nobody has seen what it holds: remove what keeps it from being read, and verify again."
FOREIGN = "A writer other than metaxy_fs made it; tell them, and write its rows again."
REPAIR = "`metaxy-fs repair` rebuilds it if all data files of the commit are there; until then the partition is closed."
ORPHAN = (
    "A write did not finish, or is still under way. If you know that it was committed, `metaxy-fs repair` restores its "
    "manifest."
)
SUPERSEDED = "`metaxy-fs vacuum` removes them in time."
GONE = "`metaxy-fs repair` restores them if their data files are there; until then reads at the snapshot fail."
LOST = (
    "`metaxy-fs repair` restores them if their data files are there; restore those from a backup that are missing or "
    "damaged. Until then vacuum leaves the partition as it is. To give the commits up, move this file out of the root."
)
UPGRADE = "Upgrade metaxy_fs."


T = TypeVar("T")


def decode_or_refetch(
    storage: Storage, wanted: ObjectInfo | ObjectRange, data: bytes, check: Callable[[bytes], T]
) -> T:
    """Return what is made of bytes that were fetched, or of those that are fetched in their place.

    Args:
        storage: Where they are from.
        wanted: What they are of.
        data: The bytes.
        check: Makes something of the bytes; raises if they cannot be those that were put.

    Raises:
        CorruptObjectError: Both times they cannot be.
        StorageError: They could not be fetched again.
    """
    try:
        return check(data)
    except CorruptObjectError:
        with _about(storage, wanted.path):
            again = refetch(storage, wanted)
            if again == data:
                raise
            return check(again)


def checked_bytes(
    storage: Storage, wanted: ObjectInfo | ObjectRange, data: bytes, check: Callable[[bytes], object]
) -> bytes:
    """Return bytes that pass a check: those that were fetched, or those that are fetched in their place."""

    def checked(found: bytes) -> bytes:
        check(found)
        return found

    return decode_or_refetch(storage, wanted, data, checked)


def get_checked(storage: Storage, path: str, *, limit: int, check: Callable[[bytes], object]) -> bytes | None:
    """Return the bytes of an object of unknown size, None if there is none; found once more if they cannot be right.

    Args:
        storage: Where it is.
        path: The object.
        limit: The most bytes that it may have.
        check: Raises if they cannot be those that were put.

    Raises:
        CorruptObjectError: Both times they cannot be.
        StorageError: They could not be got.
    """
    [data] = storage.get_optional([path], max_bytes=limit)
    return None if data is None else _checked_again(storage, path, data, limit=limit, check=check)


def _checked_again(storage: Storage, path: str, data: bytes, *, limit: int, check: Callable[[bytes], object]) -> bytes:
    """Return bytes that pass a check: those of an object that were got, or those that are got in their place."""
    with _about(storage, path):
        try:
            check(data)
        except MetaxyError:  # a flipped bit may also make what is right in itself, and is to be refused
            [again] = storage.get_optional([path], max_bytes=limit)
            if again is None or again == data:
                raise
            check(again)
            return again
    return data


def _about(storage: Storage, path: str) -> AbstractContextManager[None]:
    return about(feature=feature_of(path), root=storage.location, path=path)


def refetch(storage: Storage, wanted: ObjectInfo | ObjectRange) -> bytes:
    """Return the bytes of an object or a part of one, past what a cache has kept of it."""
    storage.invalidate(wanted)
    [data] = storage.get_many([wanted]) if isinstance(wanted, ObjectInfo) else storage.get_ranges([wanted])
    return data


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
    batches = batched(wanted, (one, _BATCH_OBJECTS), (lambda each: each[1].size, _BATCH_BYTES))
    for batch, fetched in ordered_map(partial(_with_bytes, storage), batches):
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
        return decode_or_refetch(storage, info, data, decode)
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


_ATTEMPTS = 3
_FIRST_PAUSE_SECONDS = 0.1
_DEADLINE_SECONDS = 30.0


class SilentRefusalError(StorageAccessError):
    """A put was refused, and whether it had been applied before cannot be asked."""


def put_idempotent(storage: Storage, path: str, data: bytes) -> None:
    """Put an object until its outcome is known.

    Raises:
        ObjectExistsError: Another object holds the name.
        NotDurableError: It is there, and a crash may lose it.
        StorageAccessError: The root refused. Nothing was written, or it refuses to say (`SilentRefusalError`).
        NoRoomError: Nothing was written.
        StorageError: It may be written or not, and a request that is still on its way may do it yet.
    """
    started = elapsed()
    for attempt in range(_ATTEMPTS):
        try:
            return storage.put(path, data)
        except NotDurableError:
            raise  # that it is there proves nothing
        except StorageError as error:
            # A refusal too: clients repeat what was cut off, and it was perhaps the repetition that was refused.
            if _has_landed(storage, path, data, error=error):
                return None
            if isinstance(error, ObjectExistsError | StorageAccessError):
                raise
            # A storage that repeats requests by itself has spent its time, and so has what went on for long.
            if attempt == _ATTEMPTS - 1 or elapsed() - started > _DEADLINE_SECONDS:
                kind = NoRoomError if isinstance(error, NoRoomError) else StorageError
                raise kind(f"{error}; it is not there so far", root=storage.location, path=path) from error
            pause(_FIRST_PAUSE_SECONDS * 2**attempt)
    raise AssertionError("unreachable: the last attempt returns or raises")


def _has_landed(storage: Storage, path: str, data: bytes, *, error: StorageError) -> bool:
    """Whether an object has these bytes, whose put failed; one with others takes the name for good."""
    try:
        found = _found(storage, path, data)
        if found is False:  # bytes may have been damaged on their way here
            found = _found(storage, path, data)
    except StorageError as question:
        kind = SilentRefusalError if isinstance(error, StorageAccessError) else StorageError
        raise kind(
            f"{error}; nor could it be asked whether it is there all the same: {question}",
            root=storage.location,
            path=path,
        ) from question
    if found is False:
        raise ObjectExistsError(
            f"{storage.location}/{path} already exists with other content.", root=storage.location, path=path
        )
    return found is True


def _found(storage: Storage, path: str, data: bytes) -> bool | None:
    """Return whether an object has these bytes, None if there is none."""
    try:
        [stored] = storage.get_optional([path], max_bytes=len(data))
    except CorruptObjectError:  # it is larger
        return False
    return None if stored is None else stored == data


MAX_SHARED_BYTES: Final = 8 * 1024 * 1024
"""More than any of these objects has; what is larger is not fetched to its end."""


class SharedObject(NamedTuple):
    """An object that all writers share.

    Attributes:
        path: Where it is.
        data: What to put if nobody has.
        check: Called with the bytes that are there; raises if this writer cannot agree to them.
        before_put: Called before it is put; what it raises ends the write.
    """

    path: str
    data: bytes
    check: Callable[[bytes], object]
    before_put: Callable[[], object] = lambda: None


def ensure_shared(storage: Storage, objects: Sequence[SharedObject]) -> list[bytes]:
    """Return what is there of each object, in their order; what was missing has been put.

    Nothing is put if one that is there is refused.

    Raises:
        CorruptObjectError: One of them is larger than any may be.
        StorageError: One of them could be neither got nor put.
    """
    found = storage.get_optional([each.path for each in objects], max_bytes=MAX_SHARED_BYTES)
    found = [None if data is None else _checked(storage, each, data) for each, data in zip(objects, found, strict=True)]
    missing = [each for each, data in zip(objects, found, strict=True) if data is None]
    put = iter(asked(partial(_put_or_get, storage), missing, is_remote=storage.is_remote))
    return [next(put) if data is None else data for data in found]


def _put_or_get(storage: Storage, shared: SharedObject) -> bytes:
    shared.before_put()
    try:
        storage.put(shared.path, shared.data)
    except (StorageAccessError, NotDurableError):
        raise
    except StorageError as error:  # another first writer was faster, or this put landed and its answer was lost
        [data] = storage.get_optional([shared.path], max_bytes=MAX_SHARED_BYTES)
        if data is None:
            raise error from None
        return _checked(storage, shared, data)
    return shared.data


def _checked(storage: Storage, shared: SharedObject, data: bytes) -> bytes:
    """Return what is there, if this writer can agree to it; looked at twice where it cannot be decoded."""
    return _checked_again(storage, shared.path, data, limit=MAX_SHARED_BYTES, check=shared.check)


_CLOCK_ATTEMPTS: Final = 3
_CLOCK_PAUSE_SECONDS: Final = 0.1


def storage_time(storage: Storage) -> datetime:
    """Return the time by the clock of a storage, asked a few times, each under a name of its own.

    What an attempt that failed leaves below `_clock` is for the next vacuum.

    Raises:
        StorageAccessError: The storage refused.
        StorageError: It does not tell when objects were written, or could not be asked.
    """
    for attempt in range(_CLOCK_ATTEMPTS - 1):
        try:
            return storage.now(probe=clock_probe(random_token()))
        except StorageAccessError:
            raise
        except StorageError:
            pause(_CLOCK_PAUSE_SECONDS * 2**attempt)
    return storage.now(probe=clock_probe(random_token()))
