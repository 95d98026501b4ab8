"""Can a sample stand in more than one row?

One commit holds a sample once, and so do the files that a compaction has written of one schema, unless it says that
samples repeat. Files whose ids lie in ranges that do not overlap share none, and the statistics prove that, so that a
history of appends can be read without looking for the latest row of each sample.
"""

from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from metaxy_fs.log.live import LiveFile

_Range = list[Any]


def may_repeat(files: Iterable[LiveFile]) -> bool:
    """Whether some sample may stand in two rows of these files; False is a proof that none does."""
    filled = [live for live in files if live.file.rows]
    if any(live.file.repeats for live in filled):
        return True
    units: dict[Hashable, list[LiveFile]] = {}
    for live in filled:
        units.setdefault(_unit(live), []).append(live)
    if len(units) < 2:
        return False
    first = filled[0].manifest
    if any(live.manifest.id_columns != first.id_columns for live in filled):
        return True
    column = first.id_columns[0]
    if len({live.schema.get(column) for live in filled}) > 1:
        return True  # bounds of different types do not compare as their values do
    ranges = [_range(members, column) for members in units.values()]
    return any(bounds is None for bounds in ranges) or _overlap([bounds for bounds in ranges if bounds is not None])


def _unit(live: LiveFile) -> Hashable:
    """Return what files have in common that share no sample: a commit, or a compaction and the schema."""
    if live.is_rewritten:
        return live.partition, live.manifest.commit, live.file.schema
    return live.partition, live.first


def _overlap(ranges: list[_Range]) -> bool:
    try:
        ordered = sorted((min(bounds), max(bounds)) for bounds in ranges)
        return any(not (below[1] < above[0]) for below, above in pairwise(ordered))
    except TypeError:  # a stranger's manifest may claim a text as the bound of a number
        return True


def _range(files: Sequence[LiveFile], column: str) -> _Range | None:
    """Return the bounds of a column in all files, None if some are unknown."""
    bounds: list[Any] = []
    for live in files:
        leaf = next((leaf for leaf in live.file.statistics if leaf.path == (column,)), None)
        if leaf is None or leaf.min is None or leaf.max is None:
            return None
        bounds += [leaf.min, leaf.max]
    return bounds
