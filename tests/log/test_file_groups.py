"""Files that can be read one after the other, and those that have to be sorted together."""

from typing import Any

from metaxy_fs.ids import LamportClock
from metaxy_fs.log.frames import file_groups
from metaxy_fs.log.manifest import CommitKey, DataFile
from metaxy_fs.log.statistics import ColumnStatistics
from metaxy_fs.log.view import LiveFile
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.commits import PARTITION, write

MANIFEST = write(MemoryStorage(), 1, clock=LamportClock())


def key(number: int) -> CommitKey:
    return number, f"c{number}"


def rewritten(first: int, last: int, ids: tuple[Any, Any] | None = None, *, ordered: bool = True) -> LiveFile:
    """A file of many commits, whose ids lie between two."""
    found = () if ids is None else (ColumnStatistics(("sample_id",), 0, *ids),)
    bounds = {"first": key(first), "last": key(last)}
    file = DataFile(name="x.parquet", rows=9, bytes=1, sha256="", statistics=found, ordered=ordered, **bounds)
    return LiveFile(partition=PARTITION, manifest=MANIFEST, file=file, **bounds)


def single(commit: int) -> LiveFile:
    file = DataFile(name="x.parquet", rows=9, bytes=1, sha256="")
    return LiveFile(partition=PARTITION, manifest=MANIFEST, file=file, first=key(commit), last=key(commit))


def kinds(*files: LiveFile) -> list[tuple[int, bool]]:
    """How many files each group has, and whether it is sorted."""
    return [(len(group.files), group.is_mixed) for group in file_groups(files)]


def test_files_of_single_commits_are_one_stretch() -> None:
    assert kinds(single(1), single(1), single(2), single(5)) == [(4, False)]


def test_a_file_of_many_commits_is_sorted_by_itself() -> None:
    assert kinds(single(1), rewritten(2, 4, ordered=False), single(5)) == [(1, False), (1, True), (1, False)]


def test_a_file_whose_rows_are_in_order_is_not() -> None:
    assert kinds(single(1), rewritten(2, 4), single(5)) == [(3, False)]
    assert kinds(rewritten(2, 2, ordered=False)) == [(1, False)]


def test_files_among_whose_commits_others_lie_are_sorted_with_these() -> None:
    assert kinds(single(1), rewritten(2, 5), single(3), single(6)) == [(1, False), (2, True), (1, False)]
    assert kinds(rewritten(1, 3), rewritten(2, 5), rewritten(4, 6), single(7)) == [(3, True), (1, False)]


def test_files_that_meet_in_one_commit_follow_each_other_if_their_ids_do() -> None:
    assert kinds(rewritten(1, 3, (0, 9)), rewritten(3, 5, (10, 19)), rewritten(5, 6, (20, 29))) == [(3, False)]
    assert kinds(rewritten(1, 3, (10, 19)), rewritten(3, 5, (0, 9))) == [(2, True)]
    assert kinds(rewritten(1, 3, (0, 9)), rewritten(3, 5, (9, 19))) == [(2, True)]
    assert kinds(rewritten(1, 3, (0, 9)), rewritten(3, 5)) == [(2, True)]
    assert kinds(rewritten(1, 3, (0, 9)), rewritten(3, 5, ("a", "b"))) == [(2, True)]


def test_a_file_of_one_commit_is_sorted_with_one_that_ends_in_that_commit() -> None:
    assert kinds(rewritten(1, 3, (0, 9)), single(3)) == [(2, True)]
    assert kinds(single(1), rewritten(1, 3, (0, 9))) == [(2, True)]
