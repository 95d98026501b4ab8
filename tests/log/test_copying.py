"""A copy of a partition holds the same commits, whatever cuts it short and whatever is there already."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from metaxy_fs.errors import (
    CorruptObjectError,
    MetadataSchemaError,
    ObjectExistsError,
    StorageError,
    WriteConflictError,
)
from metaxy_fs.ids import LamportClock
from metaxy_fs.log import copied_manifests
from metaxy_fs.log import copy as module
from metaxy_fs.log.copy import Copied, copy_partition
from metaxy_fs.log.log import Log
from metaxy_fs.log.manifest import Manifest
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.commits import PARTITION, request, rows
from tests.log.compactions import delete_covered, put_compaction
from tests.log.faulty import FaultyStorage
from tests.support.examples import examples

SPEC = b'{"made": "up"}'


def write(storage: Storage, *ids: int, write_id: str | None = None) -> Manifest:
    return Log(storage, clock=LamportClock()).append(request(rows(*ids), write_id=write_id), spec=SPEC)


def commits(storage: Storage) -> frozenset[str]:
    view = Log(storage, clock=LamportClock()).view(PARTITION)
    return frozenset() if view is None else view.commits


def copy(source: Storage, target: Storage, only: frozenset[str] | None = None) -> Copied:
    wanted = commits(source) if only is None else only
    return copy_partition(source, target, PARTITION, commits=wanted, advance=lambda _done, _total: None)


def read(storage: Storage) -> pl.DataFrame:
    log = Log(storage, clock=LamportClock())
    view = log.view(PARTITION)
    assert view is not None
    return log.select([view], with_commits=True).rows.collect()


def objects(storage: Storage) -> dict[str, bytes]:
    return {info.path: storage.get(info.path) for info in storage.list("")}


@pytest.fixture
def source() -> MemoryStorage:
    storage = MemoryStorage()
    for ids in ([1, 2], [], [2, 3]):
        write(storage, *ids)
    return storage


def test_a_copy_is_the_same_objects(source: MemoryStorage) -> None:
    target = MemoryStorage()
    assert copy(source, target) == Copied(
        commits=3, added=3, files=3, bytes=sum(len(data) for path, data in objects(source).items() if "parquet" in path)
    )
    held = objects(source)
    del held["_store.json"]
    assert objects(target) == held
    assert_frame_equal(read(target), read(source))


def test_a_copy_that_is_repeated_asks_for_no_data_file(source: MemoryStorage) -> None:
    target = MemoryStorage()
    copy(source, target)
    faulty = FaultyStorage(source)
    assert copy(faulty, target) == Copied(commits=3)
    assert not [path for verb, path in faulty.requests if verb == "get" and path.endswith(".parquet")]


def test_later_commits_are_added(source: MemoryStorage) -> None:
    target = MemoryStorage()
    copy(source, target)
    write(source, 9)
    assert copy(source, target).added == 1
    assert_frame_equal(read(target), read(source))


def test_chosen_commits_are_copied_alone(source: MemoryStorage) -> None:
    target = MemoryStorage()
    chosen = frozenset(sorted(commits(source))[1:2])
    assert copy(source, target, chosen).added == 1
    assert commits(target) == chosen


@given(data=st.data(), fail_at=st.integers(0, 40), when=st.sampled_from(["before", "after"]))
@examples(20)
def test_a_copy_that_was_cut_short_goes_on(data: st.DataObject, fail_at: int, when: str) -> None:
    source = MemoryStorage()
    appends = [write(source, *range(n, n + 3), write_id=f"job {n}" if n % 2 else None) for n in range(4)]
    if data.draw(st.booleans()):
        put_compaction(source, appends[:3])
    broken = [False]

    def fault(_verb: str, _path: str) -> str | None:
        # From some request on nothing answers, as when the process is killed.
        broken[0] = broken[0] or len(target.requests) > fail_at
        return when if broken[0] and len(target.requests) == fail_at + 1 else ("before" if broken[0] else None)

    target = FaultyStorage(MemoryStorage(), fault)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AT_ONCE", 2)
        patch.setattr(copied_manifests, "_BATCH_FILES", data.draw(st.integers(1, 3)))
        try:
            copy(source, target)
        except StorageError:
            for commit in commits(target.inner):
                assert commit in commits(source)
        if commits(target.inner):
            read(target.inner)
        copy(source, target.inner)
    assert_frame_equal(read(target.inner), read(source))


def test_a_compaction_brings_all_its_commits_and_what_tells_of_named_writes() -> None:
    source, target = MemoryStorage(), MemoryStorage()
    appends = [write(source, 1, write_id="job"), write(source, 2), write(source, 3)]
    put_compaction(source, appends[:2])
    found = copy(source, target, frozenset([appends[0].commit]))
    assert (found.commits, found.added) == (2, 2)
    assert commits(target) == {append.commit for append in appends[:2]}
    assert read(target)["sample_id"].to_list() == [1, 2]
    write(target, 1, write_id="job")
    with pytest.raises(WriteConflictError):
        write(target, 9, write_id="job")
    assert read(target)["sample_id"].to_list() == [1, 2]


def test_what_tells_of_a_named_write_is_copied_after_a_vacuum_too() -> None:
    source, target = MemoryStorage(), MemoryStorage()
    append = write(source, 1, write_id="job")
    put_compaction(source, [append])
    source.put(PARTITION.kept_write(append.commit), source.get(PARTITION.append_manifest(append.commit)))
    delete_covered(source, [append])
    copy(source, target)
    with pytest.raises(WriteConflictError):
        write(target, 9, write_id="job")


def test_a_compaction_is_laid_over_commits_that_are_there(source: MemoryStorage) -> None:
    target = MemoryStorage()
    appends = [write(source, 7), write(source, 8)]
    expected = read(source)
    copy(source, target, frozenset([appends[0].commit]))
    put_compaction(source, appends)
    assert copy(source, target).added == 4
    assert_frame_equal(read(target), expected)


def test_commits_that_the_target_has_compacted_are_not_copied_again(source: MemoryStorage) -> None:
    target = MemoryStorage()
    copy(source, target)
    view = Log(target, clock=LamportClock()).view(PARTITION)
    assert view is not None
    put_compaction(target, view.manifests)
    delete_covered(target, view.manifests)
    assert copy(source, target) == Copied(commits=3)


def test_other_rows_of_one_write_id_are_refused_before_anything_is_copied(source: MemoryStorage) -> None:
    target = MemoryStorage()
    write(source, 1, write_id="job")
    held = write(target, 2, write_id="job")
    before = objects(target)
    with pytest.raises(WriteConflictError, match=held.commit):
        copy(source, target)
    assert objects(target) == before
    put_compaction(target, [held])
    delete_covered(target, [held])
    with pytest.raises(WriteConflictError, match=held.commit):
        copy(source, target)


def test_the_same_rows_of_one_write_id_are_there(source: MemoryStorage) -> None:
    target = MemoryStorage()
    for storage in (source, target):
        write(storage, 1, write_id="job")
    assert copy(source, target).added == 3
    assert read(target)["sample_id"].to_list().count(1) == 2


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data[::-1]], ids=["short", "other"])
def test_another_object_of_a_needed_name_is_an_error_that_names_it(source: MemoryStorage, change) -> None:
    target = MemoryStorage()
    path = next(path for path in objects(source) if path.endswith(".parquet"))
    target.put(path, change(source.get(path)))
    with pytest.raises(ObjectExistsError) as caught:
        copy(source, target)
    assert path in str(caught.value)


def test_another_manifest_of_a_needed_name_is_an_error_that_names_it(source: MemoryStorage) -> None:
    path = next(path for path in objects(source) if "appends" in path)

    class Raced(MemoryStorage):
        """Somebody puts an object there after the target was listed."""

        def put(self, where: str, data: bytes) -> None:
            super().put(where, b"other" if where == path else data)
            if where == path:
                raise ObjectExistsError("taken")

    with pytest.raises(ObjectExistsError) as caught:
        copy(source, Raced())
    assert path in str(caught.value)


def test_a_damaged_data_file_is_not_copied(source: MemoryStorage) -> None:
    path = next(path for path in objects(source) if path.endswith(".parquet"))
    data = bytearray(source.get(path))
    data[20] ^= 1
    source.delete(path)
    source.put(path, bytes(data))
    target = MemoryStorage()
    with pytest.raises(CorruptObjectError) as caught:
        copy(source, target)
    assert path in str(caught.value)
    assert path not in objects(target)


def test_a_data_file_that_an_old_copy_left_is_not_relied_on(source: MemoryStorage) -> None:
    now = [datetime(2026, 11, 1, tzinfo=UTC)]
    target = MemoryStorage(wall=lambda: int(now[0].timestamp() * 1_000_000))
    path = next(path for path in objects(source) if path.endswith(".parquet"))
    target.put(path, source.get(path))
    now[0] += timedelta(hours=25)
    with pytest.raises(StorageError, match=r"2026-11-01.*vacuum") as caught:
        copy(source, target)
    assert path in str(caught.value)
    assert commits(target) == frozenset()
    now[0] -= timedelta(hours=2)
    assert copy(source, target).files == 2


def test_manifests_are_not_put_a_day_after_the_data_files(
    source: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, times = MemoryStorage(), iter([0, (24 * 3_600 + 1) * 1_000_000])
    monkeypatch.setattr(module, "wall_clock", lambda: next(times))
    with pytest.raises(StorageError, match="took longer than 86400 seconds"):
        copy(source, target)
    assert commits(target) == frozenset()


def test_a_partition_of_other_id_columns_is_refused(source: MemoryStorage) -> None:
    target = MemoryStorage()
    described = source.get(PARTITION.definition_file)
    target.put(PARTITION.definition_file, described.replace(b'["sample_id"]', b'["other"]'))
    with pytest.raises(MetadataSchemaError, match="other"):
        copy(source, target)


def test_manifests_come_after_all_that_they_name(source: MemoryStorage) -> None:
    target = FaultyStorage(MemoryStorage())
    put_compaction(source, [write(source, 1), write(source, 2, write_id="job")])
    copy(source, target)
    puts = [path for verb, path in target.requests if verb == "put"]
    for number, path in enumerate(puts):
        if "_manifests" in path:
            manifest = source.get(path).decode()
            named = [name for name in objects(source) if name.rpartition("/")[2] in manifest and "parquet" in name]
            assert set(named) <= set(puts[:number])
    assert len([path for path in puts if "_manifests" in path]) == 4


def test_what_goes_while_it_is_copied_is_copied_from_where_it_went() -> None:
    inner = MemoryStorage()
    appends = [write(inner, 1), write(inner, 2)]

    def compact(verb: str, path: str) -> None:
        if path.endswith(".parquet"):
            source.fault = lambda _verb, _path: None
            put_compaction(inner, appends)
            delete_covered(inner, appends)

    source, target = FaultyStorage(inner, compact), MemoryStorage()
    copy(source, target, commits(inner))
    assert_frame_equal(read(target), read(inner))
