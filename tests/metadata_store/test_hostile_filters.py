"""The rows of a read are those of the frame filtered in memory, whatever its values and flags, and what is asked."""

import functools
import operator
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from metaxy_fs import Feature, FeatureGraph, FeatureKey, FeatureSpec, FilesystemMetadataStore
from metaxy_fs.log import local_files, parquet
from metaxy_fs.log import predicates as predicates_module
from metaxy_fs.log.predicates import balanced, flattened
from tests.support.examples import examples

with FeatureGraph().use():

    class Sample(Feature, spec=FeatureSpec(key=FeatureKey(["sample"]))):
        """What all of these tests write."""


LONG = "x" * 70
VALUES: dict[str, tuple[pl.DataType, list[Any]]] = {
    "i8": (pl.Int8(), [-128, -127, -1, 0, 1, 100, 127]),
    "u8": (pl.UInt8(), [0, 1, 127, 128, 255]),
    "i64": (pl.Int64(), [-(2**63), -(2**53) - 1, -1, 0, 2**53, 2**53 + 1, 2**63 - 1]),
    "u64": (pl.UInt64(), [0, 1, 2**53 + 1, 2**63, 2**64 - 1]),
    "f32": (pl.Float32(), [float("-inf"), -1.0, -0.0, 0.0, 0.1, 16777217.0, float("inf"), float("nan")]),
    "f64": (pl.Float64(), [float("-inf"), -1.5, -0.0, 0.0, 0.1, 2.0**53, 1e308, float("inf"), float("nan")]),
    "text": (pl.String(), ["", "a", "B", "é", "\U0010ffff", LONG, LONG + "a", LONG + "\U0010ffff", "\ud7ff", "\ue000"]),
    "flag": (pl.Boolean(), [True, False]),
    "day": (pl.Date(), [date(1, 1, 1), date(1969, 12, 31), date(2024, 2, 29), date(9999, 12, 31)]),
    "naive": (pl.Datetime("us"), [datetime(1969, 12, 31, 23), datetime(2024, 10, 27, 1, 30)]),  # noqa: DTZ001
    "zoned": (
        pl.Datetime("us", "Europe/Berlin"),
        [datetime(2024, 10, 27, 0, 30, tzinfo=UTC), datetime(2024, 10, 27, 1, 30, tzinfo=UTC)],
    ),
    "span": (pl.Duration("ms"), [timedelta(-1), timedelta(0), timedelta(milliseconds=1)]),
    "grade": (pl.Enum(["low", "mid", "high"]), ["low", "mid", "high"]),
    "kind": (pl.Categorical(), ["z", "a", "m"]),
    "price": (pl.Decimal(10, 2), [Decimal("-1.00"), Decimal("0.10"), Decimal("99999999.99")]),
    "raw": (pl.Binary(), [b"", b"\x00", b"\xff" * 70]),
    "list": (pl.List(pl.Int8()), [[], [127], [-128, 1], [None]]),
    "struct": (pl.Struct({"n": pl.Int8(), "s": pl.String()}), [{"n": 127, "s": LONG}, {"n": None, "s": "a"}]),
}
NUMBERS = ["i8", "u8", "i64", "u64", "f32", "f64"]
ORDERED = [*NUMBERS, "text", "flag", "day", "naive", "zoned", "span", "grade", "price"]
COMPARISONS = [operator.eq, operator.ne, operator.gt, operator.ge, operator.lt, operator.le]


@st.composite
def written(draw: st.DrawFn) -> list[pl.DataFrame]:
    """Draw one or two writes with few, hostile values, some of whose columns claim to be sorted."""
    frames = []
    for number in range(draw(st.integers(1, 2))):
        height = draw(st.integers(0, 7))
        columns = {
            name: pl.Series(
                name, draw(st.lists(st.sampled_from([*values, None]), min_size=height, max_size=height)), dtype=dtype
            )
            for name, (dtype, values) in VALUES.items()
        }
        ids = pl.Series("sample_id", range(100 * number, 100 * number + height), dtype=pl.Int64)
        claiming = draw(st.sets(st.sampled_from(sorted(VALUES)), max_size=3))
        rows = pl.DataFrame([ids, *columns.values()]).with_columns(
            *(pl.col(name).set_sorted(descending=draw(st.booleans())) for name in sorted(claiming)),
            data_version=pl.lit({"default": "v"}, dtype=pl.Struct({"default": pl.String})),
        )
        frames.append(rows)
    return frames


def literal(draw: st.DrawFn, name: str) -> pl.Expr:
    dtype, values = VALUES[name]
    value = draw(st.sampled_from([*values, None]))
    is_typed = name != "zoned" and (value is None or name in ("grade", "kind") or draw(st.booleans()))
    return pl.lit(value, dtype=dtype) if is_typed else pl.lit(value)


def number(draw: st.DrawFn) -> pl.Expr:
    name = draw(st.sampled_from(NUMBERS))
    column = pl.col(name)
    step = pl.lit(draw(st.sampled_from([1, 2, 100, 127])), dtype=VALUES[name][0])
    return draw(
        st.sampled_from(
            [
                column,
                column + step,
                column - step,
                column * step,
                -column if name[0] != "u" else column,
                column.abs(),
                column // step,
                column % step,
                column.cast(pl.Int8, strict=False),
                column.cast(pl.Int16, strict=False) + 1,
                column.cast(pl.Float32),
                column.cast(pl.UInt8, strict=False),
                column.cast(pl.Boolean).cast(pl.Int8),
                column.fill_null(0),
                pl.col("struct").struct.field("n") + 1,
                pl.col("list").list.len().cast(pl.Int8) - 2,
            ]
        )
    )


@st.composite
def leaf(draw: st.DrawFn) -> pl.Expr:
    """Draw a test of one or two columns."""
    compare = draw(st.sampled_from(COMPARISONS))
    name = draw(st.sampled_from(ORDERED))
    column, other = pl.col(name), literal(draw, name)
    makers: list[Callable[[], pl.Expr]] = [
        lambda: compare(
            number(draw), pl.lit(draw(st.sampled_from([-129, -128, -1, 0, 0.1, 126, 127, 2**53, 2**63 - 1])))
        ),
        lambda: compare(number(draw), number(draw)),
        lambda: compare(column, other),
        lambda: compare(other, column),
        lambda: column.eq_missing(other),
        lambda: column.ne_missing(other),
        lambda: column.is_between(
            literal(draw, name), literal(draw, name), closed=draw(st.sampled_from(["both", "none"]))
        ),
        lambda: pl.col(draw(st.sampled_from(sorted(VALUES)))).is_null(),
        lambda: _is_in(draw, name),
        lambda: pl.col("text").str.starts_with(draw(st.sampled_from(["", "x", LONG, LONG + "a", "\U0010ffff"]))),
        lambda: pl.col("text").str.to_lowercase() < "c",
        lambda: pl.col("text").cast(pl.Int64, strict=False) > 0,
        lambda: pl.col("struct").struct.field("s") > "x" * draw(st.integers(1, 71)),
        lambda: pl.col("f64").is_nan() | pl.col("f32").eq(float("nan")),
        lambda: pl.col("flag") ^ (pl.col("i8") > 0),
        lambda: pl.col("flag"),
        lambda: pl.col("list").list.contains(127),
        lambda: compare(pl.col("naive").dt.date(), pl.lit(date(2024, 10, 27))),
        lambda: compare(pl.col("zoned").dt.hour(), 1),
        lambda: compare(pl.col("kind").cast(pl.String), "m"),
        lambda: pl.col("raw") == b"\xff" * 70,
        lambda: compare(pl.col("day"), pl.lit(datetime(1970, 1, 1))),  # noqa: DTZ001
    ]
    return draw(st.sampled_from(makers))()


def _is_in(draw: st.DrawFn, name: str) -> pl.Expr:
    dtype, values = VALUES[name]
    items = pl.Series(draw(st.lists(st.sampled_from([*values, None]), max_size=3)), dtype=dtype)
    return pl.col(name).is_in(items.implode(), nulls_equal=draw(st.booleans()))


PREDICATES = st.recursive(
    leaf(),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: pair[0] & pair[1]),
        st.tuples(inner, inner).map(lambda pair: pair[0] | pair[1]),
        inner.map(operator.invert),
        st.tuples(inner, inner).map(pl.any_horizontal),
    ),
    max_leaves=4,
)


@pytest.fixture(params=["local", "fetched"], scope="module")
def open_root(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], FilesystemMetadataStore]]:
    """Opens an empty store each time, whose files are read in part, row groups of two rows."""
    directory: Path = tmp_path_factory.mktemp("roots")
    prefix = str(directory) if request.param == "local" else "memory://hostile-filters"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_files, "SMALL_BYTES", 0)
        patch.setattr(parquet, "LARGE_BYTES", 1)
        patch.setattr(parquet, "ROW_GROUP_ROWS", 2)
        yield lambda: FilesystemMetadataStore(f"{prefix}/{uuid.uuid4().hex}")


@examples(25)
@given(frames=written(), predicate=PREDICATES)
def test_filtered_reads_are_filtered_frames(
    open_root: Callable[[], FilesystemMetadataStore], frames: list[pl.DataFrame], predicate: pl.Expr
) -> None:
    # Without the flags, which Polars would believe.
    everything = pl.concat(frame.to_struct().struct.unnest() for frame in frames)
    try:
        expected = everything.filter(predicate)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return
    store = open_root()
    for frame in frames:
        store.write_metadata(Sample, frame)
    for latest_only in (False, True):
        found = store.read_metadata(Sample, filters=predicate, latest_only=latest_only)
        assert_frame_equal(found, expected, categorical_as_str=True)
        # Polars' write_json takes a chunk without rows for the end.
        assert 0 not in found["sample_id"].chunk_lengths() or found.is_empty()
    assert_frame_equal(store.scan_metadata(Sample).filter(predicate).collect(), expected, categorical_as_str=True)


@pytest.mark.parametrize(
    "predicate",
    [
        pl.col("n") + 1 == -128,
        pl.col("n") + 100 > 0,
        pl.col("n") - 1 == 127,
        -pl.col("n") == -128,
        pl.col("u") - 1 == 255,
        pl.col("u") + 1 == 0,
    ],
)
@pytest.mark.parametrize("descending", [None, False, True])
def test_arithmetic_overflows_as_it_does_in_memory(
    open_root: Callable[[], FilesystemMetadataStore], predicate: pl.Expr, *, descending: bool | None
) -> None:
    types = {"n": pl.Int8, "u": pl.UInt8}
    rows = pl.DataFrame({"sample_id": range(3), "n": [127, -128, 0], "u": [0, 5, 255]}, schema_overrides=types)
    rows = rows.with_columns(pl.struct(pl.lit("v").alias("default")).alias("data_version"))
    expected = rows.filter(predicate)
    assert expected.height
    store = open_root()
    claiming = rows if descending is None else rows.with_columns(pl.col("n", "u").set_sorted(descending=descending))
    store.write_metadata(Sample, claiming)
    for _ in range(2):  # a store that knows the files reads them another way
        assert_frame_equal(store.read_metadata(Sample, filters=predicate), expected)
        assert_frame_equal(store.scan_metadata(Sample).filter(predicate).collect(), expected)


@examples(50)
@given(frames=written(), predicate=PREDICATES)
def test_chains_that_are_taken_apart_say_the_same(frames: list[pl.DataFrame], predicate: pl.Expr) -> None:
    rows = pl.concat(frame.to_struct().struct.unnest() for frame in frames)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predicates_module, "_LONG", 1)
        rebuilt = [balanced(predicate), flattened(predicate)]
    try:
        expected = rows.select(predicate)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return
    for each in rebuilt:
        assert rows.select(each).to_series().to_list() == expected.to_series().to_list()


@pytest.mark.parametrize(("join", "nested_to"), [(operator.or_, "left"), (operator.and_, "right")])
def test_a_filter_of_thousands_of_parts_is_no_deep_chain(tmp_path: Path, join: Any, nested_to: str) -> None:
    store = FilesystemMetadataStore(tmp_path)
    versions = pl.struct(pl.lit("v").alias("default")).alias("data_version")
    store.write_metadata(Sample, pl.DataFrame({"sample_id": range(10)}).with_columns(versions))
    parts = [pl.col("sample_id") == n if join is operator.or_ else pl.col("sample_id") != n for n in range(5, 3005)]
    chain = functools.reduce(join if nested_to == "left" else lambda left, right: join(right, left), parts)
    assert len(flattened(chain).meta.pop()) == 3000
    expected = range(5, 10) if join is operator.or_ else range(5)
    assert store.read_metadata(Sample, filters=chain)["sample_id"].to_list() == list(expected)
