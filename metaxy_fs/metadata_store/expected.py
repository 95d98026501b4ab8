"""The versions that the samples of a piece should have, and what those lack that have none."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from metaxy_fs.errors import DependencyError, MetadataSchemaError
from metaxy_fs.log import IdRange, widen
from metaxy_fs.metadata_store.features import Declared
from metaxy_fs.metadata_store.frames import is_sorted, show_samples
from metaxy_fs.metadata_store.samples import HeldSamples, SpooledSamples
from metaxy_fs.metadata_store.upstream import Input, UpstreamRows
from metaxy_fs.spec import FeatureKey, FeatureSpec
from metaxy_fs.spec.lineage import join_columns
from metaxy_fs.versioning.columns import MISSING
from metaxy_fs.versioning.preimages import (
    beside_upstream,
    data_versions,
    is_missing,
    present_samples,
    sample_source,
    without_excluded,
)
from metaxy_fs.versioning.relations import evaluating_where


class ExpectedSamples(NamedTuple):
    """The samples of one range, sorted by id.

    Attributes:
        samples: Those that have all the upstream rows that they need, with their versions.
        waiting: The others, with `missing`: the upstream features that they lack a row of, as strings.
    """

    samples: pl.DataFrame
    waiting: pl.DataFrame


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

    @property
    def id_types(self) -> Mapping[str, pl.DataType]:
        """The types of the id columns, as far as they are known before any row is read."""
        found = ((name, each.dtype(name)) for name in self.id_columns for each in self.inputs)
        return {name: dtype for name, dtype in found if dtype is not None}

    def scans(self, id_range: IdRange) -> list[pl.LazyFrame]:
        """Return what `piece` needs collected."""
        column = self.id_columns[0]
        given = [] if self.samples is None else [self.samples.within(id_range)]
        return [*given, *(rows.versions(column, id_range, algorithm=self.algorithm) for rows in self.upstream)]

    def collected(self, scans: Sequence[pl.LazyFrame]) -> list[pl.DataFrame]:
        """Collect scans side by side, these among others."""
        with evaluating_where(self.feature.spec):
            return pl.collect_all(scans)

    def piece(self, frames: Sequence[pl.DataFrame], *, with_versions: bool = True) -> ExpectedSamples:
        """Return the samples of a range from its collected `scans`, with their versions unless these do not count."""
        frames = same_id_types(frames, self.feature.spec)
        given, above = (None, frames) if self.samples is None else (frames[0], frames[1:])
        if self.feature.spec.is_root and given is not None:
            return ExpectedSamples(given, _waiting(given.clear(), []))
        for rows, frame in zip(self.upstream, above, strict=True):
            rows.refuse_rows_without_group(frame)
        versions = {rows.upstream.key: frame for rows, frame in zip(self.upstream, above, strict=True)}
        samples = self._named(versions) if given is None else given
        return self._versioned(samples, versions, with_versions=with_versions)

    def _named(self, versions: Mapping[FeatureKey, pl.DataFrame]) -> pl.DataFrame:
        """Return every sample, or parent, that upstream features name, sorted by id."""
        graph, spec = self.feature.graph, self.feature.spec
        source = sample_source(graph, spec)
        named = [
            present_samples(key, versions[key].lazy(), id_columns=source.id_columns)
            for key in source.upstream
            if key in versions
        ]
        if not named:
            raise DependencyError(
                f"Which samples of feature '{spec.key}' there should be cannot be told: none of the upstream features "
                f"that name them, {[str(key) for key in source.upstream]}, has a commit. Give them: "
                f"resolve_update(feature, samples=...) with {list(spec.id_columns)}."
            )
        first, *rest = pl.collect_all(without_excluded(each, graph, spec, versions) for each in named)
        if not all(other.equals(first) for other in rest):
            first = pl.concat([first, *rest]).unique(maintain_order=True)
        return first if is_sorted(first, source.id_columns) else first.sort(source.id_columns)

    def _versioned(
        self, samples: pl.DataFrame, versions: Mapping[FeatureKey, pl.DataFrame], *, with_versions: bool
    ) -> ExpectedSamples:
        graph, spec = self.feature.graph, self.feature.spec
        ids = [name for name in spec.id_columns if name in samples.columns]
        joined = beside_upstream(samples.select(ids), graph, spec, versions)
        upstream = graph.upstream(spec)
        lacks = joined.select(is_missing(graph, spec, above).alias(str(above.key)) for above in upstream)
        has_all = ~lacks.select(pl.any_horizontal(pl.all())).to_series()
        waiting = _waiting(samples.filter(~has_all), lacks.filter(~has_all).get_columns())
        if waiting.height:
            samples, joined = samples.filter(has_all), joined.filter(has_all)
        if with_versions:
            samples = samples.with_columns(data_versions(joined, graph, spec, algorithm=self.algorithm))
        return ExpectedSamples(samples, waiting)


def complete(pieces: Iterable[ExpectedSamples], feature: Declared, *, fallback: bool) -> Iterator[pl.DataFrame]:
    """Yield the samples of pieces, or say of all of them which lack an upstream row.

    Raises:
        DependencyError: Some do; once one does, nothing more is yielded.
    """
    height = 0
    lacking: dict[FeatureKey, list[_Lacking]] = {}
    for piece in pieces:
        height += piece.samples.height + piece.waiting.height
        for key, found in _lacking(piece.waiting, feature).items():
            lacking.setdefault(key, []).append(found)
        if not lacking:
            yield piece.samples
    for key, several in lacking.items():
        raise _lacking_error(key, several, feature, height=height, fallback=fallback)


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


class _Lacking(NamedTuple):
    """Samples that lack a row of one upstream feature: how many, and some of them."""

    height: int
    shown: pl.DataFrame


def _waiting(samples: pl.DataFrame, lacks: Sequence[pl.Series]) -> pl.DataFrame:
    """Return samples with the names of those series that are true of them."""
    names = pl.concat_list(pl.lit(None, dtype=pl.String), *(pl.when(each).then(pl.lit(each.name)) for each in lacks))
    return samples.with_columns(names.list.drop_nulls().alias(MISSING))


def _lacking(waiting: pl.DataFrame, feature: Declared) -> dict[FeatureKey, _Lacking]:
    """Return what the samples of a piece lack, by upstream feature."""
    if waiting.is_empty():
        return {}
    ids = list(feature.spec.id_columns)
    found = {
        above.key: waiting.filter(pl.col(MISSING).list.contains(str(above.key))).select(ids)
        for above in feature.graph.upstream(feature.spec)
    }
    return {key: _Lacking(frame.height, frame.head(10)) for key, frame in found.items() if frame.height}


def _lacking_error(
    key: FeatureKey, several: Sequence[_Lacking], feature: Declared, *, height: int, fallback: bool
) -> DependencyError:
    spec = feature.spec
    count = sum(each.height for each in several)
    shown = show_samples(pl.concat([each.shown for each in several]))
    excluded = "" if spec.dep(key).where is None else " that its `where` holds for"
    ids = list(spec.id_columns)
    left_out = f'samples.join(store.resolve_update(feature, samples=samples).waiting, on={ids!r}, how="anti")'
    if not fallback:  # an increment looks into the fallback stores
        above = f'store.read_upstream_metadata(feature, allow_upstream_fallback=False)["{key}"]'
        left_out = f'samples.join({above}, on={list(join_columns(spec, feature.graph.specs[key]))!r}, how="semi")'
    return DependencyError(
        f"{count} of {height} samples of feature '{spec.key}' have no row in its upstream '{key}'{excluded}: {shown}. "
        f"Write those rows first, or leave these samples out: {left_out}.",
        feature=spec.key.dotted,
        upstream=key.dotted,
    )


def _common_type(name: str, types: Sequence[pl.DataType], spec: FeatureSpec) -> pl.DataType:
    target: pl.DataType = pl.Null()
    for dtype in types:
        common = widen(target, dtype)
        if common is None:
            raise MetadataSchemaError(
                f"The id column '{name}' of feature '{spec.key}' is {target} here and {dtype} in the rows to join "
                "with; cast it.",
                column=name,
            )
        target = common
    return target
