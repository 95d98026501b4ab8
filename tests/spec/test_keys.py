"""Keys are names that keep their parts."""

import ast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs.errors import SpecError
from metaxy_fs.spec import ContainerKey, FeatureKey
from metaxy_fs.spec.keys import did_you_mean

parts = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,9}", fullmatch=True)
part_lists = st.lists(parts, min_size=1, max_size=5)
kinds = pytest.mark.parametrize("kind", [FeatureKey, ContainerKey])
BAD_PARTS = ["", "_a", "-a", "a b", "a.b", "a/b", "a|b", "é", "日", "a\n", "..", "a\0", "\ud800", None, 1, b"a", ["a"]]


@given(part_lists)
def test_key_is_read_back_from_its_text_and_its_dotted_name(names):
    key = FeatureKey(names)
    assert FeatureKey.parse(str(key)) == FeatureKey.parse(key.dotted) == key
    assert key.parts == tuple(names)


@given(part_lists)
def test_key_is_read_back_from_json(names):
    key = FeatureKey(names)
    assert msgspec.json.decode(msgspec.json.encode(key), type=FeatureKey) == key


@given(part_lists, part_lists)
def test_dotted_name_names_one_key_only(left, right):
    assert (FeatureKey(left).dotted == FeatureKey(right).dotted) == (left == right)


@given(st.lists(part_lists, max_size=6))
def test_keys_sort_by_their_parts(lists):
    assert [list(key.parts) for key in sorted(map(FeatureKey, lists))] == sorted(lists)


@given(part_lists)
def test_string_joins_the_parts(names):
    assert FeatureKey(names).string == ContainerKey(names).string == str(ContainerKey(names)) == "_".join(names)


def test_near_names_are_told_whatever_separates_the_parts():
    known = [FeatureKey(["video", "processing"]), FeatureKey(["audio"])]
    for name in ("video_processing", "Video/Processing", "video/procesing", "videoprocessing"):
        assert did_you_mean(FeatureKey.parse(name), known) == " Did you mean 'video/processing'?"
    assert did_you_mean(FeatureKey(["text"]), known) == ""


@kinds
def test_equal_keys_are_one_in_a_set(kind):
    assert len({kind(["a", "b"]), kind(("a", "b")), kind(part for part in "ab")}) == 1


def test_keys_of_two_kinds_are_not_equal():
    assert FeatureKey(["a"]) != ContainerKey(["a"])


@kinds
def test_key_cannot_be_changed(kind):
    with pytest.raises(AttributeError):
        kind(["a"]).parts = ("b",)


@kinds
@pytest.mark.parametrize("part", BAD_PARTS)
def test_invalid_part_is_named(kind, part):
    with pytest.raises(SpecError) as caught:
        kind(["good", part])
    assert repr(part) in str(caught.value)


@kinds
@pytest.mark.parametrize("given", ["ab", b"ab", 7, None])
def test_key_of_something_else_than_parts_is_refused(kind, given):
    with pytest.raises(SpecError, match="list of parts"):
        kind(given)


@kinds
def test_key_without_parts_is_refused(kind):
    with pytest.raises(SpecError, match="at least one part"):
        kind([])


@kinds
def test_key_may_have_two_hundred_characters_and_no_more(kind):
    assert len(str(kind(["a" * 99, "b" * 100]))) == 200
    with pytest.raises(SpecError, match="200 characters"):
        kind(["a" * 100, "b" * 100])


def test_invalid_part_in_json_is_refused():
    with pytest.raises(msgspec.ValidationError, match=r"'\.\./a'"):
        msgspec.json.decode(b'{"parts":["../a"]}', type=FeatureKey)


@kinds
@pytest.mark.parametrize("text", ["video", "video/frames", "video.frames", "/video/", "é", 7, None])
def test_advice_for_what_is_no_list_is_a_key(kind, text):
    with pytest.raises(SpecError) as caught:
        kind(text)
    advised = ast.literal_eval(str(caught.value).partition("for example ")[2].removesuffix("."))
    assert kind(advised).parts == tuple(advised)
    if "frames" in str(text):
        assert advised == ["video", "frames"]
