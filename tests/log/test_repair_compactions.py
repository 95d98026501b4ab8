"""Repair puts back compactions that hold what nothing else does, and the writes that they prove."""

import contextlib
import hashlib
import io
import json

import msgspec
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metaxy_fs.errors import StorageError, UnsupportedFormatError
from metaxy_fs.log.manifest import Manifest, encode_manifest
from metaxy_fs.log.repair import Restoration, repair
from metaxy_fs.log.verify import verify
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.commits import PARTITION, write
from tests.log.compactions import delete_covered, put_compaction, read
from tests.log.faulty import FaultyStorage
from tests.log.roots import contents, replace

pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def appends(storage: MemoryStorage) -> list[Manifest]:
    return [write(storage, 1, 2), write(storage, 2, 3, write_id="job 7"), write(storage), write(storage, 4)]


def compact(storage: Storage, appends: list[Manifest], **options) -> str:
    """Put a compaction whose commit table has the footer that a compactor puts."""
    compaction = put_compaction(storage, appends, **options)
    path = PARTITION.compaction_manifest(compaction)
    manifest = json.loads(storage.get(path))
    entry = manifest.pop("commits")
    footer = {name: value for name, value in manifest.items() if name != "covers"}
    table, buffer = pl.read_parquet(storage.get(PARTITION.data_file(entry["name"]))), io.BytesIO()
    table.write_parquet(buffer, metadata={"metaxy_fs": json.dumps(footer, separators=(",", ":"))})
    replace(storage, PARTITION.data_file(entry["name"]), buffer.getvalue())
    checksum = hashlib.sha256(buffer.getvalue()).hexdigest()
    manifest["commits"] = entry | {"bytes": len(buffer.getvalue()), "sha256": checksum}
    replace(storage, path, json.dumps(manifest, separators=(",", ":")).encode())
    return compaction


def states(found: list[Restoration]) -> list[tuple[str, str]]:
    return [(restoration.state, restoration.path) for restoration in found]


def same(storage: Storage, path: str, before: bytes) -> bool:
    """Whether a manifest is what it was, but for defaults that a hand has written out."""
    return storage.get(path) == encode_manifest(msgspec.json.decode(before, type=Manifest))


@pytest.mark.parametrize("again", [0, 1, 4])
def test_a_damaged_compaction_is_put_back(storage: MemoryStorage, appends: list[Manifest], again: int) -> None:
    path = PARTITION.compaction_manifest(
        compact(storage, appends, listed_again=[append.commit for append in appends[:again]])
    )
    before, expected = storage.get(path), read(storage)
    for data in [b"", before[:99], before[:-1]]:
        replace(storage, path, data)
        [found] = repair(storage, dry_run=True)
        assert (found.state, found.path, found.rows) == ("restorable", path, 5)
        assert storage.get(path) == data
        assert states(repair(storage, dry_run=False)) == [("restored", path)]
        assert same(storage, path, before)
        assert_frame_equal(read(storage), expected)
    assert [finding.path for finding in verify(storage).findings if finding.severity == "error"] == []


def test_a_compaction_that_is_gone_is_put_back_if_nothing_else_holds_its_commits(
    storage: MemoryStorage, appends: list[Manifest]
) -> None:
    path = PARTITION.compaction_manifest(compact(storage, appends, listed_again=[appends[0].commit]))
    before, expected = storage.get(path), read(storage)
    delete_covered(storage, appends, data=False)
    storage.delete(path)
    [found] = repair(storage, dry_run=False)
    assert (found.state, found.path) == ("restored", path)
    assert "nothing else holds 4 of the commits" in found.reason
    assert same(storage, path, before)
    assert_frame_equal(read(storage), expected)


def test_a_compaction_that_is_gone_and_holds_nothing_of_its_own_is_not_missed(
    storage: MemoryStorage, appends: list[Manifest]
) -> None:
    storage.delete(PARTITION.compaction_manifest(compact(storage, appends)))
    assert repair(storage, dry_run=False) == []


def test_what_a_larger_compaction_has_replaced_is_not_put_back(storage: MemoryStorage, appends: list[Manifest]) -> None:
    small = compact(storage, appends[:2], token="1" * 16)
    compact(storage, appends, token="2" * 16)
    delete_covered(storage, appends)
    storage.delete(PARTITION.compaction_manifest(small))
    before = contents(storage)
    assert repair(storage, dry_run=False) == []
    assert contents(storage) == before


def test_of_two_compactions_that_are_gone_the_one_that_holds_all_is_enough(
    storage: MemoryStorage, appends: list[Manifest]
) -> None:
    names = [compact(storage, appends[:2], token="1" * 16), compact(storage, appends, token="2" * 16)]
    expected = read(storage)
    delete_covered(storage, appends)
    for name in names:
        storage.delete(PARTITION.compaction_manifest(name))
    assert states(repair(storage, dry_run=False)) == [("restored", PARTITION.compaction_manifest(names[1]))]
    assert_frame_equal(read(storage), expected)


@pytest.mark.parametrize("damage", [None, b"torn"])
def test_a_compaction_that_is_gone_with_a_data_file_is_lost_but_proves_the_writes(
    storage: MemoryStorage, appends: list[Manifest], damage: bytes | None
) -> None:
    expected = read(storage)
    compaction = compact(storage, appends)
    delete_covered(storage, appends, data=False)
    storage.delete(PARTITION.compaction_manifest(compaction))
    path = PARTITION.data_file(f"{compaction}-0-0.parquet")
    storage.delete(path)
    if damage is not None:
        storage.put(path, damage)
    found = repair(storage, dry_run=False)
    assert states(found) == [
        *sorted(("restored", PARTITION.append_manifest(append.commit)) for append in appends),
        ("lost", PARTITION.compaction_manifest(compaction)),
    ]
    assert all(compaction in restoration.reason for restoration in found[:-1])
    assert_frame_equal(read(storage), expected)


def test_a_damaged_compaction_without_its_table_is_lost(storage: MemoryStorage, appends: list[Manifest]) -> None:
    compaction = compact(storage, appends)
    replace(storage, PARTITION.compaction_manifest(compaction), b"")
    storage.delete(PARTITION.data_file(f"_commits/{compaction}.table"))
    [found] = repair(storage, dry_run=False)
    assert (found.state, found.path) == ("lost", PARTITION.compaction_manifest(compaction))
    assert "the table of its commits is not there" in found.reason


def test_a_damaged_compaction_whose_rows_are_damaged_too_is_lost(
    storage: MemoryStorage, appends: list[Manifest]
) -> None:
    compaction = compact(storage, appends)
    replace(storage, PARTITION.compaction_manifest(compaction), b"")
    path = PARTITION.data_file(f"{compaction}-0-0.parquet")
    replace(storage, path, storage.get(path)[:-1] + b"x")
    before = contents(storage)
    [found] = repair(storage, dry_run=False)
    assert found.state == "lost"
    assert f"{path} does not have the checksum" in found.reason
    assert contents(storage) == before


def test_a_write_is_not_taken_for_another_attempt_of_the_same_name(storage: MemoryStorage) -> None:
    lost = FaultyStorage(storage, lambda verb, path: "before" if "_manifests" in path else None)
    with pytest.raises(StorageError):
        write(lost, 8, 9, write_id="job 7")
    committed = write(storage, 1, write_id="job 7")
    compaction = compact(storage, [committed])
    delete_covered(storage, [committed], data=False)
    storage.delete(PARTITION.compaction_manifest(compaction))
    storage.delete(PARTITION.data_file(f"{compaction}-0-0.parquet"))
    found = repair(storage, dry_run=False)
    assert sorted(restoration.state for restoration in found) == ["lost", "restored", "unproven"]
    assert read(storage)["sample_id"].to_list() == [1]


def test_a_compaction_of_a_newer_format_ends_the_repair(storage: MemoryStorage, appends: list[Manifest]) -> None:
    path = PARTITION.compaction_manifest(compact(storage, appends))
    replace(storage, path, b'{"format_version":2}')
    with pytest.raises(UnsupportedFormatError, match="Upgrade metaxy_fs"):
        repair(storage, dry_run=False)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("verb", ["put", "delete"])
def test_a_repair_of_a_compaction_that_is_cut_short_is_taken_up_again(
    storage: MemoryStorage, appends: list[Manifest], verb: str, when: str
) -> None:
    path = PARTITION.compaction_manifest(compact(storage, appends))
    before, expected = storage.get(path), read(storage)
    delete_covered(storage, appends)
    replace(storage, path, b"damaged")
    faulty = FaultyStorage(storage, lambda asked, at: when if (asked, at) == (verb, path) else None)
    with contextlib.suppress(StorageError):
        repair(faulty, dry_run=False)
    repair(storage, dry_run=False)
    assert same(storage, path, before)
    assert_frame_equal(read(storage), expected)


def test_orphans_of_commits_that_are_held_are_not_read(storage: MemoryStorage, appends: list[Manifest]) -> None:
    compact(storage, appends)
    delete_covered(storage, appends, data=False)
    faulty = FaultyStorage(storage)
    assert repair(faulty, dry_run=True) == []
    assert not any(verb == "get" and path.endswith(".parquet") for verb, path in faulty.requests)
