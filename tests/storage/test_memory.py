"""The memory of a process is as strict as a disk."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from metaxy_fs.errors import ObjectExistsError
from metaxy_fs.storage import MemoryStorage


def test_threads_do_not_overwrite_between_looking_and_writing():
    storage = MemoryStorage(wall=lambda: time.sleep(0.05) or 0)

    def put(number):
        try:
            storage.put("race", str(number).encode())
        except ObjectExistsError:
            return "exists"
        return "won"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(put, range(2))) == ["exists", "won"]


def test_time_of_a_write_is_that_of_the_clock_handed_in():
    storage = MemoryStorage(wall=lambda: 1_500_000)
    storage.put("a", b"1")

    assert storage.list("")[0].modified == datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)


def test_bytes_are_copied_in():
    storage, data = MemoryStorage(), bytearray(b"1")
    storage.put("a", data)
    data[:] = b"2"

    assert storage.get("a") == b"1"


def test_existing_objects_are_safe_by_construction():
    assert MemoryStorage().put_is_conditional
