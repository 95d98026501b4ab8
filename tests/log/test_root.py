"""A writer recognises a root that it may write to, and a storage that it can trust."""

import pytest

from metaxy_fs.errors import CorruptObjectError, StorageError, UnsupportedFormatError
from metaxy_fs.log.descriptions import Root, find_root, open_for_writing, refuse_overwriting_storage
from metaxy_fs.log.layout import STORE_FILE
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.faulty import FaultyStorage

V1 = Root(b'{"format_version":1,"hash_algorithm":"sha256"}', "sha256")


class Overwriting(FaultyStorage):
    """A storage that ignores put-if-absent, as some servers that speak the S3 protocol do."""

    put_is_conditional = False

    def put(self, path: str, data: bytes) -> None:
        self.requests.append(("put", path))


class Careful(FaultyStorage):
    """A storage of which only a probe can tell that it honours put-if-absent."""

    put_is_conditional = False


def test_the_first_writer_makes_the_root_and_the_next_reads_it() -> None:
    storage = FaultyStorage(MemoryStorage())
    assert open_for_writing(storage, hash_algorithm="sha256") == V1
    assert [verb for verb, _ in storage.requests] == ["get", "put"]
    storage.requests.clear()
    assert open_for_writing(storage, hash_algorithm="sha256") == V1
    assert [verb for verb, _ in storage.requests] == ["get"]


def test_a_root_is_made_with_the_algorithm_that_is_asked_for() -> None:
    storage = MemoryStorage()
    made = open_for_writing(storage, hash_algorithm="blake3")
    assert made == Root(b'{"format_version":1,"hash_algorithm":"blake3"}', "blake3")
    assert storage.get(STORE_FILE) == made.data


def test_a_root_that_there_is_keeps_its_algorithm() -> None:
    storage = MemoryStorage()
    made = open_for_writing(storage, hash_algorithm="blake3")
    assert open_for_writing(storage, hash_algorithm="sha256") == made
    assert find_root(storage) == made


def test_looking_for_a_root_does_not_make_it() -> None:
    storage = FaultyStorage(MemoryStorage())
    assert find_root(storage) is None
    assert storage.requests == [("get", STORE_FILE)]


def test_the_slower_of_two_first_writers_takes_the_root_of_the_faster() -> None:
    storage = MemoryStorage()

    def fault(verb: str, path: str) -> None:
        if verb == "put":
            storage.put(path, V1.data)

    assert open_for_writing(FaultyStorage(storage, fault), hash_algorithm="sha256") == V1


def test_a_root_of_a_newer_format_asks_for_an_upgrade() -> None:
    storage = MemoryStorage()
    storage.put(STORE_FILE, b'{"format_version":2,"hash_algorithm":"new","more":1}')
    with pytest.raises(UnsupportedFormatError, match=r"_store\.json has format version 2.*Upgrade metaxy_fs"):
        open_for_writing(storage, hash_algorithm="sha256")


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"\xff", b"[" * 100_000, b'{"format_version":1,"more":1}', b'{"format_version":"1"}'],
)
def test_anything_else_is_not_taken_for_a_root(data: bytes) -> None:
    storage = MemoryStorage()
    storage.put(STORE_FILE, data)
    with pytest.raises(CorruptObjectError, match=r"memory/_store\.json cannot be decoded"):
        open_for_writing(storage, hash_algorithm="sha256")


@pytest.mark.parametrize("data", [b'{"hash_algorithm":"md5"}', b'{"format_version":0}'])
def test_what_this_library_does_not_know_is_refused(data: bytes) -> None:
    storage = MemoryStorage()
    storage.put(STORE_FILE, data)
    with pytest.raises(CorruptObjectError, match=r"does not know|never existed"):
        open_for_writing(storage, hash_algorithm="sha256")


def test_a_storage_that_overwrites_is_found_out() -> None:
    storage = Overwriting(MemoryStorage())
    with pytest.raises(StorageError, match=r"memory overwrites objects.*so two could both win\. Use a storage"):
        refuse_overwriting_storage(storage, V1, hence="two could both win")
    assert storage.requests == [("put", STORE_FILE)]


def test_a_storage_that_refuses_to_overwrite_is_trusted() -> None:
    storage = Careful(MemoryStorage())
    root = open_for_writing(storage, hash_algorithm="sha256")
    refuse_overwriting_storage(storage, root, hence="two could both win")
    assert storage.get(STORE_FILE) == root.data


def test_a_storage_that_keeps_existing_objects_by_construction_is_not_probed() -> None:
    storage = FaultyStorage(MemoryStorage())
    refuse_overwriting_storage(storage, V1, hence="two could both win")
    assert storage.requests == []
