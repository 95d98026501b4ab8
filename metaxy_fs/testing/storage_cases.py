"""What the tests of a storage need from those who run them, and the steps that they share."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, Protocol, TypeVar

import pytest

from metaxy_fs.storage import ObjectInfo, Storage

RACERS = 16
Result = TypeVar("Result")


class Bypass(Protocol):
    """A way to the objects of a root that does not lead through the storage: bytes on a disk, requests of a client.

    What a storage reads back of its own puts proves little: it may keep them anywhere, in any form.
    """

    def get(self, path: str) -> bytes | None:
        """Return the bytes of an object as they are kept, None if there is none."""

    def put(self, path: str, data: bytes) -> None:
        """Keep an object, as another program would."""


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

    @pytest.fixture
    @abstractmethod
    def bypass(self, storage: Storage) -> Bypass:
        """Return a way past the storage of the same test."""


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
