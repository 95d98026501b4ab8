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
    present_column,
)
from metaxy_fs.versioning.increment import Increment, compare, nothing_stored
from metaxy_fs.versioning.lineage import known_rows, stored_columns, upstream_versions
from metaxy_fs.versioning.parents import compare_parents
from metaxy_fs.versioning.rows import beside_upstream, data_versions, is_missing
from metaxy_fs.versioning.samples import present_samples, sample_source, without_excluded


def read_upstream(store: Backend, feature: Declared, *, fallback: bool) -> dict[str, pl.DataFrame]:
    """Return the latest rows of every upstream feature that the feature is made from, by the string of its key."""
    frames = {}
    for upstream in feature.graph.upstream(feature.spec):
        rows = _scan_upstream(store, feature, upstream, Read(latest_only=True), fallback=fallback)
        if rows is not None:
            frames[str(upstream.key)] = known_rows(feature.spec, upstream, rows).collect()
    return frames


def calculate(store: Backend, feature: Declared, sample_df: FrameLike, *, fallback: bool) -> pl.DataFrame:
    """Return samples with the data versions that follow from their upstream rows."""
    _require_upstream(feature.spec)
    samples = samples_to_version(sample_df, feature.spec)
    algorithm = chain_algorithm(store, fallback=fallback)
    return _with_versions(feature, samples, _upstream_versions(store, feature, algorithm, fallback=fallback), algorithm)


def increment(store: Backend, feature: Declared, samples: FrameLike | None, *, stale_if: pl.Expr | None) -> Increment:
    """Return what separates the samples of a feature from what the chain holds of them."""
    ids = feature.spec.id_columns
    parents = _parent_columns(feature) if samples is None else ids
    expected = _expected(store, feature, samples)
    query = Query(key=feature.key, partition=None, columns=_compared_columns(ids, stale_if), mark_partition=True)
    scan = compared_scan(store, feature, query)
    if scan is None:
        return nothing_stored(expected, id_columns=ids)
    require_id_columns(scan, feature.spec)
    aligned, stored = _same_id_types([expected, _latest_stored(scan, feature, stale_if)], feature.spec)
    current, definitions = feature.definition, scan.definitions
    if parents == ids:
        return compare(aligned, stored, id_columns=ids, current=current, definitions=definitions)
    return compare_parents(
        aligned, stored, id_columns=ids, parent_columns=parents, current=current, definitions=definitions
    )


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
    upstream = _upstream_versions(store, feature, algorithm, fallback=True)
    if samples is None:
        return _with_versions(feature, _all_samples(feature, upstream), upstream, algorithm)
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


def _parent_columns(feature: Declared) -> Sequence[str]:
    """Return what names a sample, or a parent where an increment can only tell of these."""
    graph, spec = feature.graph, feature.spec
    return spec.id_columns if spec.is_root else sample_source(graph, spec).id_columns


def _scan_upstream(
    store: Backend, feature: Declared, upstream: FeatureSpec, read: Read, *, fallback: bool
) -> pl.LazyFrame | None:
    """Return the rows of an upstream feature, None if it has no commit and need not have one."""
    try:
        return scan_chain(store, Declared(upstream, feature.graph), read, fallback=fallback)
    except FeatureNotFoundError as error:
        if feature.spec.dep(upstream.key).optional:
            return None
        raise DependencyError(
            f"Feature '{feature.key}' needs its upstream '{upstream.key}', which is missing. {error}"
        ) from error


def _upstream_versions(
    store: Backend, feature: Declared, algorithm: str, *, fallback: bool
) -> dict[FeatureKey, pl.DataFrame]:
    """Return what stands for every upstream feature in the preimages, by sample, read at once."""
    graph, spec = feature.graph, feature.spec
    versions = {}
    for upstream in graph.upstream(spec):
        read = Read(columns=stored_columns(spec, upstream), latest_only=True)
        rows = _scan_upstream(store, feature, upstream, read, fallback=fallback)
        if rows is not None:
            versions[upstream.key] = upstream_versions(graph, spec, upstream, rows, algorithm=algorithm)
    frames = _same_id_types(pl.collect_all(versions.values()), spec)
    for key, frame in zip(versions, frames, strict=True):
        _refuse_rows_without_group(frame, spec, key)
    return dict(zip(versions, frames, strict=True))


def _refuse_rows_without_group(frame: pl.DataFrame, spec: FeatureSpec, upstream: FeatureKey) -> None:
    """Refuse rows of an aggregation that belong to no sample, unless `where` excludes them."""
    ids = [name for name in spec.id_columns if name in frame.columns]
    if spec.dep(upstream).relation == "aggregation" and any(frame.get_column(name).null_count() for name in ids):
        lost = frame.filter(present_column(upstream)).filter(pl.any_horizontal(pl.col(ids).is_null()))
        if lost.height:
            raise MetadataSchemaError(
                f"Feature '{spec.key}' groups the rows of its upstream '{upstream}' by {ids}, and rows of it have null "
                f'there: {show_samples(lost.select(ids))}. Write them with values, or exclude them with where="... IS '
                'NOT NULL".'
            )


def _all_samples(feature: Declared, upstream: Mapping[FeatureKey, pl.DataFrame]) -> pl.DataFrame:
    """Return every sample, or parent, that there should be, in the order of first appearance."""
    graph, spec = feature.graph, feature.spec
    source = sample_source(graph, spec)
    ids = source.id_columns
    frames = {key: frame.lazy() for key, frame in upstream.items()}
    named = [present_samples(key, frames[key], id_columns=ids) for key in source.upstream if key in frames]
    if not named:
        raise DependencyError(
            f"Which samples of feature '{spec.key}' there should be cannot be told: none of the upstream features that "
            f"name them, {[str(key) for key in source.upstream]}, has a commit. Give them: resolve_update(feature, "
            f"samples=...) with {list(spec.id_columns)}."
        )
    first, *rest = pl.collect_all(without_excluded(each, graph, spec, frames) for each in named)
    if all(other.equals(first) for other in rest):
        return first
    return pl.concat([first, *rest]).unique(maintain_order=True)


def _with_versions(
    feature: Declared, samples: pl.DataFrame, upstream: Mapping[FeatureKey, pl.DataFrame], algorithm: str
) -> pl.DataFrame:
    """Return the samples, or parents, with their data versions, or say which of them lack an upstream row."""
    graph, spec = feature.graph, feature.spec
    ids = [name for name in spec.id_columns if name in samples.columns]
    aligned, *frames = _same_id_types([samples.select(ids), *upstream.values()], spec)
    joined = beside_upstream(aligned, graph, spec, dict(zip(upstream, frames, strict=True)))
    for above in graph.upstream(spec):
        missing = joined.filter(is_missing(graph, spec, above)).select(ids)
        if missing.height:
            excluded = "" if spec.dep(above.key).where is None else " that its `where` holds for"
            raise DependencyError(
                f"{missing.height} of {samples.height} samples of feature '{spec.key}' have no row in its "
                f"upstream '{above.key}'{excluded}: {show_samples(missing)}. Write those rows first, or leave these "
                "samples out."
            )
    return samples.with_columns(data_versions(joined, graph, spec, algorithm=algorithm))


def _same_id_types(frames: Sequence[pl.DataFrame], spec: FeatureSpec) -> list[pl.DataFrame]:
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
