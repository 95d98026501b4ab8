"""An increment: what separates the samples of a feature from what a store holds of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Self

import polars as pl

from metaxy_fs.markup import counted, fragment, note
from metaxy_fs.versioning.columns import CHANGED_CONTAINERS, STORED_DATA_VERSION


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
        new: Samples that are not stored: the id columns (and, where samples were given, their other columns), the
            columns that the deps carry, `data_version`. Where a container is versioned by content, that is null for
            it, and the writer has to give it; then comes `provenance`, the versions that follow from what a sample is
            made from, to be written as it is.
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
    for each upstream row, and of the ids its own alone.

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

    @classmethod
    def concat(cls, parts: Iterable[Self]) -> Self:
        """Return the increment that parts of one make together, such as those of the tasks of a plan, in their order.

        Examples:
            >>> from metaxy_fs import Feature, FeatureGraph, FeatureKey, FeatureSpec, InMemoryMetadataStore
            >>> with FeatureGraph().use():
            ...
            ...     class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]))):
            ...         pass
            >>> files = pl.DataFrame({"sample_id": [1, 2], "data_version": [{"default": "v1"}] * 2})
            >>> store = InMemoryMetadataStore()
            >>> Increment.concat(store.resolve_update(Video, samples=some) for some in (files[:1], files[1:]))
            Increment(new=2, stale=0, orphaned=0, waiting=0)
        """
        together = list(parts)
        new, stale, orphaned, waiting = (
            pl.concat(getattr(part, name) for part in together) for name in ("new", "stale", "orphaned", "waiting")
        )
        # Where ranges are those of parents, their samples need not come in the order of their own ids.
        orphaned = orphaned.sort([name for name in orphaned.columns if name != STORED_DATA_VERSION])
        return cls(new, stale, orphaned, waiting, sum(part.retired for part in together))

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
        return _html("Increment", self.counts, [self.new, self.stale, self.orphaned, self.waiting])

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
        """Show the counts and the first samples of each kind in a notebook; these alone are read."""
        return _html("LazyIncrement", self.counts, pl.collect_all([frame.head() for frame in self._frames]))

    def __repr__(self) -> str:
        return _shown("LazyIncrement", self.counts)


def _shown(name: str, counts: Counts) -> str:
    # Few features have samples that are retired.
    kinds = [(kind, count) for kind, count in zip(counts._fields, counts, strict=True) if count or kind != "retired"]
    return f"{name}({', '.join(f'{kind}={count}' for kind, count in kinds)})"


def _html(name: str, counts: Counts, frames: list[pl.DataFrame]) -> str:
    # Of those that are retired there is no frame.
    kinds = zip(counts._fields, counts, frames, strict=False)
    parts = [counted(kind, frame.head(), count=count) for kind, count, frame in kinds]
    return fragment(name, *parts, note(f"retired: {counts.retired:,}"))
