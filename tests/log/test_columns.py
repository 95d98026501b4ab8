"""A manifest gives the place of each column in a file, and damage to any column is seen."""

import io
import zlib
from pathlib import Path

import msgspec
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metaxy_fs.errors import CorruptObjectError
from metaxy_fs.ids import LamportClock
from metaxy_fs.log import local_files, parquet
from metaxy_fs.log.commit import commit
from metaxy_fs.log.local_files import LocalFiles
from metaxy_fs.log.manifest import DataFile
from metaxy_fs.log.parquet import check_section, describe_columns, footer_bytes, row_groups, sections
from metaxy_fs.log.scan import reading_schema, scan_files
from metaxy_fs.log.view import ViewLoader, live_files
from metaxy_fs.storage import LocalStorage, MemoryStorage, Storage
from tests.log.commits import PARTITION, rows
from tests.log.commits import request as request_of
from tests.support.strategies import frames, schemas

GROUP = 3


def encoded(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", row_group_size=GROUP)
    return buffer.getvalue()


def entry(data: bytes, names: list[str]) -> DataFile:
    described = describe_columns(data, names)
    return DataFile(name="f.parquet", rows=1, bytes=len(data), sha256="0" * 64, columns=described)


def described_by_arrow(data: bytes) -> list[tuple[str, int, int]]:
    """Where another reader finds the columns: name, first byte, checksum of all up to the next."""
    found = pq.read_metadata(io.BytesIO(data))
    starts: list[tuple[str, int]] = []
    for group in range(found.num_row_groups):
        before = None
        for place in range(found.num_columns):
            leaf = found.row_group(group).column(place)
            name = found.schema.column(place).path.split(".")[0]
            if name != before:
                starts.append((name, leaf.dictionary_page_offset or leaf.data_page_offset))
            before = name
    ends = [*(start for _, start in starts[1:]), len(data) - footer_bytes(data)]
    return [(name, start, zlib.crc32(data[start:end])) for (name, start), end in zip(starts, ends, strict=True)]


written = schemas(max_columns=4).flatmap(lambda schema: frames(schema=schema, max_rows=10))


@settings(max_examples=60)
@given(frame=written.filter(lambda frame: frame.height > 0 and all("." not in name for name in frame.columns)))
def test_columns_of_every_type_are_where_another_reader_finds_them(frame: pl.DataFrame) -> None:
    data = encoded(frame)
    found = [chunk for group in row_groups(entry(data, frame.columns), frame.columns) for chunk in group]
    assert [(chunk.column, chunk.start, chunk.checksum) for chunk in found] == described_by_arrow(data)


@settings(max_examples=30)
@given(frame=written.filter(lambda frame: frame.height > 0), data=st.data())
def test_a_flipped_bit_is_seen_in_the_column_that_has_it_alone(frame: pl.DataFrame, data: st.DataObject) -> None:
    whole = encoded(frame)
    groups = row_groups(entry(whole, frame.columns), frame.columns)
    at = data.draw(st.integers(4, len(whole) - footer_bytes(whole) - 1))
    flipped = bytearray(whole)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    for section in sections(chunk for group in groups for chunk in group):
        check_section(whole[section.start : section.end], section, name="f")
    for chunk in (chunk for group in groups for chunk in group):
        [section] = sections([chunk])
        part = bytes(flipped[section.start : section.end])
        if chunk.start <= at < chunk.end:
            with pytest.raises(CorruptObjectError, match="checksum"):
                check_section(part, section, name="f")
        else:
            check_section(part, section, name="f")


@given(gap=st.integers(0, 400), longest=st.integers(1, 2_000), chosen=st.sets(st.integers(0, 29)))
def test_sections_hold_what_is_wanted_and_little_else(gap: int, longest: int, chosen: set[int]) -> None:
    frame = pl.DataFrame({name: pl.int_range(30, eager=True) for name in "abc"})
    data = encoded(frame)
    groups = row_groups(entry(data, frame.columns), frame.columns)
    chunks = [chunk for group in groups for chunk in group]
    wanted = [chunks[place] for place in sorted(chosen)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "GAP", gap)
        patch.setattr(parquet, "LONGEST", longest)
        found = sections(wanted)
    assert [chunk for section in found for chunk in section.chunks] == wanted
    for section in found:
        assert (section.start, section.end) == (section.chunks[0].start, section.chunks[-1].end)
        assert section.end - section.start <= longest or len(section.chunks) == 1
        assert sum(chunk.end - chunk.start for chunk in section.chunks) + gap * len(section.chunks) >= (
            section.end - section.start
        )


@pytest.mark.parametrize("cut", [1, 8, 16])
def test_what_does_not_fit_the_columns_describes_none(cut: int) -> None:
    frame = pl.DataFrame({name: pl.int_range(9, eager=True) for name in "abc"})
    data = encoded(frame)
    file = DataFile(
        name="f", rows=9, bytes=len(data), sha256="0" * 64, columns=describe_columns(data, frame.columns)[:-cut]
    )
    assert row_groups(file, frame.columns) == []


def test_columns_that_end_behind_the_file_are_none() -> None:
    frame = pl.DataFrame({"a": [1]})
    data = encoded(frame)
    file = DataFile(name="f", rows=1, bytes=20, sha256="0" * 64, columns=describe_columns(data, ["a"]))
    assert row_groups(file, ["a"]) == []


def test_other_names_or_bytes_between_columns_are_not_described() -> None:
    data = encoded(pl.DataFrame({"a": [1, 2], "b": [3, 4]}))
    assert describe_columns(data, ["a", "b"])
    assert describe_columns(data, ["b", "a"]) == b""
    assert describe_columns(data, ["a"]) == b""


@pytest.mark.parametrize("is_large", [False, True])
def test_large_files_alone_are_described(monkeypatch: pytest.MonkeyPatch, *, is_large: bool) -> None:
    monkeypatch.setattr(parquet, "LARGE_BYTES", 1 if is_large else 10**6)
    storage = MemoryStorage()
    commit(storage, request_of(rows(1, 2, 3)), clock=LamportClock())
    view = ViewLoader(storage, clock=LamportClock()).load(PARTITION)
    assert view is not None
    [manifest] = view.manifests
    assert len(manifest.files[0].columns) == (8 * len(rows(1).columns) if is_large else 0)


def test_more_columns_than_a_manifest_may_describe_are_not_described() -> None:
    frame = pl.DataFrame({str(place): [place] for place in range(10)})
    data = encoded(frame)
    assert describe_columns(data, frame.columns)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "MAX_COLUMN_BYTES", 79)
        assert describe_columns(data, frame.columns) == b""


@pytest.fixture(params=["local", "fetched"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A root of one file that is read in parts."""
    monkeypatch.setattr(parquet, "LARGE_BYTES", 1)
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", GROUP)
    monkeypatch.setattr(local_files, "SMALL_BYTES", 0)
    made = LocalStorage(tmp_path) if request.param == "local" else MemoryStorage()
    commit(made, request_of(rows(*range(9))), clock=LamportClock())
    return made


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_a_manifest_says_of_columns_rows_are_right_or_refused(storage: Storage, data: st.DataObject) -> None:
    view = ViewLoader(storage, clock=LamportClock()).load(PARTITION)
    assert view is not None
    [live] = live_files([view])
    entries = [live.file.columns[at : at + 8] for at in range(0, len(live.file.columns), 8)]
    forged = data.draw(
        st.one_of(
            st.permutations(entries).map(b"".join),
            st.binary(max_size=200),
            st.lists(st.sampled_from([*entries, bytes(8), b"\xff" * 8]), max_size=30).map(b"".join),
        )
    )
    file = msgspec.structs.replace(live, file=msgspec.structs.replace(live.file, columns=forged))
    wanted = pl.col("sample_id") > 6
    schema = reading_schema([file], location="", columns=["sample_id"])
    try:
        scanned = scan_files(storage, [file], schema=schema, predicate=wanted, local_files=LocalFiles(storage))
        found = scanned.filter(wanted).collect()
    except CorruptObjectError:
        return
    assert found["sample_id"].to_list() == [7, 8]
