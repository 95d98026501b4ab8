"""Find the rows of upstream features that a feature is made from, range by range."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
import polars as pl

from metaxy_fs.errors import DependencyError, FeatureNotFoundError, MetadataSchemaError
from metaxy_fs.log import IdRange, Span
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.chain import report_corruption
from metaxy_fs.metadata_store.features import Declared, about_feature
from metaxy_fs.metadata_store.frames import show_samples
from metaxy_fs.metadata_store.read import Read, find_scan, latest, refuse_unknown, without_retired
from metaxy_fs.metadata_store.scan import Scan
from metaxy_fs.metadata_store.selection import SampleSelection
from metaxy_fs.spec import FeatureSpec
from metaxy_fs.spec.deps import carried_names
from metaxy_fs.spec.specs import join_columns, stored_names
from metaxy_fs.versioning.preimages import present_column
from metaxy_fs.versioning.relations import evaluating_where, known_rows, stored_columns, upstream_versions


@about_feature
@report_corruption
def read_upstream(store: Backend, feature: Declared, *, fallback: bool) -> dict[str, pl.DataFrame]:
    """Return the latest rows of every upstream feature that the feature is made from, by the string of its key."""
    frames = {}
    for upstream in feature.graph.upstream(feature.spec):
        scan = _find(store, feature, upstream, Read(latest_only=True), fallback=fallback)
        if scan is not None:
            scan, known = _readable(scan, feature, upstream)
            rows = latest(scan, id_columns=upstream.id_columns)
            with evaluating_where(known.spec):
                frames[upstream.key.string] = known_rows(known.spec, upstream, rows).collect()
    return frames


def find_upstream(
    store: Backend,
    feature: Declared,
    *,
    fallback: bool,
    carries: bool = False,
    selection: SampleSelection | None = None,
) -> "list[UpstreamRows]":
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
            if scan is None or not _is_without_samples(scan):
                raise _without_column(error, feature, upstream, carried.values()) from error
            scan, known = _with_columns(scan, columns), _without_where(feature, upstream)
        if scan is not None:
            found.append(UpstreamRows(known, upstream, scan, carried, where))
    return found


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


def _readable(scan: Scan, feature: Declared, upstream: FeatureSpec) -> tuple[Scan, Declared]:
    """Return all columns of an upstream feature, and the feature whose dep can be asked of them."""
    named = set(stored_columns(feature.spec, upstream))
    if named <= set(scan.columns):
        return scan, feature
    if not _is_without_samples(scan):
        refuse_unknown(named, scan, upstream.key)
    return _with_columns(scan, feature.spec.dep(upstream.key).rename), _without_where(feature, upstream)


def _is_without_samples(scan: Scan) -> bool:
    """Whether a scan has no rows, or none but of samples that are retired, of which nothing but the ids is known."""
    return without_retired(scan.rows, scan).head(1).collect().is_empty()


def _with_columns(scan: Scan, columns: Iterable[str]) -> Scan:
    """Return a scan without rows, or of retired samples alone, that has some columns, whatever their types will be."""
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
