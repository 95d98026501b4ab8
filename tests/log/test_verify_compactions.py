"""Verification counts every row of a compaction, and sees each that is missing, twice or foreign."""

import hashlib
import io
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs.ids import LamportClock
from metaxy_fs.log import chunks
from metaxy_fs.log.commit import commit
from metaxy_fs.log.manifest import Manifest
from metaxy_fs.log.verified_io import Finding
from metaxy_fs.log.verify import verify
from metaxy_fs.storage.base import Storage
from tests.log.commits import PARTITION, request, rows
from tests.log.compactions import delete_covered, put_compaction
from tests.log.faulty import FaultyStorage
from tests.log.roots import edit, replace, root

COMMIT, TIME, ORDINAL = "_metaxy_commit", "_metaxy_time", "_metaxy_ordinal"


def history(storage: Storage) -> list[Manifest]:
    """Commits of two schemas, of several files, of the same samples, and without rows."""
    clock = LamportClock()
    frames = [rows(1, 2, 3), rows(2, 4), rows(), rows(3, 5).with_columns(note=pl.lit("x")), rows(7, 8, 9, 10, 11)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "MAX_FILE_ROWS", 3)
        return [commit(storage, request(frame), clock=clock) for frame in frames]


@pytest.fixture
def storage() -> Storage:
    found, _ = root()
    for info in found.list(str(PARTITION)):
        if info.path != PARTITION.definition_file:
            found.delete(info.path)
    return found


def wrong(storage: Storage) -> list[Finding]:
    """The findings that are no notes."""
    return [finding for finding in verify(storage).findings if finding.severity != "note"]


Change = Callable[[pl.DataFrame], pl.DataFrame]


def where(sample: int, value: pl.Expr | None, name: str) -> Change:
    """Give one sample another value in a column."""
    return lambda held: held.with_columns(
        pl.when(pl.col("sample_id") == sample).then(value).otherwise(name).cast(held.schema[name]).alias(name)
    )


def rewrite(storage: Storage, compaction: str, change: Change, *, file: int = 0) -> None:
    """Change the rows of a data file, or with -1 of the commit table, and let the manifest describe the result."""

    def vouch(manifest: dict[str, Any]) -> None:
        entry = manifest["commits"] if file < 0 else manifest["files"][file]
        path = PARTITION.data_file(entry["name"])
        changed, buffer = change(pl.read_parquet(storage.get(path))), io.BytesIO()
        changed.write_parquet(buffer)
        replace(storage, path, buffer.getvalue())
        if file >= 0:
            manifest["rows"] += changed.height - entry["rows"]
        checksum = hashlib.sha256(buffer.getvalue()).hexdigest()
        entry.update(rows=changed.height, bytes=len(buffer.getvalue()), sha256=checksum, statistics=[])
        entry.pop("statistics" if file < 0 else "fences", None)

    edit(storage, PARTITION.compaction_manifest(compaction), vouch)


@pytest.mark.parametrize("again", [(), (0,), (1, 4), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("file_rows", [3, 100])
def test_a_compaction_without_damage_has_notes_alone(storage: Storage, again: tuple[int, ...], file_rows: int) -> None:
    appends = history(storage)
    put_compaction(storage, appends, listed_again=[appends[n].commit for n in again], file_rows=file_rows)
    assert wrong(storage) == []
    assert verify(storage).commits == 5
    delete_covered(storage, appends, data=not again)
    assert wrong(storage) == []
    assert verify(storage).commits == 5


def test_what_compactions_stand_for_is_one_note(storage: Storage) -> None:
    appends = history(storage)
    put_compaction(storage, appends[:2], token="1" * 16)
    put_compaction(storage, appends, token="2" * 16)
    storage.put(PARTITION.data_file("lost-0.parquet"), b"")
    notes = {finding.path: finding.problem for finding in verify(storage).findings if "footer" not in finding.problem}
    # Five appends with six files, and a compaction with one file and a table.
    assert notes == {
        str(PARTITION): "holds 6 manifests and 8 data files that compactions stand for",
        PARTITION.data_file("lost-0.parquet"): notes[PARTITION.data_file("lost-0.parquet")],
    }
    assert verify(storage).is_sound


def test_compactions_that_overlap_are_sound(storage: Storage) -> None:
    appends = history(storage)
    put_compaction(storage, appends[:3], token="1" * 16)
    put_compaction(storage, appends[2:], token="2" * 16)
    delete_covered(storage, appends)
    assert wrong(storage) == []
    assert verify(storage).commits == 5


@pytest.mark.parametrize("name", ["{}-0-0.parquet", "{}-1-0.parquet", "_commits/{}.table"])
@pytest.mark.parametrize("damage", [None, lambda data: data[:-1], lambda data: bytes([data[0] ^ 1]) + data[1:]])
def test_a_damaged_file_of_a_compaction_is_found(storage: Storage, name: str, damage: Any) -> None:
    path = PARTITION.data_file(name.format(put_compaction(storage, history(storage))))
    data = storage.get(path)
    storage.delete(path)
    if damage is not None:
        storage.put(path, damage(data))
    assert [(finding.severity, finding.path) for finding in wrong(storage)] == [("error", path)]


@given(data=st.data())
def test_a_compaction_that_is_cut_short_is_found(data: st.DataObject) -> None:
    storage, _ = root()
    path = PARTITION.compaction_manifest(put_compaction(storage, history(storage)))
    content = storage.get(path)
    replace(storage, path, content[: data.draw(st.integers(0, len(content) - 1))])
    assert [(finding.severity, finding.path) for finding in wrong(storage)] == [("error", path)]


ROWS: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame], str]] = {
    "one less": (lambda held: held.tail(-1), "rows of commit"),
    "one twice": (lambda held: pl.concat([held.head(1), held]), "several rows of one place"),
    "of nobody": (where(1, None, COMMIT), "do not say whose they are"),
    "of a commit that is not covered": (where(1, pl.lit("zzz"), COMMIT), "rows of commit"),
    "of another time": (where(4, pl.col(TIME) - 1, TIME), "rows of"),
    "of another place": (where(3, pl.lit(9), ORDINAL), "rows of commit"),
    "not by id": (lambda held: held.reverse(), "not sorted by their ids"),
    "not in commit order": (
        lambda held: held.sort("sample_id", pl.col(TIME).neg()),
        "rows of one id that are not in commit order",
    ),
    "without a column": (lambda held: held.drop(ORDINAL), "has the columns"),
    "of another version": (
        lambda held: held.with_columns(data_version=pl.struct(frames=pl.lit(""))),
        "null, empty or hold",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_are_not_those_of_the_commits_are_found(storage: Storage, name: str) -> None:
    change, problem = ROWS[name]
    rewrite(storage, put_compaction(storage, history(storage)), change)
    found = wrong(storage)
    assert {finding.severity for finding in found} == {"error"}
    assert any(problem in finding.problem for finding in found)


ENTRIES: dict[str, tuple[Callable[[list[dict[str, Any]]], object], str]] = {
    "no repeats": (lambda files: files[0].update(repeats=False), "several rows of one id"),
    "order": (lambda files: files[0].update(ordered=True), "not in commit order, as its manifest claims"),
    "a later first commit": (lambda files: files[0].update(first=files[0]["last"]), "rows of other commits than"),
    "an earlier last commit": (lambda files: files[0].update(last=files[0]["first"]), "rows of other commits than"),
    "too high a minimum": (lambda files: files[0]["statistics"][0].update(min=3), "statistics claim of sample_id"),
    "another schema": (lambda files: files[0].update(schema=1), "has the columns"),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_claims_on_a_rewritten_file_that_do_not_hold_are_found(storage: Storage, name: str) -> None:
    change, problem = ENTRIES[name]
    path = PARTITION.compaction_manifest(put_compaction(storage, history(storage)))
    edit(storage, path, lambda manifest: change(manifest["files"]))
    assert any(problem in finding.problem for finding in wrong(storage) if finding.severity == "error")


AGAIN: dict[str, tuple[Callable[[list[dict[str, Any]]], object], str]] = {
    "of another commit": (lambda files: files[0].update(commit=files[-1]["commit"]), "in its footer of commit"),
    "at another time": (lambda files: files[0].update(time=files[0]["time"] - 1), "in its footer of time"),
    "at a time long before": (lambda files: files[0].update(time=7), "rows of commit"),
    "at another place": (lambda files: files[0].update(offset=1), "rows of commit"),
    "twice": (lambda files: files.append(files[-1]), "rows of commit"),
}


@pytest.mark.parametrize("name", AGAIN)
def test_claims_on_a_file_that_is_listed_again_that_do_not_hold_are_found(storage: Storage, name: str) -> None:
    change, problem = AGAIN[name]
    appends = history(storage)
    path = PARTITION.compaction_manifest(
        put_compaction(storage, appends, listed_again=[append.commit for append in appends])
    )

    def falsify(manifest: dict[str, Any]) -> None:
        change(manifest["files"])
        manifest["rows"] = sum(file["rows"] for file in manifest["files"])

    edit(storage, path, falsify)
    assert any(problem in finding.problem for finding in wrong(storage))


TABLES: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame], str]] = {
    "other rows": (lambda table: table.with_columns(rows=pl.col("rows") + 1), "rows of commit"),
    "other times": (lambda table: table.with_columns(time=pl.col("time") - 1), "rows of commit"),
    "other digests": (lambda table: table.with_columns(digest=pl.lit("0" * 64)), "another digest"),
    "another order": (lambda table: table.reverse(), "other commits than its manifest covers"),
    "other columns": (lambda table: table.drop("writer"), "has the columns"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_commit_table_that_says_something_else_is_found(storage: Storage, name: str) -> None:
    change, problem = TABLES[name]
    rewrite(storage, put_compaction(storage, history(storage)), change, file=-1)
    found = wrong(storage)
    assert {finding.severity for finding in found} == {"error"}
    assert any(problem in finding.problem for finding in found)


def test_a_commit_without_its_rows_is_found_though_the_manifest_agrees_with_itself(storage: Storage) -> None:
    appends = history(storage)
    compaction = put_compaction(storage, appends, listed_again=[appends[1].commit])

    def forget(manifest: dict[str, Any]) -> None:
        manifest["files"] = [file for file in manifest["files"] if file.get("commit") != appends[1].commit]
        manifest["rows"] -= appends[1].rows

    edit(storage, PARTITION.compaction_manifest(compaction), forget)
    [finding] = wrong(storage)
    assert f"has 0 rows of commit {appends[1].commit}, which has 2 by its table; 1 are wrong" in finding.problem


def test_samples_that_two_files_of_a_compaction_share_are_found(storage: Storage) -> None:
    compaction = put_compaction(storage, history(storage), file_rows=4)
    edit(storage, PARTITION.compaction_manifest(compaction), lambda manifest: manifest["files"].reverse())
    assert any("not in order from one to the next" in finding.problem for finding in wrong(storage))


def test_a_compaction_that_is_replaced_meanwhile_is_no_damage(storage: Storage) -> None:
    appends = history(storage)
    small = put_compaction(storage, appends[:3], token="1" * 16)
    delete_covered(storage, appends[:3])
    raced: list[str] = []

    def fault(verb: str, path: str) -> None:
        if (verb, path) == ("get", PARTITION.compaction_manifest(small)) and not raced:
            raced.append(path)
            storage.put(PARTITION.compaction_manifest("x"), b"")  # its successor, as far as the listing goes
            storage.delete(PARTITION.compaction_manifest(small))

    found = [finding.path for finding in verify(FaultyStorage(storage, fault)).findings if finding.severity == "error"]
    assert found == [PARTITION.compaction_manifest("x")]


def test_files_of_a_compaction_that_is_replaced_meanwhile_are_no_damage(storage: Storage) -> None:
    appends = history(storage)
    small = put_compaction(storage, appends[:3], token="1" * 16)
    path = PARTITION.data_file(f"{small}-0-0.parquet")

    def fault(verb: str, at: str) -> None:
        if (verb, at) == ("get", path):
            storage.delete(PARTITION.compaction_manifest(small))
            storage.delete(path)

    assert [finding for finding in verify(FaultyStorage(storage, fault)).findings if finding.severity == "error"] == []
