"""Read the graph of the features that a chain holds from what is stored alone.

Each partition keeps the declaration of its first writer. Of the partitions of a feature the one counts in which its
last commit was written, in the nearest store that has any. So a chain of a branch and its production root gives the
graph of the branch.

Such a graph may mix two moments. Its features were last written one by one, so one may have been made under an upstream
definition that was replaced since, and that nobody has run it under. Its version then is not the one that follows from
the graph, which is how this is found; and which of the earlier upstream definitions gives its version tells the cause.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice, product
from typing import NamedTuple

import msgspec

from metaxy_fs.errors import CorruptObjectError, SpecError, StorageError
from metaxy_fs.forks import refuse_lost_threads
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.chain import chain
from metaxy_fs.metadata_store.operations import StoredSpec
from metaxy_fs.parallel import ordered_map
from metaxy_fs.spec import ALL, FeatureGraph, FeatureKey, FeatureSpec, GraphNote
from metaxy_fs.versioning.definition import definition_made_from, definition_version

_QUESTIONS_AT_ONCE = 8
_MOST_COMBINATIONS = 4_096
"""So many combinations of earlier upstream definitions are looked through for the one that a feature was made under."""


def stored_graph(store: Backend, *, skip_unreadable: bool = False) -> FeatureGraph:
    """Return the graph of what a chain holds, with notes.

    Args:
        store: The first of the chain.
        skip_unreadable: Whether to leave out features of which a declaration is damaged, with a note.

    Raises:
        StorageError: Nothing was ever written to any store of it.
        CorruptObjectError: A declaration is damaged.
    """
    refuse_lost_threads()
    stores = list(chain(store, fallback=True))
    questions = [(each, key) for each in stores for key in each.stored_features()]
    if not questions:
        _require_written(stores)
    ask = partial(_last_written, skip_unreadable=skip_unreadable)
    found = ordered_map(lambda question: ask(*question), questions, workers=_QUESTIONS_AT_ONCE)
    by_key: dict[FeatureKey, list[_LastWritten]] = {}
    for written in found:
        by_key.setdefault(written.key, []).append(written)
    nearest = {key: several[0] for key, several in by_key.items()}
    by_time = sorted(nearest.values(), key=lambda written: written.time)
    graph, refused = FeatureGraph.from_fitting([each.stored.spec for each in by_time if each.stored is not None])
    notes = [
        *(_unreadable(each) for several in by_key.values() for each in several if each.error is not None),
        *(note for key in sorted(by_key) for note in _disagreements(by_key[key])),
        *(note for key in graph.specs for note in _half_migrated(stores, graph, nearest[key], skip=skip_unreadable)),
        *(
            _left_out(each, refused.get(key))
            for key, each in sorted(nearest.items())
            if key not in graph.specs and each.error is None
        ),
    ]
    return graph.with_notes(notes)


def with_stored(graph: FeatureGraph, store: Backend) -> FeatureGraph:
    """Return a graph with the features that a chain holds beside those of it, as far as they fit.

    Args:
        graph: What is declared; it counts where a feature is stored under another declaration.
        store: The first of the chain.
    """
    held = [(each, key) for each in chain(store, fallback=True) for key in each.stored_features()]
    nearest = {key: each for each, key in reversed(held) if key not in graph.specs}
    written = [_last_written(each, key) for key, each in nearest.items()]
    specs = [each.stored.spec for each in sorted(written, key=lambda each: each.time) if each.stored is not None]
    return FeatureGraph.from_fitting([*graph.specs.values(), *specs])[0] if specs else graph


def upstream_then(
    stores: Sequence[Backend], graph: FeatureGraph, spec: FeatureSpec, partition: str
) -> dict[FeatureKey, StoredSpec]:
    """Return what the upstream features of a feature were when it had a version; nothing if that cannot be found.

    Where several of their definitions give that version, those count that were written last.

    Args:
        stores: Those of a chain.
        graph: What is declared now, for upstream features that were never written.
        spec: The declaration of the feature at that time.
        partition: Its version.
    """
    kept = [_definitions(stores, graph, dep.key) for dep in spec.deps]
    for choice in islice(product(*kept), _MOST_COMBINATIONS):
        made_from = {stored.spec.key: stored.definition for stored in choice}
        try:
            before = FeatureGraph.from_specs([*(as_root(stored.spec) for stored in choice), spec])
        except SpecError:  # they never stood side by side
            continue
        if definition_made_from(before, spec, made_from).partition == partition:
            return {stored.spec.key: stored for stored in choice}
    return {}


def kept_definitions(stores: Sequence[Backend], key: FeatureKey) -> Mapping[str, StoredSpec]:
    """Return the declarations of a feature that stores keep, by version, those that were written last first."""
    found: dict[str, StoredSpec] = {}
    for store in stores:
        latest = store.stored_commits(key).get_column("partition").reverse().unique(maintain_order=True).to_list()
        kept = store.stored_specs(key, latest)
        found |= {version: kept[version] for version in latest if version in kept and version not in found}
    return found


def as_root(spec: FeatureSpec) -> FeatureSpec:
    """Return a feature of the same containers without upstream; the versions of its definition are known."""
    containers = [msgspec.structs.replace(each, deps=ALL, versioned_by="provenance") for each in spec.containers]
    return msgspec.structs.replace(spec, deps=(), containers=containers)


class _LastWritten(NamedTuple):
    """The partition of a feature in which the last commit of one store was written, and what is kept of it."""

    key: FeatureKey
    location: str
    partition: str
    time: int
    stored: StoredSpec | None
    error: CorruptObjectError | None = None


def _last_written(store: Backend, key: FeatureKey, *, skip_unreadable: bool = False) -> _LastWritten:
    last = store.stored_commits(key).row(-1, named=True)
    partition = last["partition"]
    time = int(last["time"].timestamp() * 1_000_000)
    try:
        stored = store.stored_specs(key, [partition]).get(partition)
    except CorruptObjectError as error:
        if not skip_unreadable:
            raise
        return _LastWritten(key, store.location, partition, time, None, error)
    return _LastWritten(key, store.location, partition, time, stored)


def _require_written(stores: Sequence[Backend]) -> None:
    if not any(store.is_written for store in stores):
        locations = ", ".join(store.location for store in stores)
        raise StorageError(
            f"Nothing was ever written to {locations}, so there is no graph to read. Correct the name of the root.",
            root=stores[0].location,
        )


def _disagreements(several: Sequence[_LastWritten]) -> Iterator[GraphNote]:
    """Yield what is to be said of a feature that several stores of a chain hold."""
    nearest = several[0]
    for other in several[1:]:
        if other.partition == nearest.partition:
            continue
        is_same = nearest.stored is not None and other.stored is not None and nearest.stored.spec == other.stored.spec
        how = "of the same declaration, so an upstream feature differs" if is_same else "of different declarations"
        yield GraphNote(
            kind="disagreement",
            feature=nearest.key,
            text=f"'{nearest.key}' was last written under {nearest.partition} in {nearest.location} and under "
            f"{other.partition} in {other.location}, {how}; the graph has the former.",
            stores=(nearest.location, other.location),
        )


def _half_migrated(
    stores: Sequence[Backend], graph: FeatureGraph, written: _LastWritten, *, skip: bool
) -> Iterator[GraphNote]:
    """Yield a note if the last rows of a feature were written under other upstream definitions than the last ones."""
    if definition_version(graph, written.key).partition == written.partition:
        return
    spec = graph.specs[written.key]
    try:
        then = upstream_then(stores, graph, spec, written.partition)
    except CorruptObjectError as error:
        if not skip:
            raise
        yield _unreadable(written._replace(error=error))
        return
    versions = {key: stored.definition.partition for key, stored in then.items()}
    replaced = {key: v for key, v in versions.items() if v != definition_version(graph, key).partition}
    if replaced:
        under = " and ".join(f"{version} of '{key}'" for key, version in replaced.items())
        why = f"was last written under {under}, where another definition was written last"
    else:
        why = (
            f"was last written under {written.partition}, which does not follow from what its upstream was last "
            "written under: by an earlier metaxy_fs, or under upstream definitions that no store of the chain holds"
        )
    yield GraphNote(
        kind="half migrated",
        feature=written.key,
        text=f"'{written.key}' {why}. An increment tells what has to be computed again.",
        upstream=tuple(replaced) or tuple(dep.key for dep in spec.deps),
        stores=(written.location,),
    )


def _definitions(stores: Sequence[Backend], graph: FeatureGraph, key: FeatureKey) -> list[StoredSpec]:
    kept = list(kept_definitions(stores, key).values())
    declared = [StoredSpec(graph.specs[key], definition_version(graph, key))] if key in graph.specs else []
    return [*kept, *declared]


def _unreadable(written: _LastWritten) -> GraphNote:
    return GraphNote(
        kind="unreadable",
        feature=written.key,
        text=f"{written.error} `verify` says what to do.",
        stores=(written.location,),
    )


def _left_out(written: _LastWritten, error: SpecError | None) -> GraphNote:
    reason = "a newer metaxy_fs declared it, or its declaration is not kept" if error is None else str(error)
    return GraphNote(
        kind="left out",
        feature=written.key,
        text=f"'{written.key}' in {written.location} is not in the graph: {reason}",
        stores=(written.location,),
    )
