"""Vacuum deletes all that nothing needs any more, in time, and nothing else."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from polars.testing import assert_frame_equal

from metaxy_fs import testing
from metaxy_fs.errors import CommitStateUnknownError, StorageError, WriteConflictError
from metaxy_fs.ids import driven_by
from metaxy_fs.log import unreferenced
from metaxy_fs.log.descriptions import open_for_writing
from metaxy_fs.log.manifest import Manifest
from metaxy_fs.log.repair import repair
from metaxy_fs.log.unreferenced import Policy, encode_records
from metaxy_fs.log.vacuum import Vacuumed, vacuum
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.local import LocalStorage
from metaxy_fs.storage.memory import MemoryStorage
from metaxy_fs.testing import Fault
from metaxy_fs.testing.faults import NOT_APPLIED
from tests.log.commits import PARTITION, write
from tests.log.compactions import put_compaction, read
from tests.log.faulty import FaultyStorage
from tests.log.roots import contents, replace
from tests.support.patience import Hurried
from tests.support.storages import StorageClock

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def storage(timed_root: MemoryStorage) -> MemoryStorage:
    return timed_root


def run(storage: Storage, *, dry_run: bool = False, policy: Policy | None = None) -> Vacuumed:
    found = vacuum(storage, policy=policy or Policy(), dry_run=dry_run)
    assert found.skipped == ()
    return found


def states(found: Vacuumed) -> dict[str, str]:
    return {removal.path.removeprefix(f"{PARTITION}/"): removal.state for removal in found.removals}


def appends(storage: Storage, count: int, *, start: int = 0) -> list[Manifest]:
    return [write(storage, number, number + 1) for number in range(start, start + count)]


def manifests(storage: Storage) -> list[str]:
    return sorted(info.path.removeprefix(f"{PARTITION}/_manifests/") for info in storage.list(PARTITION.manifests))


def data_files(storage: Storage) -> set[str]:
    prefix = f"{PARTITION}/"
    return {
        info.path.removeprefix(prefix)
        for info in storage.list(str(PARTITION))
        if info.path.endswith((".parquet", ".table"))
    }


def appended(found: Sequence[Manifest]) -> list[str]:
    return [f"_manifests/appends/{manifest.commit}.json" for manifest in found]


def files_of(found: Sequence[Manifest]) -> set[str]:
    return {file.name for manifest in found for file in manifest.files}


def test_appends_that_count_are_never_touched(storage: MemoryStorage, clock: StorageClock) -> None:
    appends(storage, 3)
    clock.pass_by(400 * DAY)
    before = contents(storage)
    for _ in range(3):
        assert run(storage).removals == ()
        clock.pass_by(10 * DAY)
    assert contents(storage) == before


def test_covered_appends_go_after_the_grace_and_their_files_after_the_retention(
    storage: MemoryStorage, clock: StorageClock
) -> None:
    covered = appends(storage, 3)
    expected = read(storage)
    clock.pass_by(30 * DAY)
    compaction = put_compaction(storage, covered)

    clock.pass_by(HOUR - timedelta(seconds=1))
    found = run(storage)
    assert set(states(found).values()) == {"waiting"}
    assert len(manifests(storage)) == 4

    clock.pass_by(timedelta(seconds=1))
    run(storage)
    assert manifests(storage) == [f"compactions/{compaction}.json"]
    assert files_of(covered) <= data_files(storage)

    clock.pass_by(7 * DAY - HOUR)
    assert files_of(covered) <= data_files(storage)
    clock.pass_by(HOUR)
    run(storage)
    assert data_files(storage) == {f"{compaction}-0-0.parquet", f"_commits/{compaction}.table"}
    assert_frame_equal(read(storage), expected)


def test_the_first_vacuum_notes_and_the_second_deletes_whatever_the_age_of_a_file(
    storage: MemoryStorage, clock: StorageClock
) -> None:
    covered = appends(storage, 2)
    put_compaction(storage, covered)
    clock.pass_by(400 * DAY)
    assert states(run(storage))[covered[0].files[0].name] == "waiting"
    clock.pass_by(7 * DAY - timedelta(seconds=1))
    assert states(run(storage))[covered[0].files[0].name] == "waiting"
    clock.pass_by(timedelta(seconds=1))
    assert states(run(storage))[covered[0].files[0].name] == "deleted"


def test_nothing_is_left_of_what_vacuums_have_noted(storage: MemoryStorage, clock: StorageClock) -> None:
    put_compaction(storage, appends(storage, 2))
    for _ in range(3):
        clock.pass_by(8 * DAY)
        run(storage)
    assert storage.list(f"{PARTITION}/_vacuum") == []
    assert storage.list("_clock") == []


def test_a_compaction_that_a_larger_one_covers_goes(storage: MemoryStorage, clock: StorageClock) -> None:
    first, second = appends(storage, 2), appends(storage, 2, start=5)
    small = put_compaction(storage, first, token="1" * 16)
    clock.pass_by(2 * HOUR)
    large = put_compaction(storage, first + second, token="2" * 16)
    expected = read(storage)
    run(storage)
    assert f"compactions/{small}.json" in manifests(storage)
    assert not any(f"appends/{append.commit}.json" in manifests(storage) for append in first)
    clock.pass_by(HOUR)
    run(storage)
    assert manifests(storage) == [f"compactions/{large}.json"]
    assert_frame_equal(read(storage), expected)


def test_of_two_compactions_of_the_same_the_greater_id_stays(storage: MemoryStorage, clock: StorageClock) -> None:
    covered = appends(storage, 2)
    put_compaction(storage, covered, token="1" * 16)
    greater = put_compaction(storage, covered, token="2" * 16)
    clock.pass_by(HOUR)
    run(storage)
    assert manifests(storage) == [f"compactions/{greater}.json"]


def test_the_grace_is_that_of_the_first_compaction_that_stands_for_another(
    storage: MemoryStorage, clock: StorageClock
) -> None:
    covered = appends(storage, 3)
    names = []
    for number in range(1, 4):
        names.append(put_compaction(storage, covered[:number], token=f"{number}" * 16))
        clock.pass_by(timedelta(minutes=50))
    run(storage)
    kept = [f"compactions/{name}.json" for name in names[1:]]
    assert manifests(storage) == [f"appends/{covered[2].commit}.json", *kept]


def test_compactions_that_overlap_stay(storage: MemoryStorage, clock: StorageClock) -> None:
    held = appends(storage, 20)
    halves = held[:-1], held[1:]
    names = [put_compaction(storage, half, token=f"{number}" * 16) for number, half in enumerate(halves)]
    expected = read(storage)
    clock.pass_by(HOUR)
    run(storage)
    assert manifests(storage) == sorted(f"compactions/{name}.json" for name in names)
    assert_frame_equal(read(storage), expected)


def test_files_that_a_compaction_lists_again_stay(storage: MemoryStorage, clock: StorageClock) -> None:
    covered = appends(storage, 3)
    put_compaction(storage, covered, listed_again=[covered[1].commit])
    expected = read(storage)
    for _ in range(3):
        clock.pass_by(8 * DAY)
        run(storage)
    assert files_of(covered) & data_files(storage) == files_of(covered[1:2])
    assert_frame_equal(read(storage), expected)


def test_orphans_are_noted_once_no_write_of_them_can_be_under_way(storage: MemoryStorage, clock: StorageClock) -> None:
    appends(storage, 1)
    storage.put(PARTITION.data_file("lost-0.parquet"), b"orphan")
    clock.pass_by(24 * HOUR)
    assert run(storage).removals == ()
    clock.pass_by(HOUR)
    assert states(run(storage)) == {"lost-0.parquet": "waiting"}
    clock.pass_by(7 * DAY)
    assert states(run(storage))["lost-0.parquet"] == "deleted"
    assert "lost-0.parquet" not in data_files(storage)


def test_a_partition_without_any_commit_loses_its_orphans_alone(storage: MemoryStorage, clock: StorageClock) -> None:
    storage.put(PARTITION.data_file("lost-0.parquet"), b"orphan")
    storage.put(PARTITION.definition_file, b"{}")
    for _ in range(3):
        clock.pass_by(8 * DAY)
        run(storage)
    assert set(contents(storage)) == {"_store.json", PARTITION.definition_file}


def test_a_file_that_is_named_again_begins_anew(storage: MemoryStorage, clock: StorageClock) -> None:
    """A compactor stalls for a day: meanwhile another one rewrites what it lists again, and a vacuum notes that."""
    covered = appends(storage, 2)
    relisted = PARTITION.data_file(covered[0].files[0].name)
    put_compaction(storage, covered, token="1" * 16)
    clock.pass_by(2 * DAY)
    run(storage)
    late = put_compaction(storage, covered, token="2" * 16, listed_again=[covered[0].commit])
    clock.pass_by(6 * DAY)
    put_compaction(storage, covered, token="3" * 16)
    clock.pass_by(1 * DAY + HOUR)
    run(storage)
    assert f"compactions/{late}.json" not in manifests(storage)
    assert relisted in contents(storage)
    clock.pass_by(7 * DAY - timedelta(seconds=1))
    run(storage)
    assert relisted in contents(storage)
    clock.pass_by(timedelta(seconds=1))
    run(storage)
    assert relisted not in contents(storage)


def test_a_file_that_is_named_for_good_again_is_kept(storage: MemoryStorage, clock: StorageClock) -> None:
    covered = appends(storage, 2)
    put_compaction(storage, covered, token="1" * 16)
    clock.pass_by(2 * DAY)
    run(storage)
    put_compaction(storage, covered, token="2" * 16, listed_again=[covered[0].commit])
    expected = read(storage)
    for _ in range(4):
        clock.pass_by(3 * DAY)
        run(storage)
    assert files_of(covered) & data_files(storage) == files_of(covered[:1])
    assert_frame_equal(read(storage), expected)


def test_nothing_goes_by_a_compaction_that_is_not_whole(storage: MemoryStorage, clock: StorageClock) -> None:
    covered = appends(storage, 2)
    compaction = put_compaction(storage, covered)
    clock.pass_by(30 * DAY)
    for name in [f"{compaction}-0-0.parquet", f"_commits/{compaction}.table"]:
        data = storage.get(PARTITION.data_file(name))
        for damaged in [None, data[:-1]]:
            storage.delete(PARTITION.data_file(name))
            if damaged is not None:
                storage.put(PARTITION.data_file(name), damaged)
            before = contents(storage)
            found = vacuum(storage, policy=Policy(), dry_run=False)
            assert [(finding.path, name in finding.problem) for finding in found.skipped] == [(str(PARTITION), True)]
            assert found.removals == ()
            assert contents(storage) == before
        replace(storage, PARTITION.data_file(name), data)
    run(storage)
    assert manifests(storage) == [f"compactions/{compaction}.json"]


@pytest.mark.parametrize(
    "path", ["_manifests/appends/x.json", "_manifests/compactions/x.json", "_manifests/odd", "_vacuum/x.json"]
)
def test_nothing_goes_where_something_is_not_understood(storage: MemoryStorage, clock: StorageClock, path: str) -> None:
    put_compaction(storage, appends(storage, 2))
    storage.put(PARTITION.data_file("lost-0.parquet"), b"orphan")
    clock.pass_by(30 * DAY)
    storage.put(f"{PARTITION}/{path}", b'{"format_version":2}')
    before = contents(storage)
    for _ in range(2):
        found = vacuum(storage, policy=Policy(), dry_run=False)
        assert [finding.path for finding in found.skipped] == [str(PARTITION)]
        assert path in found.skipped[0].problem
        clock.pass_by(30 * DAY)
    assert contents(storage) == before


def test_one_partition_that_is_not_understood_holds_up_no_other(storage: MemoryStorage, clock: StorageClock) -> None:
    put_compaction(storage, appends(storage, 2))
    storage.put("audio/0123456789abcdef/_manifests/appends/x.json", b"")
    clock.pass_by(DAY)
    found = vacuum(storage, policy=Policy(), dry_run=False)
    assert [finding.path for finding in found.skipped] == ["audio/0123456789abcdef"]
    assert len(manifests(storage)) == 1


def test_a_dry_run_changes_nothing_and_says_what_would_go(storage: MemoryStorage, clock: StorageClock) -> None:
    covered = appends(storage, 2)
    put_compaction(storage, covered)
    clock.pass_by(2 * DAY)
    before = contents(storage)
    found = run(storage, dry_run=True)
    assert contents(storage) == before
    assert states(found) == {
        **{f"_manifests/appends/{append.commit}.json": "deletable" for append in covered},
        **dict.fromkeys(files_of(covered), "waiting"),
    }
    ages = {removal.state: removal.age for removal in found.removals}
    assert ages == {"deletable": 2 * DAY, "waiting": timedelta(0)}
    assert sum(removal.bytes for removal in found.removals) == sum(
        len(data)
        for path, data in before.items()
        if path.rpartition("/")[2].startswith(tuple(a.commit for a in covered))
    )


def test_a_deletion_that_fails_is_told_and_holds_up_no_other(storage: MemoryStorage, clock: StorageClock) -> None:
    covered = appends(storage, 3)
    put_compaction(storage, covered)
    clock.pass_by(HOUR)
    stuck = PARTITION.append_manifest(covered[1].commit)
    faulty = FaultyStorage(storage, lambda verb, path: "before" if (verb, path) == ("delete", stuck) else None)
    found = vacuum(faulty, policy=Policy(), dry_run=False)
    assert sorted(states(found).values()) == ["deleted", "deleted", "failed"]
    [failed] = [removal for removal in found.removals if removal.state == "failed"]
    assert (failed.path, "cannot delete" in failed.reason) == (stuck, True)
    assert states(run(storage)) == {stuck.removeprefix(f"{PARTITION}/"): "deleted"}


def test_what_cannot_be_noted_is_not_deleted(storage: MemoryStorage, clock: StorageClock) -> None:
    put_compaction(storage, appends(storage, 3))
    clock.pass_by(2 * DAY)
    before = contents(storage)
    faulty = FaultyStorage(storage, lambda verb, path: "before" if verb == "put" and "_vacuum" in path else None)
    found = vacuum(faulty, policy=Policy(), dry_run=False)
    assert len(found.skipped) == 1
    assert contents(storage) == before


def test_manifests_that_vanish_while_they_are_listed_are_listed_again(
    storage: MemoryStorage, clock: StorageClock
) -> None:
    covered = appends(storage, 2)
    put_compaction(storage, covered[:1], token="1" * 16)
    put_compaction(storage, covered, token="2" * 16)
    clock.pass_by(2 * HOUR)
    raced: list[Vacuumed] = []

    def fault(verb: str, path: str) -> None:
        if verb == "get" and "compactions" in path and not raced:
            raced.append(run(storage))

    found = run(FaultyStorage(storage, fault))
    assert {path for path, state in states(raced[0]).items() if state == "deleted"} >= set(appended(covered))
    assert set(states(found).values()) == {"waiting"}
    assert all(path.endswith((".parquet", ".table")) for path in states(found))


def test_one_feature_is_vacuumed_alone(storage: MemoryStorage, clock: StorageClock) -> None:
    put_compaction(storage, appends(storage, 2))
    clock.pass_by(2 * HOUR)
    assert vacuum(storage, policy=Policy(), dry_run=False, feature="video").removals == ()
    assert len(vacuum(storage, policy=Policy(), dry_run=False, feature="video.processing").removals) == 2


def test_what_repair_has_replaced_goes_with_its_time(storage: MemoryStorage, clock: StorageClock) -> None:
    [append] = appends(storage, 1)
    storage.put(PARTITION.damaged_manifest(append.commit, "0"), b"x")
    clock.pass_by(7 * DAY - timedelta(seconds=1))
    assert states(run(storage)) == {f"_damaged/{append.commit}/0.json": "waiting"}
    clock.pass_by(timedelta(seconds=1))
    assert states(run(storage)) == {f"_damaged/{append.commit}/0.json": "deleted"}


def test_questions_for_the_time_that_were_cut_short_go(storage: MemoryStorage, clock: StorageClock) -> None:
    storage.put("_clock/0123456789abcdef", b"")
    clock.pass_by(24 * HOUR)
    assert states(run(storage)) == {"_clock/0123456789abcdef": "waiting"}
    clock.pass_by(HOUR)
    assert states(run(storage)) == {"_clock/0123456789abcdef": "deleted"}


def test_puts_that_were_cut_short_on_a_local_disk_go(tmp_path) -> None:
    storage = LocalStorage(tmp_path)
    open_for_writing(storage)
    write(storage, 1)
    left = tmp_path / str(PARTITION) / ".tmp-0123456789abcdef"
    left.write_bytes(b"torn")
    assert states(run(storage)) == {".tmp-0123456789abcdef": "waiting"}
    eager = Policy(retention=timedelta(0), is_safe=False)
    assert states(run(storage, policy=eager)) == {".tmp-0123456789abcdef": "deleted"}
    assert not left.exists()


def test_on_a_root_of_ones_own_all_goes_at_once(storage: MemoryStorage) -> None:
    covered = appends(storage, 3)
    compaction = put_compaction(storage, covered)
    expected = read(storage)
    run(storage, policy=Policy(grace=timedelta(0), retention=timedelta(0), is_safe=False))
    run(storage)
    assert set(contents(storage)) == {
        "_store.json",
        PARTITION.compaction_manifest(compaction),
        PARTITION.data_file(f"{compaction}-0-0.parquet"),
        PARTITION.data_file(f"_commits/{compaction}.table"),
    }
    assert_frame_equal(read(storage), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grace": timedelta(minutes=9)}, r"grace is at least 0:10:00, got 0:09:00: a reader"),
        ({"retention": timedelta(days=1)}, r"retention is at least 2 days, 0:00:00, got 1 day, 0:00:00: a write"),
    ],
)
def test_less_than_the_protocol_needs_is_refused(change: dict[str, timedelta], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Policy(**change)
    Policy(**change, is_safe=False)


def test_a_storage_without_times_is_not_vacuumed(storage: MemoryStorage) -> None:
    class Timeless(FaultyStorage):
        def list(self, directory, *, limit=None):
            return [type(info)(info.path, info.size) for info in self.inner.list(directory, limit=limit)]

    with pytest.raises(StorageError, match="does not tell when objects were written"):
        vacuum(Timeless(storage), policy=Policy(), dry_run=True)


def test_a_statement_that_was_taken_back_counts_no_more(storage: MemoryStorage, clock: StorageClock) -> None:
    appends(storage, 1)
    storage.put(PARTITION.data_file("lost-0.parquet"), b"orphan")
    storage.put(PARTITION.vacuum_record("b"), next(encode_records(unnamed=["lost-0.parquet"], named=[])))
    clock.pass_by(9 * DAY)
    storage.put(PARTITION.vacuum_record("a"), next(encode_records(unnamed=[], named=["lost-0.parquet"])))
    clock.pass_by(HOUR)
    assert states(run(storage))["lost-0.parquet"] == "waiting"


def test_a_file_that_was_noted_long_ago_and_is_named_again_is_kept(storage: MemoryStorage, clock: StorageClock) -> None:
    covered = appends(storage, 2)
    storage.put(PARTITION.vacuum_record("a"), next(encode_records(unnamed=sorted(files_of(covered)), named=[])))
    clock.pass_by(30 * DAY)
    put_compaction(storage, covered, listed_again=[covered[0].commit])
    run(storage)
    assert files_of(covered) & data_files(storage) == files_of(covered[:1])


def test_a_commit_that_somebody_restores_from_a_backup_begins_anew(storage: MemoryStorage, clock: StorageClock) -> None:
    lost = appends(storage, 1)
    path = PARTITION.append_manifest(lost[0].commit)
    manifest = storage.get(path)
    storage.delete(path)
    clock.pass_by(2 * DAY)
    run(storage)
    storage.put(path, manifest)
    clock.pass_by(9 * DAY)
    run(storage)
    put_compaction(storage, lost)
    clock.pass_by(2 * HOUR)
    run(storage)
    assert files_of(lost) <= data_files(storage)


def test_a_commit_that_repair_restores_begins_anew(storage: MemoryStorage, clock: StorageClock) -> None:
    clock.now = datetime.now(UTC)  # repair lists a write again that claims to be far ahead of the storage
    lost = appends(storage, 1)
    storage.delete(PARTITION.append_manifest(lost[0].commit))
    clock.pass_by(2 * DAY)
    run(storage)
    clock.pass_by(6 * DAY)
    repair(storage, vouched=[lost[0].commit], dry_run=False)
    clock.pass_by(2 * DAY)
    put_compaction(storage, lost)
    run(storage)
    assert files_of(lost) <= data_files(storage)
    clock.pass_by(7 * DAY)
    run(storage)
    assert not files_of(lost) & data_files(storage)


@pytest.fixture
def vacuumed_write(storage: MemoryStorage, clock: StorageClock) -> Manifest:
    """A named write that a compaction covers, and whose manifest is gone."""
    named = write(storage, 1, 2, write_id="job 7")
    put_compaction(storage, [named, *appends(storage, 1, start=7)])
    clock.pass_by(2 * HOUR)
    run(storage)
    assert PARTITION.append_manifest(named.commit) not in contents(storage)
    return named


def test_a_named_write_is_recognised_after_its_manifest_is_gone(
    storage: MemoryStorage, clock: StorageClock, vacuumed_write: Manifest
) -> None:
    expected = read(storage)
    for _ in range(3):
        assert write(storage, 1, 2, write_id="job 7") == vacuumed_write
        assert_frame_equal(read(storage), expected)
        clock.pass_by(8 * DAY)
        assert "failed" not in states(run(storage)).values()
    assert_frame_equal(read(storage), expected)


def test_other_rows_under_a_name_are_refused_after_its_manifest_is_gone(
    storage: MemoryStorage, vacuumed_write: Manifest
) -> None:
    expected = read(storage)
    for _ in range(2):
        with pytest.raises(WriteConflictError, match=r"'job 7'.*names a commit of 2 rows at .*_writes"):
            write(storage, 3, write_id="job 7")
    assert_frame_equal(read(storage), expected)


def test_a_named_write_that_meets_the_vacuum_is_recognised(storage: MemoryStorage, clock: StorageClock) -> None:
    named = write(storage, 1, 2, write_id="job 7")
    put_compaction(storage, [named])
    clock.pass_by(2 * HOUR)
    raced: list[Vacuumed] = []

    def fault(verb: str, path: str) -> None:
        if verb == "get" and path == PARTITION.append_manifest(named.commit) and len(raced) == 1:
            raced.append(run(storage))
        if verb == "get" and path == PARTITION.append_manifest(named.commit) and not raced:
            raced.append(run(storage, dry_run=True))  # the first time it is the put that looks who has the name

    assert write(FaultyStorage(storage, fault), 1, 2, write_id="job 7") == named
    assert len(raced) == 2


def test_a_named_write_that_cannot_look_for_earlier_attempts_is_of_unknown_state(
    storage: MemoryStorage, vacuumed_write: Manifest
) -> None:
    faulty = FaultyStorage(storage, lambda verb, path: "before" if verb == "get" and "_writes" in path else None)
    with pytest.raises(StorageError, match="_writes"):  # nothing is put where it cannot look
        write(faulty, 1, 2, write_id="job 7")
    looks = iter([None])
    later = FaultyStorage(
        storage, lambda verb, path: next(looks, "before") if verb == "get" and "_writes" in path else None
    )
    with pytest.raises(CommitStateUnknownError, match="Write them again with the same write_id"):
        write(later, 1, 2, write_id="job 8")
    assert write(storage, 1, 2, write_id="job 7") == vacuumed_write


class Archive(FaultyStorage):
    """A storage whose data files can be read after they were deleted, from which compactions are made by hand."""

    def __init__(self, inner: Storage) -> None:
        super().__init__(inner)
        self.archive: dict[str, bytes] = {}

    def keep(self) -> None:
        self.archive |= contents(self.inner)

    def get(self, path: str) -> bytes:
        return self.archive[path] if path in self.archive else self.inner.get(path)


def test_a_month_of_compactions_and_vacuums_leaves_all_rows_and_no_more_files_than_needed(
    storage: MemoryStorage, clock: StorageClock
) -> None:
    held: list[Manifest] = []
    archive = Archive(storage)
    for day in range(31):
        held += appends(storage, 2, start=day)
        archive.keep()
        if day % 3 == 2:
            put_compaction(archive, held[-6:], token=f"{day:016}")
        if day % 9 == 8:
            put_compaction(archive, held, token=f"{day:015}z", listed_again=[held[0].commit])
        expected = read(storage)
        run(storage)
        assert_frame_equal(read(storage), expected)
        clock.pass_by(DAY)
    # One compaction of 27 days, one of 3, and the appends of the last day.
    assert len(manifests(storage)) == 4
    for _ in range(2):
        clock.pass_by(7 * DAY)
        run(storage)
    assert data_files(storage) > files_of([held[0], *held[-2:]])
    assert len(data_files(storage)) == 3 + 2 * 2
    assert_frame_equal(read(storage), expected)


def test_a_record_that_is_too_large_is_left_where_it_is_with_all_of_its_partition(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    appends(storage, 1)
    storage.put(PARTITION.data_file("lost-0.parquet"), b"orphan")
    storage.put(PARTITION.vacuum_record("a"), next(encode_records(unnamed=["lost-0.parquet"], named=[])))
    monkeypatch.setattr(unreferenced, "MAX_RECORD_BYTES", 10)
    [finding] = vacuum(storage, policy=Policy(), dry_run=False).skipped
    assert re.search(r"_vacuum/a\.json has \d+ bytes, more than the 10 that one may have", finding.problem)


def test_what_a_vacuum_notes_of_very_many_files_is_in_several_records(
    storage: MemoryStorage, clock: StorageClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unreferenced, "_NAMES_A_RECORD", 2)
    appends(storage, 1)
    lost = {f"lost-{number}.parquet" for number in range(5)}
    for name in lost:
        storage.put(PARTITION.data_file(name), b"orphan")
    clock.pass_by(2 * DAY)
    run(storage)
    assert len(storage.list(f"{PARTITION}/_vacuum")) == 3
    clock.pass_by(8 * DAY)
    run(storage)
    assert not lost & data_files(storage)


@pytest.mark.parametrize("times", [2, 3])
def test_a_vacuum_asks_three_times_what_time_it_is(storage: MemoryStorage, times: int) -> None:
    remaining = iter([Fault.RESET_BEFORE] * times)
    faulty = testing.FaultyStorage(
        storage, lambda verb, path: next(remaining, None) if verb == "put" and path.startswith("_clock") else None
    )
    appends(storage, 1)
    with driven_by(Hurried()):
        if times < 3:
            run(faulty)
        else:
            with pytest.raises(StorageError):
                run(faulty)
    assert len({met.path for met in faulty.met}) == times


@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.parametrize("place", range(3))
def test_a_vacuum_outlives_any_fault_of_a_request_for_the_time(
    storage: MemoryStorage, clock: StorageClock, fault: Fault, place: int
) -> None:
    remaining = iter([None] * place + [fault])
    faulty = testing.FaultyStorage(
        storage, lambda _verb, path: next(remaining, None) if path.startswith("_clock") else None
    )
    appends(storage, 1)
    with driven_by(Hurried()):
        assert all(removal.path.startswith("_clock/") for removal in run(faulty).removals)
    assert [met.path.partition("/")[0] for met in faulty.met] == ["_clock"]
    assert len(storage.list("_clock")) == (place == 2 and fault in NOT_APPLIED)
    clock.pass_by(2 * DAY)
    run(storage)
    assert storage.list("_clock") == []


def test_a_vacuum_that_never_learns_the_time_deletes_nothing(storage: MemoryStorage) -> None:
    faulty = testing.FaultyStorage(storage, lambda verb, path: Fault.RESET_BEFORE if path == "_clock" else None)
    appends(storage, 1)
    before = contents(storage)
    with driven_by(Hurried()), pytest.raises(StorageError, match="cannot list '_clock'"):
        run(faulty)
    assert contents(storage) == before
