"""Which samples should there be, where the caller does not say?

Those of the upstream features that are required, and of which a row makes one sample or a part of one. Optional ones
count only where no other is upstream. Where a row makes many samples, nobody but the code that makes them knows which;
then the upstream rows stand for what is made from them, and are called parents.

A row that the `where` of a required upstream feature excludes makes no sample, whatever other upstream features hold.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain

import polars as pl

from metaxy_fs.errors import DependencyError
from metaxy_fs.spec import FeatureGraph, FeatureKey, FeatureSpec
from metaxy_fs.spec.lineage import joined_by
from metaxy_fs.versioning.columns import present_column


@dataclass(frozen=True)
class SampleSource:
    """Where the samples of a feature come from by default.

    Attributes:
        upstream: The features whose rows name them.
        id_columns: What names a sample; or a parent, from which many samples are made.
    """

    upstream: tuple[FeatureKey, ...]
    id_columns: tuple[str, ...]


def sample_source(graph: FeatureGraph, spec: FeatureSpec) -> SampleSource:
    """Return where the samples of a feature with upstream features come from.

    Raises:
        DependencyError: No upstream feature tells which samples there should be.
    """
    upstream = graph.upstream(spec)
    required = [above for above in upstream if not spec.dep(above.key).optional]
    telling = required or upstream
    makers = [above for above in telling if spec.dep(above.key).relation != "expansion"]
    if makers:
        return SampleSource(_keys(makers), tuple(spec.id_columns))
    ids = joined_by(spec, telling[0])
    for above in chain(telling, upstream):
        found = joined_by(spec, above)
        if not set(found) <= set(ids) or (above in telling and found != ids):
            raise DependencyError(
                f"Which samples of feature '{spec.key}' there should be cannot be told: its upstream "
                f"'{telling[0].key}' names what they are made from by {list(ids)}, its upstream '{above.key}' by "
                f"{list(found)}. Give them: resolve_update(feature, samples=...) with {list(spec.id_columns)}."
            )
    return SampleSource(_keys(telling), ids)


def present_samples(upstream: FeatureKey, versions: pl.LazyFrame, *, id_columns: Iterable[str]) -> pl.LazyFrame:
    """Return the samples, or parents, that an upstream feature names.

    Args:
        upstream: The feature.
        versions: What `upstream_versions` gave of it.
        id_columns: What names a sample, or a parent.
    """
    return versions.filter(present_column(upstream)).select(*id_columns)


def without_excluded(
    samples: pl.LazyFrame, graph: FeatureGraph, spec: FeatureSpec, versions: Mapping[FeatureKey, pl.LazyFrame]
) -> pl.LazyFrame:
    """Return the samples, or parents, that the `where` of no required upstream feature excludes.

    Args:
        samples: Their ids.
        graph: Where the feature is declared.
        spec: The feature.
        versions: What `upstream_versions` gave, by feature, with ids of the same types.
    """
    for upstream in graph.upstream(spec):
        dep = spec.dep(upstream.key)
        if dep.where is not None and not dep.optional:
            ids = list(joined_by(spec, upstream))
            excluded = versions[upstream.key].filter(~pl.col(present_column(upstream.key))).select(ids)
            samples = samples.join(excluded, on=ids, how="anti", maintain_order="left")
    return samples


def _keys(features: Iterable[FeatureSpec]) -> tuple[FeatureKey, ...]:
    return tuple(feature.key for feature in features)
