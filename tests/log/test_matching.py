"""Pruning leaves out files that cannot match, and never one that can."""

import itertools
import time
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs.log.predicates import conjuncts_on, is_range_of
from metaxy_fs.log.prune import may_match
from metaxy_fs.log.statistics import ColumnStatistics, FileStatistics, column_statistics, exact_integers
from metaxy_fs.log.widening import conform, unify
from tests.support.examples import examples
from tests.support.strategies import frames, predicates, schemas

BERLIN = pl.Datetime("us", "Europe/Berlin")
YES, NO = pl.lit(value=True), pl.lit(value=False)


def described(frame):
    return FileStatistics(frame.height, frame.schema, column_statistics(frame))


def kept(predicate, *parts):
    return may_match(predicate, schema=parts[0].schema, files=[described(part) for part in parts])


# Two files: the first holds small values, the second great ones.
SMALL = pl.DataFrame(
    {
        "i": [1, 2, None],
        "f": [0.5, 1.5, None],
        "s": ["a", "b", None],
        "b": [False, False, None],
        "d": [date(2020, 1, 1), date(2020, 1, 2), None],
        "t": pl.Series([datetime(2020, 1, 1, tzinfo=UTC), None, None], dtype=pl.Datetime("ms", "UTC")),
        "p": pl.Series([timedelta(hours=1), None, None], dtype=pl.Duration("us")),
        "n": [None, None, None],
        "x": [{"y": {"z": 1}}, {"y": None}, None],
        "full": [1, 1, 1],
    },
    schema_overrides={"n": pl.Int64},
)
GREAT = pl.DataFrame(
    {
        "i": [10, 20, 30],
        "f": [10.5, 20.5, 30.5],
        "s": ["k", "l", "m"],
        "b": [True, True, True],
        "d": [date(2021, 1, 1), date(2021, 1, 2), date(2021, 1, 3)],
        "t": pl.Series([datetime(2021, 1, 1, tzinfo=UTC)] * 3, dtype=pl.Datetime("ms", "UTC")),
        "p": pl.Series([timedelta(hours=10)] * 3, dtype=pl.Duration("us")),
        "n": [7, 8, 9],
        "x": [{"y": {"z": 10}}, {"y": {"z": 20}}, {"y": {"z": 30}}],
        "full": [2, 2, 3],
    },
    schema_overrides={"n": pl.Int64},
)
c = pl.col
Z = c("x").struct.field("y").struct.field("z")

ONLY_GREAT = {
    "gt": c("i") > 5,
    "gt_flipped": pl.lit(5) < c("i"),
    "ge": c("i") >= 10,
    "ge_flipped": pl.lit(10) <= c("i"),
    "eq": c("i") == 20,
    "eq_flipped": pl.lit(20) == c("i"),
    "eq_missing": c("i").eq_missing(20),
    "eq_float": c("f") == 20.5,
    "int_with_float": c("i") > 5.5,
    "typed_literal": c("i") > pl.lit(5, dtype=pl.Int8),
    "ne": c("full") != 1,
    "ne_missing": c("full").ne_missing(1),
    "not_le": ~(c("i") <= 5),
    "not_eq": ~(c("full") == 1),
    "not_is_in_a_part": ~((c("i") <= 5) | (c("i") > 100)),
    "text": c("s") > "c",
    "text_eq": c("s") == "l",
    "starts_with": c("s").str.starts_with("k"),
    "date": c("d") >= date(2020, 6, 1),
    "date_with_datetime": c("d") >= datetime(2020, 6, 1),  # noqa: DTZ001
    "zoned": c("t") > datetime(2020, 6, 1, tzinfo=UTC),
    "duration": c("p") > timedelta(hours=2),
    "flag": c("b"),
    "flag_eq": c("b") == YES,
    "field": Z > 5,
    "field_bracket": c("x").struct["y"].struct["z"] == 20,
    "is_in": c("i").is_in([20, 99]),
    "is_in_small_type": c("i").is_in(pl.Series([20], dtype=pl.Int8).implode()),
    "is_in_text": c("s").is_in(["l", "zz"]),
    "is_in_float": c("f").is_in([20.5, float("nan")]),
    "is_in_dates": c("d").is_in([date(2021, 1, 2)]),
    "is_in_equal_nulls": c("i").is_in([20], nulls_equal=True),
    "between": c("i").is_between(5, 15),
    "between_right": c("i").is_between(2, 15, closed="right"),
    "between_none": c("i").is_between(2, 15, closed="none"),
    "between_text": c("s").is_between(pl.lit("c"), pl.lit("z")),
    "between_dates": c("d").is_between(date(2020, 6, 1), date(2022, 1, 1)),
    "not_between": ~c("i").is_between(0, 5),
    "not_null_in_nulls": c("n").is_not_null(),
    "value_in_nulls": c("n") < 100,
    "and": (c("i") > 5) & (c("f") > 0),
    "and_unknown_of_its_row": (c("i") > 5) & (c("f") + c("i") > 0),
    "and_contains": (c("i") > 5) & c("s").str.contains("k|l"),
    "and_long": (c("i") > 0) & (c("i") > 1) & (c("i") > 5) & c("i").is_not_null(),
    "or": (c("i") > 25) | (c("s") == "l"),
    "all_horizontal": pl.all_horizontal(c("i") > 5, c("f") > 0, c("b")),
    "any_horizontal": pl.any_horizontal(c("i") > 25, c("s") == "l", Z > 29),
    "alias": (c("i") > 5).alias("z"),
}
ONLY_SMALL = {
    "lt": c("i") < 5,
    "le": c("i") <= 2,
    "not_flag": ~c("b"),
    "is_null": c("i").is_null(),
    "eq_missing_null": c("i").eq_missing(None),
    "not_is_not_null": ~c("i").is_not_null(),
    "field_is_null": Z.is_null(),
    "between_left": c("i").is_between(2, 10, closed="left"),
    "not_ge": ~(c("i") >= 5),
}
NEITHER = {
    "false": NO,
    "null": pl.lit(None, dtype=pl.Boolean),
    "empty": c("i").is_in(pl.Series([], dtype=pl.Int64).implode()),
    "between_the_files": (c("i") > 5) & (c("i") < 8),
    "nan": c("f") == pl.lit(float("nan")),
}
MUST_PRUNE = [
    *[pytest.param(predicate, [False, True], id=name) for name, predicate in ONLY_GREAT.items()],
    *[pytest.param(predicate, [True, False], id=name) for name, predicate in ONLY_SMALL.items()],
    *[pytest.param(predicate, [False, False], id=name) for name, predicate in NEITHER.items()],
]


@pytest.mark.parametrize(("predicate", "expected"), MUST_PRUNE)
def test_a_known_predicate_prunes_what_it_can(predicate, expected):
    assert [bool(part.filter(predicate).height) for part in (SMALL, GREAT)] == expected
    assert kept(predicate, SMALL, GREAT) == expected


NEEDS_ALL_ROWS = {
    "max": (c("i") > 100) & (c("i") == c("i").max()),
    "over": (c("i") > 100) & (c("i").max().over("full") > 0),
    "shift": (c("i") > 100) & (c("i").shift() > 0),
    "length": (c("i") > 100) & (pl.len() > 3),
    "series": (c("i") > 100) & (c("i") > pl.lit(pl.Series([1, 2, 3, 4, 5, 6]))),
    "column_membership": (c("i") > 100) & c("i").is_in(c("full").implode()),
    "udf": (c("i") > 100) & c("i").map_batches(lambda values: values > 1, return_dtype=pl.Boolean),
}
MUST_KEEP = {
    **NEEDS_ALL_ROWS,
    "wildcard": pl.all() > 100,
    "pattern": c("^i$") > 100,
    "selector": pl.selectors.by_name("i") > 100,
    "unknown_column": c("nope") > 100,
    "unknown_field": c("x").struct.field("nope") > 100,
    "wrong_type": c("i") == "text",
    "wrong_zone": c("t") > pl.lit(datetime(2030, 1, 1)),  # noqa: DTZ001
    "no_flag": c("i") & c("b"),
    "enum_literal": c("s") > pl.lit("m", dtype=pl.Enum(["m", "a"])),
    "number": c("i"),
    "true": YES,
}


@pytest.mark.parametrize("predicate", [pytest.param(value, id=name) for name, value in MUST_KEEP.items()])
def test_a_predicate_that_is_unknown_or_wrong_keeps_every_file(predicate):
    assert kept(predicate, SMALL, GREAT) == [True, True]


@st.composite
def split_frames(draw):
    """Draw a predicate and the files of a table, some of which lack a column or a field."""
    schema = draw(schemas())
    parts = draw(st.lists(frames(schema=schema, max_rows=4), min_size=1, max_size=4))
    parts = [part.drop(draw(st.sampled_from([[], schema.names()[:1]]))) for part in parts]
    return draw(predicates(schema)), schema, parts


@examples(75)
@given(split_frames())
def test_no_row_is_lost(drawn):
    predicate, schema, parts = drawn
    rows = [conform(part.lazy(), source=part.schema, target=schema).collect() for part in parts]
    keeps = may_match(predicate, schema=schema, files=[described(part) for part in parts])
    for part, keep in zip(rows, keeps, strict=True):
        assert keep or matching(part, predicate) == 0


def matching(part, predicate):
    try:
        return part.filter(predicate).height
    except pl.exceptions.PolarsError:
        return 0


POOLS = {
    "integers": pl.Series([1, 2, 3]),
    "floats": pl.Series([-0.0, 0.0, 1.0, float("nan")]),
    "texts": pl.Series(["", "a", "ab", "b"]),
    "flags": pl.Series([False, True]),
    "datetimes": pl.Series([1, 2, 3]).cast(pl.Datetime("ms", "UTC")),
}


def every_predicate(dtype, pool):
    """Yield each predicate of one node whose literals are of the pool, or null."""
    literals = [pl.lit(pl.Series([value], dtype=dtype)) for value in [*pool, None]]
    for literal in literals:
        for name in ("eq", "ne", "gt", "ge", "lt", "le", "eq_missing", "ne_missing"):
            yield getattr(c("v"), name)(literal)
            yield getattr(literal, name)(c("v"))
    for low, high, closed in itertools.product(literals, literals, ["both", "left", "right", "none"]):
        yield c("v").is_between(low, high, closed)
    for items in itertools.chain.from_iterable(itertools.combinations([*pool, None], size) for size in range(3)):
        listed = pl.lit(pl.Series([list(items)], dtype=pl.List(dtype)))
        yield from (c("v").is_in(listed, nulls_equal=equal) for equal in (False, True))
    yield from (c("v").is_null(), c("v").is_not_null())
    yield from (c("v").str.starts_with(text) for text in (pool if dtype == pl.String else ()))
    yield from (c("v") for _ in range(dtype == pl.Boolean))


@pytest.mark.parametrize("kind", POOLS)
def test_every_small_file_is_judged_rightly(kind):
    dtype, pool = POOLS[kind].dtype, POOLS[kind].to_list()
    contents = itertools.combinations_with_replacement([*pool, None], 2)
    parts = [pl.DataFrame({"v": pl.Series(values, dtype=dtype)}) for values in contents]
    files, rows = [described(part) for part in parts], pl.concat(parts)
    for predicate in every_predicate(dtype, pool):
        for negated in (predicate, ~predicate):
            matched = rows.select(negated.fill_null(value=False)).to_series()
            keeps = may_match(negated, schema=rows.schema, files=files)
            lost = [index for index, keep in enumerate(keeps) if not keep and matched[2 * index : 2 * index + 2].any()]
            assert not lost, f"{negated} on {parts[lost[0]]['v'].to_list()}"


WIDENED = [
    (pl.Series([1, 2], dtype=pl.Int8), pl.Series([300], dtype=pl.Int64)),
    (pl.Series([1, 2], dtype=pl.Int64), pl.Series([0.5])),
    (pl.Series([1, 2]).cast(pl.Datetime("ms")), pl.Series([5]).cast(pl.Datetime("ns"))),
    (pl.Series([1, 2]).cast(pl.Duration("ms")), pl.Series([5]).cast(pl.Duration("us"))),
    (pl.Series(["a"], dtype=pl.Categorical), pl.Series(["b"])),
    (pl.Series([None], dtype=pl.Null), pl.Series(["b"])),
]


@pytest.mark.parametrize(("left", "right"), WIDENED)
@pytest.mark.parametrize("comparison", ["eq", "lt", "gt", "le", "ge", "ne"])
def test_bounds_are_read_in_the_type_of_their_file(left, right, comparison):
    parts = [pl.DataFrame({"v": left}), pl.DataFrame({"v": right})]
    exact = [exact_integers(column_statistics(part), rows=part.height) for part in parts]
    schema = unify([("f", part.schema, is_exact) for part, is_exact in zip(parts, exact, strict=True)])
    rows = [conform(part.lazy(), source=part.schema, target=schema).collect() for part in parts]
    for literal in pl.concat(rows)["v"]:
        predicate = getattr(c("v"), comparison)(pl.lit(pl.Series([literal], dtype=schema["v"])))
        keeps = may_match(predicate, schema=schema, files=[described(part) for part in parts])
        assert all(keep >= bool(part.filter(predicate).height) for keep, part in zip(keeps, rows, strict=True))


def test_text_and_an_enum_are_compared_in_the_order_of_the_enum():
    part = pl.DataFrame({"s": ["a", "b"]})
    predicate = c("s") > pl.lit("b", dtype=pl.Enum(["b", "a"]))
    assert part.filter(predicate)["s"].to_list() == ["a"]
    assert kept(predicate, part) == [True]


def test_between_does_not_split_where_polars_rounds_large_integers():
    part = pl.DataFrame({"i": [2**53]})
    predicate = c("i").is_between(2**53 + 1, 2.0**60)
    assert part.filter(predicate).height == 1
    assert kept(predicate, part) == [True]


def test_a_column_that_a_file_lacks_is_null_in_it():
    schema = pl.Schema({"i": pl.Int64(), "x": pl.Struct({"y": pl.Int64})})
    files = [described(pl.DataFrame({"i": [1]})), described(pl.DataFrame({"x": [{"y": 1}]}))]
    assert may_match(c("i") > 0, schema=schema, files=files) == [True, False]
    assert may_match(c("i").is_null(), schema=schema, files=files) == [False, True]
    assert may_match(c("x").struct.field("y") > 0, schema=schema, files=files) == [False, True]


def test_a_leaf_without_statistics_is_unknown():
    files = [FileStatistics(3, pl.Schema({"i": pl.Int64()}), ())]
    assert may_match(c("i") > 5, schema=files[0].schema, files=files) == [True]


@pytest.mark.parametrize("bound", ["text", 2**200, 1.5, True])
def test_statistics_that_lie_about_their_type_keep_the_file(bound):
    schema = pl.Schema({"i": pl.Int8()})
    files = [FileStatistics(3, schema, (ColumnStatistics(("i",), 0, bound, bound),))]
    assert may_match(c("i") > 100, schema=schema, files=files) == [True]


def test_no_files_give_no_answers():
    assert may_match(c("i") > 5, schema=SMALL.schema, files=[]) == []


def test_conjuncts_keep_the_parts_on_the_given_columns():
    predicate = (c("i") > 1) & (c("f") > 2) & ((c("i") < 9) | (c("s") == "a")) & c("s").is_not_null()
    chosen = conjuncts_on(predicate, columns={"i", "s"})
    assert chosen is not None
    assert chosen.meta.eq(pl.all_horizontal(c("i") > 1, (c("i") < 9) | (c("s") == "a"), c("s").is_not_null()))


@pytest.mark.parametrize(
    "predicate", [c("f") > 2, (c("f") > 2) | (c("i") > 1), *NEEDS_ALL_ROWS.values()], ids=lambda value: str(value)[:60]
)
def test_conjuncts_are_none_where_nothing_may_prune(predicate):
    assert conjuncts_on(predicate, columns={"i"}) is None


def many_files(count):
    schema = pl.Schema({"id": pl.Int64()})
    return schema, [
        FileStatistics(9, schema, (ColumnStatistics(("id",), 0, n * 10, n * 10 + 8),)) for n in range(count)
    ]


def test_ten_thousand_files_are_pruned_at_once():
    schema, files = many_files(10_000)
    may_match(c("id") > 5, schema=schema, files=files[:1])
    started = time.process_time()
    keeps = may_match((c("id") > 50_000) & (c("id") <= 60_000), schema=schema, files=files)
    assert time.process_time() - started < 1
    assert keeps == [5_000 <= n <= 6_000 for n in range(10_000)]


def test_a_million_ids_are_looked_up_in_ten_thousand_files():
    schema, files = many_files(10_000)
    ids = pl.Series(range(40_000, 1_040_000)).shuffle(seed=1).implode()
    started = time.process_time()
    keeps = may_match(c("id").is_in(ids), schema=schema, files=files)
    assert time.process_time() - started < 5
    assert keeps == [n >= 4_000 for n in range(10_000)]


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        (pl.col("id") < 3, True),
        ((pl.col("id") >= 1) & (pl.col("id") < 3), True),
        (pl.all_horizontal(pl.col("id") >= "a", pl.col("id") < "b"), True),
        (pl.col("id") + 1 < 3, False),
        (pl.col("id") < pl.col("id"), False),
        (pl.col("other") < 3, False),
        ((pl.col("id") < 3) & (pl.col("other") < 3), False),
        (pl.col("id").is_first_distinct(), False),
        (pl.lit(value=True), False),
    ],
)
def test_a_range_compares_one_column_with_literals(predicate, expected):
    assert is_range_of(predicate, "id") is expected
