"""A view of some commits is what it would be if there were no others."""

import hashlib
import io
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from metaxy_fs.errors import CorruptObjectError
from metaxy_fs.ids import LamportClock
from metaxy_fs.log.commit import commit
from metaxy_fs.log.compact import compact_partition
from metaxy_fs.log.compactor import Options
from metaxy_fs.log.log import Log
from metaxy_fs.log.manifest import Manifest
from metaxy_fs.log.view import ViewLoader
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.memory import MemoryStorage
from tests.golden.compacted import small_files
from tests.log.commits import PARTITION, request, rows
from tests.log.compactions import delete_covered, put_compaction
from tests.log.faulty import FaultyStorage
from tests.support.examples import examples

WRITES = st.lists(
    st.tuples(st.sampled_from([[], [1], [5], [1, 2], [0, 5, 9]]), st.integers(0, 2), st.integers(1, 6)),
    min_size=2,
    max_size=8,
)


def with_columns(frame: pl.DataFrame, kind: int) -> pl.DataFrame:
    """Rows of one of three schemas."""
    if kind == 0:
        return frame
    wide = frame.with_columns(size=pl.col("sample_id").cast(pl.Int32 if kind == 1 else pl.Int64))
    return wide if kind == 1 else wide.with_columns(note=pl.lit("n")).select("note", *wide.columns)


def append(storage: Storage, ids: list[int], kind: int, time: int) -> Manifest:
    clock = LamportClock(wall=lambda: time)
    return commit(storage, request(with_columns(rows(*sorted(ids)), kind)), clock=clock)


def copied(storage: Storage, appends: list[Manifest]) -> MemoryStorage:
    """A root that has these commits alone."""
    copy = MemoryStorage()
    for manifest in appends:
        paths = [PARTITION.append_manifest(manifest.commit), *(PARTITION.data_file(f.name) for f in manifest.files)]
        for path in paths:
            copy.put(path, storage.get(path))
    return copy


def some(data: st.DataObject, appends: list[Manifest]) -> list[Manifest]:
    """Any of them."""
    mask = data.draw(st.integers(0, 2 ** len(appends) - 1))
    return [held for number, held in enumerate(appends) if mask >> number & 1]


def read(storage: Storage, **only: Any) -> pl.DataFrame | None:
    log = Log(storage, clock=LamportClock())
    view = log.view_at(PARTITION, **only)
    return None if view is None else log.select([view], with_commits=True).rows.collect()


@given(data=st.data(), writes=WRITES)
@examples(60)
def test_some_commits_are_read_as_if_there_were_no_others(
    data: st.DataObject, writes: list[tuple[list[int], int, int]]
) -> None:
    storage = MemoryStorage()
    appends = [append(storage, *each) for each in writes]
    chosen = some(data, appends)
    late = data.draw(st.integers(0, 7))
    expected = read(copied(storage, chosen))
    told = read(copied(storage, [held for held in chosen if held.time <= late]))
    for token in range(data.draw(st.integers(0, 3))):
        covered = some(data, appends) or appends
        again = [held.commit for held in some(data, covered)]
        put_compaction(
            storage, covered, token=str(token) * 16, listed_again=again, file_rows=data.draw(st.integers(1, 6))
        )
        if data.draw(st.booleans()):
            for held in covered:
                storage.delete(PARTITION.append_manifest(held.commit))
    commits = {held.commit for held in chosen}
    assert_equal(read(storage, commits=commits), expected)
    assert_equal(read(storage, commits=commits, until=late), told)


def assert_equal(found: pl.DataFrame | None, expected: pl.DataFrame | None) -> None:
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert_frame_equal(found, expected)


def test_columns_come_in_where_the_first_wanted_commit_has_them_though_it_has_no_row() -> None:
    storage = MemoryStorage()
    writes = [([1], 1), ([], 1), ([2], 2), ([5], 1)]
    appends = [append(storage, ids, kind, time) for time, (ids, kind) in enumerate(writes, start=1)]
    expected = read(copied(storage, appends[1:]))
    put_compaction(storage, appends, file_rows=1)
    assert_equal(read(storage, commits={held.commit for held in appends[1:]}), expected)


@given(data=st.data(), writes=WRITES)
@examples(50)
def test_a_compaction_leaves_the_history_as_it_was(
    data: st.DataObject, writes: list[tuple[list[int], int, int]]
) -> None:
    storage = MemoryStorage()
    appends = [append(storage, *each) for each in writes]
    expected = Log(storage, clock=LamportClock()).commits(PARTITION.feature)
    compacted = set()
    for token in range(data.draw(st.integers(1, 3))):
        covered = some(data, appends) or appends
        put_compaction(storage, covered, token=str(token) * 16)
        compacted |= {held.commit for held in covered}
    found = Log(storage, clock=LamportClock()).commits(PARTITION.feature)
    assert_frame_equal(found.drop("compacted"), expected.drop("compacted"))
    assert found.filter("compacted")["commit"].to_list() == [c for c in expected["commit"] if c in compacted]
    assert found["time"].to_list() == sorted(held.time for held in appends)


def test_commits_that_are_gone_are_an_error() -> None:
    storage = MemoryStorage()
    held = append(storage, [1], 0, 1)
    with pytest.raises(CorruptObjectError, match="are gone, 1 in all"):
        read(storage, commits={held.commit, "no such commit"})


def test_a_compaction_that_was_replaced_while_it_was_looked_into_is_looked_for_again() -> None:
    inner = MemoryStorage()
    appends = [append(inner, [sample], 0, sample) for sample in range(1, 4)]
    put_compaction(inner, appends, token="a" * 16)
    [table] = [info.path for info in inner.list("") if info.path.endswith(".table")]
    [manifest] = [info.path for info in inner.list(f"{PARTITION}/_manifests/compactions")]

    def replace(verb: str, path: str) -> None:
        if path == table:
            storage.fault = lambda _verb, _path: None
            put_compaction(inner, appends, token="b" * 16)
            delete_covered(inner, appends)
            inner.delete(manifest)
            inner.delete(table)

    storage = FaultyStorage(inner, replace)
    found = read(storage, commits={appends[1].commit})
    assert found is not None
    assert found["sample_id"].to_list() == [2]
    assert [path for _, path in storage.requests].count(table) == 1


def test_a_scan_of_some_commits_goes_on_where_their_files_went() -> None:
    storage = MemoryStorage()
    appends = [append(storage, [sample, 9], 0, sample) for sample in range(1, 4)]
    put_compaction(storage, appends, token="a" * 16)
    log = Log(storage, clock=LamportClock())
    view = log.view_at(PARTITION, commits={held.commit for held in appends[:2]})
    assert view is not None
    planned = log.select([view]).rows
    before = [info.path for info in storage.list("") if "aaaa" in info.path]
    put_compaction(storage, appends, token="b" * 16)
    for path in before:
        storage.delete(path)
    assert planned.collect()["sample_id"].to_list() == [1, 9, 2, 9]


def test_where_all_commits_are_wanted_no_table_is_read() -> None:
    storage = FaultyStorage(MemoryStorage())
    appends = [append(storage.inner, [sample], 0, sample) for sample in range(1, 4)]
    put_compaction(storage.inner, appends)
    read(storage, commits={held.commit for held in appends})
    assert not [path for _, path in storage.requests if path.endswith(".table")]


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.with_columns(time=pl.col("time") + 10**9),
        lambda table: table.with_columns(rows=-pl.col("rows")),
        lambda table: table.with_columns(schema=pl.lit(7, dtype=pl.Int64)),
        lambda table: table.with_columns(commit=pl.lit("other")),
        lambda table: table.with_columns(time=pl.lit(None, dtype=pl.Int64)),
        lambda table: table.reverse(),
        lambda table: table.drop("schema"),
        lambda table: table.with_columns(pl.col("rows").cast(pl.Float64)),
    ],
    ids=["late", "negative", "no schema", "other commit", "null", "order", "column", "type"],
)
def test_a_table_that_contradicts_its_manifest_is_refused(change: Any) -> None:
    storage = MemoryStorage()
    appends = [append(storage, [sample], 0, sample) for sample in range(1, 4)]

    def forge(fields: dict[str, Any]) -> None:
        path = PARTITION.data_file(fields["commits"]["name"])
        table = change(pl.read_parquet(storage.get(path)))
        storage.delete(path)
        fields["commits"] |= put_table(storage, path, table)

    put_compaction(storage, appends, change=forge)
    with pytest.raises(CorruptObjectError, match="commit table"):
        read(storage, until=2)


def put_table(storage: Storage, path: str, table: pl.DataFrame) -> dict[str, Any]:
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    storage.put(path, buffer.getvalue())
    return {"bytes": len(buffer.getvalue()), "sha256": hashlib.sha256(buffer.getvalue()).hexdigest()}


def test_a_table_of_other_bytes_is_refused() -> None:
    storage = MemoryStorage()
    put_compaction(
        storage,
        [append(storage, [1], 0, 1)],
        change=lambda fields: fields["commits"].update(sha256="0" * 64),
    )
    with pytest.raises(CorruptObjectError, match="checksum"):
        read(storage, until=2)


def test_the_end_of_a_large_write_that_was_merged_with_others_is_among_its_rows() -> None:
    """Its large files are listed again as they are, and the rest lies with rows of other commits."""
    storage, clock = MemoryStorage(), LamportClock()
    with small_files():
        large = commit(storage, request(rows(*range(12))), clock=clock)
        expected = read(storage)
        commit(storage, request(rows(3, 20)), clock=clock)
        options = Options(writer="a test", full=True)
        loader = ViewLoader(storage, clock=clock)
        assert list(compact_partition(storage, loader, PARTITION, clock=clock, options=options))
    found = read(storage, commits={large.commit})
    assert found is not None
    assert found["sample_id"].to_list() == list(range(12))
    assert_frame_equal(found, expected)
