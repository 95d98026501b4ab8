"""Statistics hold for every value of a data file."""

import json
import math
from datetime import UTC, date, datetime, time, timedelta

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings

from metaxy_fs.log.statistics import MAX_CHARACTERS, ColumnStatistics, column_statistics, exact_integers
from tests.support.strategies import frames

NAN, INFINITY, LAST = float("nan"), float("inf"), "\U0010ffff"


def statistics_of(values, dtype=None):
    (found,) = column_statistics(pl.DataFrame({"c": pl.Series(values, dtype=dtype)}))
    return found.nulls, found.min, found.max


EXAMPLES = {
    "integers": ([3, None, 1], pl.Int8, (1, 1, 3)),
    "unsigned": ([2**64 - 1, 0], pl.UInt64, (0, 0, 2**64 - 1)),
    "small_of_128_bits": ([-(2**63), 2**64 - 1], pl.Int128, (0, -(2**63), 2**64 - 1)),
    "below_64_bits": ([-(2**63) - 1], pl.Int128, (0, None, None)),
    "above_64_bits": ([2**64], pl.Int128, (0, None, None)),
    "floats": ([0.5, None, -1.5], pl.Float64, (1, -1.5, 0.5)),
    "nan": ([0.5, NAN], pl.Float64, (0, None, None)),
    "infinite": ([0.5, INFINITY], pl.Float64, (0, None, None)),
    "negative_infinite": ([0.5, -INFINITY], pl.Float32, (0, None, None)),
    "texts": (["b", "a", None], pl.String, (1, "a", "b")),
    "empty_text": ([""], pl.String, (0, "", "")),
    "astral_after_private": (["\U0001f600", "\uffff"], pl.String, (0, "\uffff", "\U0001f600")),
    "flags": ([True, False, None], pl.Boolean, (1, False, True)),
    "dates": ([date(1970, 1, 3), date(1969, 12, 31)], pl.Date, (0, -1, 2)),
    "times": ([time(0, 0, 1)], pl.Time, (0, 10**9, 10**9)),
    "zoned": ([datetime(1970, 1, 1, 1, tzinfo=UTC)], pl.Datetime("us", "UTC"), (0, 3600 * 10**6, 3600 * 10**6)),
    "durations": ([timedelta(seconds=-1)], pl.Duration("ms"), (0, -1000, -1000)),
    "nulls": ([None, None], pl.Int8, (2, None, None)),
    "null": ([None, None], pl.Null, (2, None, None)),
    "nothing": ([], pl.Int8, (0, None, None)),
    "no_floats": ([], pl.Float64, (0, None, None)),
    "categories": (["b", None], pl.Categorical, (1, None, None)),
    "enum": (["b", None], pl.Enum(["b"]), (1, None, None)),
    "binary": ([b"b", None], pl.Binary, (1, None, None)),
    "decimal": (["1.5", None], pl.Decimal(5, 2), (1, None, None)),
    "lists": ([[1], None, [None]], pl.List(pl.Int8), (1, None, None)),
    "arrays": ([[1], None, [None]], pl.Array(pl.Int8, 1), (1, None, None)),
}


@pytest.mark.parametrize(("values", "dtype", "expected"), [pytest.param(*e, id=n) for n, e in EXAMPLES.items()])
def test_a_column_has_the_bounds_of_its_values(values, dtype, expected):
    assert statistics_of(values, dtype) == expected


def test_nanoseconds_keep_their_precision():
    exact = 1_700_000_000_123_456_789
    assert statistics_of(pl.Series([exact]).cast(pl.Datetime("ns"))) == (0, exact, exact)


CUT = {
    "short": ("x" * 64, "x" * 64),
    "long": ("x" * 65, "x" * 63 + "y"),
    "before_the_surrogates": ("\ud7ff" * 65, "\ud7ff" * 63 + "\ue000"),
    "last_character": ("x" + LAST * 64, "y"),
    "nothing_greater": (LAST * 65, None),
}


@pytest.mark.parametrize(("text", "expected"), [pytest.param(*entry, id=name) for name, entry in CUT.items()])
def test_a_long_text_is_cut_and_rounded_up(text, expected):
    assert statistics_of([text]) == (0, text[:MAX_CHARACTERS], expected)


def test_of_the_column_that_names_samples_more_of_a_text_is_kept():
    ids = ["x" * 1_025, "y" * 89]
    frame = pl.DataFrame({"sample_id": ids, "path": ids})
    of_ids, of_paths = column_statistics(frame, id_column="sample_id")
    assert (of_ids.min, of_ids.max) == ("x" * 1_024, "y" * 89)
    assert (of_paths.min, of_paths.max) == ("x" * 64, "y" * 63 + "z")


def test_leaves_of_structs_count_the_nulls_above_them():
    frame = pl.DataFrame({"s": [{"x": {"y": 1}, "z": "a"}, {"x": None, "z": None}, None], "t": [1, 2, 3]})
    assert column_statistics(frame) == (
        ColumnStatistics(("s", "x", "y"), 2, 1, 1),
        ColumnStatistics(("s", "z"), 2, "a", "a"),
        ColumnStatistics(("t",), 0, 1, 3),
    )


def test_names_that_look_like_patterns_are_taken_as_they_are():
    frame = pl.DataFrame({"*": [1], "^a$": [2], "a": [3], "s": [{"*": 4, "x": 5}]})
    assert [(leaf.path, leaf.max) for leaf in column_statistics(frame)] == [
        (("*",), 1),
        (("^a$",), 2),
        (("a",), 3),
        (("s", "x"), 5),
    ]


def test_a_frame_without_columns_has_none():
    assert column_statistics(pl.DataFrame()) == ()


@settings(max_examples=150, deadline=None)
@given(frames())
def test_no_value_lies_outside_its_bounds(frame):
    for leaf in column_statistics(frame):
        column = frame[leaf.path[0]]
        for name in leaf.path[1:]:
            column = column.struct.field(name)
        values = [value for value in physical(column).to_list() if value is not None]
        assert leaf.nulls == frame.height - len(values)
        assert leaf.min is None or all(leaf.min <= value for value in values)
        assert leaf.max is None or all(value <= leaf.max for value in values)


def physical(column):
    return column.to_physical() if column.dtype.is_temporal() else column


@settings(max_examples=50, deadline=None)
@given(frames())
def test_statistics_survive_json(frame):
    found = column_statistics(frame)
    data = msgspec.json.encode(found)
    assert msgspec.json.decode(data, type=tuple[ColumnStatistics, ...]) == found
    assert all(
        not isinstance(value, float) or math.isfinite(value) for leaf in json.loads(data) for value in leaf.values()
    )


def test_absent_bounds_are_not_written():
    assert msgspec.json.encode(ColumnStatistics(("x",), 0)) == b'{"path":["x"],"nulls":0}'


def test_unknown_fields_are_refused():
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"path":["x"],"nulls":0,"mean":1}', type=ColumnStatistics)


PROOFS = [([2**53, -(2**53)], True), ([2**53 + 1], False), ([-(2**53) - 1], False), ([None], True), ([0, None], True)]


@pytest.mark.parametrize(("values", "expected"), PROOFS, ids=str)
def test_integers_are_exact_up_to_the_digits_of_a_float(values, expected):
    frame = pl.DataFrame({"c": pl.Series(values, dtype=pl.Int64)})
    assert exact_integers(column_statistics(frame), rows=frame.height)(("c",)) is expected


def test_nothing_is_proven_of_an_unknown_leaf():
    assert not exact_integers((), rows=1)(("c",))
    assert not exact_integers((ColumnStatistics(("c",), 0),), rows=1)(("c",))
