"""Plan a run of a whole graph: play it through with versions alone, and count.

Versions follow from versions, so what a run would find pending in each feature can be computed before it runs. Feature
by feature, upstream first, an increment is computed on the chain as it would then be: the first store with the rows
that the run would have committed to it (`PlannedStore`). So a plan has no rules of its own that could differ from those
of increments, whatever the relations, the chain and the history are.

Nobody knows what only the computation tells: the columns of new rows, and the samples that a new parent makes. Where
something downstream needs these, they are left out and counted as `unknown`. Versions of content are unknown, too: the
plan takes each output that is computed again for another one.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgspec
import polars as pl

from metaxy_fs.errors import CorruptObjectError, DependencyError, FeatureNotFoundError, MetadataSchemaError, SpecError
from metaxy_fs.insight.plan import CAUSES, FEATURES, Plan
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.chain import chain, report_corruption
from metaxy_fs.metadata_store.features import Declared, FeatureLike, flag, require_declaration
from metaxy_fs.metadata_store.planned import Addition, PlannedStore
from metaxy_fs.metadata_store.read import Read, find_scan, has_commit, latest, read_chain, shown_schema
from metaxy_fs.metadata_store.resolve import increment
from metaxy_fs.metadata_store.stored_layers import compared_partitions
from metaxy_fs.progress import at
from metaxy_fs.reserved import AFTER_UPSTREAM, CAUSE, KIND, KNOWN, OWN_CODE, PREFIX
from metaxy_fs.spec import FeatureGraph, FeatureKey, FeatureSpec
from metaxy_fs.spec.specs import join_columns, stored_names
from metaxy_fs.versioning.columns import CHANGED_CONTAINERS, DATA_VERSION, PARTITION
from metaxy_fs.versioning.content import content_containers, with_other_content
from metaxy_fs.versioning.increment import Increment
from metaxy_fs.versioning.preimages import sample_source
from metaxy_fs.versioning.relations import stored_columns


@report_corruption
def plan(store: Backend, targets: Sequence[FeatureLike], *, seconds: str | None, retire_orphaned: bool) -> Plan:
    """Return what a run of some features, and of all that they are made from, would compute.

    Args:
        store: The first of the chain; the run would write to it.
        targets: The features, all of one graph; none for all that are declared.
        seconds: The column of the features' rows that says how long each took.
        retire_orphaned: Whether the run retires what is orphaned, so that this is gone downstream.

    Raises:
        MetadataSchemaError: No feature has the column of seconds.
    """
    flag(retire_orphaned, name="retire_orphaned")
    features = _upstream_first(targets)
    needed = _needed_columns(features)
    added: dict[FeatureKey, Addition] = {}
    unknown: dict[FeatureKey, int] = {}
    rows = []
    for feature in features:
        at(feature.key)
        step = _FeatureRun(store, feature, added, unknown, retire_orphaned)
        unknown[feature.key] = step.unknown
        if feature.spec.is_root:
            rows.append(_row(feature.key))
            continue
        try:
            added[feature.key], found = step.run(needed[feature.key])
        except DependencyError as error:
            rows.append(_row(feature.key, unknown=step.unknown, missing=[] if step.unknown else _missing(step, error)))
            continue
        unknown[feature.key] += found.new.height if step.makes_many else 0
        rows.append(_counted(step, added[feature.key], found, seconds))
    untold = None if any(row[-1] is not None for row in rows) else seconds
    if untold is not None:
        _require_column(store, features, untold)
    causes = [_causes(key, addition.pending) for key, addition in added.items()]
    return Plan(
        features=pl.DataFrame(rows, schema=FEATURES, orient="row"),
        causes=pl.concat([pl.DataFrame(schema=CAUSES), *causes]),
        is_exact=not any(unknown.values()) and not any(_may_be_equal(each, added) for each in features),
        _pending={key: addition.pending for key, addition in added.items()},
        _untold=untold,
    )


def _may_be_equal(feature: Declared, added: Mapping[FeatureKey, Addition]) -> bool:
    """Whether a feature is made from outputs that will be computed again, and may turn out as they were."""
    above = [upstream for upstream in feature.graph.upstream(feature.spec) if content_containers(upstream)]
    return any(upstream.key in added and added[upstream.key].rows.height for upstream in above)


@dataclass(frozen=True)
class _FeatureRun:
    """The run of one feature, after that of all upstream."""

    store: Backend
    feature: Declared
    added: Mapping[FeatureKey, Addition]
    unknown_upstream: Mapping[FeatureKey, int]
    retire_orphaned: bool

    @property
    def spec(self) -> FeatureSpec:
        return self.feature.spec

    @property
    def upstream(self) -> list[FeatureSpec]:
        """The upstream features that the run adds to."""
        above = self.feature.graph.upstream(self.spec)
        return [each for each in above if each.key in self.added and self.added[each.key].has_rows]

    @property
    def hidden(self) -> frozenset[FeatureKey]:
        """The upstream features whose new rows do not tell which samples are made from them."""
        return frozenset(above.key for above in self.upstream if _more_columns(self.spec, above))

    @property
    def planned(self) -> PlannedStore:
        return PlannedStore(self.store, self.added, self.hidden)

    @property
    def unknown(self) -> int:
        """How many new rows upstream there will be of which nobody knows what they make here."""
        left_out = sum(self.added[key].bare.height for key in self.hidden)
        return left_out + sum(self.unknown_upstream[dep.key] for dep in self.spec.deps)

    @property
    def makes_many(self) -> bool:
        """Whether one upstream row makes many samples."""
        return set(self._unit_columns) != set(self.spec.id_columns)

    @property
    def _unit_columns(self) -> list[str]:
        return list(sample_source(self.feature.graph, self.spec).id_columns)

    def run(self, needed: frozenset[str]) -> tuple[Addition, Increment]:
        """Return what the run adds, and the increment that it finds."""
        # What deps carry is no part of a version, and nobody knows it of rows that are still to come.
        found = increment(self.planned, self.feature, None, stale_if=None, carries=False)
        new, stale = (with_other_content(frame, self.spec) for frame in (found.new, found.stale))
        pending = pl.concat([self._marked(new, "new"), self._marked(self._with_cause(stale), "stale")], how="diagonal")
        rows, names = self._rows(stale, needed), [*self.spec.id_columns, DATA_VERSION]
        bare = rows.clear().select(names) if self.makes_many else new.select(names)
        if not needed.issubset(rows.columns):  # of columns that are new to the feature, the computation tells all
            bare, rows = pl.concat([rows.select(names), bare], how="diagonal_relaxed"), rows.clear()
        orphaned = found.orphaned.select(self.spec.id_columns)
        addition = Addition(
            definition=self.feature.definition,
            id_columns=self.spec.id_columns,
            rows=rows,
            bare=bare,
            retired=orphaned if self.retire_orphaned else orphaned.clear(),
            pending=self._with_after_upstream(pending).drop(DATA_VERSION),
            is_first=pending.is_empty() and not has_commit(self.store, self.feature, fallback=True),
        )
        return addition, found

    def seconds(self, column: str, units: int) -> float | None:
        """Return how long some samples, or parents, take, by the rows that are stored; None where none tells."""
        columns = tuple(dict.fromkeys((*self._unit_columns, column)))
        read = Read(latest_only=True, all_versions=True)
        try:
            if column not in find_scan(self.store, self.feature, read, fallback=True).columns:
                return None
        except FeatureNotFoundError:
            return None
        # Whole rows may be large.
        rows = read_chain(self.store, self.feature, msgspec.structs.replace(read, columns=columns), fallback=True)
        if rows.schema[column] == pl.Null():  # no row has a value
            return None
        if not rows.schema[column].is_numeric():
            raise MetadataSchemaError(
                f"seconds={column!r} is {rows.schema[column]} in feature '{self.spec.key}'; it names a column of "
                "numbers.",
                feature=self.spec.key.dotted,
                column=column,
            )
        spent = pl.col(column).cast(pl.Float64)
        known = rows.filter(spent.is_finite() & (spent >= 0))
        stored = known.select(self._unit_columns).n_unique()
        return float(known.get_column(column).sum()) / stored * units if stored else None

    def _marked(self, frame: pl.DataFrame, kind: str) -> pl.DataFrame:
        names = [name for name in (*self._unit_columns, DATA_VERSION, CAUSE) if name in frame.columns]
        return frame.select(*names, pl.lit(kind).alias(KIND))

    def _with_after_upstream(self, pending: pl.DataFrame) -> pl.DataFrame:
        """Mark what could not be computed now, or would get another version than it will have."""
        if not self.upstream:
            return pending.with_columns(pl.lit(value=False).alias(AFTER_UPSTREAM))
        try:
            found = increment(self.store, self.feature, None, stale_if=None, carries=False)
        except DependencyError:
            return pending.with_columns(pl.lit(value=True).alias(AFTER_UPSTREAM))
        now = with_other_content(found.pending, self.spec)
        names = [*self._unit_columns, DATA_VERSION]
        there = now.select(pl.col(name).cast(pending.schema[name], strict=False) for name in names)
        marked = pending.join(
            there.with_columns(pl.lit(value=True).alias(KNOWN)),
            on=names,
            how="left",
            nulls_equal=True,
            maintain_order="left",
        )
        return marked.with_columns(pl.col(KNOWN).is_null().alias(AFTER_UPSTREAM)).drop(KNOWN)

    def _rows(self, stale: pl.DataFrame, needed: frozenset[str]) -> pl.DataFrame:
        """Return the stored samples as the run would write them: with other versions, and the same other columns."""
        ids, units = list(self.spec.id_columns), self._unit_columns
        versions = stale.select(*units, DATA_VERSION)
        if not self.makes_many and not needed:
            return versions.select(*ids, DATA_VERSION)
        read = Read(latest_only=True, all_versions=True)
        try:
            stored = read_chain(self.store, self.feature, read, fallback=True)
        except FeatureNotFoundError:
            return versions.clear().with_columns(pl.lit(None).alias(name) for name in ids if name not in units)
        names = [name for name in stored.columns if name in needed or name in ids]
        return _joined(stored.select(names), versions, on=units).select(*names, DATA_VERSION)

    def _with_cause(self, stale: pl.DataFrame) -> pl.DataFrame:
        """Say where the change of each stale sample comes from: its own code, a run upstream, or upstream rows."""
        if stale.is_empty():
            return stale.with_columns(pl.lit(None, pl.String).alias(CAUSE))
        frame = self._with_own_code(stale.select(*self._unit_columns, DATA_VERSION, CHANGED_CONTAINERS))
        inherited = []
        for above in self.upstream:
            frame, name = self._with_inherited(frame, above)
            inherited.append(name)
        causes = [pl.col(OWN_CODE), *(pl.col(name) for name in inherited), self._upstream_containers()]
        return frame.with_columns(pl.coalesce(causes).alias(CAUSE))

    def _with_own_code(self, stale: pl.DataFrame) -> pl.DataFrame:
        """Add what changed in the feature's own code since a sample was written, null where nothing did."""
        texts = self._changes_by_partition()
        nothing = stale.with_columns(pl.lit(None, pl.String).alias(OWN_CODE))
        found = self._partitions() if any(texts.values()) else None
        if found is None:
            return nothing
        units = self._unit_columns
        written = found.unique(units, keep="last", maintain_order=True)
        joined = _joined(stale, written.select(*units, PARTITION), on=units, how="left")
        own = pl.col(PARTITION).replace_strict(texts, default=None, return_dtype=pl.String)
        return joined.with_columns(own.alias(OWN_CODE)).drop(PARTITION)

    def _changes_by_partition(self) -> dict[str, str | None]:
        """Return what changed in the code since rows were written, by the version of their definition."""
        versions: dict[str, str | None] = {}
        for candidate in chain(self.store, fallback=True):
            others = [v for v in candidate.stored_versions(self.spec.key) if v != self.feature.definition.partition]
            for version in others:
                with suppress(CorruptObjectError):  # no count depends on it, and `verify` names it
                    for stored in candidate.stored_specs(self.spec.key, [version]).values():
                        versions.setdefault(version, _own_change(stored.spec, self.spec))
        return versions

    def _partitions(self) -> pl.DataFrame | None:
        """Return the partition of the row that each stored sample is compared with."""
        ids, scan = list(self.spec.id_columns), compared_partitions(self.store, self.feature)
        return None if scan is None else latest(scan, id_columns=ids).select(*ids, PARTITION).collect()

    def _with_inherited(self, stale: pl.DataFrame, above: FeatureSpec) -> tuple[pl.DataFrame, str]:
        """Add the cause for which an upstream row, or one of a group, is computed again."""
        name = f"{PREFIX}by {above.key.dotted}"
        dep, addition = self.spec.dep(above.key), self.added[above.key]
        on = [column for column in join_columns(self.spec, above) if column in stale.columns]
        stored = stored_names(dep, on)
        causes = addition.pending.filter(pl.col(KIND) == "stale")
        rows = addition.rows.select(*dict.fromkeys((*above.id_columns, *stored)))
        units = [column for column in causes.columns if column in above.id_columns]
        why = _joined(rows, causes.select(*units, pl.col(CAUSE).alias(name)), on=units)
        why = why.select(*stored, name).unique(stored, keep="first", maintain_order=True)
        renamed = why.rename(dict(zip(stored, on, strict=True)))
        new = pl.lit(f"new rows of {above.key}") if dep.relation == "aggregation" else pl.lit(None, pl.String)
        if addition.bare.height and dep.relation == "aggregation" and above.key not in self.hidden:
            grouped = addition.bare.select(stored).unique().rename(dict(zip(stored, on, strict=True)))
            extra = grouped.join(renamed, on=on, how="anti").with_columns(new.alias(name))
            renamed = pl.concat([renamed, extra])
        return _joined(stale, renamed, on=on, how="left"), name

    def _upstream_containers(self) -> pl.Expr:
        """Return the upstream containers that the first changed container is made from, in words."""
        texts = {}
        for container in self.spec.containers:
            pairs = self.feature.graph.upstream_containers(self.spec, container)
            names = ", ".join(f"{above.key}/{part.key}" for above, part in pairs)
            texts[str(container.key)] = names or f"definition of {self.spec.key}/{container.key}"
        first = pl.col(CHANGED_CONTAINERS).list.first()
        return first.replace_strict(texts, default=f"definition of {self.spec.key}", return_dtype=pl.String)


def _require_column(store: Backend, features: Sequence[Declared], column: str) -> None:
    """Refuse a column that no computed feature has, if any was computed yet."""
    known: dict[str, None] = {}
    for feature in features:
        with suppress(FeatureNotFoundError):
            if not feature.spec.is_root:
                scan = find_scan(store, feature, Read(latest_only=True, all_versions=True), fallback=True)
                known |= dict.fromkeys(shown_schema(scan))
    if known and column not in known:
        raise MetadataSchemaError(
            f"seconds={column!r} names a column of none of the features that are computed; they have {list(known)}.",
            column=column,
        )


def _upstream_first(targets: Sequence[FeatureLike]) -> list[Declared]:
    """Return features and all that they are made from, upstream first."""
    declared = [require_declaration(target) for target in targets or FeatureGraph.active().specs]
    graphs = list(dict.fromkeys(target.graph for target in declared))
    if len(graphs) > 1:
        raise SpecError(
            f"A plan is of features of one graph, and {', '.join(str(target.key) for target in declared)} are of "
            f"{len(graphs)}. Plan them one graph after the other."
        )
    wanted = {target.key for target in declared}
    specs = graphs[0].specs if graphs else {}
    for key, spec in reversed(list(specs.items())):
        if key in wanted:
            wanted.update(dep.key for dep in spec.deps)
    return [Declared(spec, graphs[0]) for key, spec in specs.items() if key in wanted]


def _needed_columns(features: Iterable[Declared]) -> dict[FeatureKey, frozenset[str]]:
    """Return the columns of each feature, besides ids and versions, that those downstream need."""
    needed: dict[FeatureKey, frozenset[str]] = {feature.key: frozenset() for feature in features}
    for feature in features:
        for above in feature.graph.upstream(feature.spec):
            needed[above.key] |= _more_columns(feature.spec, above)
    return needed


def _more_columns(spec: FeatureSpec, above: FeatureSpec) -> frozenset[str]:
    return frozenset(stored_columns(spec, above)).difference((*above.id_columns, DATA_VERSION))


def _row(key: FeatureKey, *, missing: Sequence[str] = (), **counts: float | None) -> tuple[object, ...]:
    values = {**dict.fromkeys(FEATURES.names(), 0), "seconds": None, **counts}
    return tuple({**values, "feature": str(key), "missing": list(missing)}.values())


def _counted(step: _FeatureRun, addition: Addition, found: Increment, seconds: str | None) -> tuple[object, ...]:
    counts = found.counts
    time = None if seconds is None else step.seconds(seconds, counts.new + counts.stale)
    return _row(
        step.feature.key,
        new=counts.new,
        stale=counts.stale,
        after_upstream=int(addition.pending.get_column(AFTER_UPSTREAM).sum()),
        waiting=counts.waiting,
        orphaned=counts.orphaned,
        unknown=step.unknown,
        seconds=time,
    )


def _missing(step: _FeatureRun, error: DependencyError) -> list[str]:
    """Return the upstream features without which nothing can be counted."""
    if error.upstream is not None:
        return [str(FeatureKey.parse(error.upstream))]
    return [str(dep.key) for dep in step.spec.deps]


def _causes(key: FeatureKey, pending: pl.DataFrame) -> pl.DataFrame:
    stale = pending.filter(pl.col(KIND) == "stale")
    counted = stale.group_by(CAUSE, maintain_order=True).agg(pl.len().cast(pl.Int64).alias("samples"))
    ordered = counted.sort("samples", CAUSE, descending=[True, False])
    return ordered.select(pl.lit(str(key)).alias("feature"), pl.col(CAUSE).alias("cause"), "samples")


def _own_change(before: FeatureSpec, after: FeatureSpec) -> str | None:
    """Return the first thing that changed in the code of a feature's containers, in words."""
    old = {str(container.key): container.code_version for container in before.containers}
    new = {str(container.key): container.code_version for container in after.containers}
    for name, version in new.items():
        if name not in old:
            return f"{after.key}/{name} added"
        if str(old[name]) != str(version):
            return f"code of {after.key}/{name} {old[name]} to {version}"
    gone = [name for name in old if name not in new]
    return f"{after.key}/{gone[0]} removed" if gone else None


def _joined(left: pl.DataFrame, right: pl.DataFrame, *, on: Sequence[str], how: str = "inner") -> pl.DataFrame:
    """Join two frames by ids that need not be of the same type in both."""
    fitted = right.with_columns(pl.col(name).cast(left.schema[name], strict=False) for name in on)
    return left.join(fitted, on=list(on), how=how, maintain_order="left")  # type: ignore[arg-type]
