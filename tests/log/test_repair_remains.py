"""Repair restores what the intact files of a lost compaction hold, and nothing unproven."""

from datetime import timedelta

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metaxy_fs.ids import LamportClock
from metaxy_fs.log import chunks
from metaxy_fs.log.commit import commit
from metaxy_fs.log.commit_table import CommitTables, commits_of
from metaxy_fs.log.compact import compact_partition
from metaxy_fs.log.compactor import Options
from metaxy_fs.log.decoding import decode_manifest
from metaxy_fs.log.descriptions import open_for_writing
from metaxy_fs.log.manifest import Manifest, encode_manifest
from metaxy_fs.log.repair import repair
from metaxy_fs.log.unreferenced import Policy
from metaxy_fs.log.vacuum import vacuum
from metaxy_fs.log.verify import verify
from metaxy_fs.log.view import ViewLoader
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.commits import PARTITION, request, rows, write
from tests.log.compactions import read, view_of
from tests.log.roots import contents, replace

EAGER = Policy(grace=timedelta(0), retention=timedelta(0), is_safe=False)


@pytest.fixture
def storage() -> MemoryStorage:
    storage = MemoryStorage()
    open_for_writing(storage)
    return storage


def lost(storage: Storage, *, file_rows: int) -> Manifest:
    """Leave a compaction of eight commits, alone and without its manifest, and a write after it; return the manifest.

    Four commits have one schema and four another one; the ids of each lie after those of the one before.
    """
    clock = LamportClock()
    for number in range(8):
        frame = rows(number * 2, number * 2 + 1)
        frame = frame if number < 4 else frame.with_columns(label=pl.lit("x"))
        commit(storage, request(frame, write_id=f"job {number}" if number % 2 else None), clock=clock)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "MAX_FILE_ROWS", file_rows)
        options = Options(writer="a test", full=True)
        [done] = compact_partition(storage, ViewLoader(storage, clock=clock), PARTITION, clock=clock, options=options)
    for _ in range(2):
        vacuum(storage, policy=EAGER, dry_run=False)
    path = PARTITION.compaction_manifest(done.commit)
    manifest = decode_manifest(
        storage.get(path), partition=PARTITION, commit=done.commit, name=path, is_compaction=True
    )
    write(storage, 100, clock=clock)
    storage.delete(path)
    return manifest


def break_file(storage: Storage, manifest: Manifest, index: int) -> None:
    """Flip a bit of a data file."""
    path = PARTITION.data_file(manifest.files[index].name)
    data = bytearray(storage.get(path))
    data[60] ^= 1
    replace(storage, path, bytes(data))


def ids(storage: Storage) -> list[int]:
    return sorted(read(storage)["sample_id"])


def errors(storage: Storage) -> list[str]:
    return [finding.path for finding in verify(storage).findings if finding.severity == "error"]


def test_commits_that_are_whole_in_the_other_files_are_restored(storage: MemoryStorage) -> None:
    manifest = lost(storage, file_rows=2**19)
    break_file(storage, manifest, 0)
    table = PARTITION.data_file(f"_commits/{manifest.commit}.table")
    assert (ids(storage), errors(storage)) == ([100], [table])
    before = contents(storage)
    states = [(found.state, found.rows) for found in repair(storage, dry_run=True)]
    assert states == [("lost", 0), ("restorable", 8)]
    assert contents(storage) == before
    assert [found.state for found in repair(storage, dry_run=False)] == ["lost", "restored"]
    assert ids(storage) == [*range(8, 16), 100]
    assert errors(storage) == [table]
    assert contents(storage).items() >= before.items()


def test_they_are_what_they_were(storage: MemoryStorage) -> None:
    """Rows, columns, history and the names of writes."""
    manifest = lost(storage, file_rows=2**19)
    storage.put(PARTITION.compaction_manifest(manifest.commit), encode_manifest(manifest))
    everything = read(storage).filter(pl.col("sample_id") >= 8)
    history = commits_of([view_of(storage)], table_of=CommitTables(storage).of)
    storage.delete(PARTITION.compaction_manifest(manifest.commit))
    break_file(storage, manifest, 0)
    repair(storage, dry_run=False)
    assert_frame_equal(read(storage), everything.select(read(storage).columns))
    found = commits_of([view_of(storage)], table_of=CommitTables(storage).of)
    assert_frame_equal(found, history.filter(pl.col("commit").is_in(found["commit"].to_list())))
    assert found.height == 5
    again = write(storage, *range(14, 16), write_id="other")
    assert again.commit.startswith("write-")


def test_a_commit_of_which_a_row_is_lost_is_not_restored(storage: MemoryStorage) -> None:
    """Files of three rows hold commits of two: those that the damage cuts in two are lost, and no half is shown."""
    manifest = lost(storage, file_rows=3)
    assert [file.rows for file in manifest.files] == [2, 3, 3, 2, 3, 3]
    break_file(storage, manifest, 1)
    repair(storage, dry_run=False)
    found = ids(storage)
    assert found == [0, 1, *range(6, 16), 100]
    assert {"lists 2 commits"} == {
        finding.problem[:15] for finding in verify(storage).findings if finding.severity == "error"
    }


def test_a_file_that_is_missing_is_as_good_as_damaged(storage: MemoryStorage) -> None:
    manifest = lost(storage, file_rows=2**19)
    storage.delete(PARTITION.data_file(manifest.files[1].name))
    repair(storage, dry_run=False)
    assert ids(storage) == [*range(8), 100]


def test_the_rest_comes_back_with_its_file(storage: MemoryStorage) -> None:
    manifest = lost(storage, file_rows=3)
    path = PARTITION.data_file(manifest.files[1].name)
    data = storage.get(path)
    break_file(storage, manifest, 1)
    repair(storage, dry_run=False)
    assert [found.state for found in repair(storage, dry_run=False)] == ["lost"]
    for _ in range(3):
        assert vacuum(storage, policy=EAGER, dry_run=False).removals == ()
    replace(storage, path, data)  # from a backup
    assert [found.state for found in repair(storage, dry_run=False)] == ["restored"]
    assert (ids(storage), errors(storage)) == ([*range(16), 100], [])
    for _ in range(3):
        assert vacuum(storage, policy=EAGER, dry_run=False).skipped == ()
    assert (ids(storage), errors(storage)) == ([*range(16), 100], [])


def test_what_is_given_up_stops_nothing_any_more(storage: MemoryStorage) -> None:
    """As the remedy says: the table is moved out."""
    manifest = lost(storage, file_rows=3)
    break_file(storage, manifest, 1)
    repair(storage, dry_run=False)
    storage.delete(PARTITION.data_file(f"_commits/{manifest.commit}.table"))
    assert (errors(storage), repair(storage, dry_run=False)) == ([], [])
    for _ in range(3):
        assert vacuum(storage, policy=EAGER, dry_run=False).skipped == ()
    assert ids(storage) == [0, 1, *range(6, 16), 100]


def test_where_all_files_are_damaged_nothing_is_put(storage: MemoryStorage) -> None:
    manifest = lost(storage, file_rows=2**19)
    break_file(storage, manifest, 0)
    break_file(storage, manifest, 1)
    before = contents(storage)
    assert [found.state for found in repair(storage, dry_run=False)] == ["lost"]
    assert contents(storage) == before


def test_a_manifest_that_is_damaged_where_it_is_says_how_to_go_on(storage: MemoryStorage) -> None:
    manifest = lost(storage, file_rows=2**19)
    path = PARTITION.compaction_manifest(manifest.commit)
    storage.put(path, b"{")
    break_file(storage, manifest, 0)
    before = contents(storage)
    [found] = repair(storage, dry_run=False)
    assert found.state == "lost"
    assert "move the manifest out of the root and repair again" in found.reason
    assert contents(storage) == before
    storage.delete(path)  # the advice
    repair(storage, dry_run=False)
    assert ids(storage) == [*range(8, 16), 100]
