"""An excerpt of a data file holds the wanted rows and columns, whatever the footer says."""

import io

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from metaxy_fs.log.fetch import Excerpt
from metaxy_fs.log.footer import Footer, MalformedError, decode_struct
from metaxy_fs.log.manifest import DataFile
from metaxy_fs.log.parquet import Section, describe_columns, row_groups, sections
from metaxy_fs.log.statistics import unfounded
from tests.support.strategies import frames, schemas
from tests.support.thrift import encode_struct

GROUP = 3


def encoded(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", row_group_size=GROUP, metadata={"metaxy_fs": "a header"})
    return buffer.getvalue()


def footer_bytes(data: bytes) -> tuple[bytes, int]:
    """The bytes of the footer, and where it begins."""
    begin = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    return data[begin:-8], begin


def footer_of(data: bytes) -> Footer:
    footer, begin = footer_bytes(data)
    return Footer(footer, begin=begin)


written = schemas(max_columns=4).flatmap(lambda schema: frames(schema=schema, max_rows=10))


@settings(max_examples=60)
@given(frame=written, data=st.data())
def test_an_excerpt_has_the_rows_and_columns_that_were_asked_for(frame: pl.DataFrame, data: st.DataObject) -> None:
    file = encoded(frame)
    footer = footer_of(file)
    columns = data.draw(st.lists(st.sampled_from(frame.columns), min_size=1, unique=True))
    groups = sorted(data.draw(st.sets(st.integers(0, len(footer.groups) - 1)))) if footer.groups else []
    described = DataFile(name="", rows=0, bytes=len(file), sha256="", columns=describe_columns(file, frame.columns))
    spans = row_groups(described, frame.columns)
    chosen = (span for place in groups for span in spans[place] if span.column in columns)
    excerpt = Excerpt(sections(chosen), footer.listing(groups), footer.begin)

    def fill(section: Section, into: memoryview) -> None:
        into[:] = file[section.start : section.end]

    part = excerpt.file(fill)
    found = pl.scan_parquet([part], schema=frame.schema).select(pl.col(f"^{name}$") for name in columns).collect()
    slices = [frame.slice(place * GROUP, GROUP) for place in groups]
    assert_frame_equal(found, pl.concat([frame.clear(), *slices]).select(columns))


@settings(max_examples=60)
@given(frame=written)
def test_what_is_known_of_a_row_group_is_true_of_its_rows(frame: pl.DataFrame) -> None:
    for place, known in enumerate(footer_of(encoded(frame)).statistics(frame.schema, columns=frame.columns)):
        rows = frame.slice(place * GROUP, GROUP)
        assert known.rows == rows.height
        assert unfounded(rows, known.columns) == []


def test_bounds_are_known_of_integers_times_and_texts() -> None:
    frame = pl.DataFrame({"a": [3, 1, 2], "b": ["x", None, "y"], "c": [None, None, None]}).with_columns(
        pl.from_epoch("a", time_unit="us").alias("d"), pl.struct(e=pl.col("a").cast(pl.UInt8)).alias("f")
    )
    [known] = footer_of(encoded(frame)).statistics(frame.schema, columns=frame.columns)
    found = {leaf.path: (leaf.nulls, leaf.min, leaf.max) for leaf in known.columns}
    assert found[("a",)] == (0, 1, 3)
    assert found[("b",)] == (1, "x", "y")
    assert found[("d",)] == (0, 1, 3)
    assert found[("f", "e")] == (0, 1, 3)


@settings(max_examples=60)
@given(frame=written)
def test_a_footer_that_lists_all_row_groups_is_the_same(frame: pl.DataFrame) -> None:
    footer = footer_of(encoded(frame))
    assert footer.listing(range(len(footer.groups))) == footer_bytes(encoded(frame))[0]


@settings(max_examples=60)
@given(frame=written)
def test_a_footer_that_is_read_and_written_is_the_same(frame: pl.DataFrame) -> None:
    footer, _ = footer_bytes(encoded(frame))
    assert encode_struct(decode_struct(footer)) == footer


BASE = encoded(pl.DataFrame({"id": range(10), "text": list("abcdefghij"), "s": [{"x": n} for n in range(10)]}))


@settings(max_examples=200)
@given(place=st.integers(0, len(footer_bytes(BASE)[0]) - 1), value=st.integers(0, 255), cut=st.booleans())
def test_an_altered_footer_asks_for_bytes_of_its_file_or_is_refused(place: int, value: int, cut: bool) -> None:  # noqa: FBT001
    footer, begin = footer_bytes(BASE)
    altered = footer[:place] if cut else footer[:place] + bytes([value]) + footer[place + 1 :]
    schema = pl.Schema({"id": pl.Int64(), "text": pl.String(), "s": pl.Struct({"x": pl.Int64()})})
    try:
        read = Footer(altered, begin=begin)
        read.statistics(schema, columns=schema.names())
        found = [start for group in read.columns() for _, start in group]
    except MalformedError:
        return
    assert found == sorted(found)
    assert all(4 <= start <= begin for start in found)


@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_or_read(data: bytes) -> None:
    try:
        groups = Footer(data, begin=1000).groups
    except MalformedError:
        groups = []
    # Whatever is made of them, it is no more than they can hold.
    assert len(groups) <= len(data)


@pytest.mark.parametrize("data", [b"\x19\xff\xff\xff\xff\xff\x0f", b"\x1c" * 10_000, b"\x18\xff\xff\xff\xff\x0f"])
def test_what_a_footer_claims_to_hold_costs_no_more_than_its_bytes(data: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_struct(data)
