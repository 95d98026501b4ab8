"""A view is what is committed, and nothing that a stranger claims."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from metaxy_fs.errors import CorruptObjectError, UnsupportedFormatError
from metaxy_fs.ids import MAX_TIME, LamportClock
from metaxy_fs.log import decoding as decoding_module
from metaxy_fs.log.view import View, ViewLoader
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.commits import PARTITION, VERSION, write
from tests.log.faulty import FaultyStorage

Fields = dict[str, Any]


def load(storage: MemoryStorage) -> View | None:
    return ViewLoader(storage, clock=LamportClock()).load(PARTITION)


def forged(change: Callable[[Fields], object] = lambda _fields: None) -> MemoryStorage:
    """A root whose one manifest was changed by someone else."""
    honest, storage = MemoryStorage(), MemoryStorage()
    path = PARTITION.append_manifest(write(honest, 1).commit)
    fields = json.loads(honest.get(path))
    fields.pop("sha256")  # a forger can seal it, too
    change(fields)
    storage.put(path, json.dumps(fields).encode())
    return storage


def naming(name: str) -> Callable[[Fields], object]:
    """A change that has the manifest name another data file."""
    return lambda fields: fields["files"][0].update(name=name)


HOSTILE: dict[str, tuple[Callable[[Fields], object], str]] = {
    "parent directory": (naming("../other-0.parquet"), "plain name"),
    "absolute name": (naming("/etc/passwd.parquet"), "plain name"),
    "url": (naming("s3://bucket/x.parquet"), "plain name"),
    "url without slashes": (naming("file:x.parquet"), "plain name"),
    "backslash": (naming("..\\x.parquet"), "plain name"),
    "nul byte": (naming("x\0.parquet"), "plain name"),
    "line end": (naming("x.parquet\n"), "plain name"),
    "hidden name": (naming(".x.parquet"), "plain name"),
    "not parquet": (naming("x.json"), "plain name"),
    "another feature": (lambda m: m.update(feature=["audio"]), "belongs to the feature"),
    "another version": (lambda m: m["definition"].update(version="f" * 64), "belongs to the data version"),
    "short version": (lambda m: m["definition"].update(version=VERSION[:16]), "cannot be decoded"),
    "another commit": (lambda m: m.update(commit="20200101T000000.000000Z-0"), "says that it is commit"),
    "unknown field": (lambda m: m.update(surprise=1), "cannot be decoded"),
    "missing field": (lambda m: m.pop("files"), "cannot be decoded"),
    "negative rows": (lambda m: m["files"][0].update(rows=-1), "cannot be decoded"),
    "wrong count": (lambda m: m.update(rows=7), "counts 7 rows"),
    "huge count": (lambda m: m["files"][0].update(rows=2**60), "cannot be decoded"),
    "time after the calendar": (lambda m: m.update(time=MAX_TIME + 1), "cannot be decoded"),
    "no schema": (lambda m: m.update(schema=[["x", "no such type"]]), "no schema that can be read"),
    "column named twice": (lambda m: m.update(schema=[*m["schema"], m["schema"][0]]), "no schema that can be read"),
    "no ids": (lambda m: m.update(id_columns=[]), "names samples by the columns"),
    "an id that is no column": (lambda m: m.update(id_columns=["nothing"]), "names samples by the columns"),
    "an id twice": (lambda m: m.update(id_columns=["sample_id", "sample_id"]), "names samples by the columns"),
    "covers": (lambda m: m.update(covers="a"), "covers others"),
    "schemas": (lambda m: m.update(schemas=[m["schema"]]), "only a compaction"),
    "file of another commit": (lambda m: m["files"][0].update(commit="a", time=1), "only a compaction"),
    "file of many commits": (lambda m: m["files"][0].update(first=[1, "a"], last=[2, "b"]), "only a compaction"),
    "older format": (lambda m: m.update(format_version=0), "never existed"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_forged_manifest_is_refused_by_name(name: str) -> None:
    change, reason = HOSTILE[name]
    with pytest.raises(CorruptObjectError, match=reason) as caught:
        load(forged(change))
    assert "memory/video.processing/0123456789abcdef/_manifests/appends/" in str(caught.value)


def test_an_untouched_manifest_is_accepted() -> None:
    assert load(forged()) is not None


def test_a_partition_without_a_commit_does_not_exist() -> None:
    assert load(MemoryStorage()) is None


@pytest.mark.parametrize("change", [{"format_version": 2}, {"format_version": 2, "schema": None, "new_field": 1}])
def test_a_newer_format_asks_for_an_upgrade(change: Fields) -> None:
    with pytest.raises(UnsupportedFormatError, match="Upgrade metaxy_fs"):
        load(forged(lambda fields: fields.update(change)))


def test_a_truncated_manifest_is_refused_by_name() -> None:
    honest, storage = MemoryStorage(), MemoryStorage()
    path = PARTITION.append_manifest(write(honest, 1).commit)
    storage.put(path, honest.get(path)[:-10])
    with pytest.raises(CorruptObjectError, match=r"cannot be decoded") as caught:
        load(storage)
    assert path in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"format_version": 1e999}'])
def test_bytes_that_are_no_manifest_are_refused(data: bytes) -> None:
    storage = MemoryStorage()
    storage.put(PARTITION.append_manifest("a"), data)
    with pytest.raises(CorruptObjectError):
        load(storage)


def test_an_oversized_manifest_is_not_even_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding_module, "MAX_MANIFEST_BYTES", 100)
    storage = FaultyStorage(forged())
    with pytest.raises(CorruptObjectError, match="more than the 100"):
        ViewLoader(storage, clock=LamportClock()).load(PARTITION)
    assert [verb for verb, _ in storage.requests] == ["list"]


def test_a_foreign_object_among_manifests_is_named() -> None:
    storage = MemoryStorage()
    storage.put(f"{PARTITION.manifests}/appends/notes.txt", b"")
    with pytest.raises(CorruptObjectError, match=r"notes\.txt is no manifest"):
        load(storage)


def test_only_new_manifests_are_fetched_again() -> None:
    storage = FaultyStorage(MemoryStorage())
    loader = ViewLoader(storage, clock=LamportClock())
    write(storage.inner, 1)
    loader.load(PARTITION)
    second = write(storage.inner, 2)
    storage.requests.clear()
    view = loader.load(PARTITION)
    assert view is not None
    assert len(view.manifests) == 2
    assert storage.requests == [("list", PARTITION.manifests), ("get", PARTITION.append_manifest(second.commit))]


def test_commits_are_ordered_by_time_whatever_their_names() -> None:
    storage = MemoryStorage()
    for i, time in enumerate([30, 10, 20]):
        write(storage, i, write_id=f"w{i}", clock=LamportClock(wall=lambda time=time: time))
    view = load(storage)
    assert view is not None
    assert [manifest.time for manifest in view.manifests] == [10, 20, 30]


def test_a_commit_made_after_a_view_is_ordered_after_it() -> None:
    storage, clock = MemoryStorage(), LamportClock(wall=lambda: 1_000)
    ahead = write(storage, 1, clock=LamportClock(wall=lambda: 9_000_000))
    ViewLoader(storage, clock=clock).load(PARTITION)
    assert write(storage, 2, clock=clock).time > ahead.time
