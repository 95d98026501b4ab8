"""Rows get the commit that they belong to, at the price of a scan without it."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs.ids import LamportClock
from metaxy_fs.log import fetch, parquet
from metaxy_fs.log.commit import commit
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.scan import reading_schema, scan_files
from metaxy_fs.log.view import ViewLoader, live_files
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.local import LocalStorage
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.commits import PARTITION, request, rows, write
from tests.support.examples import examples


def scan(storage: Storage) -> pl.LazyFrame:
    view = ViewLoader(storage, clock=LamportClock()).load(PARTITION)
    assert view is not None
    files = live_files([view])
    schema = reading_schema(files, location=storage.location, columns=None)
    return scan_files(storage, files, schema=schema, with_commits=True)


def written(storage: Storage, sizes: list[int]) -> list[tuple[int, str, int]]:
    """Commit rows, and return what has to come back: each id with its commit and its time."""
    expected, first = [], 0
    for size in sizes:
        manifest = write(storage, *range(first, first + size))
        expected += [(sample, manifest.commit, manifest.time) for sample in range(first, first + size)]
        first += size
    return expected


@given(sizes=st.lists(st.integers(0, 4), min_size=1, max_size=12), batch=st.integers(1, 4), cut=st.integers(0, 30))
def test_rows_are_marked_with_their_commit(sizes: list[int], batch: int, cut: int) -> None:
    storage = MemoryStorage()
    expected = written(storage, sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch, "BATCH_FILES", batch)
        rows = scan(storage)
        assert rows.drop("data_version").collect().rows() == expected
        assert rows.drop("data_version").head(cut).collect().rows() == expected[:cut]
        late = rows.filter(pl.col("sample_id") >= cut).drop("data_version").collect().rows()
        assert late == [row for row in expected if row[0] >= cut]
        commits = {commit for _, commit, _ in expected[::2]}
        chosen = rows.filter(pl.col("_metaxy_commit").is_in(sorted(commits))).drop("data_version").collect().rows()
        assert chosen == [row for row in expected if row[1] in commits]


def test_a_predicate_reaches_the_files_below_the_marks(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    written(storage, [3, 3])
    plan = scan(storage).filter(pl.col("sample_id") == 4).explain()
    assert 'SELECTION: [(col("sample_id")) == (4)]' in plan or 'SELECTION: col("sample_id") == 4' in plan


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many files each scan that Polars makes has."""
    counts: list[int] = []
    scan_parquet = pl.scan_parquet

    def counted(sources: Any, **options: Any) -> pl.LazyFrame:
        counts.append(len(sources))
        return scan_parquet(sources, **options)

    monkeypatch.setattr(pl, "scan_parquet", counted)
    return counts


def test_many_files_are_one_scan(tmp_path: Path, scans: list[int]) -> None:
    storage = LocalStorage(tmp_path)
    written(storage, [1] * 5)
    assert scan(storage).collect().height == 5
    assert scans == [5]


PARTITIONS = [Partition(PARTITION.feature, digit * 16) for digit in "123"]


def scan_all(storage: Storage, *, with_commits: bool = False) -> pl.LazyFrame:
    """Scan the rows of several partitions with the version of each."""
    loader = ViewLoader(storage, clock=LamportClock())
    files = live_files([view for each in PARTITIONS if (view := loader.load(each)) is not None])
    schema = reading_schema(files, location=storage.location, columns=None)
    found = scan_files(storage, files, schema=schema, partition_column="partition", with_commits=with_commits)
    return found.drop("data_version", "_metaxy_time", strict=False)


def spread(storage: Storage, writes: list[tuple[int, int, bool]]) -> list[tuple[int, str, str]]:
    """Commit rows to several partitions, some in files that count as large; return id, partition, commit of each."""
    expected: list[tuple[int, str, str]] = []
    clock = LamportClock()
    for size, place, is_large in writes:
        partition = PARTITIONS[place]
        samples = range(len(expected), len(expected) + size)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parquet, "LARGE_BYTES", 1 if is_large else 2**20)
            patch.setattr(parquet, "ROW_GROUP_ROWS", 2)
            manifest = commit(storage, request(rows(*samples), partition=partition), clock=clock)
        expected += [(sample, partition.version, manifest.commit) for sample in samples]
    return expected


@pytest.mark.parametrize("is_local", [True, False])
@given(
    writes=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.booleans()), min_size=1, max_size=12),
    cut=st.integers(0, 30),
)
@examples(30)
def test_rows_are_marked_with_their_partition(
    tmp_path_factory: pytest.TempPathFactory, *, is_local: bool, writes: list[tuple[int, int, bool]], cut: int
) -> None:
    storage = LocalStorage(tmp_path_factory.mktemp("root")) if is_local else MemoryStorage()
    expected = spread(storage, writes)
    marked = scan_all(storage)
    pairs = [row[:2] for row in expected]
    assert marked.collect().rows() == pairs
    assert marked.head(cut).collect().rows() == pairs[:cut]
    assert marked.filter(pl.col("sample_id") >= cut).collect().rows() == [row for row in pairs if row[0] >= cut]
    first = PARTITIONS[0].version
    assert marked.filter(pl.col("partition") == first).collect().rows() == [row for row in pairs if row[1] == first]
    assert scan_all(storage, with_commits=True).collect().rows() == expected


@pytest.mark.parametrize("with_commits", [False, True])
def test_files_of_many_partitions_are_one_scan(tmp_path: Path, scans: list[int], *, with_commits: bool) -> None:
    storage = LocalStorage(tmp_path)
    spread(storage, [(1, place, False) for place in (0, 1, 2, 0, 1, 2)])
    assert scan_all(storage, with_commits=with_commits).collect().height == 6
    assert scans == [6]
