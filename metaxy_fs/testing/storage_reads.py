"""Tests of a storage: reads return the objects that were asked for, or say that there are none."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from metaxy_fs.errors import CorruptObjectError, ObjectNotFoundError
from metaxy_fs.storage import ObjectInfo, ObjectRange, Storage
from metaxy_fs.testing.storage_cases import RACERS, StorageCase


class StorageReads(StorageCase):
    """Tests of `get`, `find`, `get_many` and `get_ranges`."""

    def test_get_of_a_missing_object_proves_its_absence(self, storage: Storage) -> None:
        with pytest.raises(ObjectNotFoundError, match="'nothing/here'") as caught:
            storage.get("nothing/here")

        assert storage.location in str(caught.value)

    def test_get_of_a_directory_finds_no_object(self, storage: Storage) -> None:
        storage.put("a/b", b"1")

        with pytest.raises(ObjectNotFoundError):
            storage.get("a")

    def test_find_returns_what_is_there_and_none_for_what_is_not(self, storage: Storage) -> None:
        for path, data in {"a/b": b"1", "a/empty": b"", "a/full": b"1234"}.items():
            storage.put(path, data)

        asked = ["a/full", "a", "nothing/here", "a/empty", "a/b", "a/b"]
        assert storage.get_optional(asked, max_bytes=4) == [b"1234", None, None, b"", b"1", b"1"]
        assert storage.get_optional(["not/there"], max_bytes=0) == [None]
        assert storage.get_optional([], max_bytes=4) == []

    def test_find_refuses_a_larger_object_by_name(self, storage: Storage) -> None:
        storage.put("a/small", b"1234")
        storage.put("a/large", b"12345")

        with pytest.raises(CorruptObjectError, match=r"'a/large'.* 4 bytes"):
            storage.get_optional(["a/small", "a/large"], max_bytes=4)

    def test_get_many_returns_objects_in_the_order_asked(self, storage: Storage) -> None:
        infos = [ObjectInfo(f"many/{number}", len(str(number))) for number in range(300)]
        with ThreadPoolExecutor(RACERS) as pool:
            list(pool.map(lambda number: storage.put(f"many/{number}", str(number).encode()), range(300)))
        asked = infos[::-1]

        assert storage.get_many(asked) == [info.path.removeprefix("many/").encode() for info in asked]

    def test_get_many_of_nothing_is_nothing(self, storage: Storage) -> None:
        assert storage.get_many([]) == []

    def test_get_many_returns_an_object_as_often_as_asked(self, storage: Storage) -> None:
        storage.put("here", b"1")

        assert storage.get_many([ObjectInfo("here", 1)] * 3) == [b"1"] * 3

    def test_get_many_names_the_missing_object(self, storage: Storage) -> None:
        storage.put("here", b"1")

        with pytest.raises(ObjectNotFoundError, match="'gone'"):
            storage.get_many([ObjectInfo("here", 1), ObjectInfo("gone", 1)])

    @pytest.mark.parametrize("size", [0, 1, 4, 6, 1000])
    def test_get_many_refuses_an_object_of_another_size(self, storage: Storage, size: int) -> None:
        storage.put("here", b"12345")

        with pytest.raises(CorruptObjectError, match="'here'"):
            storage.get_many([ObjectInfo("here", size)])

    def test_get_many_refuses_an_object_that_is_empty_unexpectedly(self, storage: Storage) -> None:
        storage.put("here", b"")

        with pytest.raises(CorruptObjectError, match="'here'"):
            storage.get_many([ObjectInfo("here", 3)])

    def test_get_ranges_returns_parts_in_the_order_asked(self, storage: Storage) -> None:
        storage.put("a", b"0123456789")
        storage.put("b", b"abc")
        ranges = [ObjectRange("a", 4, 10), ObjectRange("b", 0, 3), ObjectRange("a", 0, 1), ObjectRange("a", 3, 5)]

        assert storage.get_ranges(ranges) == [b"456789", b"abc", b"0", b"34"]
        assert storage.get_ranges([]) == []
        many = [ObjectRange("a", number % 10, number % 10 + 1) for number in range(300)]
        assert b"".join(storage.get_ranges(many)) == b"0123456789" * 30

    def test_get_ranges_names_the_missing_object(self, storage: Storage) -> None:
        storage.put("here", b"1")

        with pytest.raises(ObjectNotFoundError, match="'gone'"):
            storage.get_ranges([ObjectRange("here", 0, 1), ObjectRange("gone", 0, 1)])

    @pytest.mark.parametrize(("start", "end"), [(0, 6), (4, 6), (5, 6), (100, 110)])
    def test_get_ranges_refuses_an_object_that_is_too_short(self, storage: Storage, start: int, end: int) -> None:
        storage.put("here", b"12345")

        with pytest.raises(CorruptObjectError, match="'here'"):
            storage.get_ranges([ObjectRange("here", start, end)])
