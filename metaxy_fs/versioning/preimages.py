"""Join the expected samples of a feature with the preimages of their versions.

Those of the upstream features that are required, and of which a row makes one sample or a part of one. Optional ones
count only where no other is upstream. Where a row makes many samples, nobody but the code that makes them knows which;
then the upstream rows stand for what is made from them, and are called parents.

A row of a required upstream feature that is retired, or that the `where` excludes, makes no sample, whatever other
upstream features hold: what was made from it is then orphaned, and does not wait forever.

The version of container `c` with code version `v` is the sha256, in hex, of the text

    c|v|U1/x|<x of U1's row>|U1/y|<...>|U2/z|<...>

with upstream features in the order of their key strings and containers within them likewise; for example
`default|1|video_processing/audio|def456|video_processing/frames|abc123`. Where several upstream rows make one sample,
the digest of the group stands for them (see `metaxy_fs.versioning.relations`); where an optional one is missing,
nothing does, as in `U1/x||U1/y|`: no version is empty. Polars computes it, with polars-hash. A root may record another
algorithm than sha256, see `metaxy_fs.hashing`.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain

import polars as pl

from metaxy_fs.errors import DependencyError
from metaxy_fs.hashing import hash_string
from metaxy_fs.spec import ContainerSpec, FeatureDep, FeatureGraph, FeatureKey, FeatureSpec
from metaxy_fs.spec.deps import carried_names
from metaxy_fs.spec.specs import join_columns
from metaxy_fs.versioning.columns import DATA_VERSION, RESERVED_PREFIX


def version_column(feature: FeatureKey, container: str) -> str:
    """Return the column that holds what stands for an upstream container in a preimage, beside each sample."""
    return f"{RESERVED_PREFIX}version/{feature}/{container}"


def present_column(feature: FeatureKey) -> str:
    """Return the column that says whether a sample has a row in an upstream feature."""
    return f"{RESERVED_PREFIX}present/{feature}"


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
    ids = join_columns(spec, telling[0])
    for above in chain(telling, upstream):
        found = join_columns(spec, above)
        if not set(found) <= set(ids) or (above in telling and found != ids):
            raise DependencyError(
                f"Which samples of feature '{spec.key}' there should be cannot be told: its upstream "
                f"'{telling[0].key}' names what they are made from by {list(ids)}, its upstream '{above.key}' by "
                f"{list(found)}. Give them: samples=... with {list(spec.id_columns)}.",
                feature=spec.key.dotted,
                upstream=above.key.dotted,
            )
    return SampleSource(_keys(telling), ids)


def present_samples(upstream: FeatureKey, versions: pl.LazyFrame, *, id_columns: Iterable[str]) -> pl.LazyFrame:
    """Return the samples, or parents, that an upstream feature names, from what `upstream_versions` gave of it."""
    return versions.filter(present_column(upstream)).select(*id_columns)


def without_excluded(
    samples: pl.LazyFrame, graph: FeatureGraph, spec: FeatureSpec, versions: Mapping[FeatureKey, pl.DataFrame]
) -> pl.LazyFrame:
    """Return the samples, or parents, whose required upstream rows are neither retired nor excluded by a `where`.

    Args:
        samples: Their ids.
        graph: Where the feature is declared.
        spec: The feature.
        versions: What `upstream_versions` gave, by feature, with ids of the same types.
    """
    for upstream in graph.upstream(spec):
        if spec.dep(upstream.key).optional:
            continue
        ids = list(join_columns(spec, upstream))
        excluded = versions[upstream.key].filter(~pl.col(present_column(upstream.key))).select(ids)
        if excluded.height:
            samples = samples.join(excluded.lazy(), on=ids, how="anti", maintain_order="left")
    return samples


def _keys(features: Iterable[FeatureSpec]) -> tuple[FeatureKey, ...]:
    return tuple(feature.key for feature in features)


_SLICE_ROWS = 2**17


def needed_containers(graph: FeatureGraph, spec: FeatureSpec, upstream: FeatureSpec) -> list[str]:
    """Return the names of an upstream feature's containers that any container of a feature is made from, sorted."""
    pairs = [pair for container in spec.containers for pair in graph.upstream_containers(spec, container)]
    return sorted({str(container.key) for feature, container in pairs if feature.key == upstream.key})


def beside_upstream(
    samples: pl.DataFrame,
    graph: FeatureGraph,
    spec: FeatureSpec,
    upstream: Mapping[FeatureKey, pl.DataFrame],
    *,
    carried: Collection[str] = (),
) -> pl.DataFrame:
    """Return the samples, in their order, each beside the versions of its upstream rows; null where a row is missing.

    Args:
        samples: One row a sample, the id columns alone; or those of what several samples are made from.
        graph: Where the feature is declared.
        spec: The feature.
        upstream: What `upstream_versions` gave, by feature, with ids of the same types; a feature that is not there
            has no rows.
        carried: The columns that are carried, of which those of a feature without rows are null.
    """
    joined = samples
    for above in graph.upstream(spec):
        if above.key in upstream:
            joined = _beside(joined, samples, upstream[above.key], join_columns(spec, above))
        else:
            columns = [version_column(above.key, name) for name in needed_containers(graph, spec, above)]
            nothing = [pl.lit(None, dtype=pl.String).alias(name) for name in columns]
            unknown = carried_types_without_rows(spec.dep(above.key)).items()
            nothing += [pl.lit(None, dtype=dtype).alias(name) for name, dtype in unknown if name in carried]
            joined = joined.with_columns(pl.lit(value=False).alias(present_column(above.key)), *nothing)
    return joined


def carried_types_without_rows(dep: FeatureDep) -> dict[str, pl.DataType]:
    """Return the types of what a dep carries, as far as they are known while its upstream feature has no rows."""
    return dict.fromkeys(carried_names(dep), pl.List(pl.Null()) if dep.relation == "aggregation" else pl.Null())


def is_missing(graph: FeatureGraph, spec: FeatureSpec, upstream: FeatureSpec) -> pl.Expr:
    """Whether a joined sample lacks a row that it needs, or has one that lacks a version, which no store writes."""
    names = [version_column(upstream.key, name) for name in needed_containers(graph, spec, upstream)]
    present = _is_present(upstream.key)
    is_null = pl.any_horizontal(pl.lit(value=False), *(pl.col(name).is_null() for name in names))
    return present & is_null if spec.dep(upstream.key).optional else ~present | is_null


def data_versions(joined: pl.DataFrame, graph: FeatureGraph, spec: FeatureSpec, *, algorithm: str) -> pl.Series:
    """Return the `data_version` of joined samples: a struct of one string of hex digits for each container."""
    strings = {str(container.key): _preimage(graph, spec, container) for container in spec.containers}
    versions = pl.struct(hash_string(text, algorithm=algorithm).alias(name) for name, text in strings.items())
    joined = _without_empty_chunks(joined)
    pieces = joined.iter_slices(_SLICE_ROWS) if joined.height else [joined]
    # Slices run side by side, and the preimages of few of them, which are longer than the versions, exist at once.
    plans = [piece.lazy().with_columns(versions.alias(DATA_VERSION)).select(DATA_VERSION) for piece in pieces]
    return pl.concat(pl.collect_all(plans)).get_column(DATA_VERSION)


def _beside(
    joined: pl.DataFrame, samples: pl.DataFrame, versions: pl.DataFrame, id_columns: tuple[str, ...]
) -> pl.DataFrame:
    if versions.select(id_columns).equals(samples):  # the same samples in the same order need no join
        return joined.hstack(versions.drop(id_columns))
    return joined.join(versions, on=list(id_columns), how="left", maintain_order="left")


def _preimage(graph: FeatureGraph, spec: FeatureSpec, container: ContainerSpec) -> pl.Expr:
    """Return the text that one container's version is the digest of."""
    template = _escaped(f"{container.key}|{container.code_version}")
    versions: list[pl.Expr] = []
    for upstream, upstream_container in graph.upstream_containers(spec, container):
        name = str(upstream_container.key)
        version = pl.col(version_column(upstream.key, name))
        if spec.dep(upstream.key).optional:
            version = pl.when(_is_present(upstream.key)).then(version).otherwise(pl.lit(""))
        template += _escaped(f"|{upstream.key.string}/{name}|") + "{}"
        versions.append(version)
    return pl.format(template, *versions)


def _without_empty_chunks(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the same rows; `pl.format` panics on a column that has an empty chunk beside others."""
    return frame.rechunk() if any(0 in column.chunk_lengths() for column in frame.get_columns()) else frame


def _escaped(text: str) -> str:
    """Return a string as a template of `pl.format` spells it, which takes two thirds of the time of `pl.concat_str`."""
    return text.replace("{", "{{").replace("}", "}}")


def _is_present(upstream: FeatureKey) -> pl.Expr:
    return pl.col(present_column(upstream)).fill_null(value=False)
