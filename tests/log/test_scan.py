"""A data file that is gone or altered is told from one that is whole."""

from pathlib import Path

import polars as pl
import pytest

from metaxy_fs.errors import CorruptObjectError, MetaxyError
from metaxy_fs.ids import LamportClock
from metaxy_fs.log import fetch
from metaxy_fs.log import local_files as local_files_module
from metaxy_fs.log import parquet as parquet_module
from metaxy_fs.log.frames import by_chunks
from metaxy_fs.log.local_files import LocalFiles
from metaxy_fs.log.scan import reading_schema, scan_files
from metaxy_fs.log.view import LiveFile, ViewLoader, live_files
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.local import LocalStorage
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.commits import PARTITION, write
from tests.log.faulty import FaultyStorage


def files_of(storage: Storage) -> list[LiveFile]:
    view = ViewLoader(storage, clock=LamportClock()).load(PARTITION)
    assert view is not None
    return live_files([view])


def read(storage: Storage) -> pl.DataFrame:
    files = files_of(storage)
    schema = reading_schema(files, location=storage.location, columns=None)
    return scan_files(storage, files, schema=schema, replan=lambda: files, local_files=LocalFiles(storage)).collect()


def alter(storage: MemoryStorage, path: str, data: bytes) -> MemoryStorage:
    """Return a copy of a root in which one object has other bytes."""
    copy = MemoryStorage()
    for info in storage.list(""):
        copy.put(info.path, data if info.path == path else storage.get(info.path))
    return copy


@pytest.fixture
def root() -> MemoryStorage:
    storage = MemoryStorage()
    write(storage, 1, 2, 3)
    return storage


def test_an_altered_object_is_refused_by_name(root: MemoryStorage) -> None:
    [file] = files_of(root)
    data = bytearray(root.get(file.path))
    data[20] ^= 1
    with pytest.raises(CorruptObjectError, match="checksum") as caught:
        read(alter(root, file.path, bytes(data)))
    assert file.path in str(caught.value)


def test_a_short_object_is_refused_by_name(root: MemoryStorage) -> None:
    [file] = files_of(root)
    with pytest.raises(CorruptObjectError) as caught:
        read(alter(root, file.path, root.get(file.path)[:-1]))
    assert file.path in str(caught.value)


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_a_file_whose_footer_is_too_long_to_be_looked_at_is_checked_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    storage = LocalStorage(tmp_path) if kind == "local" else MemoryStorage()
    monkeypatch.setattr(parquet_module, "LARGE_BYTES", 0)
    monkeypatch.setattr(local_files_module, "SMALL_BYTES", 0)
    write(storage, 1, 2, 3)
    [file] = files_of(storage)
    assert file.file.columns
    for module in (local_files_module, fetch):
        monkeypatch.setattr(module, "LONGEST_FOOTER", 100)
    assert read(storage)["sample_id"].to_list() == [1, 2, 3]

    data = bytearray(storage.get(file.path))
    data[-4 - 100] ^= 1
    storage.delete(file.path)
    storage.put(file.path, bytes(data))
    with pytest.raises(CorruptObjectError, match="checksum"):
        read(storage)


@pytest.mark.parametrize("damage", ["gone", "short"])
def test_a_local_file_that_is_gone_or_short_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    storage = LocalStorage(tmp_path)
    write(storage, 1, 2, 3)
    path = tmp_path / files_of(storage)[0].path
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        CorruptObjectError, match="though it is committed" if damage == "gone" else "were committed"
    ) as caught:
        read(storage)
    assert str(path) in str(caught.value)


def test_large_reads_are_fetched_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "BATCH_FILES", 2)
    storage, clock = FaultyStorage(MemoryStorage()), LamportClock()
    for i in range(5):
        write(storage, i, clock=clock)
    assert read(storage)["sample_id"].to_list() == [0, 1, 2, 3, 4]
    monkeypatch.setattr(fetch, "BATCH_BYTES", 1)
    assert read(storage)["sample_id"].to_list() == [0, 1, 2, 3, 4]


def test_what_a_row_limit_leaves_out_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "BATCH_FILES", 2)
    storage, clock = FaultyStorage(MemoryStorage()), LamportClock()
    for i in range(6):
        write(storage, i, clock=clock)
    files = files_of(storage)
    rows = scan_files(storage, files, schema=reading_schema(files, location="", columns=None))
    storage.requests.clear()
    assert rows.head(1).collect().height == 1
    assert len(storage.requests) == 1
    assert rows.head(3).collect()["sample_id"].to_list() == [0, 1, 2]
    assert len(storage.requests) == 1 + 3


def test_a_clock_at_the_end_of_the_calendar_is_an_error() -> None:
    clock = LamportClock()
    clock.observe(2**60)
    with pytest.raises(MetaxyError, match="year 9999"):
        clock.tick()


def test_rows_are_given_by_chunks_of_some_size() -> None:
    parts = [pl.DataFrame({"id": pl.int_range(height, eager=True)}) for height in (2**15, 5, 2**15, 7)]
    rows = pl.concat(parts, rechunk=False)
    given = list(by_chunks(rows))
    assert [frame.height for frame in given] == [2**15, 2**15 + 5, 7]
    assert pl.concat(given).equals(rows)
    assert list(by_chunks(rows.clear())) == []
