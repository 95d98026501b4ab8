"""Tests of a storage: names are taken literally, and a root is the same wherever it is opened."""

import pickle  # a storage travels to worker processes; nothing is read from elsewhere
from pathlib import Path

import pytest

from metaxy_fs.errors import ObjectNotFoundError, StorageError
from metaxy_fs.storage import ObjectInfo, ObjectRange, Storage
from metaxy_fs.testing.storage_cases import StorageCase

ODD_NAMES = [
    *("two words", "100%", "%2F", "a#b", "a?b", "a+b", "a=b", "[a]", "a&b", "a*b", "{0}", "a'b", "a,b", "a..b", "-"),
    *("ünï", "日本", "🎈"),
]
OUTSIDE = ["", "/a", "../a", "a/../../b", "a/..", "./a", "a//b", "a/", "a\0b"]


class StoragePlaces(StorageCase):
    """Tests of odd names, of paths that leave the root, and of storages that travel."""

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
            lambda: storage.get_optional([path], max_bytes=1),
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


def read(path: str) -> bytes:
    """Return the bytes of a local file."""
    return Path(path).read_bytes()
