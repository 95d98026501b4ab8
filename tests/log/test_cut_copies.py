"""What a cut copy leaves is not taken for lost commits, not brought to life, and not left forever."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from metaxy_fs.errors import StorageError
from metaxy_fs.ids import MAX_TIME, LamportClock
from metaxy_fs.log.copy import copy_partition
from metaxy_fs.log.descriptions import open_for_writing
from metaxy_fs.log.log import Log
from metaxy_fs.log.repair import repair
from metaxy_fs.log.unreferenced import Policy
from metaxy_fs.log.vacuum import vacuum
from metaxy_fs.log.verify import verify
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.memory import MemoryStorage
from metaxy_fs.testing.store_clocks import machine_at
from tests.log.commits import PARTITION, request, rows, write
from tests.log.compactions import read, view_of
from tests.log.faulty import FaultyStorage
from tests.log.roots import contents
from tests.log.test_lost_commits import compacted

pytestmark = pytest.mark.usefixtures("no_pauses")

NOW = 1_800_000_000_000_000
EAGER = Policy(grace=timedelta(0), retention=timedelta(0), is_safe=False)


def copy(source: Storage, target: Storage) -> bool:
    """Copy all, and return whether that was done."""
    commits = view_of(source).commits
    try:
        copy_partition(source, target, PARTITION, commits=commits, advance=lambda _done, _total: None)
    except StorageError:
        return False
    return True


def cut(source: Storage) -> Iterator[MemoryStorage]:
    """Yield a root for each number of puts after which a copy to it was cut short."""
    for allowed in range(30):
        target, puts = MemoryStorage(), iter(range(allowed))
        open_for_writing(target)
        write(target, 50)

        def fault(verb: str, _path: str, puts: Iterator[int] = puts) -> str | None:
            return "before" if verb == "put" and next(puts, None) is None else None

        if copy(source, FaultyStorage(target, fault)):
            return
        yield target


def ids(storage: Storage) -> list[int]:
    return sorted(read(storage)["sample_id"])


def errors(storage: Storage) -> list[str]:
    return [finding.problem for finding in verify(storage).findings if finding.severity == "error"]


@pytest.fixture
def source() -> MemoryStorage:
    storage = MemoryStorage()
    Log(storage, clock=LamportClock()).append(request(rows(60), write_id="job 7"), spec=b"{}")
    compacted(storage, vacuumed=True)
    return storage


def test_nothing_is_lost_and_nothing_has_to_be_repaired(source: MemoryStorage) -> None:
    cuts = list(cut(source))
    assert len(cuts) > 6
    for target in cuts:
        assert errors(target) == []
        before = contents(target)
        assert {found.state for found in repair(target, dry_run=False)} <= {"unproven"}
        assert contents(target) == before
        # Manifests come side by side, each whole: that of the compaction, and that of the one write after it.
        assert ids(target) in ([50], [50, 100], [0, 1, 2, 3, 4, 5, 50, 60])


def test_vacuums_leave_nothing_of_it(source: MemoryStorage) -> None:
    for target in cut(source):
        for _ in range(3):
            assert vacuum(target, policy=EAGER, dry_run=False).skipped == ()
        kept = [path for path in contents(target) if "/_writes/" not in path and "/_decisions/" not in path]
        named = {PARTITION.data_file(file.name) for found in view_of(target).manifests for file in found.named_files}
        assert {path for path in kept if path.endswith((".parquet", ".table"))} == named
        assert not any("/_copies/" in path for path in kept)


def test_it_is_ended_by_another_copy(source: MemoryStorage) -> None:
    for target in cut(source):
        assert copy(source, target)
        assert ids(target) == [0, 1, 2, 3, 4, 5, 50, 60, 100]
        for _ in range(3):
            assert vacuum(target, policy=EAGER, dry_run=False).skipped == ()
        assert errors(target) == []
        assert not any("/_copies/" in path for path in contents(target))


def test_a_manifest_that_is_lost_after_the_copy_is_noticed(source: MemoryStorage) -> None:
    target = MemoryStorage()
    open_for_writing(target)
    assert copy(source, target)
    vacuum(target, policy=EAGER, dry_run=False)
    [compaction] = [info.path for info in target.list(f"{PARTITION}/_manifests/compactions")]
    manifest = target.get(compaction)
    target.delete(compaction)
    assert any("commits that no manifest holds" in problem for problem in errors(target))
    assert [found.state for found in repair(target, dry_run=False)] == ["restored"]
    assert target.get(compaction) == manifest


def test_a_write_far_ahead_is_not_taken_for_a_lost_one() -> None:
    source = MemoryStorage(wall=lambda: NOW)
    with machine_at(NOW):
        Log(source, clock=LamportClock()).append(request(rows(60)), spec=b"{}")
    with machine_at(MAX_TIME):
        Log(source, clock=LamportClock()).append(request(rows(61)), spec=b"{}")
    cuts = list(cut(source))
    assert len(cuts) > 4
    for target in cuts:
        assert errors(target) == []
        assert {found.state for found in repair(target, dry_run=False)} <= {"unproven"}
        assert copy(source, target)
        assert ids(target) == [50, 60, 61]
        for _ in range(3):
            assert vacuum(target, policy=EAGER, dry_run=False).skipped == ()
        assert errors(target) == []
        assert not any("/_copies/" in path for path in contents(target))
