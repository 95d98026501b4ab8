"""How does a writer make sure of what all writers to a root, or to a partition, agree on?

Small objects say it, which are never changed: the first writer puts them, and each later one gets them and refuses what
it cannot agree to. A process does so once, before the first object that depends on it. Jobs that write once pay for
that with each write, so those that a write needs are got at once, and the ones that are missing are put at once.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from metaxy_fs.errors import CorruptObjectError, StorageAccessError, StorageError
from metaxy_fs.parallel import asked
from metaxy_fs.storage.base import NotDurableError, Storage

MAX_AGREEMENT_BYTES: Final = 8 * 1024 * 1024
"""More than any of these objects has; what is larger is not fetched to its end."""


class Agreement(NamedTuple):
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


def agree(storage: Storage, agreements: Sequence[Agreement]) -> list[bytes]:
    """Return what is there of each agreement, in their order; what was missing has been put.

    Nothing is put if one that is there is refused.

    Raises:
        CorruptObjectError: One of them is larger than any may be.
        StorageError: One of them could be neither got nor put.
    """
    found = storage.find([each.path for each in agreements], limit=MAX_AGREEMENT_BYTES)
    found = [
        None if data is None else _checked(storage, each, data) for each, data in zip(agreements, found, strict=True)
    ]
    missing = [each for each, data in zip(agreements, found, strict=True) if data is None]
    put = iter(_put_all(storage, missing))
    return [next(put) if data is None else data for data in found]


def _put_all(storage: Storage, missing: Sequence[Agreement]) -> list[bytes]:
    return asked(partial(_put_or_find, storage), missing, is_distant=storage.is_distant)


def _put_or_find(storage: Storage, agreement: Agreement) -> bytes:
    agreement.before_put()
    try:
        storage.put(agreement.path, agreement.data)
    except (StorageAccessError, NotDurableError):
        raise
    except StorageError as error:  # another first writer was faster, or this put landed and its answer was lost
        [data] = storage.find([agreement.path], limit=MAX_AGREEMENT_BYTES)
        if data is None:
            raise error from None
        return _checked(storage, agreement, data)
    return agreement.data


def _checked(storage: Storage, agreement: Agreement, data: bytes) -> bytes:
    """Return what is there, if this writer can agree to it; looked at twice where it cannot be decoded."""
    try:
        agreement.check(data)
    except CorruptObjectError:
        [again] = storage.find([agreement.path], limit=MAX_AGREEMENT_BYTES)
        if again is None or again == data:
            raise
        agreement.check(again)
        return again
    return data
