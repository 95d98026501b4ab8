"""Compare what two chains hold, or one chain at two moments, sample by sample."""

from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter
from typing import NamedTuple

import polars as pl

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.forks import refuse_lost_threads
from metaxy_fs.insight.diff import COUNTED, ChangedRows, Diff, changed_rows, counted, samples_of, with_causes
from metaxy_fs.log import widen
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.chain import chain, not_found, report_corruption
from metaxy_fs.metadata_store.fingerprint import latest_versions
from metaxy_fs.metadata_store.stored_graph import stored_graph
from metaxy_fs.progress import at
from metaxy_fs.spec import FeatureGraph, FeatureKey, FeatureSpec
from metaxy_fs.spec.specs import join_columns, stored_names
from metaxy_fs.versioning.columns import PARTITION, RESERVED_COMMIT, RESERVED_TIME, RETIRED


@report_corruption
def diff(before: Backend, after: Backend, features: Sequence[FeatureKey] | None) -> Diff:
    """Return the samples that differ, with causes.

    Args:
        before: The first of one chain.
        after: The first of the other.
        features: What is shown; by default all features that either of them holds.

    Raises:
        FeatureNotFoundError: Neither holds one of the features.
    """
    refuse_lost_threads()
    held = {key for store in (before, after) for each in chain(store, fallback=True) for key in each.stored_features()}
    wanted = sorted(held) if features is None else list(features)
    if lacking := [key for key in wanted if key not in held]:
        raise not_found(lacking[0], partition=None, store=after, fallback=True)
    graph = _Graph([graph_of(store) for store in (after, before)])
    rows: dict[FeatureKey, ChangedRows] = {}
    for key in graph.upstream_first(wanted):
        if key in held:
            at(key)
            rows[key] = _changed(before, after, key, graph, rows)
    shown = {key: samples_of(rows[key]) for key in rows if key in wanted}
    causes = [counted(rows[key]) for key in shown]
    return Diff(before.location, after.location, pl.concat([pl.DataFrame(schema=COUNTED), *causes]), shown)


def graph_of(store: Backend) -> FeatureGraph:
    """Return the graph of what a chain holds; where it keeps no declarations, the active one."""
    is_empty = not any(each.stored_features() for each in chain(store, fallback=True))
    found = FeatureGraph() if is_empty else stored_graph(store)
    return found if found.specs else FeatureGraph.active().frozen()


class _Graph:
    """The features of both moments: as the first of some graphs declares each that any of them holds."""

    def __init__(self, graphs: Sequence[FeatureGraph]) -> None:
        self._graph_of = {key: graph for graph in reversed(graphs) for key in graph.specs}

    def find(self, key: FeatureKey) -> tuple[FeatureSpec | None, FeatureGraph | None]:
        """Return the declaration of a feature, and the graph that it is part of."""
        graph = self._graph_of.get(key)
        return (None if graph is None else graph.specs[key]), graph

    def upstream_first(self, wanted: Sequence[FeatureKey]) -> list[FeatureKey]:
        """Return some features and all that they are made from, in an order for which causes are known when needed."""
        above: dict[FeatureKey, list[FeatureKey]] = {}
        waiting = list(wanted)
        while waiting:
            key = waiting.pop()
            if key not in above:
                spec, _ = self.find(key)
                above[key] = [] if spec is None else [dep.key for dep in spec.deps]
                waiting += above[key]
        return list(TopologicalSorter(above).static_order())

    def grouping_columns(self, key: FeatureKey) -> list[str]:
        """Return the columns of a feature, beside its ids, by which others find its rows."""
        spec, _ = self.find(key)
        if spec is None:
            return []
        below = [each.specs[other] for other, each in self._graph_of.items()]
        named = {
            name
            for other in below
            if any(dep.key == key for dep in other.deps)
            for name in stored_names(other.dep(key), join_columns(other, spec))
        }
        return sorted(named.difference(spec.id_columns))


def _changed(
    before: Backend, after: Backend, key: FeatureKey, graph: _Graph, upstream: Mapping[FeatureKey, ChangedRows]
) -> ChangedRows:
    """Return the rows of a feature that differ, with causes."""
    carried = graph.grouping_columns(key)
    more = (PARTITION, RESERVED_TIME, RESERVED_COMMIT, *carried)
    stores = (before, after)
    sides = [latest_versions(store, key, None, *more, with_retired=True) for store in stores]
    ids = _id_columns(key, [side.id_columns for side in sides if side is not None])
    rows = pl.collect_all([side.rows for side in sides if side is not None])
    if len(rows) == len(stores):
        rows = _of_one_type(rows, key, ids, carried)
        rows = _touched(rows, key, stores, ids)
    frames = iter(frame.lazy().filter(~pl.col(RETIRED)) for frame in rows)
    then, now = (None if side is None else next(frames) for side in sides)
    found = changed_rows(then, now, id_columns=ids, carried=carried)
    spec, declared_in = graph.find(key)
    spec = FeatureSpec(key=key, id_columns=ids) if spec is None else spec
    return with_causes(found, spec, declared_in, upstream=upstream, declared=_declared((before, after), key))


def _id_columns(key: FeatureKey, sides: Sequence[Sequence[str]]) -> list[str]:
    *before, after = sides
    for then in before:
        if set(then) != set(after):
            raise MetadataSchemaError(
                f"Samples of feature '{key}' are named by {list(then)} on one side and by {list(after)} on the other, "
                "so none is the same. Name the other features.",
                feature=str(key),
            )
    return list(after)


def _of_one_type(
    rows: Sequence[pl.DataFrame], key: FeatureKey, ids: Sequence[str], carried: Sequence[str]
) -> list[pl.DataFrame]:
    """Return the rows of both sides with ids, and columns that others group by, of the same types."""
    then, now = rows
    types: dict[str, pl.DataType] = {}
    for name in (*ids, *carried):
        common = widen(then.schema[name], now.schema[name])
        if common is None and name in ids:
            raise MetadataSchemaError(
                f"The ids of feature '{key}' have types on the two sides that do not compare: '{name}' is "
                f"{then.schema[name]} on one and {now.schema[name]} on the other. Name the other features with "
                "features=[...].",
                feature=str(key),
                column=name,
            )
        types[name] = now.schema[name] if common is None else common
    return [
        frame.with_columns(pl.col(name).cast(dtype, strict=False) for name, dtype in types.items()) for frame in rows
    ]


def _touched(
    rows: Sequence[pl.DataFrame], key: FeatureKey, stores: Sequence[Backend], ids: list[str]
) -> list[pl.DataFrame]:
    """Return the rows of the samples that may differ: those of which a commit has a row that one of the sides lacks.

    A commit of a root always has the same rows, so two looks at one root that order the commits which they share alike
    have the same row of every other sample. That spares the join of all rows. In another root a commit may have fewer
    rows, because a copy has left some out.
    """
    before, after = (_commits(store, key) for store in stores)
    if before is None or after is None or before.root != after.root:
        return list(rows)
    then, now = before.commits, after.commits
    shared = set(then) & set(now)
    if [each for each in then if each in shared] != [each for each in now if each in shared]:
        return list(rows)
    differing = sorted({commit for _, commit in {*then, *now} - shared})
    touched = [frame.filter(pl.col(RESERVED_COMMIT).is_in(differing)).select(ids) for frame in rows]
    found = pl.concat(touched).unique()
    return [frame.join(found, on=ids, how="semi") for frame in rows]


class _Commits(NamedTuple):
    """The commits that the rows of a feature come from, in order, each with its partition, and the root they are in."""

    root: str
    commits: list[tuple[str, str]]


def _commits(store: Backend, key: FeatureKey) -> _Commits | None:
    """Return the commits of a feature, None where several stores have them, or where their root cannot be told."""
    if store.fallback_mode == "sample":
        return None
    for each in chain(store, fallback=True):
        held = each.stored_commits(key)
        if held.height:
            root = each.identity
            return None if root is None else _Commits(root, list(held.select("partition", "commit").iter_rows()))
    return None


def _declared(stores: Sequence[Backend], key: FeatureKey) -> dict[str, FeatureSpec]:
    """Return the declarations of the partitions of a feature in some chains, by their versions."""
    return {
        version: stored.spec
        for store in stores
        for each in chain(store, fallback=True)
        for version, stored in each.stored_specs(key, each.stored_versions(key)).items()
    }
