"""Name the samples that there should be, with the versions that follow from upstream rows, range by range."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import polars as pl

from metaxy_fs.errors import DependencyError, MetadataSchemaError
from metaxy_fs.log import EVERYTHING, IdRange, widen
from metaxy_fs.metadata_store.features import Declared
from metaxy_fs.metadata_store.frames import is_sorted, show_samples
from metaxy_fs.metadata_store.pieces import Input
from metaxy_fs.metadata_store.samples import HeldSamples, SpooledSamples
from metaxy_fs.metadata_store.selection import SampleSelection
from metaxy_fs.metadata_store.upstream import UpstreamRows
from metaxy_fs.spec import FeatureKey, FeatureSpec
from metaxy_fs.spec.specs import join_columns
from metaxy_fs.versioning.columns import MISSING
from metaxy_fs.versioning.preimages import (
    beside_upstream,
    carried_types_without_rows,
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
        samples: Those that have all the upstream rows that they need, with what is carried of these and their versions.
        waiting: The others, with `missing`: the upstream features that they lack a row of, as strings.
        outside: The ids of those that are not selected, and in neither frame.
    """

    samples: pl.DataFrame
    waiting: pl.DataFrame
    outside: pl.DataFrame


@dataclass(frozen=True)
class Expected:
    """The samples that there should be, and the upstream rows that their versions follow from.

    Attributes:
        feature: Whose samples they are.
        upstream: The rows of those of its upstream features that have any; none of a root feature.
        samples: What a caller gave, those of a root feature with their versions; None for those that upstream features
            name.
        algorithm: What versions are hashed with.
        carried: The columns that are carried beside them.
        selection: Which of them matter; None if all do.
    """

    feature: Declared
    upstream: Sequence[UpstreamRows]
    samples: HeldSamples | SpooledSamples | None
    algorithm: str
    carried: Sequence[str] = ()
    selection: SampleSelection | None = None

    @cached_property
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

    def check_selection(self) -> None:
        """Refuse a selection that does not fit the types of the columns.

        Raises:
            MetadataSchemaError: It does not.
        """
        if self.selection is not None:
            types = {
                name: dtype for dep in self.feature.spec.deps for name, dtype in carried_types_without_rows(dep).items()
            }
            for frame in self.scans(EVERYTHING):
                types |= dict(frame.collect_schema())
            self.selection.check(types)

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
            return self._of_root(given)
        for rows, frame in zip(self.upstream, above, strict=True):
            rows.refuse_rows_without_group(frame)
        versions = {rows.upstream.key: frame for rows, frame in zip(self.upstream, above, strict=True)}
        samples = self._named(versions) if given is None else given
        return self._versioned(samples, versions, with_versions=with_versions)

    def _of_root(self, given: pl.DataFrame) -> ExpectedSamples:
        """Return given samples, which have their versions and wait for nothing."""
        ids, nothing = given.select(self.feature.spec.id_columns), _waiting(given.clear(), [])
        if self.selection is None:
            return ExpectedSamples(given, nothing, ids.clear())
        is_inside = self.selection.holds(ids)
        return ExpectedSamples(given.filter(is_inside), nothing, ids.filter(~is_inside))

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
                f"samples=... with {list(spec.id_columns)}."
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
        joined = beside_upstream(samples.select(ids), graph, spec, versions, carried=self.carried)
        outside = joined.clear()
        if self.selection is not None and not (is_inside := self.selection.holds(joined)).all():
            outside = joined.filter(~is_inside)
            samples, joined = samples.filter(is_inside), joined.filter(is_inside)
        upstream = graph.upstream(spec)
        lacks = joined.select(is_missing(graph, spec, above).alias(str(above.key)) for above in upstream)
        has_all = ~lacks.select(pl.any_horizontal(pl.all())).to_series()
        waiting = _waiting(samples.filter(~has_all), lacks.filter(~has_all).get_columns())
        if waiting.height:
            samples, joined = samples.filter(has_all), joined.filter(has_all)
        if with_versions:
            versions_of_samples = data_versions(joined, graph, spec, algorithm=self.algorithm)
            samples = samples.with_columns(*joined.select(self.carried).get_columns(), versions_of_samples)
        return ExpectedSamples(samples, waiting, outside.select(ids))


def complete(pieces: Iterable[ExpectedSamples], feature: Declared, *, fallback: bool) -> Iterator[pl.DataFrame]:
    """Yield the samples of pieces, or say of all of them which lack an upstream row.

    Raises:
        DependencyError: Some do; once one does, nothing more is yielded.
    """
    height = 0
    lacking: Counter[FeatureKey] = Counter()
    shown: dict[FeatureKey, list[pl.DataFrame]] = {}
    for piece in pieces:
        height += piece.samples.height + piece.waiting.height
        for above in feature.graph.upstream(feature.spec) if piece.waiting.height else ():
            found = piece.waiting.filter(pl.col(MISSING).list.contains(str(above.key)))
            if found.height:
                lacking[above.key] += found.height
                shown.setdefault(above.key, []).append(found.select(feature.spec.id_columns).head(10))
        if not lacking:
            yield piece.samples
    for key, count in lacking.items():
        lack = f"{count} of {height} samples of feature '{feature.key}' have no row"
        raise _lacking_error(key, lack, pl.concat(shown[key]), feature, fallback=fallback)


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


def _waiting(samples: pl.DataFrame, lacks: Sequence[pl.Series]) -> pl.DataFrame:
    """Return samples with the names of those series that are true of them."""
    names = pl.concat_list(pl.lit(None, dtype=pl.String), *(pl.when(each).then(pl.lit(each.name)) for each in lacks))
    return samples.with_columns(names.list.drop_nulls().alias(MISSING))


def _lacking_error(
    key: FeatureKey, lack: str, samples: pl.DataFrame, feature: Declared, *, fallback: bool
) -> DependencyError:
    spec = feature.spec
    excluded = "" if spec.dep(key).where is None else " that its `where` holds for"
    ids = list(spec.id_columns)
    left_out = f'samples.join(store.resolve_update(feature, samples=samples).waiting, on={ids!r}, how="anti")'
    if not fallback:  # an increment looks into the fallback stores
        above = f'store.read_upstream_metadata(feature, allow_upstream_fallback=False)["{key.string}"]'
        left_out = f'samples.join({above}, on={list(join_columns(spec, feature.graph.specs[key]))!r}, how="semi")'
    return DependencyError(
        f"{lack} in its upstream '{key}'{excluded}: {show_samples(samples)}. "
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
