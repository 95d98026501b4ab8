"""The versions, computed with nothing but hashlib and dicts.

A graph is a dict, upstream first, from the parts of a feature's key to its containers: each a code version and what it
is made from, as pairs of feature and container. What the deps say beside their keys is a dict from pairs of feature and
upstream feature to the options of a `FeatureDep`. Containers that are versioned by content are pairs of feature and
container in a set.
"""

import hashlib
import json

from metaxy_fs.spec import ContainerDep, ContainerKey, ContainerSpec, FeatureDep, FeatureGraph, FeatureKey, FeatureSpec


def sha256(text):
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


NO_OPTIONS = {}


def definition_versions(graph, deps=NO_OPTIONS, content=(), id_columns=NO_OPTIONS):
    """Return for each feature its version and those of its containers; see `feature_graph`."""
    known = {}
    for feature, containers in graph.items():
        name = "_".join(feature)
        found = {}
        for container, (code, sources) in containers.items():
            text = f"{name}/{container}|{code}" + ("|content" if (feature, container) in content else "")
            in_order = sorted(sources, key=lambda pair: ("_".join(pair[0]), pair[1]))
            for place, (above, part) in enumerate(in_order):
                text += f"|{'_'.join(above)}/{part}|{known[above]['containers'][part]}"
                is_last = all(other != above for other, _ in in_order[place + 1 :])
                ids = [id_columns.get(each, ["sample_id"]) for each in (above, feature)]
                options = options_of_definition(deps.get((feature, above), {}), *ids)
                if is_last and options:
                    said = json.dumps(options, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
                    text += f"|{'_'.join(above)}?|{sha256(said)}"
            found[container] = sha256(text)
        joined = "|".join(f"{container}|{found[container]}" for container in sorted(found))
        known[feature] = {"version": sha256(joined), "containers": found}
    return known


def options_of_definition(options, theirs, own):
    """Return what a dep says of how samples are made, by the ids of its upstream feature and of its own."""
    kept = {key: value for key, value in options.items() if key in ("relation", "optional", "rename")}
    names = {old: new for old, new in kept.pop("rename", {}).items() if old in theirs or new in own}
    return {**kept, **({"rename": names} if names else {})}


def row_version(containers, rows):
    """Return the versions of one sample; `rows` has the versions of its upstream rows by feature."""
    versions = {}
    for container, (code, sources) in containers.items():
        text = f"{container}|{code}"
        for above, part in sorted(sources, key=lambda pair: ("_".join(pair[0]), pair[1])):
            text += f"|{'_'.join(above)}/{part}|{rows[above][part]}"
        versions[container] = sha256(text)
    return versions


def feature_graph(graph, *, implicit=(), deps=NO_OPTIONS, id_columns=NO_OPTIONS, content=()):
    """Return the graph as the library declares it.

    Args:
        graph: As above; a feature's upstream are the features that its containers name.
        implicit: Pairs of feature and container whose sources are all there are, and are left to the default.
        deps: As above.
        id_columns: Those of features that do not have the default ones.
        content: As above.
    """
    return FeatureGraph.from_specs(
        FeatureSpec(
            key=FeatureKey(feature),
            deps=[
                FeatureDep(key=FeatureKey(above), **deps.get((feature, above), {})) for above in upstream_of(containers)
            ],
            id_columns=id_columns.get(feature, ["sample_id"]),
            containers=[
                container_spec(
                    name,
                    code,
                    sources,
                    default=(feature, name) in implicit,
                    versioned_by="content" if (feature, name) in content else "provenance",
                )
                for name, (code, sources) in containers.items()
            ],
        )
        for feature, containers in graph.items()
    )


def upstream_of(containers):
    return list(dict.fromkeys(above for _, sources in containers.values() for above, _ in sources))


def container_spec(name, code, sources, *, default, versioned_by):
    if default:
        return ContainerSpec(key=ContainerKey([name]), code_version=code, versioned_by=versioned_by)
    by_feature = {}
    for above, part in sources:
        by_feature.setdefault(above, []).append(ContainerKey([part]))
    deps = [ContainerDep(feature_key=FeatureKey(above), containers=parts) for above, parts in by_feature.items()]
    return ContainerSpec(key=ContainerKey([name]), code_version=code, deps=deps, versioned_by=versioned_by)
