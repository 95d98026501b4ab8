"""Tests of a storage: listings show what there is, in order."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from metaxy_fs.storage import Storage
from metaxy_fs.testing.storage_cases import RACERS, StorageCase, sizes


class StorageListings(StorageCase):
    """Tests of `list` and `list_directories`."""

    def test_empty_storage_lists_nothing(self, storage: Storage) -> None:
        assert storage.list("") == []
        assert storage.list_directories("") == []

    def test_missing_directory_lists_nothing(self, storage: Storage) -> None:
        storage.put("a/b", b"1")

        assert storage.list("missing") == []
        assert storage.list("a/missing/deep") == []
        assert storage.list("missing", limit=1) == []
        assert storage.list_directories("missing") == []

    def test_list_is_recursive_and_in_the_order_of_paths(self, storage: Storage) -> None:
        # The slash sorts between `-` and `0`, so a directory and its namesakes interleave.
        paths = ["a-b/x", "a/b/c", "a/b.x", "a.x", "a/z", "a0/x", "b", "Z", "a/b-c/x", "é", "_/x"]
        for path in paths:
            storage.put(path, path.encode())

        assert [info.path for info in storage.list("")] == sorted(paths)
        assert [info.path for info in storage.list("a")] == ["a/b-c/x", "a/b.x", "a/b/c", "a/z"]

    def test_list_tells_sizes(self, storage: Storage) -> None:
        storage.put("a/1", b"1")
        storage.put("a/333", b"333")

        assert sizes(storage.list("a")) == {"a/1": 1, "a/333": 3}

    def test_list_tells_the_time_of_the_write_if_any(self, storage: Storage) -> None:
        storage.put("a", b"1")

        [info] = storage.list("")
        now = datetime.now(UTC)  # noqa: TID251  # the storage's clock, not the library's
        assert info.modified is None or abs(now - info.modified) < timedelta(minutes=5)

    def test_directory_is_no_prefix_of_a_name(self, storage: Storage) -> None:
        for path in ["a/x", "ab/x", "a.x"]:
            storage.put(path, b"1")

        assert [info.path for info in storage.list("a")] == ["a/x"]

    def test_limit_keeps_the_first_in_order(self, storage: Storage) -> None:
        for path in ["b/2", "b/1", "a/9", "c"]:
            storage.put(path, b"1")

        assert [info.path for info in storage.list("", limit=1)] == ["a/9"]
        assert [info.path for info in storage.list("", limit=3)] == ["a/9", "b/1", "b/2"]
        assert [info.path for info in storage.list("b", limit=9)] == ["b/1", "b/2"]

    def test_more_objects_are_listed_than_fit_a_page(self, storage: Storage) -> None:
        paths = [f"page/{number:04}" for number in range(2 * self.page + 50)]
        with ThreadPoolExecutor(RACERS) as pool:
            list(pool.map(lambda path: storage.put(path, b""), paths))

        assert [info.path for info in storage.list("page")] == paths
        assert [info.path for info in storage.list("page", limit=self.page + 20)] == paths[: self.page + 20]

    def test_list_directories_names_those_directly_below(self, storage: Storage) -> None:
        for path in ["b/x", "a/x", "a/deep/x", "a-b/x/y", "file"]:
            storage.put(path, b"1")

        assert storage.list_directories("") == ["a", "a-b", "b"]
        assert storage.list_directories("a") == ["deep"]
        assert storage.list_directories("b") == []

    def test_put_is_listed_at_once(self, storage: Storage) -> None:
        for number in range(3):
            assert len(storage.list("a")) == number
            storage.put(f"a/{number}", b"")
