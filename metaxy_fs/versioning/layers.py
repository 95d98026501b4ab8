"""What has to be computed, where the stores of a chain hold some samples each?

A sample is done if any store holds it as it should be. Else it is stale by what the nearest store that holds it says.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import polars as pl

from metaxy_fs.versioning.comparison import Layer, compare, nothing_stored
from metaxy_fs.versioning.definition import DefinitionVersion
from metaxy_fs.versioning.increment import Increment
from metaxy_fs.versioning.parents import compare_parents

_PLACE = "_metaxy_place_in_layers"


def compare_layers(
    expected: pl.DataFrame,
    layers: Sequence[Layer],
    *,
    id_columns: Sequence[str],
    parent_columns: Sequence[str],
    current: DefinitionVersion,
) -> Increment:
    """Return the increment between expected samples, or parents, and what the stores of a chain hold.

    Args:
        expected: As `compare` and `compare_parents` take it.
        layers: What the stores hold, the nearest first, with ids and versions of the same types.
        id_columns: What names a sample.
        parent_columns: What names a row of `expected`: the same, or those of them that name a parent.
        current: The version of the feature's definition now.
    """
    if not layers:
        return nothing_stored(expected, id_columns=id_columns)
    increments = [
        _compare(expected, layer, id_columns=id_columns, parent_columns=parent_columns, current=current)
        for layer in layers
    ]
    names, samples = list(parent_columns), list(id_columns)
    if len(increments) == 1:
        return replace(increments[0], orphaned=increments[0].orphaned.sort(samples))
    for place, farther in enumerate(increments[1:], start=1):
        # What a nearer store holds is judged there.
        nearer_ids = pl.concat(layer.stored.select(samples) for layer in layers[:place])
        kept = farther.orphaned.join(nearer_ids, on=samples, how="anti", maintain_order="left")
        increments[place] = replace(farther, orphaned=kept)
    merged = reduce(lambda nearer, farther: _merged(nearer, farther, names=names), increments)
    # Stale samples of several stores are put back into the order of those expected.
    order = expected.select(names).with_row_index(_PLACE)
    stale = merged.stale.join(order, on=names, how="left").sort(_PLACE).drop(_PLACE)
    return replace(merged, stale=stale, orphaned=merged.orphaned.sort(samples))


def _compare(
    expected: pl.DataFrame,
    layer: Layer,
    *,
    id_columns: Sequence[str],
    parent_columns: Sequence[str],
    current: DefinitionVersion,
) -> Increment:
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


def _merged(nearer: Increment, farther: Increment, *, names: list[str]) -> Increment:
    """Return the increment against two stores, from those against each."""
    undone = pl.concat([farther.new.select(names), farther.stale.select(names)])
    return Increment(
        new=_those(nearer.new, farther.new, names),
        stale=pl.concat([_those(nearer.stale, undone, names), _those(farther.stale, nearer.new, names)]),
        orphaned=pl.concat([nearer.orphaned, farther.orphaned]),
    )


def _those(frame: pl.DataFrame, others: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    return frame.join(others.select(names), on=names, how="semi", maintain_order="left")
