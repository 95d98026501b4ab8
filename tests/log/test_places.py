"""Vacuum removes what this library made and nothing else, also where a disk is full."""

import os
from datetime import timedelta
from pathlib import Path

import pytest

from metaxy_fs.errors import CorruptObjectError, StorageError
from metaxy_fs.ids import LamportClock, driven_by
from metaxy_fs.log.compact import compact_partition
from metaxy_fs.log.compactor import Options
from metaxy_fs.log.descriptions import open_for_writing
from metaxy_fs.log.layout import holds_objects
from metaxy_fs.log.unreferenced import Policy
from metaxy_fs.log.vacuum import vacuum
from metaxy_fs.log.view import ViewLoader
from metaxy_fs.storage.base import NoRoomError
from metaxy_fs.storage.local import LocalStorage
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.commits import PARTITION, write
from tests.log.compactions import read
from tests.support.patience import Hurried

EAGER = Policy(grace=timedelta(0), retention=timedelta(0), is_safe=False)
TOKEN = "0123456789abcdef"
DAY = 24 * 60 * 60


def age(path: Path, *, days: int) -> None:
    """Let a file be older than it is."""
    then = path.stat().st_mtime - days * DAY
    os.utime(path, (then, then))


def place(root: Path, *names: str) -> None:
    """Put files of others, a month old."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious")
        age(path, days=30)


def test_a_directory_that_is_no_root_is_left_alone(tmp_path: Path) -> None:
    names = ("project/.tmp-notes.txt", f"_clock/{TOKEN}", f".tmp-{TOKEN}", f"a/{'0' * 16}/x-0.parquet")
    place(tmp_path, *names)
    for policy in (Policy(), EAGER):
        with pytest.raises(StorageError, match=r"is no root of metaxy_fs: it has no _store.json. Nothing was deleted"):
            vacuum(LocalStorage(tmp_path), policy=policy, dry_run=False)
    assert [(tmp_path / name).read_text() for name in names] == ["precious"] * len(names)


def test_one_whose_store_file_is_that_of_something_else_is_left_alone(tmp_path: Path) -> None:
    place(tmp_path, "_store.json", f"_clock/{TOKEN}")
    with pytest.raises(CorruptObjectError):
        vacuum(LocalStorage(tmp_path), policy=EAGER, dry_run=False)
    assert (tmp_path / "_clock" / TOKEN).exists()


def test_files_of_others_in_a_root_stay(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    open_for_writing(storage)
    write(storage, 1)
    theirs = (
        f"_mine/.tmp-{TOKEN}",
        f"notes of mine/.tmp-{TOKEN}",
        f"video.processing/.tmp-{TOKEN}",
        f"video.processing/notes/.tmp-{TOKEN}",
        f"{PARTITION}/mine/.tmp-{TOKEN}",
        f"{PARTITION}/.tmp-thesis.tex",
        ".tmp-a",
        "_clock/photo.jpg",
        f"_clock/2026/{TOKEN}",
        "_snapshots/.tmp-export.json",
    )
    ours = (
        f".tmp-{TOKEN}",
        f"_clock/{TOKEN}",
        f"_snapshots/.tmp-{TOKEN}",
        f"{PARTITION}/.tmp-{TOKEN}",
        f"{PARTITION}/_manifests/appends/.tmp-{TOKEN}",
        f"{PARTITION}/_damaged/some/.tmp-{TOKEN}",
    )
    place(tmp_path, *theirs, *ours)
    found = vacuum(storage, policy=Policy(), dry_run=False)
    assert sorted(removal.path for removal in found.removals if removal.state == "deleted") == sorted(ours)
    assert not any((tmp_path / name).exists() for name in ours)
    assert [(tmp_path / name).read_text() for name in theirs] == ["precious"] * len(theirs)


def test_one_root_inside_another_is_left_alone(tmp_path: Path) -> None:
    """Its partitions look like those of the outer one at no depth but their own."""
    outer, inner = LocalStorage(tmp_path), LocalStorage(tmp_path / "backup")
    for storage in (outer, inner):
        open_for_writing(storage)
        write(storage, 1)
    left = (f"backup/{PARTITION}/.tmp-{TOKEN}", f"backup/_clock/{TOKEN}", f"backup/{PARTITION}/orphan-0.parquet")
    place(tmp_path, *left)
    for policy in (Policy(), EAGER, EAGER):
        assert vacuum(outer, policy=policy, dry_run=False).removals == ()
    assert all((tmp_path / name).exists() for name in left)


@pytest.mark.parametrize("directory", ["a/b", "_writes", "..", f"{PARTITION}/_manifests/other", f"x/{PARTITION}"])
def test_no_objects_lie_elsewhere(directory: str) -> None:
    assert not holds_objects(directory)


class Small(LocalStorage):
    """A disk that has room for so many bytes, and none for what comes after them."""

    room = 10**9

    def put(self, path: str, data: bytes) -> None:
        if sum(info.size for info in self.list("")) + len(data) > self.room:
            raise NoRoomError(f"cannot write {path!r} in {self.location}: No space left on device")
        super().put(path, data)


def full(root: Path) -> Small:
    """A disk that is full: of what was compacted long ago and noted by a vacuum, and of what came since."""
    storage = Small(root)
    open_for_writing(storage)
    clock = LamportClock()
    options = Options(writer="a test", full=True)
    for number in range(6):
        write(storage, number, clock=clock)
    list(compact_partition(storage, ViewLoader(storage, clock=clock), PARTITION, clock=clock, options=options))
    for path in root.rglob("*"):
        age(path, days=20)
    vacuum(storage, policy=Policy(), dry_run=False)
    for path in root.rglob("*"):
        age(path, days=10)
    for number in range(6, 9):
        write(storage, number, write_id=f"job {number}", clock=clock)
    list(compact_partition(storage, ViewLoader(storage, clock=clock), PARTITION, clock=clock, options=options))
    for path in root.rglob("*"):
        age(path, days=2)
    storage.room = 0
    return storage


def test_a_full_disk_is_vacuumed_of_what_was_noted_before(tmp_path: Path) -> None:
    storage = full(tmp_path)
    before = {info.path for info in storage.list("")}
    with driven_by(Hurried()):
        found = vacuum(storage, policy=Policy(), dry_run=False)
    gone = before - {info.path for info in storage.list("")}
    assert len(gone) == 6
    assert {path.rpartition("/")[0] for path in gone} == {str(PARTITION)}
    assert gone == {removal.path for removal in found.removals if removal.state == "deleted"}
    [skipped] = found.skipped
    assert "No space left on device" in skipped.problem
    assert sorted(read(storage)["sample_id"]) == list(range(9))


def test_the_room_that_this_makes_is_used_to_go_on(tmp_path: Path) -> None:
    storage = full(tmp_path)
    storage.room = sum(info.size for info in storage.list(""))
    with driven_by(Hurried()):
        found = vacuum(storage, policy=Policy(), dry_run=False)
    assert found.skipped == ()
    assert storage.list(f"{PARTITION}/_vacuum")
    for _ in range(2):
        for path in tmp_path.rglob("*"):
            age(path, days=10)
        vacuum(storage, policy=Policy(), dry_run=False)
    assert sorted(read(storage)["sample_id"]) == list(range(9))
    assert [len(list(tmp_path.rglob(f"*.{kind}"))) for kind in ("parquet", "table")] == [1, 1]  # of the last compaction


def test_manifests_of_compactions_stay_until_a_record_is_put(tmp_path: Path) -> None:
    """Afterwards nothing would tell since when their files are unnamed."""
    storage = full(tmp_path)
    compactions = {info.path for info in storage.list(f"{PARTITION}/_manifests/compactions")}
    assert len(compactions) == 2
    with driven_by(Hurried()):
        vacuum(storage, policy=Policy(), dry_run=False)
        assert {info.path for info in storage.list(f"{PARTITION}/_manifests/compactions")} == compactions
        kept = {info.path for info in storage.list(f"{PARTITION}/_manifests/appends")}
        assert len(kept) == 3  # named writes: a copy of each has to be kept first
        storage.room = 10**9
        assert vacuum(storage, policy=Policy(), dry_run=False).skipped == ()
    assert len(storage.list(f"{PARTITION}/_manifests/compactions")) == 1
    assert len(storage.list(f"{PARTITION}/_writes")) == 3
    assert sorted(read(storage)["sample_id"]) == list(range(9))


def test_memory_has_no_files_that_are_left_over() -> None:
    storage = MemoryStorage()
    open_for_writing(storage)
    assert vacuum(storage, policy=EAGER, dry_run=False).removals == ()
