"""Which data files are merged by a compaction, and which are listed again as they are?

Large files are not worth rewriting. One that holds a single commit is always listed again. One that a compaction has
written is if no other file that is merged may hold a sample of it, since no two such files may share one.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import msgspec

from metaxy_fs.log.objects.manifest import DataFile
from metaxy_fs.log.reading.ranges import Span, span_of
from metaxy_fs.log.views.live import LiveFile
from metaxy_fs.log.writing.chunks import MAX_FILE_BYTES, MAX_FILE_ROWS

LARGE_ROWS = MAX_FILE_ROWS // 2
LARGE_BYTES = MAX_FILE_BYTES // 8
"""From what on a file is large: half of what one may hold. In memory rows take several times the bytes of a file."""


class Division(NamedTuple):
    """Which of some files of one schema are listed again, and which are merged, each group by itself.

    Attributes:
        kept: In the order given.
        merged: Groups whose ids come one after the other, with those of kept files between; each in the order given.
    """

    kept: list[LiveFile]
    merged: list[list[LiveFile]]


def divide(files: Sequence[LiveFile], *, clusters: bool = False) -> Division:
    """Divide some files of one schema.

    Args:
        files: The files.
        clusters: Whether large files of single commits are merged, too, where their ids overlap with those of others.
    """
    apart = _apart([live for live in files if clusters or live.is_rewritten or not _is_large(live)])
    kept = [live for live in files if _is_large(live) and (_is_single(live, clusters=clusters) or id(live) in apart)]
    chosen = set(map(id, kept))
    merged = [live for live in files if id(live) not in chosen]
    groups = _between(merged, [live for live in kept if not _is_single(live, clusters=clusters)])
    # One file that has nothing to be merged with is as good as what it would become.
    alone = {id(group[0]) for group in groups if len(group) == 1 and not group[0].excluded}
    chosen |= alone
    kept = [live for live in files if id(live) in chosen]
    return Division(kept, [group for group in groups if id(group[0]) not in alone])


def listed_again(live: LiveFile, *, schema: int) -> DataFile:
    """Return the entry of a file that a compaction leaves as it is.

    Args:
        live: The file.
        schema: Which of the compaction's schemas it has.
    """
    if live.is_rewritten:
        return msgspec.structs.replace(live.file, schema=schema)
    time, commit = live.first
    return msgspec.structs.replace(live.file, schema=schema, commit=commit, time=time, offset=live.offset)


def overlap(files: Sequence[LiveFile]) -> bool:
    """Whether the ids of some files of one schema are known to lie among each other, more than at their ends."""
    spans = [_span(live) for live in files]
    known = [(span.low, span.high) for span in spans if span.rows and span.low is not None and span.high is not None]
    try:
        known.sort()
        highest = accumulate((high for _, high in known), max)
        return any(low < before for (low, _), before in zip(known[1:], highest, strict=False))
    except TypeError:  # a stranger's manifest may claim a text as the bound of a number
        return False


def _is_single(live: LiveFile, *, clusters: bool) -> bool:
    """Whether a file stays as it is because it is that of a commit."""
    return not clusters and not live.is_rewritten


def _is_large(live: LiveFile) -> bool:
    is_large = live.file.rows >= LARGE_ROWS or live.file.bytes >= LARGE_BYTES
    return is_large and not live.excluded


def _between(files: Sequence[LiveFile], kept: Sequence[LiveFile]) -> list[list[LiveFile]]:
    """Group files by between which of the kept ones their ids lie."""
    ends = sorted(_span(live).high for live in kept)
    groups: dict[int, list[LiveFile]] = {}
    for live in files:
        low = _span(live).low
        groups.setdefault(0 if low is None else bisect_left(ends, low), []).append(live)
    return [groups[place] for place in sorted(groups)]


def _span(live: LiveFile) -> Span:
    return span_of(live.file, live.manifest.id_columns[0])


def _apart(files: Sequence[LiveFile]) -> set[int]:
    """Return which files share no value of the first id column with any other, by identity."""
    spans: list[tuple[Any, Any, int]] = []
    for live in files:
        span = _span(live)
        if span.rows and (span.low is None or span.high is None):
            return set()
        if span.rows:
            spans.append((span.low, span.high, id(live)))
    try:
        return _isolated(sorted(spans))
    except TypeError:  # a stranger's manifest may claim a text as the bound of a number
        return set()


def _isolated(spans: Sequence[tuple[Any, Any, int]]) -> set[int]:
    found = set()
    highest = None
    for index, (low, high, name) in enumerate(spans):
        is_after = highest is None or low > highest
        is_before = index + 1 == len(spans) or high < spans[index + 1][0]
        if is_after and is_before:
            found.add(name)
        highest = high if highest is None or high > highest else highest
    return found
