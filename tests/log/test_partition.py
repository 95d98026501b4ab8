"""A writer refuses to mix its rows with those of another feature."""

import json
from typing import Any

import msgspec
import pytest

from metaxy_fs.errors import CorruptObjectError, MetadataSchemaError, UnsupportedFormatError
from metaxy_fs.log.descriptions import PartitionInfo
from metaxy_fs.log.manifest import Definition
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.commits import PARTITION, VERSION
from tests.log.faulty import FaultyStorage
from tests.log.roots import describe


def info(**changes: Any) -> PartitionInfo:
    fields: dict[str, Any] = {
        "feature": ("video", "processing"),
        "definition": Definition(VERSION, {"frames": VERSION}),
        "id_columns": ("sample_id",),
        "spec": msgspec.Raw(b"{}"),
    }
    return PartitionInfo(**{**fields, **changes})


def test_the_first_writer_leaves_a_description_that_the_next_accepts() -> None:
    storage = FaultyStorage(MemoryStorage())
    describe(storage, PARTITION, info())
    assert [verb for verb, _ in storage.requests] == ["get", "put"]
    storage.requests.clear()
    describe(storage, PARTITION, info())
    assert [verb for verb, _ in storage.requests] == ["get"]


def test_the_slower_of_two_first_writers_accepts_the_description_of_the_faster() -> None:
    storage = MemoryStorage()

    def fault(verb: str, _path: str) -> None:
        if verb == "put":
            describe(storage, PARTITION, info(spec=msgspec.Raw(b'{"note": "same meaning"}')))

    describe(FaultyStorage(storage, fault), PARTITION, info())
    assert b"same meaning" in storage.get(PARTITION.definition_file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id_columns": ("frame", "sample_id")}, r"\['frame', 'sample_id'\].*name them by \['sample_id'\]"),
        ({"feature": ("Video", "processing")}, r"\['Video', 'processing'\].*\['video', 'processing'\]"),
    ],
)
def test_rows_of_another_kind_are_refused(changes: dict[str, Any], message: str) -> None:
    storage = MemoryStorage()
    describe(storage, PARTITION, info())
    with pytest.raises(MetadataSchemaError, match=message):
        describe(storage, PARTITION, info(**changes))


def test_the_order_of_id_columns_does_not_matter() -> None:
    storage = MemoryStorage()
    describe(storage, PARTITION, info(id_columns=("a", "b")))
    first = storage.get(PARTITION.definition_file)
    describe(storage, PARTITION, info(id_columns=("b", "a")))
    assert storage.get(PARTITION.definition_file) == first
    assert json.loads(first)["id_columns"] == ["a", "b"]


def test_a_description_of_a_newer_format_asks_for_an_upgrade() -> None:
    storage = MemoryStorage()
    storage.put(PARTITION.definition_file, b'{"format_version": 2}')
    with pytest.raises(UnsupportedFormatError, match=r"_definition\.json.*Upgrade metaxy_fs"):
        describe(storage, PARTITION, info())


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"format_version": 1}', b"[" * 100_000])
def test_anything_else_is_refused_by_name(data: bytes) -> None:
    storage = MemoryStorage()
    storage.put(PARTITION.definition_file, data)
    with pytest.raises(CorruptObjectError, match=r"video\.processing/0123456789abcdef/_definition\.json"):
        describe(storage, PARTITION, info())
