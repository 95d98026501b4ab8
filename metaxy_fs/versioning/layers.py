"""Compare the samples that there should be with the rows that the stores of a chain hold of them.

Nobody but the code that makes samples from a parent knows which they are. So a parent is judged by what was written of
it last: the samples of a parent are written together, in one commit. What was stored of it before and was not written
again, such as the last frames of a film that has become shorter, is orphaned.

A sample is done if any store holds it as it should be. Else it is stale by what the nearest store that holds it says.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import NamedTuple

import polars as pl

from metaxy_fs.reserved import CHANGED as _CHANGED
from metaxy_fs.reserved import HAS_PARENT as _HAS_PARENT
from metaxy_fs.reserved import IS_CURRENT as _IS_CURRENT
from metaxy_fs.reserved import PLACE_IN_LAYERS as _PLACE
from metaxy_fs.versioning.columns import (
    CHANGED_CONTAINERS,
    DATA_VERSION,
    MADE_FROM,
    PARTITION,
    REDO,
    RETIRED,
    RETURNS,
    STORED_DATA_VERSION,
)
from metaxy_fs.versioning.definition import DefinitionVersion
from metaxy_fs.versioning.increment import Increment


class ComparedLayer(NamedTuple):
    """What one store of a chain holds: the row of each sample to compare with, and the definitions of all its rows."""

    stored: pl.DataFrame
    definitions: Sequence[DefinitionVersion]


class Comparison(NamedTuple):
    """What samples are, as `metaxy_fs.versioning.increment.Increment` says."""

    new: pl.DataFrame
    stale: pl.DataFrame
    orphaned: pl.DataFrame


def latest_rows(layers: Sequence[tuple[pl.LazyFrame, bool]], *, id_columns: Sequence[str]) -> pl.LazyFrame:
    """Return the last row of each sample, in the order in which those rows stand.

    Args:
        layers: Rows in commit order, in one or more consecutive groups, each with whether no sample stands twice in it;
            a later row of a sample replaces an earlier one.
        id_columns: The columns that name a sample.
    """
    ids = [pl.col(name) for name in id_columns]
    latest: list[pl.LazyFrame] = []
    later: list[pl.LazyFrame] = []
    for rows, is_distinct in reversed(layers):
        # Half the time of `unique(keep="last", maintain_order=True)`, which builds the rows that it throws away.
        found = rows if is_distinct else rows.filter(_sample(id_columns).is_last_distinct())
        if later:
            found = found.join(pl.concat(later), on=ids, how="anti", maintain_order="left")
        latest.append(found)
        later.append(rows.select(ids))
    return latest[0] if len(latest) == 1 else pl.concat(latest[::-1])


def compare_layers(
    expected: pl.DataFrame,
    waiting: pl.DataFrame,
    layers: Sequence[ComparedLayer],
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
            retires its sample, for good or until that comes back.
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


def compared_rows(current: pl.DataFrame, others: pl.DataFrame, *, id_columns: Sequence[str]) -> pl.DataFrame:
    """Return the row of each sample to compare with: that in the current partition, or else that in the others.

    The rows of the others come first, so that of several samples of a parent the current ones were written last.

    Args:
        current: The latest row of each sample in the current partition, in commit order.
        others: The latest row of each sample in the other partitions, likewise and with the same columns.
        id_columns: What names a sample.
    """
    elsewhere = others.join(current, on=list(id_columns), how="anti", maintain_order="left")
    return pl.concat([elsewhere, current])


def compare(
    expected: pl.DataFrame,
    stored: pl.DataFrame,
    *,
    id_columns: Sequence[str],
    current: DefinitionVersion,
    definitions: Sequence[DefinitionVersion],
) -> Comparison:
    """Return what separates expected samples from the stored row of each.

    A container has changed if its version differs, if only one side has it, or if the stored row was written under
    another version of its definition. Of a container that is versioned by content, the versions compared are those that
    follow from what it was made from. The last makes a change of code complete even where it leaves the row's version
    as it was (the versions of a root feature are given, not calculated). So exactly the samples are stale whose stored
    row is not in the current partition, or differs there; and once `new` and `stale` are written, the current partition
    holds every sample.

    Args:
        expected: One row per sample: id columns, `data_version`, and any other columns.
        stored: One row per sample, of which none retires it: id columns, `data_version`, the partition that the row was
            read from, whether it is to be computed again in any case, and, if its version does not tell that, what it
            was made from.
        id_columns: What names a sample, of the same types on both sides.
        current: The version of the feature's definition now.
        definitions: Those that the stored rows were written under.
    """
    ids = list(id_columns)
    stored_rows = stored.select(*ids, *_compared_columns(stored), REDO).rename({DATA_VERSION: STORED_DATA_VERSION})
    joined = _beside_stored(expected, stored_rows, ids)
    changes = container_changes(joined.schema, current=current, definitions=definitions)
    is_stored = pl.col(PARTITION).is_not_null()
    stale = joined.filter(is_stored & pl.any_horizontal(REDO, *changes.values()))
    names = pl.concat_list(pl.when(changed).then(pl.lit(name)) for name, changed in changes.items()).list.drop_nulls()
    return Comparison(
        new=joined.filter(~is_stored).drop(stored_rows.drop(ids).columns),
        stale=stale.with_columns(names.alias(CHANGED_CONTAINERS)).drop(PARTITION, REDO, MADE_FROM, strict=False),
        orphaned=_orphaned(stored_rows, expected, ids).select(*ids, STORED_DATA_VERSION),
    )


def container_changes(
    schema: Mapping[str, pl.DataType], *, current: DefinitionVersion, definitions: Sequence[DefinitionVersion]
) -> dict[str, pl.Expr]:
    """Return whether each container changed, by name: in the order of declaration, removed ones last.

    Args:
        schema: That of stored rows beside expected versions.
        current: The version of the feature's definition now.
        definitions: Those that the stored rows were written under.
    """
    made_from = MADE_FROM if MADE_FROM in schema else STORED_DATA_VERSION
    stored, expected = _field_names(schema[made_from]), _field_names(schema[DATA_VERSION])
    changes = {}
    for name in [*expected, *(name for name in stored if name not in expected)]:
        elsewhere = [d.partition for d in definitions if d.containers.get(name) != current.containers.get(name)]
        changed = pl.col(PARTITION).is_in(elsewhere)
        if name in stored and name in expected:
            changed |= _version(made_from, name).ne_missing(_version(DATA_VERSION, name))
        changes[name] = changed
    return changes


def nothing_stored(expected: pl.DataFrame, *, id_columns: Sequence[str]) -> Comparison:
    """Return what separates samples, or parents, from a feature of which nothing is looked at: all are new."""
    version = expected.schema[DATA_VERSION]
    unknown = [pl.lit(None).alias(name) for name in id_columns if name not in expected.columns]
    return Comparison(
        new=expected,
        stale=expected.clear().with_columns(
            pl.lit(None, dtype=version).alias(STORED_DATA_VERSION),
            pl.lit(None, dtype=pl.List(pl.String)).alias(CHANGED_CONTAINERS),
        ),
        orphaned=expected.clear()
        .with_columns(unknown)
        .select(*id_columns, pl.col(DATA_VERSION).alias(STORED_DATA_VERSION)),
    )


def compare_parents(
    expected: pl.DataFrame,
    stored: pl.DataFrame,
    *,
    id_columns: Sequence[str],
    parent_columns: Sequence[str],
    current: DefinitionVersion,
    definitions: Sequence[DefinitionVersion],
) -> Comparison:
    """Return what separates parents from the samples that are stored of them; as `compare`, if samples are their own.

    A parent is new if no sample of it is stored. It is stale if the sample of it that was written last has changed (as
    `compare` says), or one that has not is to be computed again in any case. A stored sample is orphaned if there is no
    such parent, or if it has changed while its parent is not stale.

    Args:
        expected: One row per parent: its ids, and the `data_version` of every sample made from it.
        stored: The row of each sample, as `compared_rows` gives them: those of the current partition last.
        id_columns: What names a sample.
        parent_columns: Those of them that name a parent, of the same types on both sides.
        current: As in `compare`.
        definitions: Likewise.

    Returns:
        `new` and `stale` with one row per parent, and in `stale` the stored version of the sample that was written
        last; `orphaned` with one row per sample.
    """
    if list(parent_columns) == list(id_columns):
        return compare(expected, stored, id_columns=id_columns, current=current, definitions=definitions)
    parents = list(parent_columns)
    judged = _judged(expected, stored, parents, current=current, definitions=definitions)
    last = _last_of_each_parent(stored, judged, parents)
    found = compare(expected, last, id_columns=parents, current=current, definitions=definitions)
    left_over = judged.filter(~pl.col(_HAS_PARENT) | pl.col(_CHANGED))
    orphaned = left_over.join(found.stale, on=parents, how="anti", maintain_order="left")
    return found._replace(orphaned=orphaned.select(*id_columns, STORED_DATA_VERSION))


def with_same_containers(frames: Sequence[pl.DataFrame]) -> list[pl.DataFrame]:
    """Return stored rows whose versions have the containers of all; null where a partition has none of a container."""
    names = [[field.name for field in _version_type(frame).fields] for frame in frames]
    every = list(dict.fromkeys(name for several in names for name in several))
    return [
        frame if several == every else frame.with_columns(_with_containers(frame, several, every))
        for frame, several in zip(frames, names, strict=True)
    ]


def _sample(id_columns: Sequence[str]) -> pl.Expr:
    return pl.col(id_columns[0]) if len(id_columns) == 1 else pl.struct(id_columns)


def _retired(
    layers: Sequence[ComparedLayer], names: list[str], samples: list[str], current: DefinitionVersion
) -> tuple[pl.DataFrame | None, list[ComparedLayer]]:
    """Return which samples, or parents, are retired, and what the stores hold of the others.

    What retires a sample counts where it is the row to compare with: of the nearest store that has one in the current
    partition, or else of the nearest that has any. A parent is retired if all of its samples are. Of what was retired
    until it comes back, a parent by its last row, nothing is stored: it is new where it is expected.
    """
    if not any(layer.stored.get_column(RETIRED).any() for layer in layers):
        return None, [layer._replace(stored=layer.stored.drop(RETIRED, RETURNS)) for layer in layers]
    is_current = (pl.col(PARTITION) == current.partition).alias(_IS_CURRENT)
    rows_of_layers = [
        layer.stored.select(*samples, RETIRED, RETURNS, is_current, pl.lit(place).alias(_PLACE))
        for place, layer in enumerate(layers)
    ]
    rows = pl.concat(rows_of_layers).sort(pl.col(_IS_CURRENT), _PLACE, descending=[True, False], maintain_order=True)
    rows = rows.unique(samples, keep="first", maintain_order=True)
    # A parent that has a row in the current partition is judged by what is there.
    rows = rows.filter(pl.col(_IS_CURRENT) | ~pl.col(_IS_CURRENT).any().over(names))
    is_nearest = pl.col(_PLACE) == pl.col(_PLACE).min()
    by_name = rows.group_by(names, maintain_order=True)
    gone = by_name.agg(pl.col(RETIRED).all(), pl.col(RETURNS).filter(is_nearest).last()).filter(RETIRED)
    rest = [_without(layer.stored.filter(~pl.col(RETIRED)), gone, names).drop(RETIRED, RETURNS) for layer in layers]
    kept = [layer._replace(stored=stored) for layer, stored in zip(layers, rest, strict=True)]
    return gone.filter(~pl.col(RETURNS)).select(names), kept


def _compare_all(
    expected: pl.DataFrame,
    layers: Sequence[ComparedLayer],
    *,
    id_columns: Sequence[str],
    parent_columns: Sequence[str],
    current: DefinitionVersion,
) -> Comparison:
    if not layers:
        return nothing_stored(expected, id_columns=id_columns)
    found = [
        compare_parents(
            expected,
            layer.stored,
            id_columns=id_columns,
            parent_columns=parent_columns,
            current=current,
            definitions=layer.definitions,
        )
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


def _beside_stored(expected: pl.DataFrame, stored_rows: pl.DataFrame, ids: list[str]) -> pl.DataFrame:
    """Return the expected samples, in their order, each beside its stored row; null where there is none."""
    if stored_rows.select(ids).equals(expected.select(ids)):  # the same samples in the same order need no join
        return expected.hstack(stored_rows.drop(ids))
    return expected.join(stored_rows, on=ids, how="left", maintain_order="left")


def _orphaned(stored_rows: pl.DataFrame, expected: pl.DataFrame, ids: list[str]) -> pl.DataFrame:
    if stored_rows.select(ids).equals(expected.select(ids)):
        return stored_rows.clear()
    return stored_rows.join(expected, on=ids, how="anti", maintain_order="left")


def _compared_columns(stored: pl.DataFrame) -> list[str]:
    """Return the columns of stored rows that tell whether they are what they should be."""
    return [DATA_VERSION, *([MADE_FROM] if MADE_FROM in stored.columns else []), PARTITION]


def _field_names(dtype: pl.DataType) -> list[str]:
    return [field.name for field in dtype.fields] if isinstance(dtype, pl.Struct) else []


def _version(column: str, name: str) -> pl.Expr:
    return pl.col(column).struct.field(name)


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
    renamed = stored.rename({DATA_VERSION: STORED_DATA_VERSION})
    joined = renamed.join(versions, on=parents, how="left", maintain_order="left")
    changes = container_changes(joined.schema, current=current, definitions=definitions)
    return joined.with_columns(
        pl.col(_HAS_PARENT).fill_null(value=False), pl.any_horizontal(changes.values()).alias(_CHANGED)
    )


def _last_of_each_parent(stored: pl.DataFrame, judged: pl.DataFrame, parents: list[str]) -> pl.DataFrame:
    """Return the last row of each parent; one to be computed again is none that was left over."""
    asked = judged.filter(pl.col(REDO) & ~pl.col(_CHANGED)).select(*parents, REDO).unique()
    latest = latest_rows([(stored.lazy(), False)], id_columns=parents)
    last = latest.select(*parents, *_compared_columns(stored)).collect()
    return last.join(asked, on=parents, how="left", maintain_order="left").with_columns(
        pl.col(REDO).fill_null(value=False)
    )


def _with_containers(frame: pl.DataFrame, names: Sequence[str], every: Sequence[str]) -> list[pl.Expr]:
    missing = pl.lit(None, dtype=pl.String)
    return [
        pl.struct(
            (pl.col(column).struct.field(name) if name in names else missing).alias(name) for name in every
        ).alias(column)
        for column in (DATA_VERSION, MADE_FROM)
        if column in frame.columns
    ]


def _version_type(frame: pl.DataFrame) -> pl.Struct:
    dtype = frame.schema[DATA_VERSION]
    return dtype if isinstance(dtype, pl.Struct) else pl.Struct({})
