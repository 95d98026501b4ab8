"""Compare parents, each of which makes many samples, with the samples that are stored of them.

Nobody but the code that makes samples from a parent knows which they are. So a parent is judged by what was written of
it last: the samples of a parent are written together, in one commit. What was stored of it before and was not written
again, such as the last frames of a film that has become shorter, is orphaned.
"""

from collections.abc import Sequence

import polars as pl

from metaxy_fs.reserved import CHANGED as _CHANGED
from metaxy_fs.reserved import HAS_PARENT as _HAS_PARENT
from metaxy_fs.versioning.columns import DATA_VERSION, PARTITION, REDO, STORED_DATA_VERSION
from metaxy_fs.versioning.comparison import Comparison, compare, container_changes
from metaxy_fs.versioning.definition import DefinitionVersion
from metaxy_fs.versioning.latest import latest_rows


def compare_parents(
    expected: pl.DataFrame,
    stored: pl.DataFrame,
    *,
    id_columns: Sequence[str],
    parent_columns: Sequence[str],
    current: DefinitionVersion,
    definitions: Sequence[DefinitionVersion],
) -> Comparison:
    """Return what separates parents from the samples that are stored of them.

    A parent is new if no sample of it is stored. It is stale if the sample of it that was written last has changed (as
    `compare` says), or one that has not is to be computed again in any case. A stored sample is orphaned if there is no
    such parent, or if it has changed while its parent is not stale.

    Args:
        expected: One row per parent: its ids, and the `data_version` of every sample made from it.
        stored: The row of each sample, as `compared_rows` gives them: those of the current partition last.
        id_columns: What names a sample.
        parent_columns: Those of them that name a parent, of the same types on both sides.
        current: The version of the feature's definition now.
        definitions: Those that the stored rows were written under.

    Returns:
        `new` and `stale` with one row per parent, and in `stale` the stored version of the sample that was written
        last; `orphaned` with one row per sample.
    """
    parents = list(parent_columns)
    judged = _judged(expected, stored, parents, current=current, definitions=definitions)
    last = _last_of_each_parent(stored, judged, parents)
    found = compare(expected, last, id_columns=parents, current=current, definitions=definitions)
    left_over = judged.filter(~pl.col(_HAS_PARENT) | pl.col(_CHANGED))
    orphaned = left_over.join(found.stale, on=parents, how="anti", maintain_order="left")
    return found._replace(orphaned=orphaned.select(*id_columns, STORED_DATA_VERSION))


def _judged(
    expected: pl.DataFrame,
    stored: pl.DataFrame,
    parents: list[str],
    *,
    current: DefinitionVersion,
    definitions: Sequence[DefinitionVersion],
) -> pl.DataFrame:
    """Return the stored samples, each with whether it has a parent, and whether it has changed."""
    versions = expected.select(*parents, DATA_VERSION, pl.lit(value=True).alias(_HAS_PARENT))
    held = stored.rename({DATA_VERSION: STORED_DATA_VERSION})
    joined = held.join(versions, on=parents, how="left", maintain_order="left")
    changes = container_changes(joined.schema, current=current, definitions=definitions)
    return joined.with_columns(
        pl.col(_HAS_PARENT).fill_null(value=False), pl.any_horizontal(changes.values()).alias(_CHANGED)
    )


def _last_of_each_parent(stored: pl.DataFrame, judged: pl.DataFrame, parents: list[str]) -> pl.DataFrame:
    """Return the last row of each parent; one to be computed again is none that was left over."""
    asked = judged.filter(pl.col(REDO) & ~pl.col(_CHANGED)).select(*parents, REDO).unique()
    last = latest_rows([(stored.lazy(), False)], id_columns=parents).select(*parents, DATA_VERSION, PARTITION).collect()
    return last.join(asked, on=parents, how="left", maintain_order="left").with_columns(
        pl.col(REDO).fill_null(value=False)
    )
