"""Find what has to be computed of the rows of a group, or of what these are made from.

A group stands at the end of its branch in an explanation: what each of its rows is made from is not shown. Whether
these have to be computed is asked here as an increment asks it, from feature to feature up to the roots.
"""

from collections.abc import Iterator, Mapping

import msgspec
import polars as pl

from metaxy_fs.errors import DependencyError, FeatureNotFoundError, MetadataSchemaError, SpecError
from metaxy_fs.insight.ancestry import AncestorRows, ancestry
from metaxy_fs.insight.explanation import Explanation
from metaxy_fs.insight.provenance import explain_sample
from metaxy_fs.insight.stored import StoredVersions
from metaxy_fs.log import EVERYTHING, IdRange
from metaxy_fs.metadata_store.ancestors import ancestor_versions
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.chain import chain, chain_algorithm, layered, report_corruption
from metaxy_fs.metadata_store.comparing import stored_layers
from metaxy_fs.metadata_store.features import Declared, about_feature
from metaxy_fs.metadata_store.frames import show_samples
from metaxy_fs.metadata_store.read import Read, find_scan, latest
from metaxy_fs.metadata_store.resolve import increment_within
from metaxy_fs.spec import FeatureGraph, FeatureSpec
from metaxy_fs.spec.lineage import join_columns, stored_names
from metaxy_fs.versioning.columns import PARTITION, RETIRED
from metaxy_fs.versioning.definition import definition_version
from metaxy_fs.versioning.preimages import sample_source


def pending_rows(store: Backend, graph: FeatureGraph, rows: AncestorRows) -> str:
    """Return what of a group has to be computed before its rows are what they should be, in words; nothing if none.

    Args:
        store: The first of the chain.
        graph: Where the feature is declared.
        rows: The group.
    """
    wanted = pl.DataFrame({column: [value] for column, value in rows.values.items()})
    for spec, found in _pending(store, graph, rows.spec, wanted):
        shown = f"{found.height} of '{spec.key}': {show_samples(found)}"
        return f"{shown} {'has' if found.height == 1 else 'have'} to be computed"
    return ""


def _pending(
    store: Backend, graph: FeatureGraph, spec: FeatureSpec, wanted: pl.DataFrame
) -> Iterator[tuple[FeatureSpec, pl.DataFrame]]:
    """Yield the samples, or parents, that are to be computed, or wait, of those rows that have some values.

    Those of the feature come first, and then those of the features that it is made from.
    """
    if spec.is_root:
        return
    try:
        samples = _samples(store, Declared(spec, graph), wanted)
        found = _of_feature(store, Declared(spec, graph), wanted, samples)
    except (DependencyError, FeatureNotFoundError):  # nothing tells which samples there should be
        return
    if found.height:
        yield spec, found
    for above in graph.upstream(spec):
        dep, ids = spec.dep(above.key), join_columns(spec, above)
        known = wanted if set(wanted.columns) <= set(ids) else samples.select(ids).unique()
        renamed = dict(zip(known.columns, stored_names(dep, known.columns), strict=True))
        yield from _pending(store, graph, above, known.rename(renamed))


def _samples(store: Backend, feature: Declared, wanted: pl.DataFrame) -> pl.DataFrame:
    """Return the ids of the stored rows that have the wanted values."""
    ids = list(feature.spec.id_columns)
    read = Read(columns=tuple(dict.fromkeys((*ids, *wanted.columns))), latest_only=True)
    scan = find_scan(store, feature, read, fallback=True)
    id_range = _range(wanted, ids[0])
    rows = latest(scan, id_columns=ids, column=ids[0], within=id_range)
    return rows.join(_cast(wanted, rows.collect_schema()).lazy(), on=wanted.columns, how="semi").select(ids).collect()


def _of_feature(store: Backend, feature: Declared, wanted: pl.DataFrame, samples: pl.DataFrame) -> pl.DataFrame:
    """Return the ids of those that are to be computed, or wait."""
    ids = list(sample_source(feature.graph, feature.spec).id_columns)
    increments = increment_within(store, feature, _range(wanted, ids[0]))
    several = [
        frame.select(ids) for increment in increments for frame in (increment.new, increment.stale, increment.waiting)
    ]
    found = pl.concat(several)
    known = wanted if set(wanted.columns) <= set(ids) else samples.select(ids)
    return found.join(_cast(known, found.schema), on=known.columns, how="semi", maintain_order="left")


def _range(wanted: pl.DataFrame, column: str) -> IdRange:
    """Return the range of a column that holds the wanted values, where it can be said."""
    if column not in wanted.columns or wanted.is_empty():
        return EVERYTHING
    low, high = wanted.select(pl.col(column).min().alias("low"), pl.col(column).max().alias("high")).row(0)
    if isinstance(low, int) and not isinstance(low, bool):
        return IdRange(low, high + 1)
    return IdRange(low, high + "\0") if isinstance(low, str) else EVERYTHING


def _cast(wanted: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    return wanted.with_columns(pl.col(name).cast(schema[name], strict=False) for name in wanted.columns)


@about_feature
@report_corruption
def explain(store: Backend, feature: Declared, sample_id: object) -> Explanation:
    """Return why a sample of a feature has its versions."""
    sample = _by_column(sample_id, feature.spec)
    algorithm = chain_algorithm(store, fallback=True)
    ancestors = ancestry(feature.graph, feature.spec, sample)
    versions = {rows.ref: _versions(store, feature.graph, rows, algorithm=algorithm) for rows in ancestors}
    if not any(one.history for one in versions.values()):
        raise _unknown_sample(store, feature.spec, sample)
    return explain_sample(feature.graph, ancestors, versions=versions, algorithm=algorithm)


def _versions(store: Backend, graph: FeatureGraph, rows: AncestorRows, *, algorithm: str) -> StoredVersions:
    """Return what the chain holds of some rows; of a group also what of it has to be computed."""
    versions = ancestor_versions(store, graph, rows, algorithm=algorithm)
    is_current = rows.is_group and versions.current is not None
    return msgspec.structs.replace(versions, pending=pending_rows(store, graph, rows)) if is_current else versions


def _by_column(sample_id: object, spec: FeatureSpec) -> dict[str, object]:
    """Return the value of each id column, in the order of declaration."""
    columns = list(spec.id_columns)
    if isinstance(sample_id, Mapping):
        given = list(sample_id)
        values = [sample_id.get(column) for column in columns]
        fits = sorted(map(str, given)) == sorted(columns)
    else:
        values = list(sample_id) if isinstance(sample_id, tuple) else [sample_id]
        fits = len(values) == len(columns)
    if not fits:
        raise MetadataSchemaError(
            f"Feature '{spec.key}' names its samples by {columns}; got {sample_id!r}. Give a value for each: one "
            "alone for one column, a tuple in that order, or a mapping of column to value."
        )
    if None in values:
        raise MetadataSchemaError(f"An id of feature '{spec.key}' is never null, got {sample_id!r}.")
    return dict(zip(columns, values, strict=True))


def _unknown_sample(store: Backend, spec: FeatureSpec, sample: Mapping[str, object]) -> Exception:
    shown = ", ".join(f"{column}={value!r}" for column, value in sample.items())
    searched = ", ".join(candidate.location for candidate in chain(store, fallback=True))
    if spec.is_root:
        return FeatureNotFoundError(
            f"Feature '{spec.key}' has no row of the sample {shown}, under no data version; searched {searched}. "
            "Write it first, or correct the id.",
            feature=spec.key.dotted,
            root=store.location,
            roots=[each.location for each in chain(store, fallback=True)],
        )
    return DependencyError(
        f"Neither feature '{spec.key}' nor any that it is made from has a row of the sample {shown}; searched "
        f"{searched}. Write it to the root features first, or correct the id.",
        feature=spec.key.dotted,
        root=store.location,
    )


_SCHEMA = {"feature": pl.String(), "containers": pl.List(pl.String()), "stale": pl.Int64(), "samples": pl.Int64()}


@about_feature
@report_corruption
def impact(store: Backend, feature: Declared, code_versions: Mapping[str, int | str]) -> pl.DataFrame:
    """Return, for each feature that a change of code versions affects, how many of its stored samples become stale."""
    after = _changed_graph(feature, code_versions)
    rows = []
    for spec in list(feature.graph.specs.values()):
        changed = _changed_containers(feature.graph, after, spec)
        if changed:
            stale, samples = _count(store, Declared(spec, after), changed)
            rows.append((str(spec.key), changed, stale, samples))
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


def _changed_graph(feature: Declared, code_versions: Mapping[str, int | str]) -> FeatureGraph:
    """Return the graph as it would be."""
    spec = feature.spec
    if not isinstance(code_versions, Mapping):
        raise TypeError(f"code_versions maps names of containers to code versions, got {code_versions!r}.")
    unknown = sorted(set(map(str, code_versions)).difference(spec.container_names))
    if unknown:
        raise SpecError(
            f"Feature '{spec.key}' has no container {', '.join(map(repr, unknown))}; it has "
            f"{list(spec.container_names)}."
        )
    given = {str(name): version for name, version in code_versions.items()}
    containers = [
        msgspec.structs.replace(container, code_version=given.get(str(container.key), container.code_version))
        for container in spec.containers
    ]
    changed = msgspec.structs.replace(spec, containers=containers)
    return FeatureGraph.from_specs({**feature.graph.specs, spec.key: changed}.values())


def _changed_containers(before: FeatureGraph, after: FeatureGraph, spec: FeatureSpec) -> list[str]:
    old, new = (definition_version(graph, spec.key).containers for graph in (before, after))
    return [name for name in spec.container_names if old[name] != new[name]]


def _count(store: Backend, feature: Declared, changed: list[str]) -> tuple[int, int]:
    """Return how many stored samples would be stale, and how many there are, where an increment would compare them."""
    ids = list(feature.spec.id_columns)
    found = stored_layers(store, feature, columns=frozenset((*ids, RETIRED)))
    current = [(one.location, one.current) for one in found if one.current is not None]
    others = [(one.location, one.others) for one in found if one.others is not None]
    # Those of the current partitions come last, as the nearest do: a sample that is in one is done.
    scans = [*current, *others]
    if not scans:
        return 0, 0
    counted = latest(layered(scans), id_columns=ids).group_by(PARTITION).len().collect()
    expected = feature.definition.containers
    definitions = [definition for _, scan in scans for definition in scan.definitions]
    elsewhere = [d.partition for d in definitions if any(d.containers.get(c) != expected[c] for c in changed)]
    return _total(counted.filter(pl.col(PARTITION).is_in(elsewhere))), _total(counted)


def _total(counted: pl.DataFrame) -> int:
    return int(counted.get_column("len").sum())
