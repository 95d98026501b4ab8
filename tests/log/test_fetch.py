"""How much of a large remote file is fetched, also where its footer is wrong."""

from collections.abc import Sequence

import polars as pl
import pytest

from metaxy_fs.errors import CorruptObjectError
from metaxy_fs.ids import LamportClock
from metaxy_fs.log import fetch, parquet
from metaxy_fs.log.commit import commit
from metaxy_fs.log.scan import reading_schema, scan_files
from metaxy_fs.log.view import LiveFile, ViewLoader, live_files
from metaxy_fs.storage import MemoryStorage, ObjectInfo, ObjectRange
from tests.log.commits import PARTITION, request, rows
from tests.log.roots import replace


class CountingStorage(MemoryStorage):
    """Notes what is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.whole: list[str] = []
        self.parts: list[ObjectRange] = []

    def get_many(self, objects: Sequence[ObjectInfo]) -> list[bytes]:
        self.whole += [info.path for info in objects]
        return super().get_many(objects)

    def get_ranges(self, ranges: Sequence[ObjectRange]) -> list[bytes]:
        self.parts += ranges
        return super().get_ranges(ranges)


FRAME = rows(*range(100)).with_columns(pl.lit("text").repeat_by(100).list.join("").alias("more"))


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> CountingStorage:
    monkeypatch.setattr(parquet, "LARGE_BYTES", 1)
    monkeypatch.setattr(fetch, "TAIL", 2_000)
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 10)
    made = CountingStorage()
    commit(made, request(FRAME), clock=LamportClock())
    return made


def file_of(storage: CountingStorage) -> LiveFile:
    view = ViewLoader(storage, clock=LamportClock()).load(PARTITION)
    assert view is not None
    storage.whole.clear()
    storage.parts.clear()
    [file] = live_files([view])
    return file


def scan(storage: CountingStorage) -> pl.LazyFrame:
    files = [file_of(storage)]
    return scan_files(storage, files, schema=reading_schema(files, location="", columns=None))


def test_a_file_of_which_everything_is_wanted_is_fetched_whole(storage: CountingStorage) -> None:
    assert scan(storage).collect().equals(FRAME)
    assert (len(storage.whole), storage.parts) == (1, [])


def test_columns_that_are_not_wanted_are_not_fetched(storage: CountingStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaxy_fs.log.parquet.GAP", 0)
    assert scan(storage).select("sample_id").collect().equals(FRAME.select("sample_id"))
    assert storage.whole == []
    tail, *_, last = storage.parts
    assert tail.end == file_of(storage).file.bytes
    # Ten row groups, of which the columns beside it are left out.
    assert last.end < tail.end


def test_row_groups_that_cannot_match_are_not_fetched(storage: CountingStorage) -> None:
    found = scan(storage).filter(pl.col("sample_id") == 42).collect()
    assert found["sample_id"].to_list() == [42]
    assert storage.whole == []
    fetched = [(part.start, part.end) for part in storage.parts]
    size = file_of(storage).file.bytes
    assert 0 < sum(end - start for start, end in fetched if end != size) < size / 5


def test_a_file_none_of_whose_row_groups_can_match_costs_its_footer(storage: CountingStorage) -> None:
    predicate = (pl.col("sample_id") == 42) & (pl.col("data_version").struct.field("frames") == "f7")
    assert scan(storage).filter(predicate).collect().height == 0
    assert {part.end for part in storage.parts} == {file_of(storage).file.bytes}


def test_a_row_limit_counts_rows_of_groups_that_cannot_match(storage: CountingStorage) -> None:
    found = scan(storage).head(50).filter(pl.col("sample_id") >= 42).collect()
    assert found["sample_id"].to_list() == list(range(42, 50))


@pytest.mark.parametrize("tail", [64, 2_000, 10**6])
def test_a_footer_is_found_whatever_its_length(
    storage: CountingStorage, monkeypatch: pytest.MonkeyPatch, tail: int
) -> None:
    monkeypatch.setattr(fetch, "TAIL", tail)
    assert scan(storage).select("sample_id").collect().equals(FRAME.select("sample_id"))
    assert storage.whole == []


@pytest.mark.parametrize("place", [-1, -6, -100])
def test_a_file_whose_footer_is_not_understood_is_fetched_whole_and_refused(
    storage: CountingStorage, place: int
) -> None:
    path = file_of(storage).path
    data = bytearray(storage.get(path))
    data[place:] = bytes(len(data[place:]))
    replace(storage, path, bytes(data))
    with pytest.raises(CorruptObjectError, match="checksum"):
        scan(storage).select("sample_id").collect()
    assert storage.whole == [path] * 2


def test_a_short_object_is_refused_by_name(storage: CountingStorage) -> None:
    path = file_of(storage).path
    replace(storage, path, storage.get(path)[:-1])
    with pytest.raises(CorruptObjectError, match=path):
        scan(storage).select("sample_id").collect()


def test_a_file_of_other_rows_is_refused(storage: CountingStorage) -> None:
    path = file_of(storage).path
    other = MemoryStorage()
    commit(other, request(FRAME.head(90)), clock=LamportClock())
    data = next(other.get(info.path) for info in other.list("") if info.path.endswith(".parquet"))
    size = file_of(storage).file.bytes
    replace(storage, path, bytes(size - len(data)) + data)
    with pytest.raises(CorruptObjectError):
        scan(storage).select("sample_id").collect()


def test_a_file_of_whose_columns_no_checksums_are_known_is_fetched_whole(
    storage: CountingStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "LARGE_BYTES", 10**9)
    other = CountingStorage()
    commit(other, request(FRAME), clock=LamportClock())
    assert scan(other).filter(pl.col("sample_id") == 42).collect().height == 1
    assert (len(other.whole), other.parts) == (1, [])


def test_damage_within_a_part_is_named(storage: CountingStorage) -> None:
    file = file_of(storage)
    data = bytearray(storage.get(file.path))
    data[4:-3_000] = bytes(len(data) - 3_004)
    replace(storage, file.path, bytes(data))
    with pytest.raises(CorruptObjectError, match=file.path):
        scan(storage).select("sample_id").collect()


@pytest.mark.parametrize("sample", [5, 42, 99, 105, 142, 199])
def test_a_row_of_a_part_is_marked_with_its_commit(storage: CountingStorage, sample: int) -> None:
    """The place of a row among those of all files tells its commit, so no row before it may be left out."""
    clock = LamportClock()
    first = file_of(storage).manifest
    clock.observe(first.time)
    second = commit(storage, request(FRAME.with_columns(pl.col("sample_id") + 100)), clock=clock)
    view = ViewLoader(storage, clock=clock).load(PARTITION)
    assert view is not None
    files = live_files([view])
    schema = reading_schema(files, location="", columns=None)
    marked = scan_files(storage, files, schema=schema, with_commits=True)
    # A test that the statistics of the files cannot answer keeps both; those of the row groups can.
    wanted = (pl.col("sample_id") == sample) | (pl.col("sample_id") == 50) | (pl.col("sample_id") == 150)
    found = marked.filter(wanted).select("sample_id", "_metaxy_commit").collect()
    expected = {number: (first if number < 100 else second).commit for number in sorted({50, 150, sample})}
    assert dict(found.rows()) == expected
    assert storage.parts != []
