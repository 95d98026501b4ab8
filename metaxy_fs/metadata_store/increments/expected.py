"""Which versions should the samples of a piece have?"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import polars as pl

from metaxy_fs.errors import DependencyError, MetadataSchemaError
from metaxy_fs.log.objects.widening import widen
from metaxy_fs.log.reading.ranges import IdRange
from metaxy_fs.metadata_store.arguments.features import Declared
from metaxy_fs.metadata_store.arguments.frames import is_sorted, show_samples
from metaxy_fs.metadata_store.arguments.samples import HeldSamples, SpooledSamples
from metaxy_fs.metadata_store.increments.pieces import Input
from metaxy_fs.metadata_store.increments.upstream import UpstreamRows
from metaxy_fs.spec import FeatureKey, FeatureSpec
from metaxy_fs.versioning.lineage import evaluating_where
from metaxy_fs.versioning.rows import beside_upstream, data_versions, is_missing
from metaxy_fs.versioning.samples import present_samples, sample_source, without_excluded

Result = TypeVar("Result")


class Missing(NamedTuple):
    """Samples that lack a row of an upstream feature which they need: how many, and some of them."""

    height: int
    shown: pl.DataFrame


class Piece(NamedTuple):
    """The samples of one range: sorted by id and with their versions, unless some lack an upstream row."""

    samples: pl.DataFrame
    missing: Mapping[FeatureKey, Missing]


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What was made of a piece: how many samples it has, those that lack an upstream row, and else the result."""

    height: int
    missing: Mapping[FeatureKey, Missing]
    result: Result | None


@dataclass(frozen=True)
class Expected:
    """The samples that there should be, and the upstream rows that their versions follow from.

    Attributes:
        feature: Whose samples they are.
        upstream: The rows of those of its upstream features that have any; none of a root feature.
        samples: What a caller gave, those of a root feature with their versions; None for those that upstream features
            name.
        algorithm: What versions are hashed with.
    """

    feature: Declared
    upstream: Sequence[UpstreamRows]
    samples: HeldSamples | SpooledSamples | None
    algorithm: str

    @property
    def id_columns(self) -> Sequence[str]:
        """What names a sample, or a parent where upstream features name no more than these."""
        spec = self.feature.spec
        return spec.id_columns if self.samples is not None else sample_source(self.feature.graph, spec).id_columns

    @property
    def inputs(self) -> list[Input]:
        """What pieces are divided by."""
        return [*self.upstream, *([] if self.samples is None else [self.samples])]

    def scans(self, id_range: IdRange) -> list[pl.LazyFrame]:
        """Return what `piece` needs collected."""
        column = self.id_columns[0]
        given = [] if self.samples is None else [self.samples.within(id_range)]
        return [*given, *(rows.versions(column, id_range, algorithm=self.algorithm) for rows in self.upstream)]

    def collected(self, scans: Sequence[pl.LazyFrame]) -> list[pl.DataFrame]:
        """Collect scans side by side, these among others."""
        with evaluating_where(self.feature.spec):
            return pl.collect_all(scans)

    def piece(self, frames: Sequence[pl.DataFrame]) -> Piece:
        """Return the samples of a range from its collected `scans`."""
        frames = same_id_types(frames, self.feature.spec)
        given, above = (None, frames) if self.samples is None else (frames[0], frames[1:])
        if self.feature.spec.is_root and given is not None:
            return Piece(given, {})
        for rows, frame in zip(self.upstream, above, strict=True):
            rows.refuse_rows_without_group(frame)
        versions = {rows.upstream.key: frame for rows, frame in zip(self.upstream, above, strict=True)}
        samples = self._named(versions) if given is None else given
        return self._versioned(samples, versions)

    def _named(self, versions: Mapping[FeatureKey, pl.DataFrame]) -> pl.DataFrame:
        """Return every sample, or parent, that upstream features name, sorted by id."""
        graph, spec = self.feature.graph, self.feature.spec
        source = sample_source(graph, spec)
        frames = {key: frame.lazy() for key, frame in versions.items()}
        named = [
            present_samples(key, frames[key], id_columns=source.id_columns) for key in source.upstream if key in frames
        ]
        if not named:
            raise DependencyError(
                f"Which samples of feature '{spec.key}' there should be cannot be told: none of the upstream features "
                f"that name them, {[str(key) for key in source.upstream]}, has a commit. Give them: "
                f"resolve_update(feature, samples=...) with {list(spec.id_columns)}."
            )
        first, *rest = pl.collect_all(without_excluded(each, graph, spec, frames) for each in named)
        if not all(other.equals(first) for other in rest):
            first = pl.concat([first, *rest]).unique(maintain_order=True)
        return first if is_sorted(first, source.id_columns) else first.sort(source.id_columns)

    def _versioned(self, samples: pl.DataFrame, versions: Mapping[FeatureKey, pl.DataFrame]) -> Piece:
        graph, spec = self.feature.graph, self.feature.spec
        ids = [name for name in spec.id_columns if name in samples.columns]
        joined = beside_upstream(samples.select(ids), graph, spec, versions)
        missing = {}
        for above in graph.upstream(spec):
            lacking = joined.filter(is_missing(graph, spec, above)).select(ids)
            if lacking.height:
                missing[above.key] = Missing(lacking.height, lacking.head(10))
        if missing:
            return Piece(samples, missing)
        return Piece(samples.with_columns(data_versions(joined, graph, spec, algorithm=self.algorithm)), {})


def complete(outcomes: Iterable[Outcome[Result]], spec: FeatureSpec) -> Iterator[Result]:
    """Yield what was made of pieces, or say of all of them which samples lack an upstream row.

    Raises:
        DependencyError: Some do; once one does, nothing more is yielded.
    """
    height = 0
    missing: dict[FeatureKey, list[Missing]] = {}
    for outcome in outcomes:
        height += outcome.height
        for key, found in outcome.missing.items():
            missing.setdefault(key, []).append(found)
        if not missing and outcome.result is not None:
            yield outcome.result
    for key, lacking in missing.items():
        raise _lacking(key, lacking, spec, height=height)


def same_id_types(frames: Sequence[pl.DataFrame], spec: FeatureSpec) -> list[pl.DataFrame]:
    """Return all frames with id columns of one type each, so that they can be joined; each has some of the columns.

    Raises:
        MetadataSchemaError: There is no such type.
    """
    aligned = list(frames)
    for name in spec.id_columns:
        types = [frame.schema[name] for frame in aligned if name in frame.columns]
        target = _common_type(name, types, spec)
        aligned = [
            frame.with_columns(pl.col(name).cast(target)) if frame.schema.get(name, target) != target else frame
            for frame in aligned
        ]
    return aligned


def _lacking(key: FeatureKey, missing: Sequence[Missing], spec: FeatureSpec, *, height: int) -> DependencyError:
    count = sum(each.height for each in missing)
    shown = show_samples(pl.concat([each.shown for each in missing]))
    excluded = "" if spec.dep(key).where is None else " that its `where` holds for"
    return DependencyError(
        f"{count} of {height} samples of feature '{spec.key}' have no row in its upstream '{key}'{excluded}: {shown}. "
        "Write those rows first, or leave these samples out."
    )


def _common_type(name: str, types: Sequence[pl.DataType], spec: FeatureSpec) -> pl.DataType:
    target: pl.DataType = pl.Null()
    for dtype in types:
        common = widen(target, dtype)
        if common is None:
            raise MetadataSchemaError(
                f"The id column '{name}' of feature '{spec.key}' is {target} here and {dtype} in the rows to join "
                "with; cast it."
            )
        target = common
    return target
