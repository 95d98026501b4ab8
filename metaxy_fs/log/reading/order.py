"""In which order are the rows of many data files?

Rows come in commit order, `(time, commit)`, those of a commit as its writer had them. Files of single commits are put
one after the other. A file that a compaction has written is ordered by id, and holds rows of many commits; it, and
all files whose commits lie among its own, are put together and sorted.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise, starmap
from typing import NamedTuple

import polars as pl

from metaxy_fs.log.files.commit_columns import COMMIT, ORDINAL, TIME
from metaxy_fs.log.objects.manifest import CommitKey
from metaxy_fs.log.reading.ranges import span_of
from metaxy_fs.log.views.live import LiveFile


class Stretch(NamedTuple):
    """Files whose commits lie together, apart from those of all other files.

    Attributes:
        files: In the order of their first commits.
        is_mixed: Whether their rows have to be sorted; if not, they are in order one file after the other.
    """

    files: list[LiveFile]
    is_mixed: bool


def stretches(files: Iterable[LiveFile]) -> list[Stretch]:
    """Divide files, ordered by their first commits, into stretches whose rows come one after the other."""
    found: list[Stretch] = []
    for group in _overlapping(files):
        is_mixed = _is_mixed(group)
        if found and not found[-1].is_mixed and not is_mixed:
            found[-1].files.extend(group)
        else:
            found.append(Stretch(group, is_mixed))
    return found


def _overlapping(files: Iterable[LiveFile]) -> Iterator[list[LiveFile]]:
    """Yield files whose commits lie among each other together; those of other groups come before or after them all."""
    group: list[LiveFile] = []
    end: CommitKey = (0, "")
    for live in files:
        if group and live.first > end:
            yield group
            group = []
        end = max(end, live.last)
        group.append(live)
    if group:
        yield group


def _is_mixed(group: list[LiveFile]) -> bool:
    if not any(live.is_rewritten for live in group):
        return False
    return any(map(_is_unordered, group)) or not all(starmap(_continues, pairwise(group)))


def _is_unordered(live: LiveFile) -> bool:
    return live.is_rewritten and live.first != live.last and not live.file.ordered


def _continues(before: LiveFile, live: LiveFile) -> bool:
    """Whether all rows of a file come after those of another, both in order, though they share a commit.

    The rows of a commit are in the order of their ids.
    """
    if not (before.is_rewritten and live.is_rewritten and live.first == before.last):
        return False
    id_column = live.manifest.id_columns[0]
    high, low = span_of(before.file, id_column).high, span_of(live.file, id_column).low
    is_comparable = before.schema.get(id_column) == live.schema.get(id_column) and type(high) is type(low)
    return high is not None and is_comparable and high < low


def in_commit_order(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Sort the rows of a stretch that is mixed; they have the columns of commits."""
    return rows.sort(TIME, COMMIT, ORDINAL, maintain_order=True)


def without(rows: pl.LazyFrame, excluded: frozenset[str]) -> pl.LazyFrame:
    """Leave out rows of commits that another manifest answers for; the rows have the columns of commits."""
    return rows.filter(~pl.col(COMMIT).is_in(pl.Series(sorted(excluded), dtype=pl.String).implode()))
