"""The checksum at the end of an object tells whether it is as its writer left it."""

import hashlib
import json

import pytest

from metaxy_fs.errors import CorruptObjectError
from metaxy_fs.log.manifest import sealed, unsealed
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.commits import PARTITION, write

OBJECT = b'{"a":1,"b":[{"sha256":"x"}]}'


def test_the_last_field_is_the_checksum_of_what_stands_before_it() -> None:
    data = sealed(OBJECT)
    assert json.loads(data) == json.loads(OBJECT) | {"sha256": hashlib.sha256(OBJECT[:-1]).hexdigest()}
    assert data[:-77] == OBJECT[:-1]
    assert unsealed(data, name="It") == OBJECT


@pytest.mark.parametrize("data", [OBJECT, b"", b"{}", b'"}', b"null"])
def test_an_object_without_a_checksum_is_left_as_it_is(data: bytes) -> None:
    assert unsealed(data, name="It") == data


@pytest.mark.parametrize("position", range(len(OBJECT) - 1))
def test_an_object_of_which_a_byte_changed_is_refused(position: int) -> None:
    data = bytearray(sealed(OBJECT))
    data[position] ^= 1
    with pytest.raises(CorruptObjectError, match="The manifest x does not have the checksum"):
        unsealed(bytes(data), name="The manifest x")


def test_manifests_are_sealed() -> None:
    storage = MemoryStorage()
    data = storage.get(PARTITION.append_manifest(write(storage, 1).commit))
    assert json.loads(data)["sha256"] == hashlib.sha256(data[:-77]).hexdigest()
