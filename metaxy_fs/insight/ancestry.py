"""Trace the rows that a sample is made from, directly or not, and what they were.

Where one row upstream makes one sample or many, its ids follow from those of the sample. Where a group of rows makes
it, their ids are not, so what each of them is made from is left out: the group stands at the end of its branch.

A sample may have been made from the group as it was after any commit. So its rows are gone through in commit order, and
what it was is kept: as its members, and as the digests that stood for it (see `metaxy_fs.versioning.relations`).

Theory of operation. A version is a digest, so it does not say what it was made from. But nothing is ever deleted: the
upstream rows that it was made from are most often still there, and so are the declarations of their time. So the
strings that could have been hashed are put together from all that the upstream containers have been, and the one whose
digest is the version is the proof. It works alike for the versions of rows and for those of definitions.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice, product
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from metaxy_fs.hashing import DEFAULT_ALGORITHM, hash_strings
from metaxy_fs.insight.explanation import ContainerRef, RowsRef, Versions
from metaxy_fs.markup import count
from metaxy_fs.spec import ContainerSpec, FeatureDep, FeatureGraph, FeatureKey, FeatureSpec
from metaxy_fs.spec.specs import join_columns, stored_names
from metaxy_fs.versioning.definition import DefinitionVersion, dep_digest, own_words


class AncestorRows(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a feature, or a group of rows.

    Attributes:
        ref: What they are called.
        spec: The feature.
        values: What the rows have in columns of it, under the names that these are stored with.
        below: The feature that is made from them; None for the sample in question.
        upstream: What the row is made from, by feature; nothing of a group.
    """

    ref: RowsRef
    spec: FeatureSpec
    values: Mapping[str, object]
    below: FeatureSpec | None
    upstream: Mapping[FeatureKey, RowsRef]

    @property
    def dep(self) -> FeatureDep | None:
        """How the feature below is made from them."""
        return None if self.below is None else self.below.dep(self.spec.key)

    @property
    def is_group(self) -> bool:
        """Whether these are several rows, or may be."""
        return self.dep is not None and self.dep.relation == "aggregation"


_VisitedRows = tuple[FeatureSpec, dict[str, object], RowsRef, FeatureSpec | None]
"""A feature, the values and the name of its rows, and the feature below."""


def ancestry(graph: FeatureGraph, spec: FeatureSpec, sample: Mapping[str, object]) -> list[AncestorRows]:
    """Return the sample, and all rows that it is made from, upstream before downstream.

    Args:
        graph: Where the feature is declared.
        spec: The feature.
        sample: The values of its id columns.
    """
    found: dict[RowsRef, AncestorRows] = {}
    waiting: list[_VisitedRows] = [(spec, dict(sample), RowsRef(spec.key), None)]
    while waiting:
        current, values, ref, below = waiting.pop()
        is_end = below is not None and below.dep(current.key).relation == "aggregation"
        above = [] if is_end else [_above(current, upstream, values, sample) for upstream in graph.upstream(current)]
        upstream = {each[0].key: each[2] for each in above}
        found[ref] = AncestorRows(ref=ref, spec=current, values=values, below=below, upstream=upstream)
        waiting += [each for each in above if each[2] not in found]
    order = {key: place for place, key in enumerate(list(graph.specs))}
    return sorted(found.values(), key=lambda rows: (order[rows.ref.feature], rows.ref.rows))


def _above(
    spec: FeatureSpec, upstream: FeatureSpec, values: Mapping[str, object], sample: Mapping[str, object]
) -> _VisitedRows:
    """Return the rows of an upstream feature that a row is made from."""
    dep, ids = spec.dep(upstream.key), join_columns(spec, upstream)
    wanted = {old: values[new] for old, new in zip(stored_names(dep, ids), ids, strict=True)}
    shown = ", ".join(f"{column}={value!r}" for column, value in wanted.items())
    name = f"all of {shown}" if dep.relation == "aggregation" else "" if wanted == sample else shown
    name = " ".join(filter(None, (name, dep.where and f"where {dep.where}")))
    return upstream, wanted, RowsRef(upstream.key, name), spec


_MAX_CANDIDATES = 50_000
"""How many strings are hashed for one version: a tenth of a second."""

_MAX_BATCH = 4_096
"""How many of them at once; the first batch is one string, which most often is the right one."""


def declared(graph: FeatureGraph, ref: ContainerRef) -> ContainerSpec:
    """Return the declaration of a container that the graph holds."""
    containers = graph.specs[ref.feature].containers
    return next(container for container in containers if str(container.key) == ref.container)


def made_from(graph: FeatureGraph, rows: AncestorRows, container: ContainerSpec) -> tuple[ContainerRef, ...]:
    """Return what a container of some rows is made from, in the order in which it is hashed; of a group, nothing."""
    if rows.is_group:
        return ()
    pairs = graph.upstream_containers(rows.spec, container)
    return tuple(
        ContainerRef(upstream.key, str(above.key), rows.upstream[upstream.key].rows) for upstream, above in pairs
    )


class Origin(msgspec.Struct, frozen=True):
    """What a digest was proved to be made from: a code version, and a digest or given version for each part."""

    code_version: int | str
    parts: Mapping[ContainerRef, str]


class Digests:
    """Digests of one kind: versions of rows, or of definitions.

    Attributes:
        present: What downstream containers would be made from now.
        past: All that they may have been made from, by row or group of rows.
        code_versions: Those that containers had before, by row or group of rows and by name.
    """

    def __init__(
        self,
        graph: FeatureGraph,
        ancestors: Iterable[AncestorRows],
        *,
        name_feature: bool,
        algorithm: str = DEFAULT_ALGORITHM,
    ) -> None:
        self.present: dict[ContainerRef, str] = {}
        self.past: dict[RowsRef, list[Versions]] = {}
        self.code_versions: dict[RowsRef, Mapping[str, Sequence[int | str]]] = {}
        self._graph = graph
        self._ancestors = {rows.ref: rows for rows in ancestors}
        self._name_feature = name_feature
        self._algorithm = algorithm
        self._found: dict[tuple[ContainerRef, str], Origin | None] = {}

    def origin(self, ref: ContainerRef, digest: str) -> Origin | None:
        """Return what the digest of a container was made from, None if it is made from nothing that is known."""
        if (ref, digest) not in self._found:
            self._found[ref, digest] = self._search(ref, digest)
        return self._found[ref, digest]

    def changed(self, origin: Origin) -> dict[ContainerRef, str]:
        """Return those parts of an origin that are not the present ones."""
        return {ref: digest for ref, digest in origin.parts.items() if self.present.get(ref, "") != digest}

    def _search(self, ref: ContainerRef, digest: str) -> Origin | None:
        rows = self._ancestors[RowsRef(ref.feature, ref.rows)]
        candidates = islice(self._candidates(rows, declared(self._graph, ref)), _MAX_CANDIDATES)
        size = 1
        while batch := list(islice(candidates, size)):
            strings = [self._preimage(ref, code_version, parts) for code_version, parts in batch]
            for origin, found in zip(batch, hash_strings(strings, algorithm=self._algorithm), strict=True):
                if found == digest:
                    return Origin(*origin)
            size = min(8 * size, _MAX_BATCH)
        return None

    def _candidates(
        self, rows: AncestorRows, container: ContainerSpec
    ) -> Iterator[tuple[int | str, dict[ContainerRef, str]]]:
        """Yield what the container may have been made from: by its present code first, and from late rows first."""
        refs = made_from(self._graph, rows, container)
        choices = [self._choices(rows, feature, refs) for feature in dict.fromkeys(ref.feature for ref in refs)]
        yield from ((container.code_version, _merged(choice)) for choice in product(*choices))
        earlier = self.code_versions.get(rows.ref, {}).get(str(container.key), ())
        for choice in product(*choices):
            yield from ((code_version, _merged(choice)) for code_version in earlier)

    def _choices(
        self, rows: AncestorRows, feature: FeatureKey, refs: Sequence[ContainerRef]
    ) -> list[dict[ContainerRef, str]]:
        """Return the different strings that the needed containers of one upstream feature have had together."""
        needed = [ref for ref in refs if ref.feature == feature]
        complete = [row for row in self.past[rows.upstream[feature]] if all(ref.container in row for ref in needed)]
        tuples = dict.fromkeys(tuple(row[ref.container] for ref in needed) for row in complete)
        if rows.spec.dep(feature).optional and not self._name_feature:
            tuples[("",) * len(needed)] = None
        return [dict(zip(needed, strings, strict=True)) for strings in tuples]

    def _preimage(self, ref: ContainerRef, code_version: int | str, parts: Mapping[ContainerRef, str]) -> str:
        """Return the text that is hashed; that of a definition says how features are related, too."""
        if self._name_feature:
            said = own_words(declared(self._graph, ref), code_version=code_version)
            strings = [f"{ref.feature.string}/{ref.container}", *said]
        else:
            strings = [ref.container, str(code_version)]
        for feature, several in groupby(parts.items(), key=lambda part: part[0].feature):
            strings += [f"{feature.string}/{above.container}|{text}" for above, text in several]
            relation = dep_digest(self._graph, self._graph.specs[ref.feature], feature) if self._name_feature else ""
            strings += [f"{feature.string}?|{relation}"] if relation else []
        return "|".join(strings)


def _merged(choice: Sequence[Mapping[ContainerRef, str]]) -> dict[ContainerRef, str]:
    return {ref: text for part in choice for ref, text in part.items()}


_MAX_MEMBERS = 200_000
"""How many members of all states together are looked at."""

_SHOWN = 5


class Member(NamedTuple):
    """One row of a group, as it was written.

    Attributes:
        text: Its ids, as they are hashed.
        name: Its ids, for people.
        commit: What it was written in.
        is_kept: Whether the predicate of the dep holds for it.
        versions: Its versions.
    """

    text: str
    name: str
    commit: str
    is_kept: bool
    versions: Versions


class GroupState(NamedTuple):
    """A group as it was after a commit.

    Attributes:
        digests: What stands for it in preimages, by container; nothing where it has no rows.
        members: The versions of its rows by name, in the order in which they are hashed.
    """

    digests: Versions
    members: Mapping[str, Versions]


def group_states(rows: Sequence[Member], *, algorithm: str) -> list[GroupState]:
    """Return what a group has been, the latest first: its present state, and as many before as can be told in time.

    Args:
        rows: All rows of it in commit order.
        algorithm: What groups are hashed with.
    """
    states = list(_states(rows))
    several = [{name: _text(state, name) for name in _containers(state)} for state in states]
    strings = list(dict.fromkeys(text for strings in several for text in strings.values()))
    digests = dict(zip(strings, hash_strings(strings, algorithm=algorithm), strict=True))
    return [
        GroupState({name: digests[text] for name, text in strings.items()}, {row.name: row.versions for row in state})
        for state, strings in zip(states, several, strict=True)
    ][::-1]


def listed(members: Mapping[str, Versions]) -> str:
    """Return how many rows a group has, and which, in words."""
    return f"{count(len(members), 'row')}: {_some(list(members))}" if members else "no rows"


def compared(then: Mapping[str, Versions], now: Mapping[str, Versions], container: str) -> str:
    """Return which rows of a group have changed in a container, in words."""
    kinds = {
        "changed": [n for n in now if n in then and then[n].get(container) != now[n].get(container)],
        "added": [name for name in now if name not in then],
        "gone": [name for name in then if name not in now],
    }
    return "; ".join(f"{kind} {_some(names)}" for kind, names in kinds.items() if names)


def _states(rows: Sequence[Member]) -> Iterator[list[Member]]:
    """Yield the rows that a group had after each of the last commits, in the order in which they are hashed."""
    commits = [list(written) for _, written in groupby(rows, key=lambda row: row.commit)]
    first = max(0, len(commits) - max(1, _MAX_MEMBERS // max(1, len(rows))))
    latest: dict[str, Member] = {}
    for place, written in enumerate(commits):
        latest.update((row.text, row) for row in written)
        if place >= first:
            yield sorted((row for row in latest.values() if row.is_kept), key=lambda row: row.text.encode())


def _containers(state: Sequence[Member]) -> list[str]:
    """Return the containers that every row has."""
    return [name for name in (state[0].versions if state else ()) if all(name in row.versions for row in state)]


def _text(state: Sequence[Member], container: str) -> str:
    versions = ((row.text, row.versions[container]) for row in state)
    return "".join(f"{text}|{len(version.encode())}:{version}" for text, version in versions)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


class StoredRow(NamedTuple):
    """A stored row, and what it was written under.

    Attributes:
        versions: What downstream features see.
        definition: The definition.
        provenance: The versions that follow from what it was made from, where they are kept beside the others.
    """

    versions: Versions
    definition: DefinitionVersion
    provenance: Versions = MappingProxyType({})

    @property
    def made_from(self) -> Versions:
        """The versions that an increment compares."""
        return {**self.versions, **self.provenance}


class StoredVersions(msgspec.Struct, frozen=True, kw_only=True):
    """What stores hold of one row of a feature, or of a group of rows.

    Attributes:
        current: The latest row under the current definition: what is read, and what downstream features are made from;
            of a group, the digests that stand for it.
        layers: The row that an increment compares with in each store, the nearest first: the latest under the current
            definition, or else under any.
        given: Versions of the row with the provenance of each, latest first, where that is kept beside them.
        history: All that the row, or the digests of the group, have been, in any store, latest first.
        definitions: All that any rows of the feature were written under.
        code_versions: The code versions that each container had under other definitions, by its name.
        is_excluded: Whether there are current rows, and each is retired or excluded by the predicate of the dep.
        is_retired: Whether the row to compare with retires the sample.
        pending: Of a group, what of it, or of what it is made from, has to be computed, in words; nothing if none has.
        states: Of a group, its rows as they were, latest first: the digests that stood for it, and its members.
    """

    current: Versions | None = None
    layers: Sequence[StoredRow] = ()
    history: Sequence[Versions] = ()
    given: Sequence[StoredRow] = ()
    definitions: Sequence[DefinitionVersion] = ()
    code_versions: Mapping[str, Sequence[int | str]] = msgspec.field(default_factory=dict)
    is_excluded: bool = False
    is_retired: bool = False
    pending: str = ""
    states: Sequence[GroupState] = ()

    @property
    def stored(self) -> Versions | None:
        """The row that an increment compares with."""
        return self.layers[0].versions if self.layers else None

    @property
    def made_from(self) -> Versions | None:
        """The versions of that row that follow from what it was made from."""
        return self.layers[0].made_from if self.layers else None

    @property
    def definition(self) -> DefinitionVersion | None:
        """What it was written under."""
        return self.layers[0].definition if self.layers else None

    def compared(self, expected: Versions, current: DefinitionVersion) -> "StoredVersions":
        """Return the same with the row first that is as expected, if any is: then the sample is done."""
        done = [row for row in self.layers if row.made_from == expected and row.definition == current]
        return msgspec.structs.replace(self, layers=done[:1]) if done else self
