"""Which rows of its upstream features is a feature made from?"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from metaxy_fs.errors import DependencyError, FeatureNotFoundError, MetadataSchemaError
from metaxy_fs.log.reading.ranges import IdRange, Span
from metaxy_fs.metadata_store.arguments.features import Declared
from metaxy_fs.metadata_store.arguments.frames import show_samples
from metaxy_fs.metadata_store.backends.backend import Backend
from metaxy_fs.metadata_store.backends.damage import names_damage
from metaxy_fs.metadata_store.backends.scan import Scan
from metaxy_fs.metadata_store.reading.queries import Read, find_scan, latest
from metaxy_fs.spec import FeatureSpec
from metaxy_fs.spec.lineage import joined_by, old_names
from metaxy_fs.versioning.columns import present_column
from metaxy_fs.versioning.lineage import evaluating_where, known_rows, stored_columns, upstream_versions


@dataclass(frozen=True)
class UpstreamRows:
    """The latest rows of one upstream feature.

    Attributes:
        feature: The feature that is made from them.
        upstream: The upstream feature.
        scan: Its rows under its current definition.
    """

    feature: Declared
    upstream: FeatureSpec
    scan: Scan

    def stored_name(self, column: str) -> str | None:
        """Return the id column of the upstream feature that an id column of the feature is, None if there is none.

        Ranges of other columns would tear rows of one upstream sample apart.
        """
        if column not in joined_by(self.feature.spec, self.upstream):
            return None
        (stored,) = old_names(self.feature.spec.dep(self.upstream.key), [column])
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
        rows = latest(self.scan, id_columns=self.upstream.id_columns, column=stored, within=within)
        return upstream_versions(self.feature.graph, self.feature.spec, self.upstream, rows, algorithm=algorithm)

    def refuse_rows_without_group(self, versions: pl.DataFrame) -> None:
        """Refuse rows of an aggregation that belong to no sample, unless `where` excludes them."""
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


@names_damage
def read_upstream(store: Backend, feature: Declared, *, fallback: bool) -> dict[str, pl.DataFrame]:
    """Return the latest rows of every upstream feature that the feature is made from, by the string of its key."""
    frames = {}
    for upstream in feature.graph.upstream(feature.spec):
        scan = _find(store, feature, upstream, Read(latest_only=True), fallback=fallback)
        if scan is not None:
            rows = latest(scan, id_columns=upstream.id_columns)
            with evaluating_where(feature.spec):
                frames[str(upstream.key)] = known_rows(feature.spec, upstream, rows).collect()
    return frames


def find_upstream(store: Backend, feature: Declared, *, fallback: bool) -> list[UpstreamRows]:
    """Return the rows of every upstream feature that has any.

    Raises:
        DependencyError: One that is required has no commit; the message says where it was looked for.
    """
    found = []
    for upstream in feature.graph.upstream(feature.spec):
        read = Read(columns=stored_columns(feature.spec, upstream), latest_only=True)
        scan = _find(store, feature, upstream, read, fallback=fallback)
        if scan is not None:
            found.append(UpstreamRows(feature, upstream, scan))
    return found


def _find(store: Backend, feature: Declared, upstream: FeatureSpec, read: Read, *, fallback: bool) -> Scan | None:
    """Return the rows of an upstream feature, None if it has no commit and need not have one."""
    try:
        return find_scan(store, Declared(upstream, feature.graph), read, fallback=fallback)
    except FeatureNotFoundError as error:
        if feature.spec.dep(upstream.key).optional:
            return None
        raise DependencyError(
            f"Feature '{feature.key}' needs its upstream '{upstream.key}', which is missing. {error}"
        ) from error
