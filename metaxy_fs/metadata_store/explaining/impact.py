"""Count what would have to be computed again if code versions changed."""

from collections.abc import Mapping

import msgspec
import polars as pl

from metaxy_fs.errors import SpecError
from metaxy_fs.metadata_store.arguments.features import Declared
from metaxy_fs.metadata_store.backends.backend import Backend
from metaxy_fs.metadata_store.backends.damage import names_damage
from metaxy_fs.metadata_store.backends.layered import layered
from metaxy_fs.metadata_store.reading.compared import compared_stores
from metaxy_fs.metadata_store.reading.queries import latest
from metaxy_fs.spec import FeatureGraph, FeatureSpec
from metaxy_fs.versioning.columns import PARTITION, RETIRED
from metaxy_fs.versioning.definition import definition_version

_SCHEMA = {"feature": pl.String(), "containers": pl.List(pl.String()), "stale": pl.Int64(), "samples": pl.Int64()}


@names_damage
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
    found = compared_stores(store, feature, columns=frozenset((*ids, RETIRED)))
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
