"""The data version that the definition of a feature has.

The version of a container's definition is the sha256, in hex, of the text

    F/c|v|U1/x|<definition version of U1/x>|U1/y|<...>|U2/z|<...>

for container `c` of feature `F` with code version `v`, made from containers `x`, `y`, `z` of features `U1`, `U2`;
features come in the order of their key strings, containers within them likewise. Where `c` is versioned by its content,
`|content` follows `v`, which no other part can be: each of them has a `/` or `?`. Where the dep on `U1` says how rows
are related to samples, `|U1?|<digest>` follows the containers of `U1`: the sha256 of its `relation`, `optional` and
`rename` as JSON, with the keys in order, without blanks and without what is left to the default, such as
`{"optional":true,"rename":{"name":"sample_id"}}`. Of `rename` that counts which says how ids are called: of `U1`, or of
`F` after the renaming. Its `where` selects samples, its `columns` are carried beside them, and another name of another
column is a name: none of this is a part of what a sample is made from.

The version of a feature's definition is the sha256 of `c|<definition version of c>` of its containers, sorted and
joined by `|`. So a change of any code version upstream, or of what any dep says, changes every definition that is made
from it.
"""

import hashlib
import json
from collections.abc import Mapping
from itertools import groupby
from weakref import WeakKeyDictionary

import msgspec

from metaxy_fs.spec import ContainerSpec, FeatureDep, FeatureGraph, FeatureKey, FeatureSpec

PARTITION_DIGITS = 16


class DefinitionVersion(msgspec.Struct, frozen=True):
    """The data version of a feature's definition, and those of its containers by name; each 64 hex digits."""

    version: str
    containers: dict[str, str]

    @property
    def partition(self) -> str:
        """The digits that name the feature's partition."""
        return self.version[:PARTITION_DIGITS]


_VERSIONS: WeakKeyDictionary[FeatureGraph, dict[FeatureKey, DefinitionVersion]] = WeakKeyDictionary()
"""What is known of each frozen graph; its features never change, so neither do their versions."""


def definition_version(graph: FeatureGraph, key: FeatureKey) -> DefinitionVersion:
    """Return the data version of the definition of a feature that the graph holds.

    Examples:
        >>> from metaxy_fs import FeatureGraph, FeatureKey, FeatureSpec
        >>> graph = FeatureGraph.from_specs([FeatureSpec(key=FeatureKey(["video"]))])
        >>> definition_version(graph, FeatureKey(["video"])).partition
        '7f95270d13577473'
    """
    graph = graph.frozen()
    known = _VERSIONS.setdefault(graph, {})
    if key not in known:
        # Upstream first, so a deep graph needs no deep recursion.
        for candidate, spec in graph.specs.items():
            if candidate not in known:
                known[candidate] = definition_made_from(graph, spec, known)
    return known[key]


def definition_made_from(
    graph: FeatureGraph, spec: FeatureSpec, known: Mapping[FeatureKey, DefinitionVersion]
) -> DefinitionVersion:
    """Return the data version of the definition of a feature whose upstream definitions have some versions.

    Args:
        graph: Where the feature is declared.
        spec: The feature.
        known: The versions of its upstream features.
    """
    containers = {str(container.key): _of_container(graph, spec, container, known) for container in spec.containers}
    text = "|".join(f"{name}|{containers[name]}" for name in sorted(containers))
    return DefinitionVersion(_sha256(text), containers)


def _of_container(
    graph: FeatureGraph, spec: FeatureSpec, container: ContainerSpec, known: Mapping[FeatureKey, DefinitionVersion]
) -> str:
    parts = [f"{spec.key.string}/{container.key}", *own_words(container)]
    made_from = graph.upstream_containers(spec, container)
    for key, containers in groupby(made_from, key=lambda pair: pair[0].key):
        for _, upstream_container in containers:
            name = str(upstream_container.key)
            parts += [f"{key.string}/{name}", known[key].containers[name]]
        said = dep_digest(graph, spec, key)
        parts += [f"{key.string}?", said] if said else []
    return _sha256("|".join(parts))


def own_words(container: ContainerSpec, *, code_version: int | str | None = None) -> list[str]:
    """Return what a container says of itself in a definition: its code version, and `content` if that versions it.

    Args:
        container: The container.
        code_version: The code version to take in place of its own.
    """
    code = container.code_version if code_version is None else code_version
    return [str(code), *([container.versioned_by] if container.versioned_by != "provenance" else [])]


def dep_digest(graph: FeatureGraph, spec: FeatureSpec, upstream: FeatureKey) -> str:
    """Return the digest of how a feature relates upstream rows to samples; nothing where a dep says no more than a key.

    Args:
        graph: Where both features are declared.
        spec: The feature.
        upstream: One of its upstream features.
    """
    dep = spec.dep(upstream)
    theirs, own = graph.specs[upstream].id_columns, spec.id_columns
    of_ids = {old: new for old, new in dep.rename.items() if old in theirs or new in own}
    related = FeatureDep(key=upstream, relation=dep.relation, optional=dep.optional, rename=of_ids)
    declared = {name: value for name, value in msgspec.to_builtins(related).items() if name != "key"}
    return _sha256(json.dumps(declared, sort_keys=True, separators=(",", ":"), ensure_ascii=False)) if declared else ""


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
