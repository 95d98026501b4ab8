"""Has an object been put, where the answer may be lost?

A put that fails has an unknown outcome: the request may have been applied and its answer lost. The writer then gets
the object back. The same bytes mean success, absence means that the same bytes are put again under the same name, and
anything else means that somebody else holds the name.
"""

from metaxy_fs.errors import CorruptObjectError, ObjectExistsError, StorageAccessError, StorageError
from metaxy_fs.ids import elapsed, pause
from metaxy_fs.storage.base import NoRoomError, NotDurableError, Storage

_ATTEMPTS = 3
_FIRST_PAUSE_SECONDS = 0.1
_DEADLINE_SECONDS = 30.0


class SilentRefusalError(StorageAccessError):
    """A put was refused, and whether it had been applied before cannot be asked."""


def put_settled(storage: Storage, path: str, data: bytes) -> None:
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
                raise kind(f"{error}; it is not there so far") from error
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
        raise kind(f"{error}; nor could it be asked whether it is there all the same: {question}") from question
    if found is False:
        raise ObjectExistsError(f"{storage.location}/{path} already exists with other content.")
    return found is True


def _found(storage: Storage, path: str, data: bytes) -> bool | None:
    """Return whether an object has these bytes, None if there is none."""
    try:
        [held] = storage.find([path], limit=len(data))
    except CorruptObjectError:  # it is larger
        return False
    return None if held is None else held == data
