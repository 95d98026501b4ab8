"""Which data versions do samples get, and which of them have to be computed?"""

from collections.abc import Mapping, Sequence

import polars as pl

from metaxy_fs.errors import DependencyError, FeatureNotFoundError, MetadataSchemaError
from metaxy_fs.log.widening import widen
from metaxy_fs.metadata_store.backend import Backend, Query, Scan
from metaxy_fs.metadata_store.features import Declared
from metaxy_fs.metadata_store.frames import (
    FrameLike,
    check_ids,
    check_samples_with_versions,
    samples_to_version,
    show_samples,
    to_frame,
)
from metaxy_fs.metadata_store.hashing import chain_algorithm
from metaxy_fs.metadata_store.reading import (
    Read,
    compared_scan,
    latest,
    refuse_unknown,
    require_id_columns,
    scan_chain,
)
from metaxy_fs.spec import FeatureKey, FeatureSpec
from metaxy_fs.versioning.columns import (
    CHANGED_CONTAINERS,
    DATA_VERSION,
    PARTITION,
    REDO,
    RESERVED_PREFIX,
    STORED_DATA_VERSION,
)
from metaxy_fs.versioning.increment import Increment, compare, nothing_stored
from metaxy_fs.versioning.rows import beside_upstream, data_versions, is_missing, upstream_versions


def read_upstream(store: Backend, feature: Declared, *, fallback: bool) -> dict[str, pl.DataFrame]:
    """Return the latest rows of every upstream feature by the string of its key."""
    rows = _scan_upstream(store, feature, Read(latest_only=True), fallback=fallback)
    return {str(key): frame.collect() for key, frame in rows.items()}


def calculate(store: Backend, feature: Declared, sample_df: FrameLike, *, fallback: bool) -> pl.DataFrame:
    """Return samples with the data versions that follow from their upstream rows."""
    _require_upstream(feature.spec)
    samples = samples_to_version(sample_df, feature.spec)
    algorithm = chain_algorithm(store, fallback=fallback)
    return _with_versions(feature, samples, _upstream_versions(store, feature, fallback=fallback), algorithm)


def increment(store: Backend, feature: Declared, samples: FrameLike | None, *, stale_if: pl.Expr | None) -> Increment:
    """Return what separates the samples of a feature from what the chain holds of them."""
    expected = _expected(store, feature, samples)
    ids = feature.spec.id_columns
    query = Query(key=feature.key, partition=None, columns=_compared_columns(ids, stale_if), mark_partition=True)
    scan = compared_scan(store, feature, query)
    if scan is None:
        return nothing_stored(expected, id_columns=ids)
    require_id_columns(scan, feature.spec)
    aligned, (stored,) = _same_id_types(expected, [_latest_stored(scan, feature, stale_if)], feature.spec)
    return compare(aligned, stored, id_columns=ids, current=feature.definition, definitions=scan.definitions)


def _compared_columns(id_columns: Sequence[str], stale_if: pl.Expr | None) -> frozenset[str]:
    """Return the stored columns that an increment looks at."""
    if stale_if is None:
        return frozenset((*id_columns, DATA_VERSION))
    if not isinstance(stale_if, pl.Expr) or stale_if.meta.has_multiple_outputs():
        raise TypeError(
            f"stale_if takes a Polars expression that names its columns, such as pl.col('status') == 'failed', got "
            f"{stale_if!r}."
        )
    return frozenset((*id_columns, DATA_VERSION, *stale_if.meta.root_names()))


def _latest_stored(scan: Scan, feature: Declared, stale_if: pl.Expr | None) -> pl.DataFrame:
    """Return the latest stored row of each sample, and whether the caller wants it computed again."""
    if stale_if is not None:
        refuse_unknown(set(stale_if.meta.root_names()), scan, feature.key)
    rows = latest(scan.rows, scan, id_columns=feature.spec.id_columns)
    asked = pl.lit(value=False) if stale_if is None else stale_if.fill_null(value=False)
    return rows.select(*feature.spec.id_columns, DATA_VERSION, PARTITION, asked.alias(REDO)).collect()


def _expected(store: Backend, feature: Declared, samples: FrameLike | None) -> pl.DataFrame:
    """Return the samples that there should be, with the versions that they should have."""
    spec = feature.spec
    algorithm = chain_algorithm(store, fallback=True)
    if spec.is_root:
        if samples is None:
            raise DependencyError(
                f"Feature '{spec.key}' has no upstream features, so only the caller knows its samples and their "
                f"versions: resolve_update(feature, samples=...) with {list(spec.id_columns)} and '{DATA_VERSION}'."
            )
        return _refuse_increment_columns(check_samples_with_versions(samples, spec), spec)
    upstream = _upstream_versions(store, feature, fallback=True)
    if samples is None:
        return _with_versions(feature, _all_samples(upstream, spec), upstream, algorithm)
    given = to_frame(samples)
    check_ids(given, spec)
    unversioned = _refuse_increment_columns(given.drop(DATA_VERSION, strict=False), spec)
    return _with_versions(feature, unversioned, upstream, algorithm)


def _refuse_increment_columns(samples: pl.DataFrame, spec: FeatureSpec) -> pl.DataFrame:
    for column in samples.columns:
        if column in (STORED_DATA_VERSION, CHANGED_CONTAINERS):
            raise MetadataSchemaError(
                f"The samples of feature '{spec.key}' have a column '{column}', which an increment adds; drop it."
            )
        if column.startswith(RESERVED_PREFIX):
            raise MetadataSchemaError(
                f"The column '{column}' of the samples of feature '{spec.key}' begins with '{RESERVED_PREFIX}', "
                "which the library keeps for itself; rename it."
            )
    return samples


def _require_upstream(spec: FeatureSpec) -> None:
    if spec.is_root:
        raise DependencyError(
            f"Feature '{spec.key}' has no upstream features to calculate data versions from. Give its rows their "
            "versions, such as a checksum of what each sample is made from, and write them with write_metadata."
        )


def _scan_upstream(store: Backend, feature: Declared, read: Read, *, fallback: bool) -> dict[FeatureKey, pl.LazyFrame]:
    """Return the rows of every upstream feature, those without a commit refused."""
    rows = {}
    for upstream in feature.graph.upstream(feature.spec):
        declared = Declared(upstream, feature.graph)
        try:
            rows[upstream.key] = scan_chain(store, declared, read, fallback=fallback)
        except FeatureNotFoundError as error:
            raise DependencyError(
                f"Feature '{feature.key}' needs its upstream '{upstream.key}', which is missing. {error}"
            ) from error
    return rows


def _upstream_versions(store: Backend, feature: Declared, *, fallback: bool) -> dict[FeatureKey, pl.DataFrame]:
    """Return the ids and versions of the latest rows of every upstream feature, read at once."""
    ids = feature.spec.id_columns
    read = Read(columns=(*ids, DATA_VERSION), latest_only=True)
    rows = _scan_upstream(store, feature, read, fallback=fallback)
    graph, spec = feature.graph, feature.spec
    versions = [upstream_versions(graph, spec, graph.specs[key], frame) for key, frame in rows.items()]
    return dict(zip(rows, pl.collect_all(versions), strict=True))


def _all_samples(upstream: Mapping[FeatureKey, pl.DataFrame], spec: FeatureSpec) -> pl.DataFrame:
    """Return every sample that any upstream feature has, in the order of first appearance."""
    first, *rest = [frame.select(spec.id_columns) for frame in upstream.values()]
    if all(other.equals(first) for other in rest):
        return first
    aligned, others = _same_id_types(first, rest, spec)
    return pl.concat([aligned, *others]).unique(maintain_order=True)


def _with_versions(
    feature: Declared, samples: pl.DataFrame, upstream: Mapping[FeatureKey, pl.DataFrame], algorithm: str
) -> pl.DataFrame:
    """Return the samples with their data versions, or say which of them lack an upstream row."""
    graph, spec = feature.graph, feature.spec
    aligned, frames = _same_id_types(samples.select(spec.id_columns), list(upstream.values()), spec)
    joined = beside_upstream(aligned, dict(zip(upstream, frames, strict=True)), id_columns=spec.id_columns)
    for key in upstream:
        missing = joined.filter(is_missing(graph, spec, graph.specs[key])).select(spec.id_columns)
        if missing.height:
            raise DependencyError(
                f"{missing.height} of {samples.height} samples of feature '{spec.key}' have no row in its "
                f"upstream '{key}': {show_samples(missing)}. Write those rows first, or leave these samples out."
            )
    return samples.with_columns(data_versions(joined, graph, spec, algorithm=algorithm))


def _same_id_types(
    samples: pl.DataFrame, others: Sequence[pl.DataFrame], spec: FeatureSpec
) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Return all frames with id columns of one type each, so that they can be joined.

    Raises:
        MetadataSchemaError: There is no such type.
    """
    frames = [samples, *others]
    for name in spec.id_columns:
        target = frames[0].schema[name]
        for other in others:
            common = widen(target, other.schema[name])
            if common is None:
                raise MetadataSchemaError(
                    f"The id column '{name}' of feature '{spec.key}' is {target} here and {other.schema[name]} in the "
                    "rows to join with; cast it."
                )
            target = common
        frames = [f if f.schema[name] == target else f.with_columns(pl.col(name).cast(target)) for f in frames]
    return frames[0], frames[1:]
