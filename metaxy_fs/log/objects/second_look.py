"""What becomes of bytes that are not those of the object that was asked for?

An answer can be whole and wrong: a broken proxy or cache has sent another one, or a bit was flipped on the way. The
object itself may be as it was written. So what a checksum, or a decoder, refuses is fetched once more before the object
is called corrupt. That costs a request where something is wrong, and nothing elsewhere.
"""

from collections.abc import Callable
from typing import TypeVar

from metaxy_fs.errors import CorruptObjectError
from metaxy_fs.storage.base import ObjectInfo, ObjectRange, Storage

T = TypeVar("T")


def taken(storage: Storage, wanted: ObjectInfo | ObjectRange, data: bytes, check: Callable[[bytes], T]) -> T:
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
        again = fetched_anew(storage, wanted)
        if again == data:
            raise
    return check(again)


def right_bytes(
    storage: Storage, wanted: ObjectInfo | ObjectRange, data: bytes, check: Callable[[bytes], object]
) -> bytes:
    """Return bytes that were fetched, or those that are fetched in their place, as `taken` does, if a check passes."""

    def checked(found: bytes) -> bytes:
        check(found)
        return found

    return taken(storage, wanted, data, checked)


def find_right(storage: Storage, path: str, *, limit: int, check: Callable[[bytes], object]) -> bytes | None:
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
    [data] = storage.find([path], limit=limit)
    if data is None:
        return None
    try:
        check(data)
    except CorruptObjectError:
        [again] = storage.find([path], limit=limit)
        if again is None or again == data:
            raise
        check(again)
        return again
    return data


def fetched_anew(storage: Storage, wanted: ObjectInfo | ObjectRange) -> bytes:
    """Return the bytes of an object or a part of one, past what a cache has kept of it."""
    storage.forget(wanted)
    [data] = storage.get_many([wanted]) if isinstance(wanted, ObjectInfo) else storage.get_ranges([wanted])
    return data
