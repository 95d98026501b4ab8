"""Which data version does each sample get from its upstream rows?

The version of container `c` with code version `v` is the sha256, in hex, of the text

    c|v|U1/x|<x of U1's row>|U1/y|<...>|U2/z|<...>

with upstream features in the order of their key strings and containers within them likewise; for example
`default|1|video_processing/audio|def456|video_processing/frames|abc123`. Polars computes it, with polars-hash.
"""

from collections.abc import Mapping, Sequence

import polars as pl
import polars_hash as plh

from metaxy_fs.spec import ContainerSpec, FeatureGraph, FeatureKey, FeatureSpec
from metaxy_fs.versioning.columns import DATA_VERSION


def upstream_versions(upstream: FeatureSpec, rows: pl.LazyFrame, *, id_columns: Sequence[str]) -> pl.LazyFrame:
    """Return the id columns, one text column for each container's version, and one that is true: what joins to samples.

    Args:
        upstream: The feature whose rows these are.
        rows: One row a sample, with the id columns and `data_version`.
        id_columns: What to join on.
    """
    versions = [
        pl.col(DATA_VERSION).struct.field(name).alias(_version_column(upstream.key, name))
        for name in upstream.container_names
    ]
    return rows.select(*id_columns, *versions, pl.lit(value=True).alias(_present_column(upstream.key)))


def join_upstream(
    samples: pl.LazyFrame, upstream: Mapping[FeatureKey, pl.LazyFrame], *, id_columns: Sequence[str]
) -> pl.LazyFrame:
    """Return the samples, in their order, each beside the versions of its upstream rows; null where a row is missing.

    Args:
        samples: One row a sample, with the id columns.
        upstream: What `upstream_versions` gave, by feature.
        id_columns: What to join on, of the same types everywhere.
    """
    for versions in upstream.values():
        samples = samples.join(versions, on=list(id_columns), how="left", maintain_order="left")
    return samples


def is_missing(upstream: FeatureSpec) -> pl.Expr:
    """Whether a joined sample has no row in an upstream feature, or one that lacks a version, which no store writes."""
    versions = [_version_column(upstream.key, name) for name in upstream.container_names]
    return pl.any_horizontal(pl.col(_present_column(upstream.key)).is_null(), pl.col(versions).is_null())


def data_version(graph: FeatureGraph, spec: FeatureSpec) -> pl.Expr:
    """Return the `data_version` of joined samples: a struct of one text of 64 hex digits for each container."""
    return pl.struct(_container_version(graph, spec, container) for container in spec.containers).alias(DATA_VERSION)


def _container_version(graph: FeatureGraph, spec: FeatureSpec, container: ContainerSpec) -> pl.Expr:
    """Return one container's version; every constant text between two upstream versions is one literal."""
    constant = f"{container.key}|{container.code_version}"
    pieces: list[pl.Expr] = []
    for upstream, upstream_container in graph.upstream_containers(spec, container):
        name = str(upstream_container.key)
        pieces += [pl.lit(f"{constant}|{upstream.key}/{name}|"), pl.col(_version_column(upstream.key, name))]
        constant = ""
    preimage = plh.concat_str(*(pieces or [pl.lit(constant)]))
    return preimage.chash.sha2_256().alias(str(container.key))


def _version_column(feature: FeatureKey, container: str) -> str:
    return f"_metaxy_version/{feature}/{container}"


def _present_column(feature: FeatureKey) -> str:
    return f"_metaxy_present/{feature}"
