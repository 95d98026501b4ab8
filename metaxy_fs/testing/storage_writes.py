"""Tests of a storage: puts and deletes take effect at once, whole, and once."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from metaxy_fs.errors import ObjectExistsError, ObjectNotFoundError
from metaxy_fs.storage import ObjectInfo, Storage
from metaxy_fs.testing.storage_cases import RACERS, StorageCase, at_once, sizes


class StorageWrites(StorageCase):
    """Tests of `put`, `delete`, `now` and `list_temporaries`."""

    def test_put_object_is_read_back(self, storage: Storage) -> None:
        storage.put("a/b.bin", b"\x00\xff\r\n")

        assert storage.get("a/b.bin") == b"\x00\xff\r\n"

    def test_empty_object_is_read_back(self, storage: Storage) -> None:
        storage.put("a", b"")

        assert storage.get("a") == b""
        assert storage.get_many([ObjectInfo("a", 0)]) == [b""]
        assert sizes(storage.list("")) == {"a": 0}

    def test_object_of_nine_megabytes_is_read_back(self, storage: Storage) -> None:
        data = bytes(range(256)) * (9 * 4096)
        storage.put("large", data)

        assert storage.get("large") == data
        assert storage.get_many([ObjectInfo("large", len(data))]) == [data]

    def test_put_on_a_taken_name_fails_and_changes_nothing(self, storage: Storage) -> None:
        storage.put("a", b"first")

        with pytest.raises(ObjectExistsError, match="'a'"):
            storage.put("a", b"second")
        assert storage.get("a") == b"first"

    def test_put_of_equal_bytes_on_a_taken_name_fails(self, storage: Storage) -> None:
        storage.put("a", b"first")

        with pytest.raises(ObjectExistsError):
            storage.put("a", b"first")

    def test_one_of_many_threads_wins_a_name(self, storage: Storage) -> None:
        def put(racer: int) -> bool:
            try:
                storage.put("race/name", f"racer {racer}".encode())
            except ObjectExistsError:
                return False
            return True

        won = at_once(put)

        assert won.count(True) == 1
        assert storage.get("race/name") == f"racer {won.index(True)}".encode()

    def test_all_of_many_threads_put_names_of_their_own(self, storage: Storage) -> None:
        at_once(lambda racer: storage.put(f"deep/er/{racer:02}", b"x" * racer))

        assert sizes(storage.list("")) == {f"deep/er/{racer:02}": racer for racer in range(RACERS)}

    def test_object_is_never_seen_in_part(self, storage: Storage) -> None:
        data, done = b"0123456789abcdef" * 65_536, threading.Event()
        seen: set[tuple[str, int]] = set()

        def watch() -> None:
            while not done.is_set():
                seen.update(("listed", info.size) for info in storage.list("d"))
                try:
                    seen.add(("read", len(storage.get("d/whole"))))
                except ObjectNotFoundError:
                    continue

        with ThreadPoolExecutor() as pool:
            watching = pool.submit(watch)
            try:
                storage.put("d/whole", data)
            finally:
                done.set()
            watching.result()

        assert seen <= {("listed", len(data)), ("read", len(data))}
        assert storage.get("d/whole") == data

    def test_deleted_object_is_gone_at_once(self, storage: Storage) -> None:
        storage.put("a/b", b"1")

        storage.delete("a/b")
        assert storage.list("") == []
        assert storage.list("a", limit=1) == []
        with pytest.raises(ObjectNotFoundError):
            storage.get("a/b")
        with pytest.raises(ObjectNotFoundError):
            storage.get_many([ObjectInfo("a/b", 1)])

    def test_delete_leaves_every_other_object(self, storage: Storage) -> None:
        paths = ["a", "a-b", "b/c", "b/c.d", "b/cd", "c/a"]
        for path in paths:
            storage.put(path, path.encode())

        storage.delete("b/c")
        assert [info.path for info in storage.list("")] == ["a", "a-b", "b/c.d", "b/cd", "c/a"]
        assert storage.get("b/cd") == b"b/cd"

    def test_delete_of_what_is_not_there_is_done(self, storage: Storage) -> None:
        storage.delete("nothing/here")
        storage.put("a/b", b"1")

        for path in ["a/c", "a/b/c", "b", "a"]:
            storage.delete(path)
        assert storage.get("a/b") == b"1"
        storage.delete("a/b")
        storage.delete("a/b")

    def test_name_of_a_deleted_object_is_free(self, storage: Storage) -> None:
        storage.put("a/b", b"first")
        storage.delete("a/b")

        storage.put("a/b", b"second")
        assert storage.get("a/b") == b"second"

    def test_many_threads_delete_one_object(self, storage: Storage) -> None:
        for name in ["gone", "stays"]:
            storage.put(f"race/{name}", b"1")

        at_once(lambda _racer: storage.delete("race/gone"))
        assert sizes(storage.list("")) == {"race/stays": 1}

    def test_now_is_the_time_of_an_object_that_is_put_then(self, storage: Storage) -> None:
        storage.put("clock/before", b"")
        now = storage.now(probe="clock/probe")
        storage.put("clock/after", b"")

        modified = {info.path: info.modified or now for info in storage.list("clock")}
        # Storages note times in ticks of up to a second.
        assert modified["clock/before"] - timedelta(seconds=1) <= now <= modified["clock/after"] + timedelta(seconds=1)
        assert list(modified) == ["clock/after", "clock/before"]
        assert now.tzinfo is not None

    def test_nothing_is_left_over_by_puts_that_end(self, storage: Storage) -> None:
        assert storage.list_temporaries("") == []
        storage.put("a/b", b"1")
        with pytest.raises(ObjectExistsError):
            storage.put("a/b", b"2")

        assert (
            storage.list_temporaries("") == storage.list_temporaries("a") == storage.list_temporaries("missing") == []
        )
