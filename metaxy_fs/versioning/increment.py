"""An increment: what separates the samples of a feature from what a store holds of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from metaxy_fs.versioning.columns import CHANGED_CONTAINERS, DATA_VERSION, PARTITION, REDO, STORED_DATA_VERSION
from metaxy_fs.versioning.definition import DefinitionVersion


class Counts(NamedTuple):
    """How many samples of an increment are of each kind."""

    new: int
    stale: int
    orphaned: int
    waiting: int
    retired: int = 0


@dataclass(frozen=True)
class Increment:
    """What separates the samples of a feature from what a store holds of them.

    Attributes:
        new: Samples that are not stored: the id columns (and, where samples were given, their other columns),
            `data_version`.
        stale: Samples that are stored under another version, or that were asked to be computed again: the columns of
            `new`, then `stored_data_version` (struct of strings) and `changed_containers` (list of strings, the names
            of the containers that differ; empty where none does and the caller asked).
        orphaned: Stored samples that there are no longer: the id columns, `stored_data_version`.
        waiting: Samples that lack an upstream row, or a group of rows, and so have no version yet: the id columns,
            `missing` (list of strings, the keys of the upstream features that have none). They are in no other frame,
            whatever is stored of them.
        retired: How many of the samples that there should be are retired; they are in no frame.

    `new`, `stale` and `waiting` are in the order of the samples that were given, else sorted by id; `orphaned` always
    is. Where one upstream row makes many samples and these were not given, `new`, `stale` and `waiting` have one row
    for each upstream row, and its ids alone.

    Examples:
        >>> from metaxy_fs import Feature, FeatureGraph, FeatureKey, FeatureSpec, InMemoryMetadataStore
        >>> with FeatureGraph().use():
        ...
        ...     class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]))):
        ...         pass
        >>> files = pl.DataFrame({"sample_id": ["a.mp4"], "data_version": [{"default": "checksum of its bytes"}]})
        >>> increment = InMemoryMetadataStore().resolve_update(Video, samples=files)
        >>> increment
        Increment(new=1, stale=0, orphaned=0, waiting=0)
        >>> increment.counts.new, increment.pending["sample_id"].to_list()
        (1, ['a.mp4'])
    """

    new: pl.DataFrame
    stale: pl.DataFrame
    orphaned: pl.DataFrame
    waiting: pl.DataFrame
    retired: int = 0

    @property
    def pending(self) -> pl.DataFrame:
        """The samples to compute, `new` then `stale`, with the columns of `new`: once computed, ready to be written."""
        return pl.concat([self.new, self.stale.drop(STORED_DATA_VERSION, CHANGED_CONTAINERS)])

    @property
    def counts(self) -> Counts:
        """How many samples there are of each kind."""
        return Counts(
            new=self.new.height,
            stale=self.stale.height,
            orphaned=self.orphaned.height,
            waiting=self.waiting.height,
            retired=self.retired,
        )

    def __bool__(self) -> bool:
        """Whether there is anything to compute."""
        return bool(self.new.height or self.stale.height)

    def lazy(self) -> "LazyIncrement":
        """Return the increment with lazy frames."""
        return LazyIncrement(
            new=self.new.lazy(),
            stale=self.stale.lazy(),
            orphaned=self.orphaned.lazy(),
            waiting=self.waiting.lazy(),
            counts=self.counts,
        )

    def _repr_html_(self) -> str:
        """Show the counts and the first samples of each kind in a notebook."""
        heads = [frame.head() for frame in (self.new, self.stale, self.orphaned, self.waiting)]
        return _html("Increment", self.counts, heads)

    def __repr__(self) -> str:
        return _shown("Increment", self.counts)


@dataclass(frozen=True)
class LazyIncrement:
    """An increment that is known, but not in memory: its frames are kept in files of a temporary directory.

    It was computed once, and is not computed again by taking its frames or counts. The files go when the increment, and
    all frames that were made from its own, are gone.

    Attributes:
        new: As in `Increment`, but always sorted by id.
        stale: Likewise.
        orphaned: Likewise.
        waiting: Likewise.
        counts: How many samples there are of each kind.
    """

    new: pl.LazyFrame
    stale: pl.LazyFrame
    orphaned: pl.LazyFrame
    waiting: pl.LazyFrame
    counts: Counts

    @property
    def pending(self) -> pl.LazyFrame:
        """The samples to compute, `new` then `stale`, with the columns of `new`: once computed, ready to be written."""
        return pl.concat([self.new, self.stale.drop(STORED_DATA_VERSION, CHANGED_CONTAINERS)])

    def __bool__(self) -> bool:
        """Whether there is anything to compute."""
        return bool(self.counts.new or self.counts.stale)

    def collect(self) -> Increment:
        """Return the increment with its frames in memory."""
        new, stale, orphaned, waiting = pl.collect_all(self._frames)
        return Increment(new=new, stale=stale, orphaned=orphaned, waiting=waiting, retired=self.counts.retired)

    @property
    def _frames(self) -> list[pl.LazyFrame]:
        return [self.new, self.stale, self.orphaned, self.waiting]

    def _repr_html_(self) -> str:
        """Show the counts and the first samples of each kind in a notebook."""
        return _html("LazyIncrement", self.counts, pl.collect_all([frame.head(5) for frame in self._frames]))

    def __repr__(self) -> str:
        return _shown("LazyIncrement", self.counts)


def _shown(name: str, counts: Counts) -> str:
    # Few features have samples that are retired.
    kinds = [(kind, count) for kind, count in zip(counts._fields, counts, strict=True) if count or kind != "retired"]
    return f"{name}({', '.join(f'{kind}={count}' for kind, count in kinds)})"


def _html(name: str, counts: Counts, heads: list[pl.DataFrame]) -> str:
    kinds = zip(counts._fields, counts, heads, strict=False)  # of those that are retired there is no frame
    parts = [
        f"<details><summary>{kind}: {count}</summary>{head._repr_html_()}</details>" for kind, count, head in kinds
    ]
    return f"<div><b>{name}</b>" + "".join(parts) + f"<div>retired: {counts.retired}</div></div>"


class ComparedLayer(NamedTuple):
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
    stored_rows = stored.select(*ids, PARTITION, REDO, pl.col(DATA_VERSION).alias(STORED_DATA_VERSION))
    joined = _beside_stored(expected, stored_rows, ids)
    changes = container_changes(joined.schema, current=current, definitions=definitions)
    is_stored = pl.col(PARTITION).is_not_null()
    stale = joined.filter(is_stored & pl.any_horizontal(REDO, *changes.values()))
    names = pl.concat_list(pl.when(changed).then(pl.lit(name)) for name, changed in changes.items()).list.drop_nulls()
    return Comparison(
        new=joined.filter(~is_stored).drop(PARTITION, REDO, STORED_DATA_VERSION),
        stale=stale.with_columns(names.alias(CHANGED_CONTAINERS)).drop(PARTITION, REDO),
        orphaned=_orphaned(stored_rows, expected, ids).drop(PARTITION, REDO),
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


def _beside_stored(expected: pl.DataFrame, stored_rows: pl.DataFrame, ids: list[str]) -> pl.DataFrame:
    """Return the expected samples, in their order, each beside its stored row; null where there is none."""
    if stored_rows.select(ids).equals(expected.select(ids)):  # the same samples in the same order need no join
        return expected.hstack(stored_rows.drop(ids))
    return expected.join(stored_rows, on=ids, how="left", maintain_order="left")


def _orphaned(stored_rows: pl.DataFrame, expected: pl.DataFrame, ids: list[str]) -> pl.DataFrame:
    if stored_rows.select(ids).equals(expected.select(ids)):
        return stored_rows.clear()
    return stored_rows.join(expected, on=ids, how="anti", maintain_order="left")


def _field_names(dtype: pl.DataType) -> list[str]:
    return [field.name for field in dtype.fields] if isinstance(dtype, pl.Struct) else []


def _version(column: str, name: str) -> pl.Expr:
    return pl.col(column).struct.field(name)
