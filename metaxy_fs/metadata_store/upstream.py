"""Read the upstream rows of a feature range by range, so that memory holds few at a time.

A piece is a range of the first id column, in all that is read: upstream rows, stored rows, and the samples that a
caller gave. All rows of one sample lie in one piece, and pieces are worked on apart. What is sorted by id is read once;
where files overlap, row groups at the ends of ranges are read twice. So pieces are larger where many files overlap.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import polars as pl

from metaxy_fs.errors import DependencyError, FeatureNotFoundError, MetadataSchemaError
from metaxy_fs.log import EVERYTHING, MAX_EXACT, ROW_GROUP_ROWS, IdRange, Span, depth, plan_ranges
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.chain import report_corruption
from metaxy_fs.metadata_store.features import Declared, about_feature
from metaxy_fs.metadata_store.frames import show_samples
from metaxy_fs.metadata_store.read import Read, find_scan, latest, latest_or_retired
from metaxy_fs.metadata_store.scan import Scan
from metaxy_fs.spec import FeatureSpec
from metaxy_fs.spec.lineage import join_columns, stored_names
from metaxy_fs.versioning.columns import present_column
from metaxy_fs.versioning.relations import evaluating_where, known_rows, stored_columns, upstream_versions

PIECE_ROWS = 2**18
"""How many rows of each input a piece has, about: enough to keep all processors busy."""

_EXACT_TIME = 2**62

_ROW_GROUPS = 4
"""How many row groups of a file a range is to take at least, where many files overlap."""


class Input(Protocol):
    """Rows that are taken range by range."""

    def spans(self, column: str) -> Sequence[Span]:
        """Return how they lie along an id column; without bounds where they cannot be divided by it."""

    def dtype(self, column: str) -> pl.DataType | None:
        """Return the type of the id column, None if they have none of that name."""


def divide(inputs: Sequence[Input], column: str) -> list[IdRange]:
    """Return the ranges of an id column that the pieces of some inputs hold, in order."""
    if not have_common_bounds(inputs, column):
        return [EVERYTHING]
    spans = [each.spans(column) for each in inputs]
    if sum(span.rows for each in spans for span in each) <= PIECE_ROWS:
        return [EVERYTHING]
    rows = max(PIECE_ROWS, *(_ROW_GROUPS * ROW_GROUP_ROWS * (depth(each) - 1) for each in spans))
    return plan_ranges([span for each in spans for span in each], rows=rows * len(inputs))


def clipped(ranges: Sequence[IdRange], samples: Input, column: str) -> list[IdRange]:
    """Return the ranges without what lies before the first of some samples and after the last: one at least.

    Args:
        ranges: What `divide` gave for inputs with these samples among them.
        samples: The only ones that matter.
        column: The first id column.
    """
    spans = [span for span in samples.spans(column) if span.rows]
    if not spans or any(span.low is None or span.high is None for span in spans):
        return list(ranges)
    dtype = samples.dtype(column)
    low, high = min(span.low for span in spans), max(span.high for span in spans)
    limits = IdRange(_exact(low, dtype), _following(high, dtype))
    found = [each for id_range in ranges if (each := id_range.intersection(limits)) is not None]
    is_most = 2 * len(found) > len(ranges)
    return found if is_most else [msgspec.structs.replace(each, is_part=False) for each in found]


def have_common_bounds(inputs: Sequence[Input], column: str) -> bool:
    """Whether all inputs can be divided by a column, and bounds in its types compare as the values do."""
    dtypes = [each.dtype(column) for each in inputs]
    known = [dtype for dtype in dtypes if dtype is not None]
    if len(known) < len(dtypes) or not known:
        return False
    return all(dtype.is_integer() for dtype in known) or len(set(known)) == 1


def _exact(bound: Any, dtype: pl.DataType | None) -> Any:
    """Return a bound that compares with any number as it is; None for one that may be rounded."""
    limit = _EXACT_TIME if dtype is not None and dtype.is_temporal() else MAX_EXACT
    return None if isinstance(bound, int) and abs(bound) >= limit else bound


def _following(bound: Any, dtype: pl.DataType | None) -> Any:
    """Return the value that follows a bound, None where that is not sure."""
    if isinstance(bound, str):
        return bound + "\0"
    return bound + 1 if isinstance(bound, int) and _exact(bound, dtype) is not None else None


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
        rows = latest_or_retired(self.scan, id_columns=self.upstream.id_columns, column=stored, within=within)
        return upstream_versions(self.feature.graph, self.feature.spec, self.upstream, rows, algorithm=algorithm)

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
            f"Feature '{feature.key}' needs its upstream '{upstream.key}', which is missing. {error}",
            feature=feature.key.dotted,
            root=error.root,
            upstream=upstream.key.dotted,
        ) from error
