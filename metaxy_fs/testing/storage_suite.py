"""Does a storage keep every sentence of its contract?

class TestMyStorage(StorageSuite):
    @pytest.fixture
    def storage(self):
        return MyStorage(...)
"""

import pickle  # a storage travels to worker processes; nothing is read from elsewhere
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar, TypeVar

import pytest

from metaxy_fs.errors import CorruptObjectError, ObjectExistsError, ObjectNotFoundError, StorageError
from metaxy_fs.storage import ObjectInfo, ObjectRange, Storage

RACERS = 16
Result = TypeVar("Result")
ODD_NAMES = [
    *("two words", "100%", "%2F", "a#b", "a?b", "a+b", "a=b", "[a]", "a&b", "a*b", "{0}", "a'b", "a,b", "a..b", "-"),
    *("ünï", "日本", "🎈"),
]
OUTSIDE = ["", "/a", "../a", "a/../../b", "a/..", "./a", "a//b", "a/", "a\0b"]


class StorageSuite(ABC):
    """Tests of one storage; each gets a fresh, empty one."""

    pickles: ClassVar[bool] = True
    """Whether a storage may be sent to another process; if not, it refuses to be pickled."""

    page: ClassVar[int] = 1000
    """How many objects the storage lists in one request; a subclass that makes its pages smaller saves time."""

    @pytest.fixture
    @abstractmethod
    def storage(self) -> Storage:
        """Return an empty storage that no other test uses."""

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
        assert storage.find(asked, limit=4) == [b"1234", None, None, b"", b"1", b"1"]
        assert storage.find(["not/there"], limit=0) == [None]
        assert storage.find([], limit=4) == []

    def test_find_refuses_a_larger_object_by_name(self, storage: Storage) -> None:
        storage.put("a/small", b"1234")
        storage.put("a/large", b"12345")

        with pytest.raises(CorruptObjectError, match=r"'a/large'.* 4 bytes"):
            storage.find(["a/small", "a/large"], limit=4)

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
        assert storage.leftovers("") == []
        storage.put("a/b", b"1")
        with pytest.raises(ObjectExistsError):
            storage.put("a/b", b"2")

        assert storage.leftovers("") == storage.leftovers("a") == storage.leftovers("missing") == []

    def test_odd_names_are_names_like_any_other(self, storage: Storage) -> None:
        paths = [f"odd {name}/{name}" for name in ODD_NAMES]
        for path in paths:
            storage.put(path, path.encode())

        listed = storage.list("")
        assert [info.path for info in listed] == sorted(paths)
        assert [data.decode() for data in storage.get_many(listed)] == sorted(paths)
        assert [storage.get(path).decode() for path in paths] == paths
        assert storage.list_directories("") == sorted(f"odd {name}" for name in ODD_NAMES)
        assert [storage.list(f"odd {name}")[0].path for name in ODD_NAMES] == paths
        for path in paths:
            storage.delete(path)
        assert storage.list("") == []

    @pytest.mark.parametrize("path", OUTSIDE)
    def test_path_that_leaves_the_root_is_refused(self, storage: Storage, path: str) -> None:
        for verb in (
            lambda: storage.put(path, b""),
            lambda: storage.get(path),
            lambda: storage.find([path], limit=1),
            lambda: storage.get_many([ObjectInfo(path, 0)]),
            lambda: storage.get_ranges([ObjectRange(path, 0, 1)]),
            lambda: storage.delete(path),
        ):
            with pytest.raises(StorageError, match="no path below") as caught:
                verb()
            assert not isinstance(caught.value, ObjectNotFoundError)

    @pytest.mark.parametrize("directory", [path for path in OUTSIDE if path])
    def test_directory_that_leaves_the_root_is_refused(self, storage: Storage, directory: str) -> None:
        for verb in (storage.list, storage.list_directories):
            with pytest.raises(StorageError, match="no path below"):
                verb(directory)

    def test_local_path_is_where_the_bytes_are(self, storage: Storage) -> None:
        storage.put("a/b", b"1")

        path = storage.local_path("a/b")
        assert path is None or read(path) == b"1"

    def test_repr_names_the_class_and_the_location(self, storage: Storage) -> None:
        assert repr(storage) == f"{type(storage).__name__}({storage.location!r})"

    def test_pickled_storage_is_the_same_root(self, storage: Storage) -> None:
        storage.put("before", b"1")
        if not self.pickles:
            with pytest.raises(TypeError, match="cannot be pickled"):
                pickle.dumps(storage)
            return

        copy = pickle.loads(pickle.dumps(storage))  # noqa: S301  # its own bytes

        assert copy.get("before") == b"1"
        copy.put("after", b"2")
        assert storage.get("after") == b"2"
        assert copy.location == storage.location


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


def read(path: str) -> bytes:
    """Return the bytes of a local file."""
    return Path(path).read_bytes()
