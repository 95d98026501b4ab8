"""Count lines and words of text files, and pick the terms that set each apart."""

import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from heapq import nsmallest
from pathlib import Path
from typing import NamedTuple

import polars as pl

from metaxy_fs.errors import StorageError
from metaxy_fs.storage.tree import describe_file, read_file

LARGEST = 64 * 1024 * 1024
"""The size in bytes from which on a file is noted, but not counted."""

BINARY = "binary"
TOO_LARGE = "too large"
TERMS = 10
TEXT_ROWS = pl.Schema(
    {
        "is_text": pl.Boolean(),
        "reason": pl.String(),
        "lines": pl.Int64(),
        "words": pl.Int64(),
        "terms": pl.List(pl.Struct({"term": pl.String, "count": pl.Int64})),
    }
)
"""The columns that `measure` fills."""

_NOTED = ("path", "bytes", "modified")
_WORD = re.compile(r"[^\W_]+")
_NO_WORD = re.compile(r"[\W_]")
_SHORTEST_TERM = 4
_STRIDE = 1 << 20
# Texts of random letters have millions of terms, none of them frequent.
_MOST_TERMS = 500_000
_COMMON = re.compile(
    "about|after|also|been|before|being|both|could|does|each|even|from|have|having|here|into|just|like|made|many|more|"
    "most|much|must|need|only|other|over|same|should|since|some|such|than|that|their|them|then|there|these|they|this|"
    "those|through|time|under|until|upon|used|very|want|well|were|what|when|where|which|while|will|with|within|"
    "without|would|your"
)


class Measures(NamedTuple):
    """What is known of a file's text; numbers are null where there is none, and `reason` says why."""

    is_text: bool
    reason: str | None = None
    lines: int | None = None
    words: int | None = None
    terms: list[dict[str, str | int]] | None = None


def count_texts(directory: Path, files: pl.DataFrame) -> pl.DataFrame:
    """Return what is counted in files, in the bytes that their versions were made from.

    Args:
        directory: What their paths are relative to.
        files: `path`, and `bytes` and `modified` of when they were hashed.

    Raises:
        StorageError: A file cannot be read, or has changed since.
    """
    rows = [(path, *_counted(directory, path, *noted)) for path, *noted in files[[*_NOTED]].iter_rows()]
    return pl.DataFrame(rows, schema={"path": pl.String(), **TEXT_ROWS}, orient="row")


def measure(data: bytes) -> Measures:
    """Return the measures of a file: of a text if it is UTF-8 without NUL bytes.

    Lines are counted as editors do: the last one needs no line break. Words are runs of letters and digits. Terms are
    words of four letters or more that are not among the commonest of English, in lower case; the ten most frequent are
    kept.

    Examples:
        >>> measured = measure(b"Green eggs, green ham")
        >>> measured.lines, measured.words, measured.terms
        (1, 4, [{'term': 'green', 'count': 2}, {'term': 'eggs', 'count': 1}])
    """
    text = _decoded(data)
    if text is None:
        return Measures(is_text=False, reason=BINARY)
    words, counts = 0, Counter[str]()
    for found in _words(text):
        words += len(found)
        counts.update(found)
        if len(counts) > _MOST_TERMS:
            counts = Counter({word: count for word, count in counts.items() if count > 1})
    lines = text.count("\n") + bool(text and not text.endswith("\n"))
    return Measures(is_text=True, lines=lines, words=words, terms=_terms(counts))


def _counted(directory: Path, path: str, size: int, modified: datetime) -> Measures:
    if size > LARGEST:
        return Measures(is_text=False, reason=TOO_LARGE)
    place = str(directory / path)
    found = describe_file(place)
    if found is None or (found.size, found.modified) != (size, modified):
        raise StorageError(f"{path!r} changed since it was hashed", path=path)
    return measure(b"".join(read_file(place, piece=_STRIDE)))


def _decoded(data: bytes) -> str | None:
    try:
        return None if b"\0" in data else data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _words(text: str) -> Iterator[list[str]]:
    """Yield the words in lower case, a stretch of text at a time: all at once take many times the space of the text."""
    start = 0
    while start < len(text):
        gap = _NO_WORD.search(text, start + _STRIDE)
        end = gap.start() if gap else len(text)
        yield _WORD.findall(text[start:end].lower())
        start = end


def _terms(counts: Counter[str]) -> list[dict[str, str | int]]:
    own = (
        (-count, word)
        for word, count in counts.items()
        if len(word) >= _SHORTEST_TERM and word.isalpha() and not _COMMON.fullmatch(word)
    )
    return [{"term": word, "count": -count} for count, word in nsmallest(TERMS, own)]
