"""Vacuum keeps all that is left of commits which no manifest holds."""

import json
from collections.abc import Callable
from datetime import timedelta

import pytest

from metaxy_fs.errors import CorruptObjectError
from metaxy_fs.ids import LamportClock
from metaxy_fs.log.compact import compact_partition
from metaxy_fs.log.compactor import Options
from metaxy_fs.log.manifest import Manifest
from metaxy_fs.log.unreferenced import Policy
from metaxy_fs.log.vacuum import Vacuumed, vacuum
from metaxy_fs.log.view import ViewLoader
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.commits import PARTITION, write
from tests.log.roots import contents, replace
from tests.support.storages import StorageClock

EAGER = Policy(grace=timedelta(0), retention=timedelta(0), is_safe=False)


@pytest.fixture
def storage(timed_root: MemoryStorage) -> MemoryStorage:
    return timed_root


def compacted(storage: Storage, *, vacuumed: bool) -> str:
    """Leave three commits in one compaction, on demand alone, and a write after it; return the compaction's id."""
    clock = LamportClock()
    for number in range(3):
        write(storage, number * 2, number * 2 + 1, clock=clock)
    loader = ViewLoader(storage, clock=clock)
    options = Options(writer="a test", full=True)
    [done] = compact_partition(storage, loader, PARTITION, clock=clock, options=options)
    write(storage, 100, clock=clock)
    if vacuumed:
        eagerly(storage, times=2)
    return done.commit


def eagerly(storage: Storage, *, times: int = 3) -> list[Vacuumed]:
    """Vacuum without patience, as days of daily vacuums would."""
    return [vacuum(storage, policy=EAGER, dry_run=False) for _ in range(times)]


def nothing_goes(storage: Storage, *, because: str) -> None:
    before = contents(storage)
    for found in eagerly(storage):
        assert found.removals == ()
        [skipped] = found.skipped
        assert because in skipped.problem
    assert contents(storage) == before


def test_the_files_of_a_compaction_whose_manifest_is_gone_stay(storage: MemoryStorage) -> None:
    compaction = compacted(storage, vacuumed=True)
    storage.delete(PARTITION.compaction_manifest(compaction))
    nothing_goes(storage, because=f"{compaction}.table lists 3 commits that no manifest holds")


def test_data_files_without_a_table_go_as_those_of_a_copy_that_was_cut_short(storage: MemoryStorage) -> None:
    """A copy puts the table last, so it cannot be told from a commit of another root that was never here."""
    compaction = compacted(storage, vacuumed=True)
    for path in (PARTITION.compaction_manifest(compaction), PARTITION.data_file(f"_commits/{compaction}.table")):
        storage.delete(path)
    [first, *_] = eagerly(storage)
    deleted = [removal.path for removal in first.removals if removal.state == "deleted"]
    assert PARTITION.data_file(f"{compaction}-0.parquet") in deleted


def test_they_stay_where_their_table_cannot_be_read(storage: MemoryStorage) -> None:
    compaction = compacted(storage, vacuumed=True)
    storage.delete(PARTITION.compaction_manifest(compaction))
    replace(storage, PARTITION.data_file(f"_commits/{compaction}.table"), b"PAR1 torn PAR1")
    nothing_goes(storage, because=".table cannot be read")


def test_a_day_of_patience_changes_nothing(storage: MemoryStorage, clock: StorageClock) -> None:
    """A file is looked into before it goes, also where it was noted long ago."""
    compaction = compacted(storage, vacuumed=True)
    manifest = storage.get(PARTITION.compaction_manifest(compaction))
    storage.delete(PARTITION.compaction_manifest(compaction))
    for name in (f"{compaction}-0.parquet", f"_commits/{compaction}.table"):
        record = {"format_version": 1, "unnamed": [name], "named": []}
        storage.put(PARTITION.vacuum_record(name), json.dumps(record).encode())
    before = contents(storage)
    clock.now += timedelta(days=30)
    found = vacuum(storage, policy=Policy(), dry_run=False)
    assert len(found.skipped) == 1
    assert contents(storage) == before
    storage.put(PARTITION.compaction_manifest(compaction), manifest)
    assert vacuum(storage, policy=Policy(), dry_run=False).skipped == ()


def test_a_compaction_that_is_gone_and_holds_nothing_of_its_own_does_not_stop_it(storage: MemoryStorage) -> None:
    compaction = compacted(storage, vacuumed=False)
    storage.delete(PARTITION.compaction_manifest(compaction))
    found = vacuum(storage, policy=EAGER, dry_run=False)
    assert found.skipped == ()
    assert {removal.path for removal in found.removals if removal.state == "deleted"} == {
        PARTITION.data_file(f"{compaction}-0.parquet"),
        PARTITION.data_file(f"_commits/{compaction}.table"),
    }


def pin(storage: Storage, commits: list[str]) -> None:
    partitions = [{"version": PARTITION.version, "commits": " ".join(commits), "schema": None}]
    features = [{"feature": ["video", "processing"], "partitions": partitions, "schema": None}]
    snapshot = {"format_version": 1, "name": "release", "time": 1, "writer": "a test"}
    stores = [{"location": None, "features": features}]
    storage.put("_snapshots/release.json", json.dumps(snapshot | {"stores": stores}).encode())


def test_what_a_snapshot_names_stays_without_its_manifest(storage: MemoryStorage) -> None:
    append, other = write(storage, 1), write(storage, 2)
    pin(storage, [append.commit, other.commit])
    assert eagerly(storage)[0].skipped == ()
    storage.delete(PARTITION.append_manifest(append.commit))
    nothing_goes(storage, because="_snapshots/release.json names 1 commit of")


@pytest.mark.parametrize("data", [b"{", b'{"format_version":2}'])
def test_a_snapshot_that_cannot_be_read_may_name_anything(storage: MemoryStorage, data: bytes) -> None:
    write(storage, 1)
    storage.put(PARTITION.data_file("orphan-0.parquet"), b"x")
    storage.put("_snapshots/release.json", data)
    nothing_goes(storage, because="the snapshot memory/_snapshots/release.json may name commits of it")


def test_what_repair_has_kept_of_a_manifest_that_is_not_there_again_stops_it(storage: MemoryStorage) -> None:
    append = write(storage, 1)
    storage.put(PARTITION.damaged_manifest("unfinished", "0"), b"x")
    storage.put(PARTITION.data_file("unfinished-0.parquet"), b"x")
    nothing_goes(storage, because="shows that there was a commit unfinished")
    storage.delete(PARTITION.damaged_manifest("unfinished", "0"))
    storage.put(PARTITION.damaged_manifest(append.commit, "0"), b"x")
    assert [found.skipped for found in eagerly(storage)] == [()] * 3


@pytest.mark.parametrize("take", [lambda manifest: manifest[:99], lambda _manifest: b""])
def test_a_manifest_that_is_damaged_where_it_is_stops_it(
    storage: MemoryStorage, take: Callable[[bytes], bytes]
) -> None:
    compaction = compacted(storage, vacuumed=True)
    path = PARTITION.compaction_manifest(compaction)
    replace(storage, path, take(storage.get(path)))
    nothing_goes(storage, because=compaction)


def test_a_file_that_cannot_be_got_stops_it(storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    append: Manifest = write(storage, 1)
    storage.put(PARTITION.data_file("_commits/torn.table"), b"x")
    real = MemoryStorage.get_many

    def get_many(self: MemoryStorage, objects: list) -> list[bytes]:
        if any("torn" in info.path for info in objects):
            raise CorruptObjectError("holds other bytes")
        return real(self, objects)

    monkeypatch.setattr(MemoryStorage, "get_many", get_many)
    nothing_goes(storage, because="torn.table cannot be read")
    assert PARTITION.append_manifest(append.commit) in contents(storage)
