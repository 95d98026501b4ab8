"""Roots for the tests of maintenance, and ways to damage them."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from metaxy_fs.log import chunks
from metaxy_fs.log.descriptions import PartitionInfo, open_for_writing, shared_partition_file
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.manifest import Definition, Manifest
from metaxy_fs.log.verified_io import ensure_shared
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.commits import PARTITION, VERSION, write


def describe(storage: Storage, partition: Partition, info: PartitionInfo) -> None:
    """Describe a partition, or make sure that it is described as one that goes with this."""
    ensure_shared(storage, [shared_partition_file(storage, partition, info)])


def root() -> tuple[MemoryStorage, Manifest]:
    """A root of three commits, and the manifest of the first, which has two data files."""
    storage = MemoryStorage()
    open_for_writing(storage)
    info = PartitionInfo(
        feature=("video", "processing"),
        definition=Definition(VERSION, {"frames": VERSION}),
        id_columns=("sample_id",),
        spec=msgspec.Raw(b"{}"),
    )
    describe(storage, PARTITION, info)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "MAX_FILE_ROWS", 2)
        first = write(storage, 1, 2, 3)
    write(storage, 2, 4, write_id="job 7")
    write(storage)
    return storage, first


def manifest_of(manifest: Manifest) -> str:
    """The path of a manifest."""
    return PARTITION.append_manifest(manifest.commit)


def replace(storage: Storage, path: str, data: bytes) -> None:
    """Put other bytes in the place of an object."""
    storage.delete(path)
    storage.put(path, data)


def edit(storage: Storage, path: str, change: Callable[[Any], object]) -> None:
    """Change an object that is JSON."""
    content = json.loads(storage.get(path))
    content.pop("sha256", None)  # a liar can seal it, too
    change(content)
    replace(storage, path, json.dumps(content, separators=(",", ":")).encode())


def contents(storage: Storage) -> dict[str, bytes]:
    """Every object by its path."""
    return {info.path: storage.get(info.path) for info in storage.list("")}


def pin(storage: Storage, *commits: str, name: str = "train") -> str:
    """Put a snapshot that names commits, and return its path."""
    partitions = [{"version": PARTITION.version, "commits": " ".join(commits), "schema": None}]
    feature = {"feature": ["video", "processing"], "partitions": partitions, "schema": None}
    store = {"location": None, "features": [feature]}
    snapshot = {"format_version": 1, "name": name, "time": 1, "writer": "a test", "stores": [store]}
    storage.put(f"_snapshots/{name}.json", json.dumps(snapshot).encode())
    return f"_snapshots/{name}.json"
