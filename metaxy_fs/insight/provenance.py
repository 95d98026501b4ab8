"""Find where the stored version of a sample diverges from the one that it should have.

Each container of the sample, in the feature and in all that it is made from, is compared as an increment would compare
it. Where one differs, what its stored version was made from (see `metaxy_fs.insight.ancestry`) is compared with what
it would be made from now; what differs there is followed upstream, until it comes to a code version, a version that
somebody gave, or a row that is missing. Versions of definitions are followed likewise, for the changes of code that
leave the versions of rows as they were.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import polars as pl

from metaxy_fs.insight.ancestry import (
    AncestorRows,
    Digests,
    Origin,
    StoredVersions,
    compared,
    declared,
    listed,
    made_from,
)
from metaxy_fs.insight.explanation import ContainerNode, ContainerRef, Difference, Explanation, RowsRef, Versions
from metaxy_fs.spec import ContainerSpec, FeatureGraph, FeatureKey, FeatureSpec
from metaxy_fs.versioning.definition import DefinitionVersion, definition_version
from metaxy_fs.versioning.preimages import (
    data_versions,
    needed_containers,
    present_column,
    sample_source,
    version_column,
)


def explain_sample(
    graph: FeatureGraph,
    ancestors: Sequence[AncestorRows],
    *,
    versions: Mapping[RowsRef, StoredVersions],
    algorithm: str,
) -> Explanation:
    """Return why a sample has its versions.

    Args:
        graph: Where its feature is declared.
        ancestors: What `ancestry` gave: the rows that the sample is made from, and last the sample itself.
        versions: What is stored of each of them.
        algorithm: What the versions of rows are hashed with.
    """
    comparison = _NodeBuilder(graph, ancestors, versions, algorithm=algorithm)
    for rows in ancestors:
        comparison.add(rows)
    sample = ancestors[-1]
    own = [ref for ref in comparison.nodes if ref.feature == sample.spec.key and not ref.rows]
    wanted = _reachable(own, comparison.nodes)
    search = _Search(comparison)
    causes = search.causes(own)
    return Explanation(
        feature=sample.spec.key,
        sample=dict(sample.values),
        nodes={ref: search.completed(node) for ref, node in comparison.nodes.items() if ref in wanted},
        causes=tuple(ref for ref in comparison.nodes if ref in causes),
    )


class _Divergence(NamedTuple):
    """Where what a version was made from parts from what it would be made from now."""

    digests: Digests
    origin: Origin
    is_other_code: bool
    changed: Mapping[ContainerRef, str]

    def __bool__(self) -> bool:
        return self.is_other_code or bool(self.changed)


class _NodeBuilder:
    """The nodes of a sample and of all that it is made from; rows are added upstream first.

    Attributes:
        nodes: Those of the rows that were added.
        rows: The versions of rows.
        definitions: The versions of definitions.
        versions: What is stored of the rows that were added.
    """

    def __init__(
        self,
        graph: FeatureGraph,
        ancestors: Sequence[AncestorRows],
        versions: Mapping[RowsRef, StoredVersions],
        *,
        algorithm: str,
    ) -> None:
        self.nodes: dict[ContainerRef, ContainerNode] = {}
        self.rows = Digests(graph, ancestors, name_feature=False, algorithm=algorithm)
        self.definitions = Digests(graph, ancestors, name_feature=True)
        self.versions = dict(versions)
        self._graph = graph
        self._ancestors = {rows.ref: rows for rows in ancestors}
        self._algorithm = algorithm

    def add(self, rows: AncestorRows) -> None:
        """Compare the containers of a row, or a group, after what it is made from was added."""
        spec, current = rows.spec, definition_version(self._graph, rows.spec.key)
        expected = self._expected(rows)
        self.versions[rows.ref] = versions = self.versions[rows.ref].compared(expected, current)
        self._remember(rows, current)
        nodes = [self._node(rows, container, expected) for container in spec.containers]
        written = () if versions.definition is None or self._lacks_row(rows) else versions.definition.containers
        nodes += [_removed(rows, versions, name) for name in written if name not in current.containers]
        self.nodes.update((node.ref, node) for node in nodes)

    def divergence(self, ref: ContainerRef, digests: Digests, digest: str) -> _Divergence | None:
        """Return where the origin of a digest parts from the present; None if it is not known, or a version given."""
        rows = self._ancestors[_rows(ref)]
        is_given = rows.is_group or (digests is self.rows and rows.spec.is_root)
        origin = None if is_given else digests.origin(ref, digest)
        if origin is None:
            return None
        is_other_code = str(origin.code_version) != str(declared(self._graph, ref).code_version)
        return _Divergence(digests, origin, is_other_code, digests.changed(origin))

    def provenance(self, ref: ContainerRef, version: str) -> str:
        """Return what a version of a row that downstream features saw follows from; itself if it is no content's."""
        rows = (row for row in self.versions[_rows(ref)].given if row.versions.get(ref.container) == version)
        return next((row.made_from[ref.container] for row in rows), version)

    def stored_divergence(self, ref: ContainerRef) -> _Divergence | None:
        """Return where the stored row parts from the present; None if that cannot be told."""
        divergences = (self.divergence(ref, digests, digest) for digests, digest in self._stored_digests(ref))
        return next(filter(None, divergences), None)

    def _remember(self, rows: AncestorRows, current: DefinitionVersion) -> None:
        """Note what downstream containers are made from now, and may have been made from."""
        versions = self.versions[rows.ref]
        self.rows.past[rows.ref] = list(versions.history)
        self.rows.code_versions[rows.ref] = self.definitions.code_versions[rows.ref] = versions.code_versions
        written = [definition.containers for definition in versions.definitions]
        self.definitions.past[rows.ref] = [current.containers, *written]
        for name, digest in current.containers.items():
            ref = _container(rows.ref, name)
            self.definitions.present[ref] = digest
            # Where another container's code changed, this one is what it was, although its row is no current one.
            is_same = _written_under(versions, name) == digest and not versions.is_excluded
            row = versions.current or (versions.stored if is_same else None)
            if row is not None and name in row:
                self.rows.present[ref] = row[name]

    def _expected(self, rows: AncestorRows) -> Versions:
        """Return the versions that there should be; none where an upstream row is missing."""
        spec, versions = rows.spec, self.versions[rows.ref]
        if spec.is_root or rows.is_group:
            current = definition_version(self._graph, spec.key).containers
            kept = {name: text for name, text in (versions.stored or {}).items() if _is_kept(versions, name, current)}
            return {**(versions.current or {}), **kept}
        above = {key: self.versions[ref].current for key, ref in rows.upstream.items()}
        if any(row is None and not spec.dep(key).optional for key, row in above.items()):
            return {}
        present = {key: row for key, row in above.items() if row is not None}
        return _calculate(self._graph, spec, present, algorithm=self._algorithm)

    def _node(self, rows: AncestorRows, container: ContainerSpec, expected: Versions) -> ContainerNode:
        ref, versions = _container(rows.ref, str(container.key)), self.versions[rows.ref]
        refs = made_from(self._graph, rows, container)
        waits_for, excluded = self._waits_for(rows, refs), self._excluded(rows)
        difference = self._not_compared(rows) or self._difference(ref, expected.get(ref.container), waits_for)
        is_change = difference in (Difference.CODE_CHANGED, Difference.UPSTREAM_CHANGED)
        divergence = self.stored_divergence(ref) if is_change else None
        return ContainerNode(
            ref=ref,
            code_version=container.code_version,
            expected=expected.get(ref.container),
            stored=(versions.made_from or {}).get(ref.container),
            difference=difference,
            made_from=refs,
            changed=tuple(divergence.changed) if divergence else (),
            waits_for=waits_for,
            stored_code_version=divergence.origin.code_version if divergence and divergence.is_other_code else None,
            members=listed(versions.states[0].members if versions.current and versions.states else {})
            if rows.is_group
            else "",
            pending=versions.pending,
            excluded=excluded,
            is_given=rows.spec.is_root,
            content=(versions.stored or {}).get(ref.container) if container.versioned_by == "content" else None,
        )

    def _waits_for(self, rows: AncestorRows, refs: Sequence[ContainerRef]) -> tuple[ContainerRef, ...]:
        """Return what has to be computed first: a feature without a current row holds up all that is made from it."""
        versions = {ref: self.versions[ref] for ref in rows.upstream.values()}
        optional = {ref for key, ref in rows.upstream.items() if rows.spec.dep(key).optional}
        unneeded = {ref for ref in optional if versions[ref].stored is None or versions[ref].is_excluded}
        missing = {ref for ref, one in versions.items() if one.current is None and ref not in unneeded}
        concerned = (node for ref, node in self.nodes.items() if ref in refs or _rows(ref) in missing)
        differing = (node for node in concerned if node.difference is not Difference.SAME)
        return tuple(node.ref for node in differing if _rows(node.ref) not in unneeded)

    def _not_compared(self, rows: AncestorRows) -> Difference | None:
        """Return why nothing of a sample is compared, None if it is."""
        if self.versions[rows.ref].is_retired:
            return Difference.RETIRED
        if self._excluded(rows):
            return Difference.EXCLUDED
        return Difference.UPSTREAM_MISSING if self._lacks_row(rows) else None

    def _lacks_row(self, rows: AncestorRows) -> bool:
        """Whether an increment would say that a sample waits for an upstream row; then nothing of it is compared."""
        needed = {key: self.versions[ref] for key, ref in rows.upstream.items() if not rows.spec.dep(key).optional}
        has_rows = (definition_version(self._graph, key) in versions.definitions for key, versions in needed.items())
        return all(has_rows) and any(
            versions.current is None and not versions.is_excluded for versions in needed.values()
        )

    def _excluded(self, rows: AncestorRows) -> tuple[RowsRef, ...]:
        """Return the upstream rows that a sample needs and that predicates exclude.

        Where all deps are optional, it needs any of those that name samples.
        """
        needed = [ref for key, ref in rows.upstream.items() if not rows.spec.dep(key).optional]
        if rows.upstream and not needed:
            naming = sample_source(self._graph, rows.spec).upstream
            needed = [ref for key, ref in rows.upstream.items() if key in naming]
            if any(self.versions[ref].current is not None for ref in needed):
                return ()
        return tuple(ref for ref in needed if self.versions[ref].is_excluded)

    def _difference(self, ref: ContainerRef, expected: str | None, waits_for: Sequence[ContainerRef]) -> Difference:
        """Return what separates stored from expected; what an increment calls changed is changed here."""
        versions = self.versions[_rows(ref)]
        if versions.made_from is None:
            return Difference.NEVER_STORED
        if ref.container not in versions.made_from:
            return Difference.ADDED
        is_same_definition = _written_under(versions, ref.container) == self.definitions.present[ref]
        if not is_same_definition or (expected is not None and versions.made_from[ref.container] != expected):
            return self._change(ref, is_same_definition=is_same_definition)
        if versions.pending:
            return Difference.UPSTREAM_STALE
        if waits_for:
            return Difference.UPSTREAM_MISSING if expected is None else Difference.UPSTREAM_STALE
        return Difference.SAME

    def _change(self, ref: ContainerRef, *, is_same_definition: bool) -> Difference:
        divergence = self.stored_divergence(ref)
        is_upstream = is_same_definition if divergence is None else not divergence.is_other_code
        return Difference.UPSTREAM_CHANGED if is_upstream else Difference.CODE_CHANGED

    def _stored_digests(self, ref: ContainerRef) -> Iterator[tuple[Digests, str]]:
        """Yield the digests that the origin of a stored row can be told from."""
        versions = self.versions[_rows(ref)]
        if versions.made_from is not None:
            yield self.rows, versions.made_from[ref.container]
        definition = _written_under(versions, ref.container)
        if definition is not None:
            yield self.definitions, definition


class _Step(NamedTuple):
    """A container on the way to the causes: as its node is, or what it was when something downstream was made."""

    ref: ContainerRef
    digests: Digests | None = None
    digest: str = ""


class _Search:
    """The way from differences to where they come from."""

    def __init__(self, comparison: _NodeBuilder) -> None:
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
        used = None if used == _seen(node) else used
        since = "" if used is None else self._since(node, used)
        code = self._used_code.get(node.ref)
        return msgspec.structs.replace(node, used=used, used_code_version=code, since=since)

    def _since(self, node: ContainerNode, used: str) -> str:
        """Return how a group has changed since it was what a digest stands for; nothing of a row."""
        versions, name = self._comparison.versions[_rows(node.ref)], node.ref.container
        then = next((state.members for state in versions.states if state.digests.get(name) == used), {})
        now = versions.states[0].members if versions.current and versions.states else {}
        return compared(then, now, name)

    def _follow_node(self, ref: ContainerRef) -> tuple[bool, list[_Step]]:
        node = self._comparison.nodes[ref]
        match node.difference:
            case Difference.SAME:
                return False, []
            case Difference.CODE_CHANGED | Difference.UPSTREAM_CHANGED:
                return _next_steps(self._comparison.stored_divergence(ref))
            case Difference.ADDED | Difference.REMOVED | Difference.EXCLUDED | Difference.RETIRED:
                return True, []
            case _:
                return not node.waits_for, [_Step(above) for above in node.waits_for]

    def _follow_digest(self, step: _Step) -> tuple[bool, list[_Step]]:
        comparison = self._comparison
        of_rows = step.digests is comparison.rows
        digest = comparison.provenance(step.ref, step.digest) if of_rows else step.digest
        divergence = None if step.digests is None else comparison.divergence(step.ref, step.digests, digest)
        if of_rows:
            self._used.setdefault(step.ref, step.digest)
        if divergence is not None and divergence.is_other_code:
            self._used_code.setdefault(step.ref, divergence.origin.code_version)
        node = comparison.nodes[step.ref]
        is_explained = divergence is not None and not divergence
        if node.difference is not Difference.SAME and (step.digest == _seen(node) or is_explained):
            return self._follow_node(step.ref)
        return _next_steps(divergence)


def _next_steps(divergence: _Divergence | None) -> tuple[bool, list[_Step]]:
    """Return whether the search ends at a divergence, and where it goes on."""
    if not divergence:
        return True, []
    return divergence.is_other_code, [
        _Step(ref, divergence.digests, digest) for ref, digest in divergence.changed.items()
    ]


def _seen(node: ContainerNode) -> str | None:
    """Return the stored version that downstream features see."""
    return node.stored if node.content is None else node.content


def _rows(ref: ContainerRef) -> RowsRef:
    return RowsRef(ref.feature, ref.rows)


def _container(rows: RowsRef, name: str) -> ContainerRef:
    return ContainerRef(rows.feature, name, rows.rows)


def _written_under(versions: StoredVersions, container: str) -> str | None:
    """Return the version of a container's definition that the stored row was written under."""
    return None if versions.definition is None else versions.definition.containers.get(container)


def _is_kept(versions: StoredVersions, container: str, current: Mapping[str, str]) -> bool:
    return container in current and _written_under(versions, container) == current[container]


def _removed(rows: AncestorRows, versions: StoredVersions, container: str) -> ContainerNode:
    return ContainerNode(
        ref=_container(rows.ref, container),
        code_version=None,
        expected=None,
        stored=(versions.stored or {}).get(container),
        difference=Difference.REMOVED,
        is_given=rows.spec.is_root,
    )


def _calculate(
    graph: FeatureGraph, spec: FeatureSpec, rows: Mapping[FeatureKey, Versions], *, algorithm: str
) -> Versions:
    """Return the versions of one sample that follow from its upstream rows, those that there are."""
    columns: list[pl.Expr] = []
    for above in graph.upstream(spec):
        row = rows.get(above.key, {})
        columns.append(pl.lit(above.key in rows).alias(present_column(above.key)))
        columns += [
            pl.lit(row.get(name), dtype=pl.String).alias(version_column(above.key, name))
            for name in needed_containers(graph, spec, above)
        ]
    versions: Versions = data_versions(pl.select(columns), graph, spec, algorithm=algorithm).item()
    return versions


def _reachable(refs: Iterable[ContainerRef], nodes: Mapping[ContainerRef, ContainerNode]) -> set[ContainerRef]:
    found, waiting = set(refs), list(refs)
    while waiting:
        for above in nodes[waiting.pop()].upstream:
            if above not in found:
                found.add(above)
                waiting.append(above)
    return found
