"""Write the rows of the last other definition under the present one, computing nothing.

Theory of operation. Whoever rebases a feature says that the change of code since its rows were written makes no
difference to them. Nothing else may have changed: a row that was stale by what is upstream stays stale. So a row is
written again only if it stands, which means that it is what the code of its time makes of the present data.

The declaration that the rows were written under is kept with them, and its version tells under which definitions of its
upstream features. A row stands if its version follows from their rows. Where such an upstream feature has moved to
another definition, too, the row will be linked with another upstream row than it was made from. Both must then be of
the same data: the earlier row has to stand likewise, the present one must not be stale, and what somebody gave as their
versions (in a root feature, or of content) has to be equal. Other versions are calculated from code, and prove nothing.
An upstream feature that has not moved need not be looked into further: if its row is stale and is computed again, then
what is made from it will be stale.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import and_, or_
from typing import NoReturn

import msgspec
import polars as pl

from metaxy_fs.errors import (
    DependencyError,
    FeatureNotFoundError,
    MetadataSchemaError,
    SpecError,
    StorageAccessError,
)
from metaxy_fs.log import IdRange
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.chain import chain, chain_algorithm, report_corruption
from metaxy_fs.metadata_store.expected import Expected
from metaxy_fs.metadata_store.features import Declared, about_feature
from metaxy_fs.metadata_store.operations import Append, Query, StoredSpec
from metaxy_fs.metadata_store.pieces import divide
from metaxy_fs.metadata_store.read import first_scan, latest
from metaxy_fs.metadata_store.resolve import lazy_increment
from metaxy_fs.metadata_store.samples import Spool, given_samples
from metaxy_fs.metadata_store.scan import Scan
from metaxy_fs.metadata_store.stored_graph import as_root, kept_definitions, upstream_then
from metaxy_fs.metadata_store.upstream import find_upstream
from metaxy_fs.metadata_store.write import refuse_hiding, with_reason, write
from metaxy_fs.parallel import ordered_map
from metaxy_fs.spec import FeatureGraph, FeatureKey, FeatureSpec
from metaxy_fs.versioning.columns import DATA_VERSION, GIVEN, MADE_FROM, PRESENT, PROVENANCE, version_type
from metaxy_fs.versioning.content import content_containers, made_from, version_columns
from metaxy_fs.versioning.definition import definition_version


class Rebased(msgspec.Struct, frozen=True, kw_only=True):
    """What was written under the present definition of a feature; made by `MetadataStore.rebase`.

    Attributes:
        rows: How many rows were written.
        skipped: How many samples of the earlier definition were left stale, or wait for an upstream row.
        from_version: The version of the earlier definition, as `history` shows it in `partition`.

    Examples:
        >>> Rebased(rows=3, skipped=1, from_version="7f95270d13577473").rows
        3
    """

    rows: int
    skipped: int
    from_version: str


@about_feature
@report_corruption
def rebase(
    store: Backend,
    feature: Declared,
    *,
    reason: str | None,
    containers: Mapping[str, str] | None,
    tags: Mapping[str, str] | None,
) -> Rebased:
    """Write the rows of the last other definition that still stand under the present one, in one commit.

    Raises:
        FeatureNotFoundError: There is no other definition, or the rows of a fallback store would be hidden.
        SpecError: A container of the present definition is none of the earlier one.
        DependencyError: It cannot be told what the rows were made from, or an upstream feature has no row.
    """
    tags = with_reason(store, reason, tags)
    refuse_hiding(store, feature, "rebase")
    then = _last_other(store, feature)
    names = _container_names(feature.spec, then, containers)
    past = _Past(store, feature)
    ids = list(feature.spec.id_columns)
    stored = past.rows(then)
    rows = stored.drop(PROVENANCE if content_containers(then.spec) else [], strict=False).rename({DATA_VERSION: GIVEN})
    if feature.spec.is_root:  # what was given since counts, and nothing tells whether it is other data
        rows = rows.join(past.present(feature.spec, rows), on=ids, how="anti")
    samples = rows.select(*ids, *([_given(names).alias(DATA_VERSION)] if feature.spec.is_root else []))
    found = lazy_increment(store, feature, samples, stale_if=None, carries=False)
    undone = found.counts.new + found.counts.stale + found.counts.waiting
    if not found:
        return Rebased(rows=0, skipped=undone, from_version=then.definition.partition)
    standing = past.standing(then, is_target=True)
    fresh = found.pending.select(*ids, *version_columns(feature.spec)).join(standing.scan(), on=ids, how="semi")
    height = int(fresh.select(pl.len()).collect().item())
    if height:
        versioned = rows.join(fresh, on=ids, how="inner")
        write(store, feature, _with_content(versioned, feature.spec, names), write_id=None, tags=tags)
    return Rebased(rows=height, skipped=undone - height, from_version=then.definition.partition)


def _last_other(store: Backend, feature: Declared) -> StoredSpec:
    """Return the definition, other than the present one, that rows of a feature were last written under.

    Raises:
        FeatureNotFoundError: There are no such rows.
        DependencyError: Their declaration is not kept.
        MetadataSchemaError: Their samples are named by other columns.
    """
    searched = list(chain(store, fallback=True))
    last: dict[str, object] | None = None
    for candidate in searched:
        commits = candidate.stored_commits(feature.key).filter(pl.col("partition") != feature.definition.partition)
        found = commits.sort("time", maintain_order=True).tail(1).row(0, named=True) if commits.height else None
        if found is not None and (last is None or (found["time"], found["commit"]) > (last["time"], last["commit"])):
            last = found
        if last is not None and store.fallback_mode == "feature":
            break
    if last is None:
        raise FeatureNotFoundError(
            f"Feature '{feature.key}' has no rows under another definition than the present one, "
            f"{feature.definition.partition}, so there is nothing to rebase; searched "
            f"{', '.join(each.location for each in searched)}.",
            root=store.location,
            roots=[each.location for each in searched],
        )
    version = str(last["partition"])
    kept = kept_definitions(searched, feature.key).get(version)
    if kept is None:
        raise DependencyError(
            f"Rows of feature '{feature.key}' were last written under {version}, and no store of the chain keeps a "
            "declaration of that which this metaxy_fs can read, so nothing tells what they were made from. Compute "
            "them again, or write them by hand with the versions of calculate_data_versions."
        )
    if sorted(kept.spec.id_columns) != sorted(feature.spec.id_columns):
        raise MetadataSchemaError(
            f"Feature '{feature.key}' names its samples by {list(feature.spec.id_columns)}, and the rows under "
            f"{version} name them by {list(kept.spec.id_columns)}; compute them again."
        )
    return kept


def _container_names(spec: FeatureSpec, then: StoredSpec, renamed: Mapping[str, str] | None) -> dict[str, str]:
    """Return for each container the name that it had.

    Raises:
        TypeError: The new names are no mapping.
        SpecError: There is no container of a name, or one of the present definition is none of the earlier one.
    """
    given = {} if renamed is None else renamed
    if not isinstance(given, Mapping):
        raise TypeError(f"containers maps earlier names to present ones, got {renamed!r}.")
    before, now, version = then.spec.container_names, spec.container_names, then.definition.partition
    for old, new in given.items():
        if old not in before or new not in now:
            raise SpecError(
                f"containers={dict(given)!r} maps names of {list(before)}, the containers of feature '{spec.key}' "
                f"under {version}, to names of {list(now)}, the present ones."
            )
    if len(set(given.values())) < len(given):
        raise SpecError(f"containers={dict(given)!r} gives two containers of feature '{spec.key}' one name.")
    names = {name: name for name in now if name in before and name not in given}
    names |= {new: old for old, new in given.items()}
    if lacking := [name for name in now if name not in names]:
        raise SpecError(
            f"Container '{lacking[0]}' of feature '{spec.key}' is none of {list(before)}, the containers under "
            f"data version {version}, so no row has it. If it was renamed, say so: "
            f"containers={{'{before[0]}': '{lacking[0]}'}}; if it is new, compute it."
        )
    return names


def _given(names: Mapping[str, str]) -> pl.Expr:
    """Return the stored versions under the present names."""
    return pl.struct(pl.col(GIVEN).struct.field(old).alias(new) for new, old in names.items())


def _with_content(rows: pl.LazyFrame, spec: FeatureSpec, names: Mapping[str, str]) -> pl.LazyFrame:
    """Return rows with the stored versions of what is versioned by content."""
    by_writer, stored = content_containers(spec), _given(names)
    if not by_writer:
        return rows.drop(GIVEN)
    fields = [
        (stored if name in by_writer else pl.col(DATA_VERSION)).struct.field(name) for name in spec.container_names
    ]
    return rows.with_columns(pl.struct(fields).alias(DATA_VERSION)).drop(GIVEN)


class _Past:
    """What a feature and its upstream features were under an earlier definition.

    Args:
        store: The first store of a chain.
        present: The feature as it is declared now.
    """

    def __init__(self, store: Backend, present: Declared) -> None:
        self._store = store
        self._stores = list(chain(store, fallback=True))
        self._graph = present.graph
        self._algorithm = chain_algorithm(store, fallback=True)
        self._standing: dict[tuple[FeatureKey, str], Spool] = {}

    def rows(self, then: StoredSpec) -> pl.LazyFrame:
        """Return the latest rows of a feature under a definition; samples that are retired have none."""
        query = Query(key=then.spec.key, partition=then.definition.partition)
        scan = first_scan(self._store, query, fallback=True)
        if scan is None:
            raise FeatureNotFoundError(f"Feature '{then.spec.key}' has no rows under {query.partition} any more.")
        return latest(scan, id_columns=then.spec.id_columns)

    def standing(self, then: StoredSpec, *, is_target: bool = False) -> Spool:
        """Return the ids of the rows under a definition that still stand.

        Args:
            then: The definition.
            is_target: Whether they are to be written again, and not what those are made from.
        """
        key = then.spec.key, then.definition.partition
        if key not in self._standing:
            ids = list(then.spec.id_columns)
            rows = self.rows(then)
            schema = rows.collect_schema()
            spool = Spool(pl.Schema({name: schema[name] for name in ids}))
            made = made_from(schema, then.spec) or [pl.col(DATA_VERSION).alias(MADE_FROM)]
            kept = rows if is_target else rows.join(self._same_now(then, rows), on=ids, how="semi")
            for frame in self._following(then, kept.select(*ids, *made)):
                if frame.height:
                    spool.add(frame)
            self._standing[key] = spool
        return self._standing[key]

    def _following(self, then: StoredSpec, rows: pl.LazyFrame) -> Iterator[pl.DataFrame]:
        """Yield the ids of rows whose versions follow from what was upstream, as far as that still stands."""
        spec, upstream = self._then(then)
        ids = list(spec.id_columns)
        if spec.is_root:
            yield rows.select(ids).collect()
            return
        store = _PastStore(self._store, {key: self._seen(above) for key, above in upstream.items()})
        feature = Declared(spec, FeatureGraph.from_specs([*(as_root(each.spec) for each in upstream.values()), spec]))
        samples = given_samples(rows, spec, check=lambda run: run)
        expected = Expected(feature, find_upstream(store, feature, fallback=False), samples, self._algorithm)

        def following(id_range: IdRange) -> pl.DataFrame:
            found = expected.piece(expected.collected(expected.scans(id_range))).samples
            same = (_field(MADE_FROM, name) == _field(DATA_VERSION, name) for name in spec.container_names)
            return found.filter(reduce(and_, same)).select(ids)

        yield from ordered_map(following, divide(expected.inputs, expected.id_columns[0]))

    def _then(self, then: StoredSpec) -> tuple[FeatureSpec, dict[FeatureKey, StoredSpec]]:
        """Return a declaration with the present `where`, which is no part of it, and what its upstream features were.

        Raises:
            DependencyError: That cannot be told.
        """
        spec = then.spec
        now = self._graph.specs.get(spec.key)
        where = {dep.key: dep.where for dep in (now.deps if now is not None else ())}
        deps = [msgspec.structs.replace(dep, where=where.get(dep.key, dep.where)) for dep in spec.deps]
        upstream = upstream_then(self._stores, self._graph, spec, then.definition.partition)
        if spec.deps and not upstream:
            raise DependencyError(
                f"Feature '{spec.key}' was last written under {then.definition.partition}, and no definitions of its "
                f"upstream features {[str(dep.key) for dep in spec.deps]} that the chain holds give this version, so "
                "nothing tells whether its rows are up to date. Compute them again.",
                feature=spec.key.dotted,
            )
        return msgspec.structs.replace(spec, deps=deps), upstream

    def _seen(self, above: StoredSpec) -> "_SeenRows":
        """Return which rows of an upstream feature count: all where it has not moved, else those that still stand."""
        partition, key = above.definition.partition, above.spec.key
        is_there = key in self._graph.specs and definition_version(self._graph, key).partition == partition
        return _SeenRows(partition, None if is_there else self.standing(above))

    def present(self, spec: FeatureSpec, rows: pl.LazyFrame) -> pl.LazyFrame:
        """Return the ids of the present rows of a feature, in the types of some others, and their versions."""
        query = Query(key=spec.key, partition=definition_version(self._graph, spec.key).partition)
        scan = first_scan(self._store, query, fallback=True)
        schema = rows.collect_schema()
        if scan is None:
            empty = {name: schema[name] for name in spec.id_columns}
            return pl.LazyFrame(schema={**empty, PRESENT: version_type(spec)})
        ids = (pl.col(name).cast(schema[name], strict=False) for name in spec.id_columns)
        return latest(scan, id_columns=spec.id_columns).select(*ids, pl.col(DATA_VERSION).alias(PRESENT))

    def _same_now(self, then: StoredSpec, rows: pl.LazyFrame) -> pl.LazyFrame:
        """Return the ids of upstream rows for which there is a present one that is of the same data."""
        spec, ids = then.spec, list(then.spec.id_columns)
        now = self._graph.specs.get(spec.key)
        if now is None or sorted(now.id_columns) != sorted(ids):
            return rows.select(ids)
        given = spec.container_names if spec.is_root else content_containers(spec)
        added = [name for name in now.container_names if name not in spec.container_names]
        same = [_is_among(name, [name] if name in now.container_names else added) for name in given]
        both = rows.join(self.present(now, rows), on=ids, how="inner").filter(reduce(and_, same, pl.lit(value=True)))
        if now.is_root:
            return both.select(ids)
        found = lazy_increment(self._store, Declared(now, self._graph), both.select(ids), stale_if=None, carries=False)
        undone = pl.concat([found.pending.select(ids), found.waiting.select(ids)])
        return both.select(ids).join(undone, on=ids, how="anti")


def _is_among(name: str, present: Sequence[str]) -> pl.Expr:
    """Return whether the version of a container is that of one of some present ones; renamed, it has kept it."""
    equal = (_field(DATA_VERSION, name) == _field(PRESENT, other) for other in present)
    return reduce(or_, equal, pl.lit(value=False))


def _field(column: str, name: str) -> pl.Expr:
    return pl.col(column).struct.field(name)


class _SeenRows(msgspec.Struct, frozen=True):
    """A partition, and the ids of those of its rows that count; None if all do."""

    partition: str
    ids: Spool | None


class _PastStore(Backend):
    """A chain as one store, in which features have one partition each, and perhaps some of the rows of it."""

    def __init__(self, store: Backend, seen: Mapping[FeatureKey, _SeenRows]) -> None:
        super().__init__()
        self._store = store
        self._seen = seen

    @property
    def location(self) -> str:
        return self._store.location

    @property
    def hash_algorithm(self) -> str:
        return self._store.hash_algorithm

    def append_rows(self, append: Append) -> NoReturn:
        raise StorageAccessError(f"{self.location} is read-only.", feature=append.spec.key.dotted, root=self.location)

    def scan_rows(self, query: Query) -> Scan | None:
        seen = self._seen[query.key]
        scan = first_scan(self._store, msgspec.structs.replace(query, partition=seen.partition), fallback=True)
        ids = seen.ids
        if scan is None or ids is None:
            return scan
        names = ids.schema.names()
        standing = ids.scan().collect()
        return scan.mapped(
            lambda rows: rows.join(standing.lazy(), on=names, how="semi", maintain_order="left"), columns=scan.columns
        )

    def stored_versions(self, key: FeatureKey) -> list[str]:
        return [self._seen[key].partition]

    def stored_features(self) -> list[FeatureKey]:
        return sorted(self._seen)

    def stored_commits(self, key: FeatureKey) -> pl.DataFrame:
        return self._store.stored_commits(key)
