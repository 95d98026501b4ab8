"""The string of the values of a row, against plain Python: equal for equal values alone, whatever types hold them."""

import math
import struct
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs import MetadataSchemaError
from metaxy_fs.versioning.values import row_text
from tests.support.examples import examples

NUMBERS = st.integers(-128, 127)
FLOATS = st.floats(width=32) | st.sampled_from([0.0, -0.0, math.nan])
MOMENTS = st.datetimes(datetime(1960, 1, 1), datetime(2100, 1, 1))  # noqa: DTZ001  # of a column without a time zone
DECIMALS = st.integers(-9999, 9999).map(lambda hundredths: Decimal(hundredths) / 100)
LEAVES = [
    *((dtype, NUMBERS) for dtype in (pl.Int8(), pl.Int32(), pl.Int64())),
    (pl.UInt64(), st.integers(0, 2**64 - 1)),
    (pl.String(), st.text(alphabet="a|:1é\0", max_size=3)),
    (pl.Binary(), st.binary(max_size=2)),
    (pl.Date(), st.dates()),
    *((pl.Datetime(unit), MOMENTS) for unit in ("us", "ns")),
    (pl.Datetime("us", "UTC"), MOMENTS.map(lambda moment: moment.replace(tzinfo=UTC))),
    (pl.Boolean(), st.booleans()),
    *((dtype, FLOATS) for dtype in (pl.Float32(), pl.Float64())),
    *((pl.Decimal(20, scale), DECIMALS) for scale in (2, 5)),
]
NAMES = st.sampled_from(["a", "b", "^x$", "*", "ä"])


@st.composite
def typed(draw, depth=2):
    """Draw a type, and a strategy for its values."""
    kind = draw(st.sampled_from(["leaf", "list", "array", "struct"])) if depth else "leaf"
    if kind == "leaf":
        return draw(st.sampled_from(LEAVES))
    if kind == "struct":
        fields = draw(st.dictionaries(NAMES.filter(str.isalpha), typed(depth=depth - 1), min_size=1, max_size=2))
        values = st.fixed_dictionaries({name: st.none() | each for name, (_, each) in fields.items()})
        return pl.Struct({name: dtype for name, (dtype, _) in fields.items()}), values
    inner, values = draw(typed(depth=depth - 1))
    size = 2 if kind == "array" else None
    lists = st.lists(st.none() | values, min_size=size or 0, max_size=2)
    return (pl.Array(inner, 2) if kind == "array" else pl.List(inner)), lists


def written(value):  # noqa: C901  # one line for each kind
    match value:
        case None:
            kind, text = "n", ""
        case bool():
            kind, text = "o", str(int(value))
        case int():
            kind, text = "i", str(value)
        case float():
            number = math.nan if math.isnan(value) else 0.0 if value == 0 else value
            kind, text = "f", str(struct.unpack("<Q", struct.pack("<d", number))[0])
        case Decimal():
            kind, text = "c", f"{value:.5f}".rstrip("0").rstrip(".")
        case str():
            kind, text = "s", value
        case bytes():
            kind, text = "b", value.hex()
        case datetime():
            since = value.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
            kind, text = "t", f"{since // timedelta(seconds=1)}.{value.microsecond:06}000"
        case date():
            kind, text = "d", str(value.toordinal() - date(1970, 1, 1).toordinal())
        case list():
            kind, text = "l", "".join(map(written, value))
        case dict():
            kind, text = "r", row(value)
    return f"{kind}{len(text.encode())}:{text}"


def row(values):
    return "".join(written(name) + written(values[name]) for name in sorted(values) if values[name] is not None)


@given(st.dictionaries(NAMES, typed(), max_size=3), st.data())
@examples(25)
def test_a_row_is_written_as_plain_python_writes_it(columns, data):
    columns |= {f"leaf {place}": leaf for place, leaf in enumerate(LEAVES)}
    rows = data.draw(st.lists(st.fixed_dictionaries({n: st.none() | v for n, (_, v) in columns.items()}), max_size=4))
    schema = {name: dtype for name, (dtype, _) in columns.items()}
    frame = pl.DataFrame(
        [pl.Series(name, [each[name] for each in rows], dtype, strict=False) for name, dtype in schema.items()]
    )
    found = frame.lazy().select(row_text(schema)).collect().to_series().to_list()
    assert found == [row(each) for each in rows]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": None, "b": ""}, {"a": "", "b": None}),
        ({"a": "a", "b": "bc"}, {"a": "ab", "b": "c"}),
        ({"a": "1"}, {"a": 1}),
        ({"a": [["x"], []]}, {"a": [[], ["x"]]}),
        ({"a": [None]}, {"a": []}),
        ({"a": {"x": None}}, {"a": None}),
    ],
)
def test_no_two_rows_are_written_alike(one, other):
    texts = [frame.select(row_text(frame.schema)).item() for frame in (pl.DataFrame([one]), pl.DataFrame([other]))]
    assert texts[0] != texts[1]


def test_every_nan_is_one():
    bits = pl.Series("a", [0x7FF8000000000000, 0x7FF8000000000001, 0xFFF8000000000000], dtype=pl.UInt64)
    frame = bits.reinterpret(dtype=pl.Float64).to_frame()
    assert frame.select(row_text(frame.schema).n_unique()).item() == 1


def test_a_type_without_a_string_is_refused_by_name():
    frame = pl.DataFrame({"took": [timedelta(1)]})
    with pytest.raises(MetadataSchemaError, match="'took' has the type Duration") as caught:
        frame.select(row_text(frame.schema))
    assert caught.value.column == "took"
