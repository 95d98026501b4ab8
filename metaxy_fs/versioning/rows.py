"""Which data version does each sample get from its upstream rows?

The version of container `c` with code version `v` is the sha256, in hex, of the text

    c|v|U1/x|<x of U1's row>|U1/y|<...>|U2/z|<...>

with upstream features in the order of their key strings and containers within them likewise; for example
`default|1|video_processing/audio|def456|video_processing/frames|abc123`. Polars computes it, with polars-hash.
A root may record another algorithm than sha256, see `metaxy_fs.hashing`.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from metaxy_fs.hashing import hash_text
from metaxy_fs.spec import ContainerSpec, FeatureGraph, FeatureKey, FeatureSpec
from metaxy_fs.versioning.columns import DATA_VERSION

_SLICE_ROWS = 2**17


def upstream_versions(
    graph: FeatureGraph, spec: FeatureSpec, upstream: FeatureSpec, rows: pl.LazyFrame
) -> pl.LazyFrame:
    """Return the id columns and a text column for the version of each upstream container that a feature is made from.

    Args:
        graph: Where both features are declared.
        spec: The feature.
        upstream: One of its upstream features.
        rows: The rows of the latter, one a sample, with the id columns and `data_version`.
    """
    versions = [
        pl.col(DATA_VERSION).struct.field(name).alias(_version_column(upstream.key, name))
        for name in _needed_containers(graph, spec, upstream)
    ]
    return rows.select(*spec.id_columns, *versions)


def beside_upstream(
    samples: pl.DataFrame, upstream: Mapping[FeatureKey, pl.DataFrame], *, id_columns: Sequence[str]
) -> pl.DataFrame:
    """Return the samples, in their order, each beside the versions of its upstream rows; null where a row is missing.

    Args:
        samples: One row a sample, the id columns alone.
        upstream: What `upstream_versions` gave, by feature, with ids of the same types.
        id_columns: What to join on.
    """
    joined = samples
    for key, versions in upstream.items():
        present = pl.lit(value=True).alias(_present_column(key))
        if versions.select(id_columns).equals(samples):  # the same samples in the same order need no join
            joined = joined.hstack(versions.drop(id_columns)).with_columns(present)
        else:
            marked = versions.with_columns(present)
            joined = joined.join(marked, on=list(id_columns), how="left", maintain_order="left")
    return joined


def is_missing(graph: FeatureGraph, spec: FeatureSpec, upstream: FeatureSpec) -> pl.Expr:
    """Whether a joined sample has no row in an upstream feature, or one that lacks a version, which no store writes."""
    versions = [_version_column(upstream.key, name) for name in _needed_containers(graph, spec, upstream)]
    return pl.any_horizontal(pl.col(name).is_null() for name in (_present_column(upstream.key), *versions))


def data_versions(joined: pl.DataFrame, graph: FeatureGraph, spec: FeatureSpec, *, algorithm: str) -> pl.Series:
    """Return the `data_version` of joined samples: a struct of one text of hex digits for each container."""
    texts = {str(container.key): _preimage(graph, spec, container) for container in spec.containers}
    versions = pl.struct(hash_text(text, algorithm=algorithm).alias(name) for name, text in texts.items())
    pieces = joined.iter_slices(_SLICE_ROWS) if joined.height else [joined]
    # Slices run side by side, and the preimages of few of them, which are longer than the versions, exist at once.
    plans = [piece.lazy().with_columns(versions.alias(DATA_VERSION)).select(DATA_VERSION) for piece in pieces]
    return pl.concat(pl.collect_all(plans)).get_column(DATA_VERSION)


def _preimage(graph: FeatureGraph, spec: FeatureSpec, container: ContainerSpec) -> pl.Expr:
    """Return the text that one container's version is the digest of; constants that meet are one literal."""
    constant = f"{container.key}|{container.code_version}"
    pieces: list[pl.Expr] = []
    for upstream, upstream_container in graph.upstream_containers(spec, container):
        name = str(upstream_container.key)
        pieces += [pl.lit(f"{constant}|{upstream.key}/{name}|"), pl.col(_version_column(upstream.key, name))]
        constant = ""
    return pl.concat_str(*(pieces or [pl.lit(constant)]))


def _needed_containers(graph: FeatureGraph, spec: FeatureSpec, upstream: FeatureSpec) -> list[str]:
    """Return the names of an upstream feature's containers that any container of a feature is made from, sorted."""
    pairs = [pair for container in spec.containers for pair in graph.upstream_containers(spec, container)]
    return sorted({str(container.key) for feature, container in pairs if feature.key == upstream.key})


def _version_column(feature: FeatureKey, container: str) -> str:
    return f"_metaxy_version/{feature}/{container}"


def _present_column(feature: FeatureKey) -> str:
    return f"_metaxy_present/{feature}"
