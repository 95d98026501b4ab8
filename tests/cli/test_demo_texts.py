"""Counts and terms of text files are right."""

import pytest

from metaxy_fs.cli import demo_texts as texts
from metaxy_fs.cli.demo_texts import measure
from tests.cli.conftest import write


@pytest.mark.parametrize(
    ("data", "lines"), [(b"", 0), (b"a", 1), (b"a\n", 1), (b"a\nb", 2), (b"\n\n", 2), (b"a\r\nb\r\n", 2)]
)
def test_lines_are_counted_as_editors_do(data, lines):
    assert measure(data).lines == lines


@pytest.mark.parametrize(
    ("text", "words"), [("", 0), (" \n", 0), ("one", 1), ("snake_case", 2), ("Größe, 42 élan", 3), ("\ufeffone two", 2)]
)
def test_words_are_runs_of_letters_and_digits(text, words):
    assert measure(text.encode()).words == words


def test_terms_are_sorted_by_count_then_by_name():
    measured = measure(b"Beta alpha BETA gamma gamma")
    assert [(term["term"], term["count"]) for term in measured.terms] == [("beta", 2), ("gamma", 2), ("alpha", 1)]


def test_terms_are_neither_short_nor_common_nor_numbers():
    assert measure(b"the with 12345 x1y2z3 fox").terms == []


def test_ten_terms_are_kept():
    assert len(measure(" ".join(f"term{letter}" for letter in "abcdefghijkl").encode()).terms) == 10


@pytest.mark.parametrize("data", [b"a\0b", b"\xff\xfe", "é".encode("latin-1")])
def test_what_is_no_utf8_is_binary(data):
    assert measure(data) == (False, "binary", None, None, None)


@pytest.mark.parametrize("stride", [1, 2, 3, 7])
def test_stretches_of_a_text_end_between_words(monkeypatch, stride):
    monkeypatch.setattr(texts, "_STRIDE", stride)
    measured = measure(b"hello  world, hello again\n")
    assert measured.words == 4
    assert measured.terms[0] == {"term": "hello", "count": 2}


def test_of_too_many_terms_the_frequent_are_kept(monkeypatch):
    monkeypatch.setattr(texts, "_STRIDE", 1)
    monkeypatch.setattr(texts, "_MOST_TERMS", 3)
    measured = measure(b"often often often aaaa bbbb cccc dddd eeee often")
    assert measured.terms[0] == {"term": "often", "count": 4}
    assert len(measured.terms) < 6


def test_a_binary_file_has_a_row_so_that_it_is_not_tried_again(demo, notes, rows):
    write(notes / "image", b"\x89PNG\0")
    assert "not counted: 1 binary" in demo()
    assert rows("texts")["image"]["lines"] is None
    assert "demo/texts: 0 computed" in demo()


def test_a_file_too_large_to_count_is_noted(demo, notes, rows, monkeypatch):
    monkeypatch.setattr(texts, "LARGEST", 5)
    assert "not counted: 1 too large" in demo()
    assert rows("texts")["eggs.txt"]["reason"] == "too large"
    assert rows("texts")["sub/ham.txt"]["reason"] is None
