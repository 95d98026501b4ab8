"""What do the tests of a storage ask of the one who runs them, and do again and again?"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, TypeVar

import pytest

from metaxy_fs.storage import ObjectInfo, Storage

RACERS = 16
Result = TypeVar("Result")


class StorageCase(ABC):
    """What every suite of storages asks of the one who runs it; each test gets a fresh, empty one."""

    pickles: ClassVar[bool] = True
    """Whether a storage may be sent to another process; if not, it refuses to be pickled."""

    page: ClassVar[int] = 1000
    """How many objects the storage lists in one request; a subclass that makes its pages smaller saves time."""

    @pytest.fixture
    @abstractmethod
    def storage(self) -> Storage:
        """Return an empty storage that no other test uses."""


def at_once(work: Callable[[int], Result]) -> list[Result]:
    """Return what each of many threads returns, in their order; all start together."""
    start = threading.Barrier(RACERS)

    def run(racer: int) -> Result:
        start.wait()
        return work(racer)

    with ThreadPoolExecutor(RACERS) as pool:
        return list(pool.map(run, range(RACERS)))


def sizes(infos: list[ObjectInfo]) -> dict[str, int]:
    """Return the size of each listed path."""
    return {info.path: info.size for info in infos}
