"""Find the declaration of the feature that an argument means."""

from collections.abc import Iterable

import msgspec

from metaxy_fs.errors import SpecError
from metaxy_fs.forks import refuse_lost_threads
from metaxy_fs.spec import Feature, FeatureGraph, FeatureKey, FeatureSpec
from metaxy_fs.spec.feature import without_spec
from metaxy_fs.versioning.definition import DefinitionVersion, definition_version

FeatureLike = type[Feature] | FeatureKey
"""What stores take as a feature: a class, or a key that is looked up in the active graph."""


class Declared(msgspec.Struct, frozen=True):
    """A feature whose declaration is known, and the frozen graph that it is part of."""

    spec: FeatureSpec
    graph: FeatureGraph

    @property
    def key(self) -> FeatureKey:
        return self.spec.key

    @property
    def definition(self) -> DefinitionVersion:
        return definition_version(self.graph, self.spec.key)


def find_declaration(feature: FeatureLike) -> Declared | FeatureKey:
    """Return the declaration of a feature, or the bare key if the active graph holds none.

    Raises:
        TypeError: The argument is neither a class nor a key.
        SpecError: It was declared again since, or no longer fits what was declared again upstream.
    """
    if isinstance(feature, FeatureKey):
        graph = FeatureGraph.active().frozen()
        spec = graph.find(feature)
        return feature if spec is None else Declared(spec, graph)
    if isinstance(feature, type) and issubclass(feature, Feature) and feature is not Feature:
        return _of_class(feature)
    raise TypeError(f"A feature is a class derived from Feature, or a FeatureKey; got {feature!r}.")


def key_of(feature: FeatureLike) -> FeatureKey:
    """Return the key of a feature, declared or not.

    Raises:
        TypeError: The argument is neither a class nor a key.
    """
    found = find_declaration(feature)
    return found if isinstance(found, FeatureKey) else found.key


def keys_of(features: object) -> list[FeatureKey]:
    """Return the keys of several features, declared or not.

    Raises:
        TypeError: The argument is none, or something in it is neither a class nor a key.
    """
    if isinstance(features, str | type) or not isinstance(features, Iterable):
        raise TypeError(f"features takes a list of classes derived from Feature, or of keys; got {features!r}.")
    return [key_of(feature) for feature in features]


def require_declaration(feature: FeatureLike) -> Declared:
    """Return the declaration of a feature.

    Raises:
        SpecError: The active graph does not hold the key.
        ForkedProcessError: What is asked for would hang in this process.
    """
    refuse_lost_threads()
    found = find_declaration(feature)
    if isinstance(found, FeatureKey):
        raise SpecError(
            f"The active graph has no feature {found!r}, and what is asked for needs its declaration; pass the "
            "Feature class, or make its graph active: `with graph.use():`."
        )
    return found


def _of_class(feature: type[Feature]) -> Declared:
    if "spec" not in vars(feature):
        raise SpecError(without_spec(feature))
    graph = feature.graph.frozen()
    if graph.find(feature.spec.key) != feature.spec:
        raise SpecError(
            f"The class {feature.__module__}.{feature.__qualname__} was declared again with another spec, and this is "
            "the earlier one. Use the new class: import it again, or run again what took the earlier one."
        )
    return Declared(feature.spec, graph)
