"""Which features are there, and what is upstream of what?

A graph only ever holds features whose upstreams it holds too, so it has no cycle by construction;
`FeatureGraph.from_specs` takes declarations in any order and says which of them go in a circle.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from graphlib import CycleError, TopologicalSorter
from types import MappingProxyType
from typing import Self

from metaxy_fs.errors import SpecError
from metaxy_fs.spec.deps import ALL, All, ContainerDep
from metaxy_fs.spec.keys import ContainerKey, FeatureKey
from metaxy_fs.spec.lineage import check_relation
from metaxy_fs.spec.specs import ContainerSpec, FeatureSpec


class FeatureGraph:
    """The features that were declared together.

    Classes derived from `Feature` join the active graph: the one whose `use()` block they are declared in, else one
    graph that all code of the process shares.

    Examples:
        >>> from metaxy_fs import Feature, FeatureKey, FeatureSpec
        >>> graph = FeatureGraph()
        >>> with graph.use():
        ...
        ...     class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]))):
        ...         pass
        >>> list(graph.specs)
        [FeatureKey(['video'])]
    """

    def __init__(self) -> None:
        self._specs: dict[FeatureKey, FeatureSpec] = {}
        self._by_string: dict[str, FeatureKey] = {}

    def __repr__(self) -> str:
        return f"FeatureGraph({', '.join(map(str, self._specs)) or 'empty'})"

    @classmethod
    def from_specs(cls, specs: Iterable[FeatureSpec]) -> Self:
        """Return the graph of the specs, which may come in any order.

        Raises:
            SpecError: The features depend on each other in a circle, or one of them breaks a rule of `add`.
        """
        graph = cls()
        by_key: dict[FeatureKey, FeatureSpec] = {}
        for spec in specs:
            _refuse_second(spec.key, spec.key if spec.key in by_key else None)
            by_key[spec.key] = spec
        for key in _upstream_first(by_key):
            graph.add(by_key[key])
        return graph

    @classmethod
    def active(cls) -> "FeatureGraph":
        """Return the graph that a feature declared here and now would join."""
        return _ACTIVE.get() or _SHARED

    @contextmanager
    def use(self) -> Iterator[Self]:
        """Make this the active graph inside a `with` block, for this thread or task."""
        token = _ACTIVE.set(self)
        try:
            yield self
        finally:
            _ACTIVE.reset(token)

    @property
    def specs(self) -> Mapping[FeatureKey, FeatureSpec]:
        """The declarations, upstream before downstream."""
        return MappingProxyType(self._specs)

    def add(self, spec: FeatureSpec) -> None:
        """Add a feature whose upstream features the graph already holds.

        Raises:
            SpecError: The key (or its string) is taken, an upstream feature or container does not exist, a container
                depends on a feature that is not among the feature's `deps`, or the id columns do not fit the relation
                to an upstream.
        """
        _refuse_second(spec.key, self._by_string.get(str(spec.key)))
        for dep in spec.deps:
            if dep.key == spec.key:
                raise SpecError(f"Feature '{spec.key}' depends on itself.")
            if dep.key not in self._specs:
                raise SpecError(
                    f"Feature '{spec.key}' depends on {dep.key!r}, which this graph does not hold; it holds "
                    f"{sorted(self._specs)}. Declare the upstream feature first."
                )
            check_relation(spec, dep, self._specs[dep.key])
        for container in spec.containers:
            self._check_container(spec, container)
        self._specs[spec.key] = spec
        self._by_string[str(spec.key)] = spec.key

    def upstream(self, spec: FeatureSpec) -> list[FeatureSpec]:
        """Return the features that a feature depends on directly, sorted by key string."""
        return sorted((self._specs[dep.key] for dep in spec.deps), key=lambda upstream: str(upstream.key))

    def upstream_containers(
        self, spec: FeatureSpec, container: ContainerSpec
    ) -> list[tuple[FeatureSpec, ContainerSpec]]:
        """Return what a container is made from, sorted by feature key string, then by container key string."""
        pairs = []
        for upstream, wanted in self._container_deps(spec, container):
            by_key = {candidate.key: candidate for candidate in upstream.containers}
            pairs += [(upstream, by_key[key]) for key in (by_key if wanted == ALL else wanted)]
        return sorted(pairs, key=lambda pair: (str(pair[0].key), str(pair[1].key)))

    def _container_deps(
        self, spec: FeatureSpec, container: ContainerSpec
    ) -> list[tuple[FeatureSpec, Sequence[ContainerKey] | All]]:
        if container.deps == ALL:
            return [(upstream, ALL) for upstream in self.upstream(spec)]
        return [(self._specs[dep.feature_key], dep.containers) for dep in container.deps]

    def _check_container(self, spec: FeatureSpec, container: ContainerSpec) -> None:
        for dep in () if container.deps == ALL else container.deps:
            if dep.feature_key not in {upstream.key for upstream in spec.deps}:
                raise SpecError(
                    f"Container '{container.key}' of feature '{spec.key}' depends on feature '{dep.feature_key}', "
                    f"which is not among the feature's deps {[str(upstream.key) for upstream in spec.deps]}; add a "
                    "FeatureDep for it."
                )
            self._check_containers_exist(spec, container, dep)

    def _check_containers_exist(self, spec: FeatureSpec, container: ContainerSpec, dep: ContainerDep) -> None:
        upstream = self._specs[dep.feature_key]
        for key in () if dep.containers == ALL else dep.containers:
            if key not in {candidate.key for candidate in upstream.containers}:
                raise SpecError(
                    f"Container '{container.key}' of feature '{spec.key}' depends on {key!r} of '{upstream.key}', "
                    f"which has only {[candidate.key for candidate in upstream.containers]}."
                )


_SHARED = FeatureGraph()
_ACTIVE: ContextVar[FeatureGraph | None] = ContextVar("metaxy_fs_active_graph", default=None)


def _refuse_second(key: FeatureKey, held: FeatureKey | None) -> None:
    """Two keys of one string would share the versions and the columns that are named after it."""
    if held is not None:
        raise SpecError(
            f"{key!r} is called '{key}', and this graph already holds a feature of that name, {held!r}. Give one of "
            "them another key, or declare it in a graph of its own: `with FeatureGraph().use():`."
        )


def _upstream_first(specs: Mapping[FeatureKey, FeatureSpec]) -> list[FeatureKey]:
    """Return the keys in an order that `add` accepts; upstreams that are nowhere are left for `add` to name."""
    sorter = TopologicalSorter({key: [d.key for d in spec.deps if d.key in specs] for key, spec in specs.items()})
    try:
        return list(sorter.static_order())
    except CycleError as error:
        circle = " -> ".join(map(str, error.args[1]))
        raise SpecError(f"Features depend on each other in a circle: {circle}. Remove one of these deps.") from error
