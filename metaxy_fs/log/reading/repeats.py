"""Can a sample stand in more than one row?

One commit holds a sample once, and so do the files that a compaction has written of one schema, unless it says that
samples repeat. Files whose ids lie in ranges that do not overlap share none, and the statistics prove that, so that a
history of appends can be read without looking for the latest row of each sample.
"""

from bisect import bisect_left, insort
from collections.abc import Hashable, Sequence
from operator import itemgetter
from typing import Any

from metaxy_fs.log.objects.manifest import CommitKey
from metaxy_fs.log.reading.ranges import Span, span_of
from metaxy_fs.log.views.live import LiveFile

Group = tuple[list[LiveFile], bool]
"""Files, and whether it is proven that no sample stands twice in them."""


def distinct_groups(files: Sequence[LiveFile]) -> list[Group]:
    """Divide files into consecutive groups, as few as possible, in which no sample stands twice if that can be proven.

    All rows of a group come before those of the next in commit order.

    Args:
        files: Ordered by their first commits.
    """
    filled = [live for live in files if live.file.rows]
    if not filled:
        return [(list(files), True)]
    column = filled[0].manifest.id_columns[0]
    if not _are_comparable(filled, column):
        return [(filled, len({_unit(live) for live in filled}) == 1 and not any(live.file.repeats for live in filled))]
    groups = [_Group()]
    for live in filled:
        span = span_of(live.file, column)
        is_apart = groups[-1].is_apart(live, span)
        if not is_apart and groups[-1].files and live.first > groups[-1].end:
            groups.append(_Group())
            is_apart = groups[-1].is_apart(live, span)
        groups[-1].add(live, span, is_apart=is_apart)
    return [(group.files, group.is_distinct) for group in groups]


class _Group:
    """Files that come together, with their ids' ranges in order as long as those of different units do not overlap."""

    def __init__(self) -> None:
        self.files: list[LiveFile] = []
        self.end: CommitKey = (0, "")
        self.is_distinct = True
        self._units: set[Hashable] = set()
        self._ranges: list[tuple[Any, Any, Hashable]] = []

    def is_apart(self, live: LiveFile, span: Span) -> bool:
        """Whether no sample of a file stands in those that are here, nor twice in the file."""
        if live.file.repeats or not self.is_distinct:
            return False
        unit = _unit(live)
        if self._units <= {unit}:
            return True
        if span.low is None or len(self._ranges) < len(self.files):
            return False
        place = bisect_left(self._ranges, span.low, key=itemgetter(0))
        neighbours = self._ranges[max(0, place - 1) : place + 1]
        return all(other == unit or high < span.low or span.high < low for low, high, other in neighbours)

    def add(self, live: LiveFile, span: Span, *, is_apart: bool) -> None:
        """Add a file."""
        self.is_distinct = is_apart
        self.files.append(live)
        self.end = max(self.end, live.last)
        self._units.add(_unit(live))
        if span.low is not None:
            insort(self._ranges, (span.low, span.high, _unit(live)), key=itemgetter(0))


def _are_comparable(files: Sequence[LiveFile], column: str) -> bool:
    """Whether samples are named by the same columns, and the bounds of the first compare as its values do."""
    columns = {live.manifest.id_columns for live in files}
    dtypes = {live.schema.get(column) for live in files}
    known = [span for span in (span_of(live.file, column) for live in files) if span.low is not None]
    kinds = {type(bound) for span in known for bound in (span.low, span.high)}
    return len(columns) == 1 and len(dtypes) == 1 and len(kinds) <= 1


def _unit(live: LiveFile) -> Hashable:
    """Return what files have in common that share no sample: a commit, or a compaction and the schema."""
    if live.is_rewritten:
        return live.partition, live.manifest.commit, live.file.schema
    return live.partition, live.first
