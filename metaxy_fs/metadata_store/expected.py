"""The samples that there should be, and the upstream rows that their versions follow from, range by range."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import msgspec
import polars as pl

from metaxy_fs.errors import DependencyError, FeatureNotFoundError, MetadataSchemaError
from metaxy_fs.log import EVERYTHING, IdRange, Span, widen
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.chain import report_corruption
from metaxy_fs.metadata_store.features import Declared, about_feature
from metaxy_fs.metadata_store.frames import is_sorted, show_samples
from metaxy_fs.metadata_store.pieces import Input
from metaxy_fs.metadata_store.read import Read, find_scan, latest
from metaxy_fs.metadata_store.samples import HeldSamples, SpooledSamples
from metaxy_fs.metadata_store.scan import Scan
from metaxy_fs.metadata_store.selection import SampleSelection
from metaxy_fs.spec import FeatureKey, FeatureSpec
from metaxy_fs.spec.deps import carried_names
from metaxy_fs.spec.specs import join_columns, stored_names
from metaxy_fs.versioning.columns import MISSING
from metaxy_fs.versioning.preimages import (
    beside_upstream,
    carried_types_without_rows,
    data_versions,
    is_missing,
    present_column,
    present_samples,
    sample_source,
    without_excluded,
)
from metaxy_fs.versioning.relations import evaluating_where, known_rows, stored_columns, upstream_versions


@dataclass(frozen=True)
class UpstreamRows:
    """The latest rows of one upstream feature.

    Attributes:
        feature: The feature that is made from them.
        upstream: The upstream feature.
        scan: Its rows under its current definition.
        carried: The columns that are carried, and the names under which they are stored.
        where: What the ids of rows of any interest satisfy, as they are stored; None if all are.
    """

    feature: Declared
    upstream: FeatureSpec
    scan: Scan
    carried: Mapping[str, str]
    where: pl.Expr | None = None

    def stored_name(self, column: str) -> str | None:
        """Return the id column of the upstream feature that an id column of the feature is, None if there is none.

        Ranges of other columns would tear rows of one upstream sample apart.
        """
        if column not in join_columns(self.feature.spec, self.upstream):
            return None
        (stored,) = stored_names(self.feature.spec.dep(self.upstream.key), [column])
        return stored if stored in self.upstream.id_columns else None

    def spans(self, column: str) -> Sequence[Span]:
        """Return how the rows lie along an id column of the feature; without bounds where they do not."""
        stored = self.stored_name(column)
        return [Span(1)] if stored is None else self.scan.spans(stored)

    def dtype(self, column: str) -> pl.DataType | None:
        """Return the type of an id column of the feature."""
        stored = self.stored_name(column)
        return None if stored is None else self.scan.rows.collect_schema()[stored]

    def versions(self, column: str, within: IdRange, *, algorithm: str) -> pl.LazyFrame:
        """Return what stands for the rows of a range in preimages; see `upstream_versions`."""
        stored = self.stored_name(column) or ""
        spec, ids = self.feature.spec, self.upstream.id_columns
        rows = latest(self.scan, id_columns=ids, column=stored, within=within, where=self.where, with_retired=True)
        return upstream_versions(
            self.feature.graph, spec, self.upstream, rows, algorithm=algorithm, carried=self.carried
        )

    def refuse_rows_without_group(self, versions: pl.DataFrame) -> None:
        """Refuse rows of an aggregation that belong to no sample, unless they are retired or `where` excludes them."""
        spec = self.feature.spec
        ids = [name for name in spec.id_columns if name in versions.columns]
        is_grouped = spec.dep(self.upstream.key).relation == "aggregation"
        if is_grouped and any(versions.get_column(name).null_count() for name in ids):
            lost = versions.filter(present_column(self.upstream.key)).filter(pl.any_horizontal(pl.col(ids).is_null()))
            if lost.height:
                raise MetadataSchemaError(
                    f"Feature '{spec.key}' groups the rows of its upstream '{self.upstream.key}' by {ids}, and rows of "
                    f"it have null there: {show_samples(lost.select(ids))}. Write them with values, or exclude them "
                    'with where="... IS NOT NULL".'
                )


@about_feature
@report_corruption
def read_upstream(store: Backend, feature: Declared, *, fallback: bool) -> dict[str, pl.DataFrame]:
    """Return the latest rows of every upstream feature that the feature is made from, by the string of its key."""
    frames = {}
    for upstream in feature.graph.upstream(feature.spec):
        scan = _find(store, feature, upstream, Read(latest_only=True), fallback=fallback)
        if scan is not None:
            rows = latest(scan, id_columns=upstream.id_columns)
            with evaluating_where(feature.spec):
                frames[upstream.key.string] = known_rows(feature.spec, upstream, rows).collect()
    return frames


def find_upstream(
    store: Backend,
    feature: Declared,
    *,
    fallback: bool,
    carries: bool = False,
    selection: SampleSelection | None = None,
) -> list[UpstreamRows]:
    """Return the rows of every upstream feature that has any.

    Args:
        store: The first store of the chain.
        feature: Whose samples are made from them.
        fallback: Whether to go on to the fallback stores.
        carries: Whether the columns are wanted that the deps carry.
        selection: The only samples that matter.

    Raises:
        DependencyError: One that is required has no commit; the message says where it was looked for.
        MetadataSchemaError: One lacks a column that is carried.
    """
    found = []
    for upstream in feature.graph.upstream(feature.spec):
        carried = carried_names(feature.spec.dep(upstream.key)) if carries else {}
        columns = dict.fromkeys((*stored_columns(feature.spec, upstream), *carried.values()))
        where = None if selection is None else selection.of_upstream(upstream)
        read = Read(columns=tuple(columns), latest_only=True, prune=where)
        known = feature
        try:
            scan = _find(store, feature, upstream, read, fallback=fallback)
        except MetadataSchemaError as error:
            scan = _find(store, feature, upstream, Read(latest_only=True), fallback=fallback)
            if scan is None or scan.rows.head(1).collect().height:
                raise _without_column(error, feature, upstream, carried.values()) from error
            scan, known = _with_columns(scan, columns), _without_where(feature, upstream)
        if scan is not None:
            found.append(UpstreamRows(known, upstream, scan, carried, where))
    return found


def _without_column(
    error: MetadataSchemaError, feature: Declared, upstream: FeatureSpec, carried: Iterable[str]
) -> MetadataSchemaError:
    """Return an error about a column that upstream rows lack, which says so where the feature carries it."""
    if error.column is None or error.column not in carried:
        return error
    return MetadataSchemaError(
        f"Feature '{feature.key}' carries column '{error.column}' of its upstream '{upstream.key}'. {error}",
        feature=feature.key.dotted,
        column=error.column,
    )


def _with_columns(scan: Scan, columns: Iterable[str]) -> Scan:
    """Return a scan without rows that has some columns, whatever their types will be."""
    missing = [pl.lit(None).alias(name) for name in columns if name not in scan.columns]
    return scan.mapped(partial(_added, missing=missing), columns=scan.columns)


def _added(rows: pl.LazyFrame, *, missing: Sequence[pl.Expr]) -> pl.LazyFrame:
    return rows.with_columns(missing)


def _without_where(feature: Declared, upstream: FeatureSpec) -> Declared:
    """Return a feature whose dep takes all rows of an upstream feature: a predicate needs the types of its columns."""
    deps = [msgspec.structs.replace(dep, where=None) if dep.key == upstream.key else dep for dep in feature.spec.deps]
    return Declared(msgspec.structs.replace(feature.spec, deps=deps), feature.graph)


def _find(store: Backend, feature: Declared, upstream: FeatureSpec, read: Read, *, fallback: bool) -> Scan | None:
    """Return the rows of an upstream feature, None if it has no commit and need not have one."""
    try:
        return find_scan(store, Declared(upstream, feature.graph), read, fallback=fallback)
    except FeatureNotFoundError as error:
        if feature.spec.dep(upstream.key).optional:
            return None
        raise DependencyError(
            f"Feature '{feature.key}' needs its upstream '{upstream.key}', which is missing. {error}",
            feature=feature.key.dotted,
            root=error.root,
            upstream=upstream.key.dotted,
        ) from error


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
