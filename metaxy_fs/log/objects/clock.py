"""What time is it by the clock that tells how old the objects of a root are?"""

from datetime import datetime
from typing import Final

from metaxy_fs.errors import StorageAccessError, StorageError
from metaxy_fs.ids import pause, random_token
from metaxy_fs.log.objects.layout import clock_probe
from metaxy_fs.storage.base import Storage

_ATTEMPTS: Final = 3
_FIRST_PAUSE_SECONDS: Final = 0.1


def storage_time(storage: Storage) -> datetime:
    """Return the time by the clock of a storage, asked a few times, each under a name of its own.

    What an attempt that failed leaves below `_clock` is for the next vacuum.

    Raises:
        StorageAccessError: The storage refused.
        StorageError: It does not tell when objects were written, or could not be asked.
    """
    for attempt in range(_ATTEMPTS - 1):
        try:
            return storage.now(probe=clock_probe(random_token()))
        except StorageAccessError:
            raise
        except StorageError:
            pause(_FIRST_PAUSE_SECONDS * 2**attempt)
    return storage.now(probe=clock_probe(random_token()))
