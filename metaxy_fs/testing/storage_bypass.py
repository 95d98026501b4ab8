"""What a storage puts is what others find, and what others put is what it finds."""

import pytest

from metaxy_fs.errors import ObjectExistsError
from metaxy_fs.storage import ObjectInfo, ObjectRange, Storage
from metaxy_fs.testing.storage_cases import Bypass, StorageCase, at_once, sizes
from metaxy_fs.testing.storage_places import ODD_NAMES

DATA = {"empty": b"", "a/b.bin": b"\x00\xff\r\n", "a/large": bytes(range(256)) * 8192}


class StorageBypass(StorageCase):
    """Tests that compare what a storage says with what is kept."""

    @pytest.mark.parametrize("path", DATA)
    def test_put_keeps_the_bytes_as_they_are(self, storage: Storage, bypass: Bypass, path: str) -> None:
        storage.put(path, DATA[path])

        assert bypass.get(path) == DATA[path]

    def test_put_keeps_odd_names_as_they_are(self, storage: Storage, bypass: Bypass) -> None:
        for name in ODD_NAMES:
            storage.put(f"odd/{name}", name.encode())

        assert [bypass.get(f"odd/{name}") for name in ODD_NAMES] == [name.encode() for name in ODD_NAMES]

    def test_put_that_is_refused_keeps_the_first_bytes(self, storage: Storage, bypass: Bypass) -> None:
        storage.put("a", b"first")
        with pytest.raises(ObjectExistsError):
            storage.put("a", b"other")

        assert bypass.get("a") == b"first"

    def test_put_on_a_name_that_another_program_took_is_refused(self, storage: Storage, bypass: Bypass) -> None:
        bypass.put("a/b", b"theirs")
        with pytest.raises(ObjectExistsError):
            storage.put("a/b", b"ours")

        assert bypass.get("a/b") == b"theirs"

    def test_one_of_many_threads_is_kept(self, storage: Storage, bypass: Bypass) -> None:
        def put(racer: int) -> bool:
            try:
                storage.put("race", f"{racer}".encode())
            except ObjectExistsError:
                return False
            return True

        won = at_once(put)
        assert bypass.get("race") == f"{won.index(True)}".encode()

    def test_deleted_object_is_kept_no_longer(self, storage: Storage, bypass: Bypass) -> None:
        storage.put("a/b", b"1")
        storage.put("a/c", b"2")
        storage.delete("a/b")

        assert (bypass.get("a/b"), bypass.get("a/c")) == (None, b"2")

    def test_objects_of_another_program_are_found(self, storage: Storage, bypass: Bypass) -> None:
        for path, data in DATA.items():
            bypass.put(path, data)

        assert sizes(storage.list("")) == {path: len(data) for path, data in DATA.items()}
        assert {path: storage.get(path) for path in DATA} == DATA
        assert storage.get_many([ObjectInfo(path, len(data)) for path, data in DATA.items()]) == list(DATA.values())
        assert storage.get_optional([*DATA, "missing"], max_bytes=2**22) == [*DATA.values(), None]
        assert storage.get_ranges([ObjectRange("a/large", 3, 300)]) == [DATA["a/large"][3:300]]

    def test_deleted_object_of_another_program_is_kept_no_longer(self, storage: Storage, bypass: Bypass) -> None:
        bypass.put("a/b", b"theirs")
        storage.delete("a/b")

        assert bypass.get("a/b") is None
