"""Types survive a manifest and a data file, and files of different schemas become one frame."""

import io
import itertools
import time
from datetime import datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaxy_fs.errors import CorruptObjectError, MetadataSchemaError
from metaxy_fs.log.schema import decode_schema, encode_schema, unstorable
from metaxy_fs.log.widening import conform, unify, widen
from tests.support.strategies import dtypes, frames

EXACT, UNPROVEN = (lambda _path: True), (lambda _path: False)


def file(name, schema, is_exact=UNPROVEN):
    return name, pl.Schema(schema), is_exact


GOLDEN = {
    pl.Int8: '"int8"',
    pl.Int16: '"int16"',
    pl.Int32: '"int32"',
    pl.Int64: '"int64"',
    pl.Int128: '"int128"',
    pl.UInt8: '"uint8"',
    pl.UInt16: '"uint16"',
    pl.UInt32: '"uint32"',
    pl.UInt64: '"uint64"',
    pl.Float32: '"float32"',
    pl.Float64: '"float64"',
    pl.Boolean: '"boolean"',
    pl.String: '"string"',
    pl.Binary: '"binary"',
    pl.Date: '"date"',
    pl.Time: '"time"',
    pl.Null: '"null"',
    pl.Categorical(): '"categorical"',
    pl.Datetime("us", "UTC"): '{"type":"datetime","unit":"us","zone":"UTC"}',
    pl.Datetime("ns"): '{"type":"datetime","unit":"ns","zone":null}',
    pl.Duration("ms"): '{"type":"duration","unit":"ms"}',
    pl.Decimal(5, 2): '{"type":"decimal","precision":5,"scale":2}',
    pl.Enum(["b", "a"]): '{"type":"enum","categories":["b","a"]}',
    pl.List(pl.Int8): '{"type":"list","inner":"int8"}',
    pl.Array(pl.Int8, 3): '{"type":"array","inner":"int8","width":3}',
    pl.Struct({"y": pl.Int8, "x": pl.List(pl.String)}): (
        '{"type":"struct","fields":[["y","int8"],["x",{"type":"list","inner":"string"}]]}'
    ),
}


@pytest.mark.parametrize(("dtype", "written"), GOLDEN.items(), ids=str)
def test_a_type_is_written_as_it_always_was(dtype, written):
    data = f'[["c",{written}]]'.encode()
    assert encode_schema(pl.Schema({"c": dtype})) == data
    assert decode_schema(data) == pl.Schema({"c": dtype})


@given(st.dictionaries(st.text(max_size=3), dtypes(), max_size=3))
def test_a_schema_survives_its_writing(columns):
    schema = pl.Schema(columns)
    assert list(decode_schema(encode_schema(schema)).items()) == list(schema.items())


def test_equal_bytes_are_decoded_once():
    data = encode_schema(pl.Schema({"a": pl.Int8()}))
    assert decode_schema(data) is decode_schema(bytes(bytearray(data)))


def nested(levels):
    return '[["a",' + '{"type":"list","inner":' * levels + '"int8"' + "}" * levels + "]]"


BROKEN = {
    "no_json": "[[",
    "no_list": "{}",
    "unknown_name": '[["a","int7"]]',
    "unknown_tag": '[["a",{"type":"object"}]]',
    "unknown_field": '[["a",{"type":"duration","unit":"ms","zone":"UTC"}]]',
    "missing_field": '[["a",{"type":"duration"}]]',
    "unknown_unit": '[["a",{"type":"duration","unit":"s"}]]',
    "unknown_zone": '[["a",{"type":"datetime","unit":"us","zone":"Mars/Base"}]]',
    "zone_that_polars_renames": '[["a",{"type":"datetime","unit":"us","zone":"+02:00"}]]',
    "empty_zone": '[["a",{"type":"datetime","unit":"us","zone":""}]]',
    "name_twice": '[["a","int8"],["a","int8"]]',
    "field_twice": '[["a",{"type":"struct","fields":[["x","int8"],["x","int8"]]}]]',
    "no_fields": '[["a",{"type":"struct","fields":[]}]]',
    "category_twice": '[["a",{"type":"enum","categories":["x","x"]}]]',
    "scale": '[["a",{"type":"decimal","precision":5,"scale":6}]]',
    "precision": '[["a",{"type":"decimal","precision":39,"scale":6}]]',
    "negative_width": '[["a",{"type":"array","inner":"int8","width":-1}]]',
    "huge_width": '[["a",{"type":"array","inner":"int8","width":999999999999}]]',
    "huge_product": '[["a",{"type":"array","width":9999,"inner":{"type":"array","inner":"int8","width":9999}}]]',
    "zone_within_a_list": '[["a",{"type":"list","inner":{"type":"datetime","unit":"us","zone":"Mars/Base"}}]]',
    "deep": nested(64),
    "very_deep": nested(100_000),
}


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in BROKEN.items()])
def test_what_is_no_schema_is_refused(text):
    with pytest.raises(CorruptObjectError, match="not a schema"):
        decode_schema(text.encode())


def test_the_deepest_type_allowed_is_read():
    assert encode_schema(decode_schema(nested(63).encode())) == nested(63).encode()


def through_parquet(frame):
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd")
    return pl.scan_parquet(io.BytesIO(buffer.getvalue())).collect()


@settings(max_examples=200, deadline=None)
@given(dtypes().flatmap(lambda dtype: frames(schema=pl.Schema({"c": dtype}))))
def test_a_storable_type_survives_a_data_file(frame):
    assert unstorable(frame.schema["c"]) is None
    found = through_parquet(frame)
    assert found.schema == frame.schema
    assert found.equals(frame)


RARE = {
    "array": pl.Series([[], None], dtype=pl.Array(pl.Int8, 0)),
    "enum": pl.Series([None], dtype=pl.Enum([])),
    "nulls": pl.Series([[None], [], None], dtype=pl.List(pl.Null)),
    "struct_of_nulls": pl.Series([{"x": None}, None], dtype=pl.Struct({"x": pl.Null})),
    "great_integer": pl.Series([2**126, None], dtype=pl.Int128),
}


@pytest.mark.parametrize("column", [pytest.param(column, id=name) for name, column in RARE.items()])
def test_a_rare_type_survives_a_data_file(column):
    assert unstorable(column.dtype) is None
    found = through_parquet(column.to_frame("c"))
    assert found.schema == {"c": column.dtype}
    assert found["c"].to_list() == column.to_list()


UNSTORABLE = {
    "object": pl.Object(),
    "empty_struct": pl.Struct({}),
    "list_of_empty_structs": pl.List(pl.Struct({})),
    "named_categories": pl.Categorical(pl.Categories("mine")),
    "unknown": pl.Unknown(),
    "wide_array": pl.Array(pl.Int8, 2**21),
}


@pytest.mark.parametrize("dtype", [pytest.param(dtype, id=name) for name, dtype in UNSTORABLE.items()])
def test_an_unstorable_type_is_refused_with_a_way_out(dtype):
    assert "cast" in unstorable(dtype)
    with pytest.raises(MetadataSchemaError, match=r"Column 'c' cannot be stored: .*cast"):
        encode_schema(pl.Schema({"c": dtype}))


@pytest.mark.parametrize("name", ["object", "empty_struct", "list_of_empty_structs"])
def test_polars_cannot_write_what_is_refused(name):
    values = {"object": [object()], "empty_struct": [{}], "list_of_empty_structs": [[{}]]}[name]
    with pytest.raises(pl.exceptions.PolarsError):
        through_parquet(pl.DataFrame({"c": pl.Series(values, dtype=UNSTORABLE[name])}))


UTC, BERLIN = pl.Datetime("us", "UTC"), pl.Datetime("us", "Europe/Berlin")
WIDENED = [
    (pl.Null(), pl.List(pl.Int8), pl.List(pl.Int8)),
    (pl.Int8(), pl.Int32(), pl.Int32()),
    (pl.UInt8(), pl.UInt64(), pl.UInt64()),
    (pl.Int8(), pl.UInt8(), pl.Int16()),
    (pl.Int64(), pl.UInt32(), pl.Int64()),
    (pl.Int8(), pl.UInt64(), pl.Int128()),
    (pl.Float32(), pl.Float64(), pl.Float64()),
    (pl.Int16(), pl.Float32(), pl.Float32()),
    (pl.UInt16(), pl.Float32(), pl.Float32()),
    (pl.Int32(), pl.Float32(), pl.Float64()),
    (pl.UInt32(), pl.Float64(), pl.Float64()),
    (pl.Int64(), pl.Float64(), None),
    (pl.UInt64(), pl.Float32(), None),
    (pl.Boolean(), pl.Int8(), None),
    (pl.Date(), pl.Datetime("us"), None),
    (pl.Datetime("ms"), pl.Datetime("ns"), pl.Datetime("ns")),
    (pl.Datetime("us"), UTC, None),
    (UTC, BERLIN, None),
    (pl.Duration("us"), pl.Duration("ms"), pl.Duration("us")),
    (pl.Duration("us"), pl.Int64(), None),
    (pl.String(), pl.Categorical(), pl.String()),
    (pl.String(), pl.Enum(["a"]), pl.String()),
    (pl.Enum(["a"]), pl.Enum(["b"]), pl.String()),
    (pl.Categorical(), pl.Enum(["b"]), pl.String()),
    (pl.String(), pl.Binary(), None),
    (pl.Decimal(5, 2), pl.Decimal(6, 4), pl.Decimal(7, 4)),
    (pl.Decimal(38, 0), pl.Decimal(38, 38), None),
    (pl.List(pl.Int8), pl.List(pl.Int16), pl.List(pl.Int16)),
    (pl.List(pl.Int8), pl.List(pl.String), None),
    (pl.List(pl.Int8), pl.Array(pl.Int8, 2), None),
    (pl.Array(pl.Int8, 2), pl.Array(pl.Int16, 2), pl.Array(pl.Int16, 2)),
    (pl.Array(pl.Int8, 2), pl.Array(pl.Int8, 3), None),
    (pl.Struct({"a": pl.Int8}), pl.Struct({"b": pl.Int8, "a": pl.Int16}), pl.Struct({"a": pl.Int16, "b": pl.Int8})),
    (pl.Struct({"a": pl.Int8}), pl.Struct({"a": pl.String}), None),
]


@pytest.mark.parametrize(("left", "right", "expected"), WIDENED, ids=str)
def test_types_widen_only_without_loss(left, right, expected):
    assert widen(left, right) == expected


def ordered(dtype):
    """Return a type with the fields of its structs in the order of their names."""
    if isinstance(dtype, pl.Struct):
        return pl.Struct({field.name: ordered(field.dtype) for field in sorted(dtype.fields, key=lambda f: f.name)})
    if isinstance(dtype, pl.List):
        return pl.List(ordered(dtype.inner))
    return pl.Array(ordered(dtype.inner), dtype.size) if isinstance(dtype, pl.Array) else dtype


@given(dtypes(), dtypes())
def test_widening_is_symmetric_but_for_the_order_of_fields(left, right):
    assert ordered(widen(left, right)) == ordered(widen(right, left))


@given(dtypes())
def test_widening_is_idempotent(dtype):
    assert widen(dtype, dtype) == dtype
    assert widen(dtype, pl.Null()) == dtype


NUMBERS = [
    pl.Int8(), pl.Int16(), pl.Int32(), pl.Int64(), pl.UInt8(), pl.UInt16(), pl.UInt32(), pl.UInt64(), pl.Float32(),
    pl.Float64(),
]  # fmt: skip
PARTS = st.one_of(
    st.lists(st.sampled_from(NUMBERS), min_size=2, max_size=4),
    st.lists(
        st.sampled_from([UTC, pl.Datetime("ms", "UTC"), pl.Datetime("ns", "UTC"), BERLIN]), min_size=2, max_size=4
    ),
    st.lists(st.sampled_from([pl.String(), pl.Categorical(), pl.Enum(["a"]), pl.Enum(["b"])]), min_size=2, max_size=4),
    st.lists(dtypes(), min_size=2, max_size=3),
)


def unified(parts, is_exact):
    try:
        return ordered(unify([file(str(index), {"c": part}, is_exact) for index, part in enumerate(parts)])["c"])
    except MetadataSchemaError:
        return None


@given(PARTS, st.sampled_from([EXACT, UNPROVEN]))
def test_unifying_does_not_depend_on_the_order_or_number_of_files(parts, is_exact):
    expected = unified(parts, is_exact)
    for order in itertools.permutations(parts):
        assert unified([*order, order[0]], is_exact) == expected


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_conforming_keeps_every_value(data):
    parts = data.draw(PARTS)
    target = unified(parts, UNPROVEN)
    for part in parts if target is not None else []:
        frame = data.draw(frames(schema=pl.Schema({"c": part}), max_rows=4))
        found = conform(frame.lazy(), source=frame.schema, target=pl.Schema({"c": target})).collect()
        assert found.schema == pl.Schema({"c": target})
        for value, original in zip(found["c"].to_list(), frame["c"].to_list(), strict=True):
            assert holds(value, original)


def holds(value, original):
    """Ask whether a widened value is the original one, with nulls where it had nothing."""
    if isinstance(original, dict):
        return value is not None and all(
            holds(value[name], original[name]) if name in original else value[name] is None for name in value
        )
    if isinstance(original, list):
        return len(value) == len(original) and all(map(holds, value, original))
    return value == original or (value != value and original != original)  # noqa: PLR0124  # NaN


def test_integers_proven_to_be_small_go_with_floats():
    files = [file("a", {"c": pl.Int64()}, EXACT), file("b", {"c": pl.Float32()})]
    assert unify(files)["c"] == pl.Float64()


def test_one_unproven_file_of_many_is_a_conflict():
    files = [file("a", {"c": pl.Int64()}, EXACT), file("b", {"c": pl.Int64()}), file("c", {"c": pl.Float64()})]
    with pytest.raises(MetadataSchemaError, match="'c' is Int64 in 'a' but Float64 in 'c'"):
        unify(files)


def test_proofs_are_asked_for_by_path_and_only_where_needed():
    asked = []
    record = lambda path: not asked.append(path)  # noqa: E731
    files = [
        file("a", {"s": pl.Struct({"x": pl.Int64, "y": pl.Int64})}, record),
        file("b", {"s": pl.Struct({"x": pl.Float64, "y": pl.Int64})}, record),
    ]
    assert unify(files)["s"] == pl.Struct({"x": pl.Float64, "y": pl.Int64})
    assert asked == [("s", "x")]


def test_items_of_lists_are_never_proven():
    files = [file("a", {"c": pl.List(pl.Int64)}, EXACT), file("b", {"c": pl.List(pl.Float64)}, EXACT)]
    with pytest.raises(MetadataSchemaError):
        unify(files)


def test_a_conflict_names_both_files_the_column_and_the_way_out():
    files = [file("one", {"x": pl.Int8()}), file("two", {"x": pl.Int16()}), file("three", {"x": pl.String()})]
    with pytest.raises(MetadataSchemaError) as caught:
        unify(files)
    for part in ("'x'", "Int8", "'one'", "String", "'three'", "columns="):
        assert part in str(caught.value)


def test_a_conflict_outside_the_wanted_columns_does_no_harm():
    files = [file("one", {"x": pl.Int8(), "y": pl.Int8()}), file("two", {"y": pl.Int16(), "x": pl.String()})]
    assert unify(files, columns={"y"}) == pl.Schema({"y": pl.Int16()})


def test_columns_come_in_order_of_first_appearance():
    files = [file("one", {"b": pl.Int8(), "a": pl.Int8()}), file("two", {"c": pl.Int8(), "a": pl.Int8()})]
    assert unify(files).names() == ["b", "a", "c"]


def test_no_files_have_no_columns():
    assert unify([]) == pl.Schema()


def test_ten_thousand_files_of_one_schema_are_unified_at_once():
    schema, other = pl.Schema({"a": pl.Int8(), "b": pl.String()}), pl.Schema({"a": pl.Int16()})
    files = [(str(index), other if index == 5_000 else schema, UNPROVEN) for index in range(10_000)]
    started = time.process_time()
    assert unify(files) == pl.Schema({"a": pl.Int16(), "b": pl.String()})
    assert time.process_time() - started < 0.5


def conformed(frame, target):
    return conform(frame.lazy(), source=frame.schema, target=pl.Schema(target)).collect()


def test_missing_columns_and_fields_are_null_and_a_null_struct_stays_null():
    frame = pl.DataFrame({"s": [{"x": 1}, None]})
    found = conformed(frame, {"new": pl.String(), "s": pl.Struct({"y": pl.List(pl.Int8), "x": pl.Int64})})
    assert found.rows() == [(None, {"y": None, "x": 1}), (None, None)]
    assert found["s"].null_count() == 1


def test_a_frame_without_any_wanted_column_keeps_its_rows():
    assert conformed(pl.DataFrame({"a": [1, 2]}), {"b": pl.Int8()}).rows() == [(None,), (None,)]


def test_names_that_look_like_patterns_are_taken_as_they_are():
    frame = pl.DataFrame({"*": [1], "^a$": [2], "a": [3], "s": [{"*": 4, "^x$": 5, "x": 6}]}).cast({"*": pl.Int8})
    fields = {"^x$": pl.Int64, "*": pl.Int64, "x": pl.Int64, "z": pl.Int8}
    found = conformed(frame, {"s": pl.Struct(fields), "^a$": pl.Int64(), "*": pl.Int64()})
    assert found.rows() == [({"^x$": 5, "*": 4, "x": 6, "z": None}, 2, 1)]


def test_a_time_that_the_finer_unit_cannot_hold_fails_the_query():
    frame = pl.DataFrame({"t": [datetime(2500, 1, 1)]})  # noqa: DTZ001
    with pytest.raises(pl.exceptions.InvalidOperationError):
        conformed(frame, {"t": pl.Datetime("ns")})
