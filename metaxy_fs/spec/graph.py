"""Hold the features that were declared, and what is upstream of what.

A graph only ever holds features whose upstreams it holds too, so it has no cycle by construction;
`FeatureGraph.from_specs` takes declarations in any order and says which of them go in a circle.

A class that is declared again replaces its spec. What is downstream of it is checked against the new one; what does
not fit is set aside until it is declared again, too, or fits again. A graph that is `frozen` never changes, so what
works with one for long (a buffer, a scan) is not disturbed by a cell that is run meanwhile.

A graph can be read from a store, too. Which declarations those are is the store's to say (see `HoldsFeatures`): nothing
here knows files. `GraphNote` says where what is stored is no graph of one moment.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol, Self
from weakref import WeakValueDictionary

import msgspec

from metaxy_fs import drawing, markup
from metaxy_fs.errors import SpecError
from metaxy_fs.ids import random_token
from metaxy_fs.spec.deps import ALL, SAME_NAME, All
from metaxy_fs.spec.fit import (
    check_containers,
    check_relation,
    find_circle,
    in_a_circle,
    no_longer_fits,
    taken_name,
    upstream_first,
)
from metaxy_fs.spec.keys import ContainerKey, FeatureKey, did_you_mean, named_key
from metaxy_fs.spec.specs import ContainerSpec, FeatureSpec

_OF_STORES = frozenset(
    {
        *("declare", "did_you_mean", "find", "from_fitting", "frozen", "only_upstream", "upstream"),
        "upstream_containers",
        "with_notes",
    }
)
"""What stores and classes ask of a graph, and users do not call."""

_DRAWN = 100
"""The most features of a picture in a notebook."""


class HoldsFeatures(Protocol):
    """What a graph can be read from: any `MetadataStore`."""

    def stored_graph(self) -> "FeatureGraph":
        """Return the graph of the features that are stored, with notes."""


class GraphNote(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be known of one feature of a graph that was read from a store.

    Attributes:
        kind: `"half migrated"`: its last rows were written under upstream definitions that are no longer the last.
            `"disagreement"`: two stores of the chain hold it under two definitions. `"left out"`: the graph lacks it,
            because its declaration does not fit the others, or cannot be read. `"unreadable"`: a declaration is
            damaged; `from_store` raises instead, and the shell says so and shows the rest.
        feature: The feature.
        text: What is so, in a sentence.
        upstream: The features that it comes from, where these could be told.
        stores: The stores that it is about.
    """

    kind: Literal["half migrated", "disagreement", "left out", "unreadable"]
    feature: FeatureKey
    text: str
    upstream: tuple[FeatureKey, ...] = ()
    stores: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


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
        self._declared_by: dict[FeatureKey, str] = {}
        self._set_aside: dict[FeatureKey, _SetAside] = {}
        self._frozen: FeatureGraph | None = None
        self._token: str | None = None
        self._notes: tuple[GraphNote, ...] = ()

    def __dir__(self) -> list[str]:
        # Completion shows what users call, and nothing else.
        return sorted(set(super().__dir__()) - _OF_STORES)

    def __repr__(self) -> str:
        notes = f"; {len(self._notes)} notes" if self._notes else ""
        return f"FeatureGraph({', '.join(map(str, self._specs)) or 'empty'}{notes})"

    def _repr_html_(self) -> str:
        """Draw the features in a notebook, and say what the graph lacks; of many, name them."""
        title = markup.count(len(self._specs), "feature")
        notes = [markup.note(str(note)) for note in self._notes]
        if len(self._specs) > _DRAWN:
            return markup.fragment(title, markup.folded("names", *map(markup.note, map(str, self._specs))), *notes)
        picture = drawing.to_svg(boxes(list(self._specs.values())), title=title)
        return markup.fragment(title, markup.drawing(picture), *notes)

    def __contains__(self, feature: FeatureKey | str) -> bool:
        """Whether the graph holds a feature, by its key or the text of that."""
        return named_key(FeatureKey, feature, what="A feature") in self._specs

    def __getitem__(self, feature: FeatureKey | str) -> FeatureSpec:
        """Return the declaration of a feature: `graph["video/processing"]`.

        Raises:
            SpecError: The graph holds no such feature.
        """
        key = named_key(FeatureKey, feature, what="A feature")
        spec = self.find(key)
        if spec is None:
            notes = "".join(f" It is {note}" for note in self.notes if note.feature == key)
            raise SpecError(
                f"This graph has no feature '{key}'; it has {_listed(self)}.{self.did_you_mean(key)}{notes}"
            )
        return spec

    @classmethod
    def from_specs(cls, specs: Iterable[FeatureSpec]) -> Self:
        """Return the graph of the specs, which may come in any order.

        Raises:
            SpecError: The features depend on each other in a circle, or one of them breaks a rule of `add`.
        """
        graph = cls()
        by_key: dict[FeatureKey, FeatureSpec] = {}
        for spec in specs:
            if spec.key in by_key:
                raise SpecError(taken_name(spec.key, spec.key))
            by_key[spec.key] = spec
        for key in upstream_first(by_key):
            graph.add(by_key[key])
        return graph

    @classmethod
    def from_store(cls, store: HoldsFeatures) -> "FeatureGraph":
        """Return the graph of the features that a chain of stores holds, from what is stored alone; needs no code.

        Each feature is as the nearest store that has it declares it: as the first writer to the partition declared it
        in which the last commit was written. What changes no version, the `where` and `columns` of deps, may have been
        declared otherwise since. The graph is the one of a single moment, and the one that was declared, unless
        `notes` says otherwise.

        Args:
            store: A store, its fallback stores included; or a store at a moment, as `MetadataStore.at` gives it.

        Raises:
            StorageError: Nothing was ever written to any store of the chain, or one could not be asked.

        Examples:
            >>> import polars as pl
            >>> from metaxy_fs import FeatureGraph, FeatureSpec, InMemoryMetadataStore
            >>> store = InMemoryMetadataStore()
            >>> graph = FeatureGraph.from_specs([FeatureSpec(key="video/frames")])
            >>> with graph.use():
            ...     store.retire("video/frames", pl.DataFrame({"sample_id": [1]}))
            >>> FeatureGraph.from_store(store)
            FeatureGraph(video/frames)
        """
        return store.stored_graph()

    @classmethod
    def from_fitting(cls, specs: Sequence[FeatureSpec]) -> "tuple[FeatureGraph, dict[FeatureKey, SpecError]]":
        """Return the graph of those specs that fit each other, and why the others do not.

        Args:
            specs: Of different keys. Of those that depend on each other in a circle the first does not fit.
        """
        by_key, refused = {spec.key: spec for spec in specs}, {}
        while circle := find_circle(by_key):
            first = next(key for key in by_key if key in circle)
            refused[first] = SpecError(in_a_circle(circle))
            del by_key[first]
        fitting = cls()
        for key in upstream_first(by_key):
            try:
                fitting.add(by_key[key])
            except SpecError as error:
                refused[key] = error
        return fitting, refused

    def with_notes(self, notes: Iterable[GraphNote]) -> "FeatureGraph":
        """Return a graph of the same features, with notes."""
        graph = _rebuilt(self._state())
        graph._notes = tuple(notes)  # noqa: SLF001
        return graph

    @property
    def notes(self) -> tuple[GraphNote, ...]:
        """What is to be known of a graph that was read from a store; a graph that was declared has none."""
        return self._notes

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
        with _LOCK:
            known_key = self._by_string.get(spec.key.string)
            if known_key is not None:
                raise SpecError(taken_name(spec.key, known_key, declared_by=self._declared_by.get(known_key)))
            self._add(spec)

    def declare(self, spec: FeatureSpec, *, by: str) -> None:
        """Add the feature of a class, or put it in the place of what the same class declared before.

        A function may make many classes of one name that are all in use, so a class in a function replaces nothing: it
        may only be declared again as it is.

        Args:
            spec: The declaration.
            by: The module and the qualified name of the class.

        Raises:
            SpecError: As `add` does; the graph stays as it was.
        """
        with _LOCK:
            known_key = self._by_string.get(spec.key.string)
            if known_key is None:
                self._add(spec)
            elif self._declared_by.get(known_key) != by:
                raise SpecError(taken_name(spec.key, known_key, declared_by=self._declared_by.get(known_key)))
            elif spec != self._specs.get(known_key):
                if "<locals>" in by:
                    raise SpecError(taken_name(spec.key, known_key, declared_by=f"{by} with another spec"))
                self._replace(known_key, spec)
            self._declared_by[spec.key] = by

    def find(self, key: FeatureKey) -> FeatureSpec | None:
        """Return the declaration of a feature, None if the graph holds none.

        Raises:
            SpecError: It no longer fits what was declared again upstream.
        """
        if key not in self._specs and key in self._set_aside:
            raise SpecError(self._set_aside[key].reason)
        return self._specs.get(key)

    def did_you_mean(self, key: FeatureKey) -> str:
        """Return a sentence that names the features of the graph which are most like one that it lacks, or nothing."""
        return did_you_mean(key, self._specs)

    def frozen(self) -> "FeatureGraph":
        """Return a graph of the same features that never changes; the same one until this graph does."""
        with _LOCK:
            if self._frozen is None:
                self._frozen = _rebuilt(self._state())
                self._frozen._frozen = self._frozen  # noqa: SLF001 - a frozen graph is its own
            return self._frozen

    def __reduce__(self) -> tuple[Callable[..., "FeatureGraph"], tuple[object, ...]]:
        # Where the pickle was made it stands for this graph itself, while that is as it was.
        with _LOCK:
            if self._token is None:
                self._token = random_token()
                _PICKLED[self._token] = self
            return _unpickled, (self._token, self._state())

    def _state(self) -> "_GraphState":
        return _GraphState(dict(self._specs), dict(self._by_string), dict(self._declared_by), dict(self._set_aside))

    def _add(self, spec: FeatureSpec) -> None:
        self._check(spec)
        self._specs[spec.key] = spec
        self._by_string[spec.key.string] = spec.key
        self._frozen = None

    def _replace(self, known_key: FeatureKey, spec: FeatureSpec) -> None:
        """Put a spec in the place of an earlier one; set aside what no longer fits, take back what does again."""
        specs = {key: aside.spec for key, aside in self._set_aside.items()} | self._specs
        del specs[known_key]
        specs[spec.key] = spec
        fitting = FeatureGraph()
        set_aside = {}
        for key in upstream_first(specs):
            try:
                fitting._add(specs[key])
            except SpecError as error:
                if key == spec.key:
                    raise
                set_aside[key] = _SetAside(specs[key], no_longer_fits(key, spec.key, error))
        self._declared_by.pop(known_key, None)
        self._by_string = {key.string: key for key in specs}
        self._specs, self._set_aside, self._frozen = fitting._specs, set_aside, None

    def _check(self, spec: FeatureSpec) -> None:
        for dep in spec.deps:
            if dep.key == spec.key:
                raise SpecError(f"Feature '{spec.key}' depends on itself.")
            if self.find(dep.key) is None:
                raise SpecError(
                    f"Feature '{spec.key}' depends on '{dep.key}', which this graph does not hold; it holds "
                    f"{_listed(self)}.{self.did_you_mean(dep.key)} Declare the upstream feature first."
                )
            check_relation(spec, dep, self._specs[dep.key])
        check_containers(spec, self._specs)

    def upstream(self, spec: FeatureSpec) -> list[FeatureSpec]:
        """Return the features that a feature depends on directly, sorted by key string."""
        return sorted((self._specs[dep.key] for dep in spec.deps), key=lambda upstream: upstream.key.string)

    def only_upstream(self, spec: FeatureSpec) -> "FeatureGraph":
        """Return the graph of a feature and all that it is made from, which is small beside a whole project's."""
        found: dict[FeatureKey, FeatureSpec] = {}
        waiting = [spec]
        while waiting:
            current = waiting.pop()
            if current.key not in found:
                found[current.key] = current
                waiting += self.upstream(current)
        return FeatureGraph.from_specs(found.values())

    def upstream_containers(
        self, spec: FeatureSpec, container: ContainerSpec
    ) -> list[tuple[FeatureSpec, ContainerSpec]]:
        """Return what a container is made from, sorted by feature key string, then by container key string."""
        pairs = []
        for upstream, wanted in self._container_deps(spec, container):
            by_key = {candidate.key: candidate for candidate in upstream.containers}
            pairs += [(upstream, by_key[key]) for key in (by_key if wanted == ALL else wanted)]
        return sorted(pairs, key=lambda pair: (pair[0].key.string, pair[1].key.string))

    def _container_deps(
        self, spec: FeatureSpec, container: ContainerSpec
    ) -> list[tuple[FeatureSpec, Sequence[ContainerKey] | All]]:
        if isinstance(container.deps, str):
            is_same = container.deps == SAME_NAME
            return [(above, _of_name(container, above) if is_same else ALL) for above in self.upstream(spec)]
        return [(self._specs[dep.feature_key], dep.containers) for dep in container.deps]


def boxes(specs: Sequence[FeatureSpec]) -> list[drawing.Box]:
    """Return what is drawn of declarations, which come upstream first: a box each, with the code of its containers."""
    places = {spec.key: place for place, spec in enumerate(specs)}
    return [
        drawing.Box(
            title=str(spec.key),
            lines=tuple(f"{container.key} {container.code_version}" for container in spec.containers),
            emphasis=drawing.Emphasis.NONE,
            upstream=tuple(places[dep.key] for dep in spec.deps if dep.key in places),
        )
        for spec in specs
    ]


def _of_name(container: ContainerSpec, upstream: FeatureSpec) -> Sequence[ContainerKey] | All:
    """Return the container of an upstream feature that has the name of another one; all where there is none."""
    same = [candidate.key for candidate in upstream.containers if str(candidate.key) == str(container.key)]
    return same or ALL


class _SetAside(msgspec.Struct, frozen=True):
    """A feature that no longer fits what was declared again upstream, and why."""

    spec: FeatureSpec
    reason: str


class _GraphState(NamedTuple):
    """What a graph holds, as copies and pickles of it need it."""

    specs: dict[FeatureKey, FeatureSpec]
    by_string: dict[str, FeatureKey]
    declared_by: dict[FeatureKey, str]
    set_aside: dict[FeatureKey, _SetAside]


_LOCK = threading.RLock()
"""One for all graphs, since a graph that has a lock cannot be pickled."""
_PICKLED: WeakValueDictionary[str, FeatureGraph] = WeakValueDictionary()
"""The graphs of this process that were pickled, by their tokens."""
_SHARED = FeatureGraph()
_ACTIVE: ContextVar[FeatureGraph | None] = ContextVar("metaxy_fs_active_graph", default=None)


def _unpickled(token: str, state: _GraphState) -> FeatureGraph:
    graph = _PICKLED.get(token)
    return graph if graph is not None and graph._state() == state else _rebuilt(state)  # noqa: SLF001


def _rebuilt(state: _GraphState) -> FeatureGraph:
    graph = FeatureGraph()
    graph._specs, graph._by_string, graph._declared_by, graph._set_aside = state  # noqa: SLF001
    return graph


def _listed(graph: FeatureGraph) -> str:
    return ", ".join(sorted(repr(str(key)) for key in graph.specs)) or "none"
