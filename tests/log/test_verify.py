"""Verification sees every kind of damage, and nothing where there is none."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs.ids import LamportClock
from metaxy_fs.log import commit as commit_module
from metaxy_fs.log.commit import commit
from metaxy_fs.log.manifest import CommitHeader
from metaxy_fs.log.parquet import EncodedFile, encode_rows
from metaxy_fs.log.verified_io import Finding
from metaxy_fs.log.verify import verify
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.commits import PARTITION, request, rows, write
from tests.log.faulty import FaultyStorage
from tests.log.roots import edit, manifest_of, pin, replace, root


def without_the_ids(frame: pl.DataFrame, *, header: Any, name: str) -> EncodedFile:
    """Encode rows that may lack the id column."""
    return encode_rows(frame, header=msgspec.structs.replace(header, id_columns=tuple(frame.columns[:1])), name=name)


def findings(storage: Storage) -> list[Finding]:
    return list(verify(storage).findings)


def told(storage: Storage) -> list[tuple[str, str]]:
    """The severity and the object of each finding."""
    return [(finding.severity, finding.path) for finding in findings(storage)]


def test_a_root_without_damage_has_no_findings() -> None:
    storage, first = root()
    found = verify(storage)
    assert found.findings == ()
    assert found.is_sound
    assert (found.partitions, found.commits, found.files) == (1, 3, 4)
    assert found.bytes == sum(info.size for info in storage.list("") if info.path.endswith(".parquet"))
    assert len(first.files) == 2


def test_an_empty_root_is_sound() -> None:
    assert verify(MemoryStorage()).is_sound


def test_a_place_where_nothing_is_is_noted() -> None:
    [finding] = verify(MemoryStorage()).findings
    assert (finding.severity, finding.problem) == ("note", "is missing, and nothing else is here")


def test_another_feature_is_not_looked_at() -> None:
    storage, first = root()
    storage.delete(PARTITION.data_file(first.files[0].name))
    assert verify(storage, feature="video").findings == ()
    assert not verify(storage, feature="video.processing").is_sound


def test_a_missing_data_file_is_found() -> None:
    storage, first = root()
    path = PARTITION.data_file(first.files[1].name)
    storage.delete(path)
    [finding] = findings(storage)
    assert (finding.severity, finding.path) == ("error", path)
    assert "missing" in finding.problem
    assert "backup" in finding.remedy


@pytest.mark.parametrize("cut", [lambda data: data[:-1], lambda data: data + b"x", lambda data: b""])
def test_a_data_file_of_another_size_is_found(cut: Callable[[bytes], bytes]) -> None:
    storage, first = root()
    path = PARTITION.data_file(first.files[0].name)
    replace(storage, path, cut(storage.get(path)))
    assert told(storage) == [("error", path)]


@given(data=st.data())
def test_any_bit_that_flips_in_a_data_file_is_found(data: st.DataObject) -> None:
    storage, first = root()
    path = PARTITION.data_file(first.files[0].name)
    content = bytearray(storage.get(path))
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    replace(storage, path, bytes(content))
    assert told(storage) == [("error", path)]


@given(data=st.data())
def test_a_manifest_that_is_cut_short_is_found_and_its_files_are_no_orphans(data: st.DataObject) -> None:
    storage, first = root()
    path = PARTITION.append_manifest(first.commit)
    content = storage.get(path)
    replace(storage, path, content[: data.draw(st.integers(0, len(content) - 1))])
    assert told(storage) == [("error", path)]


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "of another commit": (lambda manifest: manifest.update(commit="other"), "says that it is commit 'other'"),
    "of a newer format": (lambda manifest: manifest.update(format_version=2, new="x"), "newer"),
    "with other rows": (lambda manifest: manifest.update(rows=4), "counts 4 rows"),
    "with another digest": (lambda manifest: manifest.update(digest="0" * 64), "another digest"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_manifest_that_was_changed_is_found(name: str) -> None:
    storage, first = root()
    change, problem = CHANGES[name]
    path = PARTITION.append_manifest(first.commit)
    edit(storage, path, change)
    [finding] = findings(storage)
    assert (finding.severity, finding.path) == ("error", path)
    assert problem in finding.problem


FILE_CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "rows of two files": (lambda files: (files[0].update(rows=1), files[1].update(rows=2)), "rows, its manifest says"),
    "too high a minimum": (lambda files: files[0]["statistics"][0].update(min=2), "statistics claim of sample_id"),
    "too low a maximum": (lambda files: files[0]["statistics"][0].update(max=1), "statistics claim of sample_id"),
    "a minimum of another kind": (lambda files: files[0]["statistics"][0].update(min="1"), "claim of sample_id"),
    "a flag for a number": (lambda files: files[0]["statistics"][0].update(min=True), "claim of sample_id"),
    "nulls": (lambda files: files[0]["statistics"][1].update(nulls=1), "claim of data_version.frames"),
    "an unknown leaf": (lambda files: files[0]["statistics"][0].update(path=["other"]), "claim of other"),
    "files in another order": (lambda files: files.reverse(), "not in order"),
}


@pytest.mark.parametrize("name", FILE_CHANGES)
def test_a_manifest_that_claims_what_does_not_hold_is_found(name: str) -> None:
    storage, first = root()
    change, problem = FILE_CHANGES[name]
    edit(storage, manifest_of(first), lambda manifest: change(manifest["files"]))
    found = findings(storage)
    assert {finding.severity for finding in found} == {"error"}
    assert any(problem in finding.problem for finding in found)


def test_bounds_that_are_wider_than_the_values_hold() -> None:
    storage, first = root()

    def widen(manifest: dict[str, Any]) -> None:
        manifest["files"][0]["statistics"][0].update(min=-7, max=9)
        manifest["files"][0]["statistics"][1].update(min="e")
        del manifest["files"][1]["statistics"][0]["max"]

    edit(storage, manifest_of(first), widen)
    assert findings(storage) == []


@pytest.mark.parametrize("name", ["time", "writer", "write_id"])
def test_a_manifest_that_says_something_else_than_the_footers_is_found(name: str) -> None:
    storage, first = root()
    edit(
        storage,
        PARTITION.append_manifest(first.commit),
        lambda manifest: manifest.update({name: 7 if name == "time" else "x"}),
    )
    assert told(storage) == [("warning", PARTITION.data_file(file.name)) for file in first.files]
    assert not verify(storage).is_sound


def test_footers_that_do_not_tell_their_part_are_no_damage() -> None:
    storage, _ = root()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commit_module, "FileHeader", lambda *, part, parts, **kept: CommitHeader(**kept))  # noqa: PLW0108
        manifest = write(storage, 9)
    assert told(storage) == [("note", PARTITION.data_file(manifest.files[0].name))]


BAD_ROWS = {
    "unsorted": (rows(2, 1), "not sorted"),
    "of one id": (rows(1, 1), "several rows of one id"),
    "without an id": (pl.concat([rows(1), rows(2).with_columns(sample_id=pl.lit(None, pl.Int64))]), "without an id"),
    "without the id column": (rows(1).rename({"sample_id": "other"}), "which are not in each schema"),
    "that retire a sample and have a version": (
        rows(1).with_columns(_metaxy_retired=pl.lit(value=True)),
        "retire a sample and yet have a version",
    ),
    "that say in another type whether they retire a sample": (
        rows(1).with_columns(_metaxy_retired=pl.lit(1)),
        "'_metaxy_retired' that is not boolean",
    ),
    "without versions that do not retire a sample": (
        rows(1).with_columns(
            data_version=pl.lit(None, rows().schema["data_version"]), _metaxy_retired=pl.lit(value=False)
        ),
        "null, empty or hold",
    ),
    "with a reserved name": (rows(1).with_columns(_metaxy_commit=pl.lit("x")), "reserved names: _metaxy_commit"),
    "without versions": (rows(1).drop("data_version"), "no data_version"),
    "of other containers": (
        rows(1).with_columns(data_version=pl.struct(audio=pl.lit("a"))),
        "string for each of frames",
    ),
    "of empty versions": (rows(1).with_columns(data_version=pl.struct(frames=pl.lit(""))), "null, empty or hold"),
    "of ambiguous versions": (rows(1).with_columns(data_version=pl.struct(frames=pl.lit("a|b"))), "hold a '|'"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_rows_that_no_store_would_write_are_found(name: str) -> None:
    storage, _ = root()
    frame, problem = BAD_ROWS[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commit_module, "encode_rows", without_the_ids)
        commit(storage, request(frame), clock=LamportClock())
    assert any(problem in finding.problem for finding in findings(storage))


def test_bytes_that_are_no_parquet_are_found_though_their_checksum_is_right() -> None:
    storage, first = root()
    path, junk = PARTITION.data_file(first.files[0].name), b"PAR1" + b"\xff" * 60 + b"PAR1"
    replace(storage, path, junk)
    checksum = hashlib.sha256(junk).hexdigest()
    edit(
        storage,
        PARTITION.append_manifest(first.commit),
        lambda manifest: manifest["files"][0].update(bytes=68, sha256=checksum),
    )
    [finding] = findings(storage)
    assert "no Parquet file" in finding.problem


def test_a_data_file_that_two_commits_name_is_found() -> None:
    storage, first = root()
    copied = json.loads(storage.get(PARTITION.append_manifest(first.commit))) | {"commit": "zzz"}
    del copied["sha256"]
    storage.put(PARTITION.append_manifest("zzz"), json.dumps(copied, separators=(",", ":")).encode())
    assert ("error", PARTITION.append_manifest("zzz")) in told(storage)


def test_orphans_are_no_damage() -> None:
    storage, _ = root()
    storage.put(PARTITION.data_file("20260101T000000.000000Z-0-0.parquet"), b"x")
    storage.put(f"{PARTITION}/README", b"x")
    assert [(finding.severity, finding.problem[:12]) for finding in findings(storage)] == [
        ("note", "is an orphan"),
        ("note", "is none of t"),
    ]
    assert verify(storage).is_sound


@pytest.mark.parametrize("path", ["_manifests/x", "_manifests/appends/a/b.json", "_manifests/appends/x.txt"])
def test_what_closes_a_partition_to_readers_is_found(path: str) -> None:
    storage, _ = root()
    storage.put(f"{PARTITION}/{path}", b"x")
    assert told(storage) == [("error", f"{PARTITION}/{path}")]


@pytest.mark.parametrize("path", ["_store.json", PARTITION.definition_file])
def test_missing_descriptions_are_found(path: str) -> None:
    storage, _ = root()
    storage.delete(path)
    assert told(storage) == [("warning", path)]


@pytest.mark.parametrize("path", ["_store.json", PARTITION.definition_file])
@pytest.mark.parametrize("data", [b"", b"{}x", b'{"format_version":2}'])
def test_damaged_descriptions_are_found(path: str, data: bytes) -> None:
    storage, _ = root()
    replace(storage, path, data)
    assert told(storage) == [("error", path)]


def test_the_description_of_another_partition_is_found() -> None:
    storage, _ = root()
    edit(storage, PARTITION.definition_file, lambda info: info.update(feature=["video"]))
    assert told(storage) == [("error", PARTITION.definition_file)]


def test_an_oversized_manifest_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, first = root()
    monkeypatch.setattr("metaxy_fs.log.decoding.MAX_MANIFEST_BYTES", 10)
    faulty = FaultyStorage(storage)
    found = findings(faulty)
    assert len(found) == 3
    assert all("more than the 10 that one may have" in finding.problem for finding in found)
    assert ("get", PARTITION.append_manifest(first.commit)) not in faulty.requests


def test_an_object_that_cannot_be_read_hides_no_other() -> None:
    storage, first = root()
    path = PARTITION.data_file(first.files[0].name)
    faulty = FaultyStorage(storage, lambda verb, at: "before" if (verb, at) == ("get", path) else None)
    storage.delete(PARTITION.data_file(first.files[1].name))
    assert told(faulty) == [("error", PARTITION.data_file(file.name)) for file in first.files]


def test_a_commit_that_is_deleted_meanwhile_is_no_damage() -> None:
    storage, first = root()
    doomed = PARTITION.append_manifest(first.commit)

    def fault(verb: str, path: str) -> None:
        if (verb, path) == ("get", doomed):
            storage.delete(doomed)

    assert [severity for severity, _ in told(FaultyStorage(storage, fault))] == ["note", "note"]


def test_a_commit_whose_files_are_deleted_meanwhile_is_no_damage() -> None:
    storage, first = root()
    path = PARTITION.data_file(first.files[0].name)

    def fault(verb: str, at: str) -> None:
        if (verb, at) == ("get", path):
            storage.delete(PARTITION.append_manifest(first.commit))
            storage.delete(path)

    found = verify(FaultyStorage(storage, fault))
    assert found.is_sound
    assert found.commits == 2


def test_progress_comes_to_its_end() -> None:
    storage, _ = root()
    seen: list[tuple[int, int]] = []
    verify(storage, progress=lambda done, known: seen.append((done, known)))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] == verify(storage).bytes


def test_a_snapshot_of_commits_that_are_there_is_sound() -> None:
    storage, first = root()
    pin(storage, first.commit)
    pin(storage, *sorted(info.path.rpartition("/")[2][:-5] for info in storage.list(PARTITION.manifests)), name="all")
    assert findings(storage) == []


@pytest.mark.parametrize("feature", [None, "video.processing"])
def test_a_snapshot_of_a_commit_that_is_gone_is_found(feature: str | None) -> None:
    storage, first = root()
    path = pin(storage, first.commit)
    storage.delete(manifest_of(first))
    found = [finding for finding in verify(storage, feature=feature).findings if finding.severity == "error"]
    assert [(finding.path, f"such as {first.commit}" in finding.problem) for finding in found] == [(path, True)]


def test_a_snapshot_of_a_partition_that_is_gone_is_found() -> None:
    storage, first = root()
    path = pin(storage, first.commit)
    for info in storage.list("video.processing"):
        storage.delete(info.path)
    assert told(storage) == [("error", path)]
    assert verify(storage, feature="video").is_sound


def test_a_damaged_snapshot_is_found() -> None:
    storage, first = root()
    path = pin(storage, first.commit)
    replace(storage, path, storage.get(path)[:-1])
    assert told(storage) == [("error", path)]
