"""In which order are the rows of many data files?

Rows come in commit order, `(time, commit)`, those of a commit as its writer had them. Files of single commits are put
one after the other. A file that a compaction has written is ordered by id, and holds rows of many commits; it, and
all files whose commits lie among its own, are put together and sorted.

Theory of operation. Each row is sorted by the time and id of its commit, then by its ordinal in that commit. All rows
of a file of one commit get one ordinal, that of the first: the sort keeps the order of what it cannot tell apart, and
no other file holds an ordinal of that commit between those of this file. So nothing has to number the rows of a file,
and a predicate can go before the sort and into the reading of the file.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise, starmap
from typing import NamedTuple

import polars as pl

from metaxy_fs.log.live import COMMIT, ORDINAL, TIME, LiveFile
from metaxy_fs.log.manifest import CommitKey


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

    A compaction lists the files that it has written of one schema in the order of their ids, and so are the rows of a
    commit.
    """
    return (
        before.is_rewritten
        and live.is_rewritten
        and live.first == before.last
        and before.manifest is live.manifest
        and before.file.schema == live.file.schema
        and before.offset < live.offset
    )


def in_commit_order(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Sort the rows of a stretch that is mixed; they have the columns of commits."""
    return rows.sort(TIME, COMMIT, ORDINAL, maintain_order=True)


def without(rows: pl.LazyFrame, excluded: frozenset[str]) -> pl.LazyFrame:
    """Leave out rows of commits that another manifest answers for; the rows have the columns of commits."""
    return rows.filter(~pl.col(COMMIT).is_in(pl.Series(sorted(excluded), dtype=pl.String).implode()))
