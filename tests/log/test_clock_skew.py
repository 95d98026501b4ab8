"""Count commits that claim times far ahead at the time of their arrival, and tell the operator."""

import logging
from typing import Any

import msgspec
import pytest

from metaxy_fs.ids import AHEAD, MAX_TIME, LamportClock
from metaxy_fs.log import clock_skew
from metaxy_fs.log.compact import compact_partition
from metaxy_fs.log.compactor import Options
from metaxy_fs.log.copy import copy_partition
from metaxy_fs.log.descriptions import PartitionInfo, open_for_writing
from metaxy_fs.log.manifest import Definition
from metaxy_fs.log.repair import repair
from metaxy_fs.log.verify import verify
from metaxy_fs.log.view import View, ViewLoader
from metaxy_fs.storage.base import ObjectInfo, Storage
from metaxy_fs.storage.memory import MemoryStorage
from metaxy_fs.testing.store_clocks import machine_at
from tests.log.commits import PARTITION, VERSION, write
from tests.log.roots import describe

NOW = 1_800_000_000_000_000
HOUR = 3_600_000_000
YEAR = 366 * 24 * HOUR


class Clock:
    """That of a storage."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        self.now += 1
        return self.now


class Timeless(MemoryStorage):
    """A storage that tells no times."""

    def list(self, directory: str, *, limit: int | None = None) -> list[ObjectInfo]:
        return [ObjectInfo(info.path, info.size) for info in super().list(directory, limit=limit)]


def root(clock: Clock, kind: type[MemoryStorage] = MemoryStorage) -> MemoryStorage:
    storage = kind(wall=clock)
    open_for_writing(storage)
    return storage


def write_at(storage: Storage, time: int, *ids: int, **options: Any) -> str:
    """Write rows from a machine whose clock stands at a time; return the commit."""
    with machine_at(time):
        return write(storage, *ids, **options).commit


def view_at(storage: Storage, time: int, clock: LamportClock | None = None) -> View:
    """What a reader sees whose clock stands at a time."""
    with machine_at(time):
        view = ViewLoader(storage, clock=clock or LamportClock()).load(PARTITION)
    assert view is not None
    return view


def ids_in_order(view: View) -> list[str]:
    return [manifest.commit for manifest in view.manifests]


def compact_at(storage: Storage, time: int, *, full: bool = False) -> list[int]:
    """Compact, and return how many commits each step has covered."""
    with machine_at(time):
        clock = LamportClock()
        options = Options(writer="a test", full=full)
        loader = ViewLoader(storage, clock=clock)
        return [done.commits for done in compact_partition(storage, loader, PARTITION, clock=clock, options=options)]


# Where the storage tells when.


@pytest.mark.parametrize("claimed", [NOW + AHEAD + HOUR, NOW + 73 * YEAR, MAX_TIME])
@pytest.mark.parametrize("reader", [NOW, NOW - 50 * YEAR, NOW + 50 * YEAR, NOW - 90 * 24 * HOUR])
def test_commit_far_ahead_counts_at_its_arrival_for_every_reader(claimed: int, reader: int) -> None:
    clock = Clock()
    storage = root(clock)
    first = write_at(storage, NOW, 1)
    ahead = write_at(storage, claimed, 1)
    last = write_at(storage, NOW + 20, 1)  # which has seen nothing
    view = view_at(storage, reader)
    assert ids_in_order(view) == [first, ahead, last]
    assert [live.first[1] for live in view.files] == [first, ahead, last]
    assert view.ahead == {ahead}
    assert NOW < view.manifests[1].time < NOW + 20


@pytest.mark.parametrize("claimed", [NOW - 46 * YEAR, NOW + HOUR, NOW + 35 * HOUR])
def test_clock_that_is_behind_or_a_little_ahead_is_believed(claimed: int) -> None:
    storage = root(Clock())
    write_at(storage, claimed, 1)
    view = view_at(storage, NOW)
    assert view.manifests[0].time == claimed
    assert not view.ahead


def test_clock_is_set_to_what_counts() -> None:
    storage = root(Clock())
    write_at(storage, MAX_TIME, 1)
    clock = LamportClock()
    view_at(storage, NOW, clock)
    with machine_at(0):
        assert NOW < clock.tick() < NOW + HOUR


def test_clock_of_a_writer_that_is_behind_follows_the_arrival() -> None:
    storage = root(Clock())
    ahead = write_at(storage, MAX_TIME, 1)
    clock = LamportClock()
    view_at(storage, 0, clock)
    last = write_at(storage, 0, 1, clock=clock)
    assert ids_in_order(view_at(storage, NOW)) == [ahead, last]


# Where it does not, or has told wrongly.


def test_commits_of_a_time_at_which_the_machine_was_wrong_count_as_the_earliest() -> None:
    clock = Clock()
    storage = root(clock)
    first = write_at(storage, NOW, 1)
    clock.now += 73 * YEAR
    wrong = [write_at(storage, clock.now + place, 1) for place in (0, HOUR)]
    assert ids_in_order(view_at(storage, clock.now)) == [first, *wrong]
    clock.now = NOW + 1_000
    last = write_at(storage, NOW + 2_000, 1)
    assert ids_in_order(view_at(storage, NOW + 3_000)) == [*wrong, first, last]


def test_reader_whose_clock_is_before_all_that_there_is_judges_nobody() -> None:
    storage = root(Clock())
    commits = [write_at(storage, NOW + place, 1) for place in range(3)]
    view = view_at(storage, 0)
    assert ids_in_order(view) == commits
    assert [manifest.time for manifest in view.manifests] == [NOW, NOW + 1, NOW + 2]


def test_storage_without_times_has_commits_far_ahead_as_the_earliest() -> None:
    storage = root(Clock(), Timeless)
    first = write_at(storage, NOW, 1)
    ahead = write_at(storage, NOW + 73 * YEAR, 1)
    last = write_at(storage, NOW + HOUR, 1)
    assert ids_in_order(view_at(storage, NOW)) == [ahead, first, last]


# What the operator is told.


def test_logger_warns_of_a_commit_once(caplog: pytest.LogCaptureFixture) -> None:
    clock_skew._WARNED.clear()
    storage = root(Clock())
    ahead = write_at(storage, MAX_TIME, 1)
    write_at(storage, NOW, 2)
    with caplog.at_level(logging.WARNING, "metaxy_fs"):
        view_at(storage, NOW)
        view_at(storage, NOW)
    [record] = caplog.records
    assert ahead in record.getMessage()
    assert "9999-01-01" in record.getMessage()
    assert "2027-01-15" in record.getMessage()
    assert "compact" in record.getMessage()


def test_verification_names_the_commit_until_it_is_compacted() -> None:
    storage = root(Clock())
    write_at(storage, NOW, 1)
    ahead = write_at(storage, MAX_TIME, 2)

    def warnings() -> list[tuple[str, str]]:
        with machine_at(NOW + HOUR):
            found = verify(storage).findings
        return [(each.path, each.severity) for each in found if "_definition" not in each.path]

    assert warnings() == [(PARTITION.append_manifest(ahead), "warning")]
    compact_at(storage, NOW + HOUR)
    assert [severity for _, severity in warnings()] == ["note"]  # what may be vacuumed


@pytest.mark.parametrize("full", [False, True])
def test_compaction_settles_the_times_also_of_a_commit_alone(*, full: bool) -> None:
    clock = Clock()
    storage = root(clock)
    ahead = write_at(storage, MAX_TIME, 1)
    before = view_at(storage, NOW)
    assert compact_at(storage, NOW + HOUR, full=full) == [1]
    assert compact_at(storage, NOW + HOUR, full=full) == []
    last = write_at(storage, NOW + 20, 1)
    view = view_at(storage, NOW)
    assert view.ahead == frozenset()
    assert [live.first for live in view.files] == [before.files[0].first, (NOW + 20, last)]
    assert before.files[0].first[1] == ahead


def test_compaction_by_a_clock_far_ahead_sets_no_clock_forward() -> None:
    storage = root(Clock())
    for place in range(3):
        write_at(storage, NOW + place, place)
    assert compact_at(storage, MAX_TIME - HOUR, full=True) == [3]
    clock = LamportClock()
    view_at(storage, NOW, clock)
    with machine_at(NOW + HOUR):
        assert clock.tick() == NOW + HOUR


# Copies.


@pytest.mark.parametrize("write_id", [None, "job"])
@pytest.mark.parametrize("is_compacted", [False, True])
def test_copy_of_a_commit_far_ahead_counts_as_in_the_source(write_id: str | None, *, is_compacted: bool) -> None:
    clock = Clock()
    source, target = root(clock), root(clock)
    commits = [
        write_at(source, NOW, 1),
        write_at(source, MAX_TIME, 1, write_id=write_id),
        write_at(source, NOW + 50, 1),
    ]
    _describe(source)
    if is_compacted:
        compact_at(source, NOW + HOUR)

    def copy() -> int:
        with machine_at(NOW + HOUR):
            chosen = frozenset(commits)
            return copy_partition(source, target, PARTITION, commits=chosen, advance=lambda _done, _all: None).added

    assert copy() == 3
    assert copy() == 0
    places = [[live.first for live in view_at(storage, NOW).files] for storage in (source, target)]
    assert places[0] == places[1]
    assert [commit for _, commit in places[1]] == commits
    with machine_at(NOW + 2 * HOUR):
        findings = [each for each in verify(target).findings if each.severity != "note"]
        is_known = write(target, 1, write_id=write_id).commit in commits
    assert findings == []
    assert is_known == (write_id is not None)


def _describe(storage: Storage) -> None:
    info = PartitionInfo(
        feature=("video", "processing"),
        definition=Definition(PARTITION.version * 4, {"frames": VERSION}),
        id_columns=("sample_id",),
        spec=msgspec.Raw(b"{}"),
    )
    describe(storage, PARTITION, info)


# Repairs.


@pytest.mark.parametrize("write_id", [None, "job"])
@pytest.mark.parametrize("is_gone", [False, True])
def test_repaired_commit_far_ahead_counts_as_before(write_id: str | None, *, is_gone: bool) -> None:
    clock = Clock()
    storage = root(clock)
    commits = [
        write_at(storage, NOW, 1),
        write_at(storage, MAX_TIME, 1, write_id=write_id),
        write_at(storage, NOW + 50, 1),
    ]
    clock.now += HOUR
    path = PARTITION.append_manifest(commits[1])
    storage.delete(path)
    if not is_gone:
        storage.put(path, b"{}")
    with machine_at(NOW + 2 * HOUR):
        [name] = [found.name for found in repair(storage, dry_run=True)]
        [restored] = repair(storage, dry_run=False, vouched=[name] if is_gone else [])
    assert restored.state == "restored"
    assert [live.first[1] for live in view_at(storage, NOW).files] == commits
    with machine_at(NOW + 3 * HOUR):
        assert [each for each in verify(storage).findings if each.severity == "error"] == []
        assert (write(storage, 1, write_id=write_id).commit in commits) == (write_id is not None)
