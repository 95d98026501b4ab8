"""Ranges hold every row once, and no more rows than was asked for."""

from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs.log.ranges import EVERYTHING, IdRange, Span, depth, plan_ranges
from metaxy_fs.log.statistics import column_statistics, split_points
from metaxy_fs.metadata_store.pieces import clipped

PART = 8

ids = st.lists(st.integers(-50, 50), min_size=1, max_size=60, unique=True).map(sorted)
texts = st.lists(st.text(max_size=80), min_size=1, max_size=60, unique=True).map(sorted)


def span_of_values(values):
    series = pl.Series("id", values)
    (leaf,) = column_statistics(series.to_frame(), id_column=series.name)
    return Span(len(values), leaf.min, leaf.max, split_points(series, every=PART))


def rows_within(id_range, values, dtype):
    predicate = id_range.predicate("id", dtype)
    frame = pl.DataFrame({"id": values})
    return (frame if predicate is None else frame.filter(predicate))["id"].to_list()


@pytest.mark.parametrize(("files", "dtype"), [(ids, pl.Int64()), (texts, pl.String())], ids=["integers", "texts"])
def test_every_row_lies_in_one_range(files, dtype):
    @given(st.lists(files, max_size=6), st.integers(1, 40))
    def check(runs, rows):
        ranges = plan_ranges([span_of_values(values) for values in runs], rows=rows)
        for values in runs:
            found = [value for id_range in ranges for value in rows_within(id_range, values, dtype)]
            assert found == values

    check()


@given(st.lists(ids, max_size=6), st.integers(1, 40))
def test_a_range_holds_at_most_one_part_of_each_file_more_than_asked_for(runs, rows):
    for id_range in plan_ranges([span_of_values(values) for values in runs], rows=rows):
        held = sum(len(rows_within(id_range, values, pl.Int64())) for values in runs)
        assert held <= rows + 2 * PART * len(runs)


def test_a_sorted_file_is_cut_at_its_split_points():
    span = span_of_values(list(range(100)))
    assert [id_range.low for id_range in plan_ranges([span], rows=2 * PART)] == [None, 16, 32, 48, 64, 80, 96]


def test_long_ids_with_one_beginning_are_divided_as_short_ones():
    short = [f"{number:04}" for number in range(100)]
    ranges = [
        plan_ranges([span_of_values(pl.Series([beginning + text for text in short]))], rows=2 * PART)
        for beginning in ("", "s3://a-bucket/" + "x" * 76)
    ]
    assert [len(found) for found in ranges] == [7, 7]


def test_ranges_of_times_are_in_the_unit_of_the_column():
    values = [datetime(2026, 1, day, tzinfo=UTC) for day in range(1, 29)]
    dtype = pl.Datetime("ms", "UTC")
    span = span_of_values(pl.Series(values, dtype=dtype))
    ranges = plan_ranges([span], rows=PART)
    assert len(ranges) == 4
    assert [value for each in ranges for value in rows_within(each, pl.Series(values, dtype=dtype), dtype)] == values


def test_a_file_of_unknown_bounds_is_not_divided():
    assert plan_ranges([span_of_values(list(range(100))), Span(5)], rows=PART) == [EVERYTHING]


def test_bounds_that_do_not_compare_are_not_divided():
    assert plan_ranges([Span(50, 1, 9, (5,)), Span(50, "a", "z")], rows=10) == [EVERYTHING]


def test_nothing_is_one_range():
    assert plan_ranges([], rows=10) == [IdRange(None, None)]


def test_the_depth_counts_the_files_of_one_value():
    assert depth([Span(1, 0, 5), Span(1, 5, 9), Span(1, 10, 20), Span(0, 0, 99), Span(1, 3, 3)]) == 2
    assert depth([Span(1, 0, 5), Span(1)]) == 2
    assert depth([]) == 0


def test_ranges_beside_each_other_are_parts_until_others_are_cut_off() -> None:
    spans = [Span(30, 0, 29, (10, 20))]
    low, *_, high = ranges = plan_ranges(spans, rows=10)
    assert low.is_part
    assert high.is_part
    assert not plan_ranges(spans, rows=30)[0].is_part
    few = HeldIds(11, 12)
    assert [each.is_part for each in clipped(ranges, few, "id")] == [False]


class HeldIds:
    """Samples whose ids lie between two numbers."""

    def __init__(self, low: int, high: int) -> None:
        self._span = Span(2, low, high)

    def spans(self, _column: str) -> list[Span]:
        return [self._span]

    def dtype(self, _column: str) -> pl.DataType:
        return pl.Int64()
