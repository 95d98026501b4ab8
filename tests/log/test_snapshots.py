"""A snapshot is kept once and whole, and a forged one is never trusted."""

import json
from typing import Any

import msgspec
import pytest

from metaxy_fs.errors import (
    CorruptObjectError,
    ObjectExistsError,
    StorageError,
    UnsupportedFormatError,
)
from metaxy_fs.log import snapshots as module
from metaxy_fs.log.snapshots import (
    UNKNOWN_SCHEMA,
    PinnedFeature,
    PinnedPartition,
    PinnedStore,
    Snapshot,
    drop_snapshot,
    find_snapshot,
    put_snapshot,
    snapshots_of,
)
from metaxy_fs.storage import ObjectInfo
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.faulty import FaultyStorage
from tests.support.storages import Overwriting

VERSION = "0123456789abcdef"


def snapshot(name: str = "s", commits: str = "a b") -> Snapshot:
    partition = PinnedPartition(version=VERSION, commits=commits, schema=msgspec.Raw(b'[["a","int64"]]'))
    feature = PinnedFeature(feature=("video", "raw"), partitions=(partition,), schema=UNKNOWN_SCHEMA)
    return Snapshot(name=name, time=1, writer="a test", stores=(PinnedStore(location=None, features=(feature,)),))


def put(storage: MemoryStorage | FaultyStorage, held: Snapshot) -> None:
    put_snapshot(storage, held, hash_algorithm="sha256")


def forged(**changes: Any) -> MemoryStorage:
    """A root with a snapshot that somebody has changed."""
    inner = MemoryStorage()
    put(inner, snapshot())
    fields = json.loads(inner.get("_snapshots/s.json"))
    fields.pop("sha256")  # a forger can seal it, too
    storage = MemoryStorage()
    storage.put("_snapshots/s.json", json.dumps(fields | changes).encode())
    return storage


def pinned(feature: Any = ("video",), location: Any = None, times: int = 1, **partition: Any) -> dict[str, Any]:
    """What a snapshot saw in one store."""
    partitions = [{"version": VERSION, "commits": "a b", "schema": None} | partition] * times
    return {"location": location, "features": [{"feature": list(feature), "partitions": partitions, "schema": None}]}


class DroppingStorage(MemoryStorage):
    """Somebody drops a snapshot as soon as it was listed."""

    def list(self, directory: str, *, limit: int | None = None) -> list[ObjectInfo]:
        listed = super().list(directory, limit=limit)
        self.delete("_snapshots/a.json")
        return listed


def test_a_snapshot_that_is_dropped_meanwhile_is_none() -> None:
    storage = DroppingStorage()
    for name in ("a", "b"):
        put(storage, snapshot(name))
    assert [held.name for held in snapshots_of(storage)] == ["b"]


def test_a_snapshot_is_found_by_one_request() -> None:
    storage = FaultyStorage(MemoryStorage())
    for name in ("a", "b"):
        put(storage.inner, snapshot(name))  # type: ignore[arg-type]
    assert find_snapshot(storage, "a") == snapshot("a")
    assert [path for _, path in storage.requests] == ["_snapshots/a.json"]


def test_snapshots_are_listed_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH_BYTES", 1)
    storage = FaultyStorage(MemoryStorage())
    for name in ("a", "b", "c"):
        put(storage.inner, snapshot(name))  # type: ignore[arg-type]
    found = snapshots_of(storage)
    assert next(found).name == "a"
    assert [path for verb, path in storage.requests if verb == "get"] == ["_snapshots/a.json"]
    assert [held.name for held in found] == ["b", "c"]


def test_a_snapshot_is_found_again() -> None:
    storage = MemoryStorage()
    for name in ("b", "a", "a-b", "a.json"):
        put(storage, snapshot(name))
    assert [held.name for held in snapshots_of(storage)] == ["a", "a-b", "a.json", "b"]
    assert find_snapshot(storage, "a-b") == snapshot("a-b")
    assert find_snapshot(storage, "c") is None
    assert (drop_snapshot(storage, "a"), drop_snapshot(storage, "a")) == (True, False)
    assert [held.name for held in snapshots_of(storage)] == ["a-b", "a.json", "b"]


def test_what_is_no_snapshot_is_passed_over() -> None:
    storage = MemoryStorage()
    put(storage, snapshot())
    for path in ("_snapshots/.s.json", "_snapshots/notes.txt", "_snapshots/more/s.json", "_snapshots/s.json.bak"):
        storage.put(path, b"?")
    assert [held.name for held in snapshots_of(storage)] == ["s"]


def test_a_name_is_taken_once() -> None:
    storage = MemoryStorage()
    put(storage, snapshot())
    with pytest.raises(ObjectExistsError, match="'s' already"):
        put(storage, snapshot(commits="c"))
    assert find_snapshot(storage, "s") == snapshot()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_put_whose_answer_is_lost_is_settled(when: str) -> None:
    left = [when]
    storage = FaultyStorage(MemoryStorage())
    storage.fault = lambda verb, path: left.pop() if left and (verb, path) == ("put", "_snapshots/s.json") else None
    put(storage, snapshot())
    assert not left
    assert find_snapshot(storage, "s") == snapshot()


def test_a_snapshot_that_no_reader_would_take_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    monkeypatch.setattr(module, "MAX_SNAPSHOT_BYTES", 100)
    with pytest.raises(StorageError, match="Nothing was kept"):
        put(storage, snapshot())
    assert storage.list("") == []


def test_a_storage_that_overwrites_keeps_none() -> None:
    storage = Overwriting()
    with pytest.raises(StorageError, match="a snapshot could be replaced"):
        put(storage, snapshot())
    assert list(snapshots_of(storage)) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": "other"}, "'other'"),
        ({"name": "../s"}, "'../s'"),
        ({"more": 1}, "more"),
        ({"time": -1}, "time"),
        ({"stores": 1}, "stores"),
        ({"stores": []}, "does not begin"),
        ({"stores": [pinned(location="./dev")]}, "does not begin"),
        ({"stores": [pinned(), pinned()]}, "twice"),
        ({"stores": [pinned() | {"features": pinned()["features"] * 2}]}, "twice"),
        ({"stores": [pinned(feature=["a.b"])]}, r"'a\.b'"),
        ({"stores": [pinned(), pinned(location=1)]}, "location"),
        ({"stores": [pinned(times=2)]}, "twice"),
        ({"stores": [pinned(feature=[".."])]}, r"'\.\.'"),
        ({"stores": [pinned(feature=["a/b"])]}, "'a/b'"),
        ({"stores": [pinned(feature=[])]}, r"\[\]"),
        ({"stores": [pinned(version="../../etc/passwd")]}, "16 hex digits"),
        ({"stores": [pinned(commits="")]}, "commits"),
        ({"stores": [pinned(commits="a  b")]}, "commits"),
        ({"stores": [pinned(commits="a/../b")]}, "commits"),
        ({"stores": [pinned(commits="ü")]}, "commits"),
        ({"stores": [pinned(schema=[["a", "no type"]])]}, "schema"),
    ],
    ids=str,
)
def test_a_forged_snapshot_is_refused_by_name(changes: dict[str, Any], problem: str) -> None:
    assert find_snapshot(forged(stores=[pinned(), pinned(location="a")]), "s") is not None
    storage = forged(**changes)
    with pytest.raises(CorruptObjectError, match=problem) as caught:
        find_snapshot(storage, "s")
    assert "_snapshots/s.json" in str(caught.value)
    assert drop_snapshot(storage, "s")


def test_a_snapshot_of_a_newer_format_asks_for_an_upgrade() -> None:
    with pytest.raises(UnsupportedFormatError, match="Upgrade"):
        find_snapshot(forged(format_version=2, stores="something else"), "s")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"{}", b"[" * 100_000], ids=lambda data: repr(data[:5]))
def test_what_is_no_json_is_refused(data: bytes) -> None:
    storage = MemoryStorage()
    storage.put("_snapshots/s.json", data)
    with pytest.raises(CorruptObjectError, match="cannot be decoded"):
        find_snapshot(storage, "s")


def test_a_snapshot_of_a_size_that_none_has_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = FaultyStorage(MemoryStorage())
    put(storage.inner, snapshot())  # type: ignore[arg-type]
    monkeypatch.setattr(module, "MAX_SNAPSHOT_BYTES", 10)
    with pytest.raises(CorruptObjectError, match="more than the 10"):
        list(snapshots_of(storage))
    assert not [path for verb, path in storage.requests if verb == "get"]
    with pytest.raises(CorruptObjectError, match="more than the 10"):
        find_snapshot(storage, "s")
