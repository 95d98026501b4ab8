"""Where does the stored version of a sample part from the one that it should have?

Each container of the sample, in the feature and in all that it is made from, is compared as an increment would compare
it. Where one differs, what its stored version was made from (see `metaxy_fs.versioning.origins`) is held against what
it would be made from now; what differs there is followed upstream, until it comes to a code version, a version that
somebody gave, or a row that is missing. Versions of definitions are followed likewise, for the changes of code that
leave the versions of rows as they were.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import polars as pl

from metaxy_fs.spec import ContainerSpec, FeatureGraph, FeatureKey, FeatureSpec
from metaxy_fs.versioning.columns import DATA_VERSION
from metaxy_fs.versioning.definition import DefinitionVersion, definition_version
from metaxy_fs.versioning.explanation import ContainerNode, ContainerRef, Difference, Explanation
from metaxy_fs.versioning.lineage import upstream_versions
from metaxy_fs.versioning.origins import Digests, Origin, Versions, declared, made_from
from metaxy_fs.versioning.rows import beside_upstream, data_versions


class HeldSample(msgspec.Struct, frozen=True, kw_only=True):
    """What stores hold of one sample of one feature.

    Attributes:
        current: The latest row under the current definition: what is read, and what downstream features are made from.
        stored: The latest row under any definition: what an increment compares with.
        definition: What `stored` was written under.
        history: All rows that the sample has had, in any store, latest first.
        definitions: All that any rows of the feature were written under.
    """

    current: Versions | None = None
    stored: Versions | None = None
    definition: DefinitionVersion | None = None
    history: Sequence[Versions] = ()
    definitions: Sequence[DefinitionVersion] = ()


def upstream_first(graph: FeatureGraph, spec: FeatureSpec) -> list[FeatureSpec]:
    """Return a feature and all that it is made from, directly or not, upstream before downstream."""
    needed, waiting = {spec.key}, [spec]
    while waiting:
        for upstream in graph.upstream(waiting.pop()):
            if upstream.key not in needed:
                needed.add(upstream.key)
                waiting.append(upstream)
    return [candidate for key, candidate in list(graph.specs.items()) if key in needed]


def explain_sample(
    graph: FeatureGraph,
    spec: FeatureSpec,
    *,
    sample: Mapping[str, object],
    held: Mapping[FeatureKey, HeldSample],
    algorithm: str,
) -> Explanation:
    """Return why a sample has its versions.

    Args:
        graph: Where the feature is declared.
        spec: The feature.
        sample: The values of the id columns, for the answer.
        held: What is stored of the sample, of each feature that `upstream_first` returns.
        algorithm: What the versions of rows are hashed with.
    """
    comparison = _Comparison(graph, held, algorithm=algorithm)
    for feature in upstream_first(graph, spec):
        comparison.add(feature)
    own = [ref for ref in comparison.nodes if ref.feature == spec.key]
    wanted = _reachable(own, comparison.nodes)
    search = _Search(comparison)
    causes = search.causes(own)
    return Explanation(
        feature=spec.key,
        sample=dict(sample),
        nodes={ref: search.completed(node) for ref, node in comparison.nodes.items() if ref in wanted},
        causes=tuple(ref for ref in comparison.nodes if ref in causes),
    )


class _Parting(NamedTuple):
    """Where what a version was made from parts from what it would be made from now."""

    digests: Digests
    origin: Origin
    is_other_code: bool
    changed: Mapping[ContainerRef, str]

    def __bool__(self) -> bool:
        return self.is_other_code or bool(self.changed)


class _Comparison:
    """The nodes of a graph for one sample; features are added upstream first.

    Attributes:
        nodes: Those of the features that were added.
        rows: The versions of rows.
        definitions: The versions of definitions.
    """

    def __init__(self, graph: FeatureGraph, held: Mapping[FeatureKey, HeldSample], *, algorithm: str) -> None:
        self.nodes: dict[ContainerRef, ContainerNode] = {}
        self.rows = Digests(graph, name_feature=False, algorithm=algorithm)
        self.definitions = Digests(graph, name_feature=True)
        self._graph = graph
        self._held = held
        self._algorithm = algorithm

    def add(self, spec: FeatureSpec) -> None:
        """Compare the containers of a feature whose upstream features were added."""
        held, current = self._held[spec.key], definition_version(self._graph, spec.key)
        self._remember(spec, current)
        expected = self._expected(spec)
        nodes = [self._node(spec, container, expected) for container in spec.containers]
        written = () if held.definition is None else held.definition.containers
        nodes += [_removed(spec, held, name) for name in written if name not in current.containers]
        self.nodes.update((node.ref, node) for node in nodes)

    def parting(self, ref: ContainerRef, digests: Digests, digest: str) -> _Parting | None:
        """Return where the origin of a digest parts from the present; None if it is not known, or a version given."""
        is_given = digests is self.rows and self._graph.specs[ref.feature].is_root
        origin = None if is_given else digests.origin(ref, digest)
        if origin is None:
            return None
        is_other_code = str(origin.code_version) != str(declared(self._graph, ref).code_version)
        return _Parting(digests, origin, is_other_code, digests.changed(origin))

    def parting_of_stored(self, ref: ContainerRef) -> _Parting | None:
        """Return where the stored row parts from the present; None if that cannot be told."""
        partings = (self.parting(ref, digests, digest) for digests, digest in self._stored_digests(ref))
        return next(filter(None, partings), None)

    def _remember(self, spec: FeatureSpec, current: DefinitionVersion) -> None:
        """Note what downstream containers are made from now, and may have been made from."""
        held = self._held[spec.key]
        self.rows.past[spec.key] = list(held.history)
        written = [definition.containers for definition in held.definitions]
        self.definitions.past[spec.key] = [current.containers, *written]
        for name, digest in current.containers.items():
            ref = ContainerRef(spec.key, name)
            self.definitions.present[ref] = digest
            # Where another container's code changed, this one is what it was, although its row is no current one.
            row = held.current or (held.stored if _written_under(held, name) == digest else None)
            if row is not None and name in row:
                self.rows.present[ref] = row[name]

    def _expected(self, spec: FeatureSpec) -> Versions:
        """Return the versions that there should be; none where an upstream row is missing."""
        held = self._held[spec.key]
        if spec.is_root:
            current = definition_version(self._graph, spec.key).containers
            kept = {name: text for name, text in (held.stored or {}).items() if _is_kept(held, name, current)}
            return {**(held.current or {}), **kept}
        rows = {upstream.key: self._held[upstream.key].current for upstream in self._graph.upstream(spec)}
        present = {key: row for key, row in rows.items() if row is not None}
        if len(present) < len(rows):
            return {}
        return _calculate(self._graph, spec, present, algorithm=self._algorithm)

    def _node(self, spec: FeatureSpec, container: ContainerSpec, expected: Versions) -> ContainerNode:
        ref = ContainerRef(spec.key, str(container.key))
        refs = made_from(self._graph, spec, container)
        waits_for = self._waits_for(spec, refs)
        difference = self._difference(ref, expected.get(ref.container), waits_for)
        is_change = difference in (Difference.CODE_CHANGED, Difference.UPSTREAM_CHANGED)
        parting = self.parting_of_stored(ref) if is_change else None
        return ContainerNode(
            ref=ref,
            code_version=container.code_version,
            expected=expected.get(ref.container),
            stored=(self._held[spec.key].stored or {}).get(ref.container),
            difference=difference,
            made_from=refs,
            changed=tuple(parting.changed) if parting else (),
            waits_for=waits_for,
            stored_code_version=parting.origin.code_version if parting and parting.is_other_code else None,
        )

    def _waits_for(self, spec: FeatureSpec, refs: Sequence[ContainerRef]) -> tuple[ContainerRef, ...]:
        """Return what has to be computed first: a feature without a current row holds up all that is made from it."""
        missing = {above.key for above in self._graph.upstream(spec) if self._held[above.key].current is None}
        concerned = (node for ref, node in self.nodes.items() if ref in refs or ref.feature in missing)
        return tuple(node.ref for node in concerned if node.difference is not Difference.SAME)

    def _difference(self, ref: ContainerRef, expected: str | None, waits_for: Sequence[ContainerRef]) -> Difference:
        """Return what separates stored from expected; what an increment calls changed is changed here."""
        held = self._held[ref.feature]
        if held.stored is None:
            return Difference.NEVER_STORED
        if ref.container not in held.stored:
            return Difference.ADDED
        is_same_definition = _written_under(held, ref.container) == self.definitions.present[ref]
        if not is_same_definition or (expected is not None and held.stored[ref.container] != expected):
            return self._change(ref, is_same_definition=is_same_definition)
        if waits_for:
            return Difference.UPSTREAM_MISSING if expected is None else Difference.UPSTREAM_STALE
        return Difference.SAME

    def _change(self, ref: ContainerRef, *, is_same_definition: bool) -> Difference:
        parting = self.parting_of_stored(ref)
        is_upstream = is_same_definition if parting is None else not parting.is_other_code
        return Difference.UPSTREAM_CHANGED if is_upstream else Difference.CODE_CHANGED

    def _stored_digests(self, ref: ContainerRef) -> Iterator[tuple[Digests, str]]:
        """Yield the digests that the origin of a stored row can be told from."""
        held = self._held[ref.feature]
        if held.stored is not None:
            yield self.rows, held.stored[ref.container]
        definition = _written_under(held, ref.container)
        if definition is not None:
            yield self.definitions, definition


class _Step(NamedTuple):
    """A container on the way to the causes: as its node is, or what it was when something downstream was made."""

    ref: ContainerRef
    digests: Digests | None = None
    digest: str = ""


class _Search:
    """The way from differences to where they come from."""

    def __init__(self, comparison: _Comparison) -> None:
        self._comparison = comparison
        self._used: dict[ContainerRef, str] = {}
        self._used_code: dict[ContainerRef, int | str] = {}

    def causes(self, refs: Iterable[ContainerRef]) -> set[ContainerRef]:
        """Return the containers from which the differences of some others come."""
        found, seen = set(), set()
        waiting = [_Step(ref) for ref in refs]
        while waiting:
            step = waiting.pop()
            if step not in seen:
                seen.add(step)
                is_cause, further = self._follow_node(step.ref) if step.digests is None else self._follow_digest(step)
                waiting += further
                found |= {step.ref} if is_cause else set()
        return found

    def completed(self, node: ContainerNode) -> ContainerNode:
        """Return a node with what the search has found out about it."""
        used = self._used.get(node.ref)
        code = self._used_code.get(node.ref)
        return msgspec.structs.replace(node, used=None if used == node.stored else used, used_code_version=code)

    def _follow_node(self, ref: ContainerRef) -> tuple[bool, list[_Step]]:
        node = self._comparison.nodes[ref]
        match node.difference:
            case Difference.SAME:
                return False, []
            case Difference.CODE_CHANGED | Difference.UPSTREAM_CHANGED:
                return _beyond(self._comparison.parting_of_stored(ref))
            case Difference.ADDED | Difference.REMOVED:
                return True, []
            case _:
                return not node.waits_for, [_Step(above) for above in node.waits_for]

    def _follow_digest(self, step: _Step) -> tuple[bool, list[_Step]]:
        comparison = self._comparison
        parting = None if step.digests is None else comparison.parting(step.ref, step.digests, step.digest)
        if step.digests is comparison.rows:
            self._used.setdefault(step.ref, step.digest)
        if parting is not None and parting.is_other_code:
            self._used_code.setdefault(step.ref, parting.origin.code_version)
        node = comparison.nodes[step.ref]
        is_settled = parting is not None and not parting
        if node.difference is not Difference.SAME and (step.digest == node.stored or is_settled):
            return self._follow_node(step.ref)
        return _beyond(parting)


def _beyond(parting: _Parting | None) -> tuple[bool, list[_Step]]:
    """Return whether the search ends at a parting, and where it goes on."""
    if not parting:
        return True, []
    return parting.is_other_code, [_Step(ref, parting.digests, digest) for ref, digest in parting.changed.items()]


def _written_under(held: HeldSample, container: str) -> str | None:
    """Return the version of a container's definition that the stored row was written under."""
    return None if held.definition is None else held.definition.containers.get(container)


def _is_kept(held: HeldSample, container: str, current: Mapping[str, str]) -> bool:
    return container in current and _written_under(held, container) == current[container]


def _removed(spec: FeatureSpec, held: HeldSample, container: str) -> ContainerNode:
    return ContainerNode(
        ref=ContainerRef(spec.key, container),
        code_version=None,
        expected=None,
        stored=(held.stored or {}).get(container),
        difference=Difference.REMOVED,
    )


def _calculate(
    graph: FeatureGraph, spec: FeatureSpec, rows: Mapping[FeatureKey, Versions], *, algorithm: str
) -> Versions:
    """Return the versions of one sample that follow from its upstream rows; the ids do not matter."""
    sample = pl.DataFrame({column: [0] for column in spec.id_columns})
    upstream = {}
    for key, row in rows.items():
        with_versions = sample.lazy().with_columns(pl.Series(DATA_VERSION, [dict(row)]))
        found = upstream_versions(graph, spec, graph.specs[key], with_versions, algorithm=algorithm)
        upstream[key] = found.collect()
    joined = beside_upstream(sample, graph, spec, upstream)
    versions: Versions = data_versions(joined, graph, spec, algorithm=algorithm).item()
    return versions


def _reachable(refs: Iterable[ContainerRef], nodes: Mapping[ContainerRef, ContainerNode]) -> set[ContainerRef]:
    found, waiting = set(refs), list(refs)
    while waiting:
        for above in nodes[waiting.pop()].upstream:
            if above not in found:
                found.add(above)
                waiting.append(above)
    return found
