"""Patterns match what those of pathlib and of the shell match."""

import tempfile
from glob import escape
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs.sources import list_files
from metaxy_fs.storage.patterns import Pattern

_NAMES = st.sampled_from(["a", "b", "ab", "a.mp4", "b.mp4", ".a", ".b.mp4", "[a]", "a b", "a\nb", "é", "*", "**", "-"])
_PARTS = st.sampled_from(["**", "*", "?", "a", "*.mp4", "[ab]*", "[!a]*", "a?", ".*", "[[]a]", "[*]", "[a", "*b*"])
_PATTERNS = st.lists(_PARTS, min_size=1, max_size=4).map("/".join).filter(lambda text: not Pattern(text).is_plain)


def named_by_pathlib(top: Path, pattern: str) -> set[Path]:
    """The files that pathlib names; before Python 3.13 a `**` at the end stood for directories alone."""
    pattern = f"{pattern}/*" if pattern.rsplit("/", maxsplit=1)[-1] == "**" else pattern
    return {path for path in top.glob(pattern) if path.is_file()}


@given(tree=st.sets(st.lists(_NAMES, min_size=1, max_size=3).map(tuple), max_size=8), pattern=_PATTERNS)
def test_a_listing_of_a_tree_is_that_of_pathlib(tree, pattern):
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        for parts in sorted(tree, key=len, reverse=True):
            file = top.joinpath(*parts)
            if not file.is_dir() and not any(parent.is_file() for parent in file.parents):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(b"x")
        if not Path(Pattern(f"{top}/{pattern}").directory).is_dir():
            assert named_by_pathlib(top, pattern) == set()
            return
        found = list_files(f"{top}/{pattern}", include_hidden=True).collect()["path"].to_list()
        assert len(found) == len(set(found))
        assert {Path(path) for path in found} == named_by_pathlib(top, pattern)


@given(
    parts=st.lists(_NAMES, min_size=1, max_size=4),
    pattern=st.lists(st.sampled_from(["**", "*", "?b", "a", "[ab]*", "*.mp4"]), min_size=1, max_size=4),
)
def test_wildcards_match_no_leading_dot(parts, pattern):
    path, text = "/".join(parts), "/".join(pattern)
    is_hidden = any(part.startswith(".") for part in parts)
    assert Pattern(text).matches(path) == (Pattern(text, include_hidden=True).matches(path) and not is_hidden)


@given(parts=st.lists(_NAMES, min_size=2, max_size=4), pattern=_PATTERNS, hidden=st.booleans())
def test_no_directory_of_a_match_is_left_out(parts, pattern, hidden):
    found = Pattern(pattern, include_hidden=hidden)
    if found.matches("/".join(parts)):
        assert all(found.may_match_below("/".join(parts[:depth])) for depth in range(1, len(parts)))


@given(parts=st.lists(_NAMES, min_size=1, max_size=4), pattern=_PATTERNS)
def test_all_matches_begin_with_the_prefix(parts, pattern):
    found = Pattern(pattern, include_hidden=True)
    if found.matches("/".join(parts)):
        assert "/".join(parts).startswith(found.prefix)
        assert found.is_recursive or "/".join(parts[:-1]) == found.directory


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        (".cache/*", ".cache/a"),
        ("**/.cache/*", "x/.cache/a"),
        (".*", ".a"),
        ("videos", "videos"),
        ("videos", "videos/a/b"),
        ("**", "a//b"),
        ("[]]", "]"),
        ("[!]]", "a"),
    ],
)
def test_paths_that_match(pattern, path):
    assert Pattern(pattern).matches(path)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*", "a/b"),
        ("a?b", "a/b"),
        ("a[!x]b", "a/b"),
        ("videos", "videos-old/a"),
        ("videos", "videos/.git/a"),
        ("[.x]a", ".a"),
        ("*.mp4", "a.mp4\n"),
        ("**/a", "ba"),
    ],
)
def test_paths_that_do_not_match(pattern, path):
    assert not Pattern(pattern).matches(path)


@given(path=st.lists(_NAMES, min_size=1, max_size=3).map("/".join))
def test_an_escaped_path_is_that_path(path):
    pattern = Pattern(escape(path))
    assert pattern.is_plain
    assert (pattern.prefix, pattern.directory) == (path, path)
    assert pattern.matches(path)
    assert Pattern(f"{escape(path)}/*.mp4").directory == path
