"""Fixtures of the tests of the log."""

from collections.abc import Iterator

import pytest

from metaxy_fs.log import verified_io
from metaxy_fs.log.descriptions import open_for_writing
from metaxy_fs.storage.memory import MemoryStorage
from tests.support.storages import StorageClock


@pytest.fixture(scope="module")
def no_pauses() -> Iterator[None]:
    """Repeat what failed at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verified_io, "_FIRST_PAUSE_SECONDS", 0)
        patch.setattr(verified_io, "_CLOCK_PAUSE_SECONDS", 0)
        yield


@pytest.fixture
def clock() -> StorageClock:
    return StorageClock()


@pytest.fixture
def timed_root(clock: StorageClock) -> MemoryStorage:
    """An empty root whose storage has that clock."""
    storage = MemoryStorage(wall=clock)
    open_for_writing(storage)
    return storage
