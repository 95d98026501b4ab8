"""Compare samples with what several stores of a chain hold of them.

A sample is done if any store holds it as it should be. Else it is stale by what the nearest store that holds it says.
"""

from collections.abc import Sequence
from functools import reduce

import polars as pl

from metaxy_fs.reserved import IS_CURRENT as _IS_CURRENT
from metaxy_fs.reserved import PLACE_IN_LAYERS as _PLACE
from metaxy_fs.versioning.columns import PARTITION, RETIRED
from metaxy_fs.versioning.comparison import Comparison, Layer, compare, nothing_stored
from metaxy_fs.versioning.definition import DefinitionVersion
from metaxy_fs.versioning.increment import Increment
from metaxy_fs.versioning.parents import compare_parents


def compare_layers(
    expected: pl.DataFrame,
    waiting: pl.DataFrame,
    layers: Sequence[Layer],
    *,
    id_columns: Sequence[str],
    parent_columns: Sequence[str],
    current: DefinitionVersion,
) -> Increment:
    """Return the increment between expected samples, or parents, and what the stores of a chain hold.

    Args:
        expected: As `compare` and `compare_parents` take it.
        waiting: Samples, or parents, that lack an upstream row; nothing is said of what is stored of them.
        layers: What the stores hold, the nearest first, with ids and versions of the same types, and whether each row
            retires its sample.
        id_columns: What names a sample.
        parent_columns: What names a row of `expected`: the same, or those of them that name a parent.
        current: The version of the feature's definition now.
    """
    names = list(parent_columns)
    retired, layers = _retired(layers, names, list(id_columns), current)
    height = expected.height + waiting.height
    if retired is not None:
        expected, waiting = _without(expected, retired, names), _without(waiting, retired, names)
    count = height - expected.height - waiting.height
    if waiting.height:
        layers = [layer._replace(stored=_without(layer.stored, waiting, names)) for layer in layers]
    found = _compare_all(expected, layers, id_columns=id_columns, parent_columns=parent_columns, current=current)
    return Increment(**found._asdict(), waiting=waiting, retired=count)


def _retired(
    layers: Sequence[Layer], names: list[str], samples: list[str], current: DefinitionVersion
) -> tuple[pl.DataFrame | None, list[Layer]]:
    """Return which samples, or parents, are retired, and what the stores hold of the others.

    What retires a sample counts where it is the row to compare with: of the nearest store that has one in the current
    partition, or else of the nearest that has any. A parent is retired if all of its samples are.
    """
    if not any(layer.stored.get_column(RETIRED).any() for layer in layers):
        return None, [layer._replace(stored=layer.stored.drop(RETIRED)) for layer in layers]
    is_current = (pl.col(PARTITION) == current.partition).alias(_IS_CURRENT)
    held = [
        layer.stored.select(*samples, RETIRED, is_current, pl.lit(place).alias(_PLACE))
        for place, layer in enumerate(layers)
    ]
    rows = pl.concat(held).sort(pl.col(_IS_CURRENT), _PLACE, descending=[True, False], maintain_order=True)
    rows = rows.unique(samples, keep="first", maintain_order=True)
    # A parent that has a row in the current partition is judged by what is there.
    rows = rows.filter(pl.col(_IS_CURRENT) | ~pl.col(_IS_CURRENT).any().over(names))
    retired = rows.group_by(names).agg(pl.col(RETIRED).all()).filter(RETIRED).select(names)
    rest = [_without(layer.stored.filter(~pl.col(RETIRED)), retired, names).drop(RETIRED) for layer in layers]
    return retired, [layer._replace(stored=stored) for layer, stored in zip(layers, rest, strict=True)]


def _compare_all(
    expected: pl.DataFrame,
    layers: Sequence[Layer],
    *,
    id_columns: Sequence[str],
    parent_columns: Sequence[str],
    current: DefinitionVersion,
) -> Comparison:
    if not layers:
        return nothing_stored(expected, id_columns=id_columns)
    found = [
        _compare(expected, layer, id_columns=id_columns, parent_columns=parent_columns, current=current)
        for layer in layers
    ]
    names, samples = list(parent_columns), list(id_columns)
    if len(found) == 1:
        return found[0]._replace(orphaned=found[0].orphaned.sort(samples))
    for place, farther in enumerate(found[1:], start=1):
        # What a nearer store holds is judged there.
        nearer_ids = pl.concat(layer.stored.select(samples) for layer in layers[:place])
        found[place] = farther._replace(orphaned=_without(farther.orphaned, nearer_ids, samples))
    merged = reduce(lambda nearer, farther: _merged(nearer, farther, names=names), found)
    # Stale samples of several stores are put back into the order of those expected.
    order = expected.select(names).with_row_index(_PLACE)
    stale = merged.stale.join(order, on=names, how="left").sort(_PLACE).drop(_PLACE)
    return merged._replace(stale=stale, orphaned=merged.orphaned.sort(samples))


def _compare(
    expected: pl.DataFrame,
    layer: Layer,
    *,
    id_columns: Sequence[str],
    parent_columns: Sequence[str],
    current: DefinitionVersion,
) -> Comparison:
    if list(parent_columns) == list(id_columns):
        return compare(expected, layer.stored, id_columns=id_columns, current=current, definitions=layer.definitions)
    return compare_parents(
        expected,
        layer.stored,
        id_columns=id_columns,
        parent_columns=parent_columns,
        current=current,
        definitions=layer.definitions,
    )


def _merged(nearer: Comparison, farther: Comparison, *, names: list[str]) -> Comparison:
    """Return the comparison with two stores, from those with each."""
    undone = pl.concat([farther.new.select(names), farther.stale.select(names)])
    return Comparison(
        new=_those(nearer.new, farther.new, names),
        stale=pl.concat([_those(nearer.stale, undone, names), _those(farther.stale, nearer.new, names)]),
        orphaned=pl.concat([nearer.orphaned, farther.orphaned]),
    )


def _those(frame: pl.DataFrame, others: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    return frame.join(others.select(names), on=names, how="semi", maintain_order="left")


def _without(frame: pl.DataFrame, others: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    return frame.join(others.select(names), on=names, how="anti", maintain_order="left")
