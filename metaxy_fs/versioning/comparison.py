"""Compare the samples that there should be with those that are stored."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import polars as pl

from metaxy_fs.versioning.columns import CHANGED_CONTAINERS, DATA_VERSION, PARTITION, REDO, STORED_DATA_VERSION
from metaxy_fs.versioning.definition import DefinitionVersion


class Layer(NamedTuple):
    """What one store of a chain holds: the row of each sample to compare with, and the definitions of all its rows."""

    stored: pl.DataFrame
    definitions: Sequence[DefinitionVersion]


class Comparison(NamedTuple):
    """What samples are, as `metaxy_fs.versioning.increment.Increment` says."""

    new: pl.DataFrame
    stale: pl.DataFrame
    orphaned: pl.DataFrame


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
    another version of its definition. The last makes a change of code complete even where it leaves the row's version
    as it was (the versions of a root feature are given, not calculated). So exactly the samples are stale whose stored
    row is not in the current partition, or differs there; and once `new` and `stale` are written, the current partition
    holds every sample.

    Args:
        expected: One row per sample: id columns, `data_version`, and any other columns.
        stored: One row per sample, of which none retires it: id columns, `data_version`, the partition that the row was
            read from, and whether it is to be computed again in any case.
        id_columns: What names a sample, of the same types on both sides.
        current: The version of the feature's definition now.
        definitions: Those that the stored rows were written under.
    """
    ids = list(id_columns)
    held = stored.select(*ids, PARTITION, REDO, pl.col(DATA_VERSION).alias(STORED_DATA_VERSION))
    joined = _beside_stored(expected, held, ids)
    changes = container_changes(joined.schema, current=current, definitions=definitions)
    is_stored = pl.col(PARTITION).is_not_null()
    stale = joined.filter(is_stored & pl.any_horizontal(REDO, *changes.values()))
    names = pl.concat_list(pl.when(changed).then(pl.lit(name)) for name, changed in changes.items()).list.drop_nulls()
    return Comparison(
        new=joined.filter(~is_stored).drop(PARTITION, REDO, STORED_DATA_VERSION),
        stale=stale.with_columns(names.alias(CHANGED_CONTAINERS)).drop(PARTITION, REDO),
        orphaned=_orphaned(held, expected, ids).drop(PARTITION, REDO),
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
    stored, expected = _field_names(schema[STORED_DATA_VERSION]), _field_names(schema[DATA_VERSION])
    changes = {}
    for name in [*expected, *(name for name in stored if name not in expected)]:
        elsewhere = [d.partition for d in definitions if d.containers.get(name) != current.containers.get(name)]
        changed = pl.col(PARTITION).is_in(elsewhere)
        if name in stored and name in expected:
            changed |= _version(STORED_DATA_VERSION, name).ne_missing(_version(DATA_VERSION, name))
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


def _beside_stored(expected: pl.DataFrame, held: pl.DataFrame, ids: list[str]) -> pl.DataFrame:
    """Return the expected samples, in their order, each beside its stored row; null where there is none."""
    if held.select(ids).equals(expected.select(ids)):  # the same samples in the same order need no join
        return expected.hstack(held.drop(ids))
    return expected.join(held, on=ids, how="left", maintain_order="left")


def _orphaned(held: pl.DataFrame, expected: pl.DataFrame, ids: list[str]) -> pl.DataFrame:
    if held.select(ids).equals(expected.select(ids)):
        return held.clear()
    return held.join(expected, on=ids, how="anti", maintain_order="left")


def _field_names(dtype: pl.DataType) -> list[str]:
    return [field.name for field in dtype.fields] if isinstance(dtype, pl.Struct) else []


def _version(column: str, name: str) -> pl.Expr:
    return pl.col(column).struct.field(name)
