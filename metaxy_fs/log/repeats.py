"""Can a sample stand in more than one row?

One commit holds a sample once. Commits whose ids lie in ranges that do not overlap share none, and the statistics prove
that, so that a history of appends can be read without looking for the latest row of each sample.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from metaxy_fs.log.manifest import DataFile, Manifest
from metaxy_fs.log.schema import decode_schema

_Range = list[Any]


def may_repeat(manifests: Sequence[Manifest]) -> bool:
    """Whether some sample may stand in two rows of these commits; False is a proof that none does."""
    filled = [manifest for manifest in manifests if manifest.rows]
    if len(filled) < 2:
        return False
    first = filled[0]
    if any(manifest.id_columns != first.id_columns for manifest in filled):
        return True
    column = first.id_columns[0]
    if len({decode_schema(bytes(manifest.schema)).get(column) for manifest in filled}) > 1:
        return True  # bounds of different types do not compare as their values do
    ranges = [_range(manifest.files, column) for manifest in filled]
    return any(bounds is None for bounds in ranges) or _overlap([bounds for bounds in ranges if bounds is not None])


def _overlap(ranges: list[_Range]) -> bool:
    try:
        ordered = sorted((min(bounds), max(bounds)) for bounds in ranges)
        return any(not (below[1] < above[0]) for below, above in pairwise(ordered))
    except TypeError:  # a stranger's manifest may claim a text as the bound of a number
        return True


def _range(files: Sequence[DataFile], column: str) -> _Range | None:
    """Return the bounds of a column in all files, None if some are unknown."""
    bounds: list[Any] = []
    for file in files:
        if file.rows == 0:
            continue
        leaf = next((leaf for leaf in file.statistics if leaf.path == (column,)), None)
        if leaf is None or leaf.min is None or leaf.max is None:
            return None
        bounds += [leaf.min, leaf.max]
    return bounds
