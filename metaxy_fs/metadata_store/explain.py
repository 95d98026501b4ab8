"""Find what an explanation needs: the rows that a sample is made from, in the stores of a chain.

A group stands at the end of its branch in an explanation: what each of its rows is made from is not shown. Whether
these have to be computed is asked here as an increment asks it, from feature to feature up to the roots.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from operator import and_
from typing import NamedTuple

import msgspec
import polars as pl

from metaxy_fs.errors import DependencyError, FeatureNotFoundError, MetadataSchemaError
from metaxy_fs.insight.ancestry import (
    AncestorRows,
    Member,
    StoredRow,
    StoredVersions,
    ancestry,
    group_states,
)
from metaxy_fs.insight.explanation import Explanation, Versions
from metaxy_fs.insight.provenance import explain_sample
from metaxy_fs.log import EVERYTHING, IdRange
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.chain import chain, chain_algorithm, fitting, report_corruption
from metaxy_fs.metadata_store.features import Declared, about_feature
from metaxy_fs.metadata_store.frames import show_samples
from metaxy_fs.metadata_store.operations import Query
from metaxy_fs.metadata_store.read import Read, find_scan, latest, require_id_columns
from metaxy_fs.metadata_store.resolve import increment_within
from metaxy_fs.metadata_store.retired import retirements, scan_retired
from metaxy_fs.metadata_store.sample_ids import named_sample
from metaxy_fs.metadata_store.scan import Scan
from metaxy_fs.metadata_store.selection import id_equals, id_literal
from metaxy_fs.metadata_store.stored_layers import strange_versions, warn_of_strange
from metaxy_fs.reserved import KEPT as _IS_KEPT
from metaxy_fs.reserved import ROW_IN_GROUP
from metaxy_fs.spec import FeatureGraph, FeatureSpec
from metaxy_fs.spec.specs import group_row_columns, join_columns, stored_names
from metaxy_fs.versioning.columns import DATA_VERSION, MADE_FROM, PARTITION, RESERVED_COMMIT, RETIRED
from metaxy_fs.versioning.content import made_from, version_columns
from metaxy_fs.versioning.definition import DefinitionVersion, definition_version
from metaxy_fs.versioning.preimages import present_column, sample_source
from metaxy_fs.versioning.relations import evaluating_where, marked_rows, stored_columns


@about_feature
@report_corruption
def explain(store: Backend, feature: Declared, sample_id: object) -> Explanation:
    """Return why a sample of a feature has its versions."""
    sample = named_sample(sample_id, feature.spec.id_columns, feature.key)
    algorithm = chain_algorithm(store, fallback=True)
    ancestors = ancestry(feature.graph, feature.spec, sample)
    versions = {rows.ref: _versions(store, feature.graph, rows, algorithm=algorithm) for rows in ancestors}
    if not any(one.history for one in versions.values()):
        raise _unknown_sample(store, feature.spec, sample)
    return explain_sample(feature.graph, ancestors, versions=versions, algorithm=algorithm)


def _versions(store: Backend, graph: FeatureGraph, rows: AncestorRows, *, algorithm: str) -> StoredVersions:
    """Return what the chain holds of some rows; of a group also what of it has to be computed."""
    versions = _ancestor_versions(store, graph, rows, algorithm=algorithm)
    is_current = rows.is_group and versions.current is not None
    return msgspec.structs.replace(versions, pending=_pending_rows(store, graph, rows)) if is_current else versions


def _unknown_sample(store: Backend, spec: FeatureSpec, sample: Mapping[str, object]) -> Exception:
    shown = ", ".join(f"{column}={value!r}" for column, value in sample.items())
    roots = [candidate.location for candidate in chain(store, fallback=True)]
    searched = ", ".join(roots)
    if spec.is_root:
        return FeatureNotFoundError(
            f"Feature '{spec.key}' has no row of the sample {shown}, under no data version; searched {searched}. "
            "Write it first, or correct the id.",
            feature=spec.key.dotted,
            root=store.location,
            roots=roots,
        )
    return DependencyError(
        f"Neither feature '{spec.key}' nor any that it is made from has a row of the sample {shown}; searched "
        f"{searched}. Write it to the root features first, or correct the id.",
        feature=spec.key.dotted,
        root=store.location,
    )


def _pending_rows(store: Backend, graph: FeatureGraph, rows: AncestorRows) -> str:
    """Return what of a group has to be computed before its rows are what they should be, in words; nothing if none.

    Args:
        store: The first of the chain.
        graph: Where the feature is declared.
        rows: The group.
    """
    wanted = pl.DataFrame({column: [value] for column, value in rows.values.items()})
    for spec, found in _pending(store, graph, rows.spec, wanted):
        shown = f"{found.height} of '{spec.key}': {show_samples(found)}"
        return f"{shown} {'has' if found.height == 1 else 'have'} to be computed"
    return ""


def _pending(
    store: Backend, graph: FeatureGraph, spec: FeatureSpec, wanted: pl.DataFrame
) -> Iterator[tuple[FeatureSpec, pl.DataFrame]]:
    """Yield the samples, or parents, that are to be computed, or wait, of those rows that have some values.

    Those of the feature come first, and then those of the features that it is made from.
    """
    if spec.is_root:
        return
    try:
        samples = _samples(store, Declared(spec, graph), wanted)
        found = _of_feature(store, Declared(spec, graph), wanted, samples)
    except (DependencyError, FeatureNotFoundError):  # nothing tells which samples there should be
        return
    if found.height:
        yield spec, found
    for above in graph.upstream(spec):
        dep, ids = spec.dep(above.key), join_columns(spec, above)
        known = wanted if set(wanted.columns) <= set(ids) else samples.select(ids).unique()
        renamed = dict(zip(known.columns, stored_names(dep, known.columns), strict=True))
        yield from _pending(store, graph, above, known.rename(renamed))


def _samples(store: Backend, feature: Declared, wanted: pl.DataFrame) -> pl.DataFrame:
    """Return the ids of the stored rows that have the wanted values."""
    ids = list(feature.spec.id_columns)
    read = Read(columns=tuple(dict.fromkeys((*ids, *wanted.columns))), latest_only=True)
    scan = find_scan(store, feature, read, fallback=True)
    id_range = _range(wanted, ids[0])
    rows = latest(scan, id_columns=ids, column=ids[0], within=id_range)
    return rows.join(_cast(wanted, rows.collect_schema()).lazy(), on=wanted.columns, how="semi").select(ids).collect()


def _of_feature(store: Backend, feature: Declared, wanted: pl.DataFrame, samples: pl.DataFrame) -> pl.DataFrame:
    """Return the ids of those that are to be computed, or wait."""
    ids = list(sample_source(feature.graph, feature.spec).id_columns)
    increments = increment_within(store, feature, _range(wanted, ids[0]))
    several = [
        frame.select(ids) for increment in increments for frame in (increment.new, increment.stale, increment.waiting)
    ]
    found = pl.concat(several)
    known = wanted if set(wanted.columns) <= set(ids) else samples.select(ids)
    return found.join(_cast(known, found.schema), on=known.columns, how="semi", maintain_order="left")


def _range(wanted: pl.DataFrame, column: str) -> IdRange:
    """Return the range of a column that holds the wanted values, where it can be said."""
    if column not in wanted.columns or wanted.is_empty():
        return EVERYTHING
    low, high = wanted.select(pl.col(column).min().alias("low"), pl.col(column).max().alias("high")).row(0)
    if isinstance(low, int) and not isinstance(low, bool):
        return IdRange(low, high + 1)
    return IdRange(low, high + "\0") if isinstance(low, str) else EVERYTHING


def _cast(wanted: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    return wanted.with_columns(pl.col(name).cast(schema[name], strict=False) for name in wanted.columns)


def _ancestor_versions(store: Backend, graph: FeatureGraph, rows: AncestorRows, *, algorithm: str) -> StoredVersions:
    """Return what the stores of a chain hold of some rows; they are read, and compared, where reads would find them."""
    partition = definition_version(graph, rows.spec.key).partition
    found = _find(store, rows, Declared(rows.spec, graph))
    if store.fallback_mode == "sample":
        read, compared = [member for one in reversed(found) for member in one.of(partition)], found
    else:
        holder = next((one for one in found if partition in one.definitions), None)
        read, compared = holder.of(partition) if holder else [], [holder] if holder else found[:1]
    if rows.is_group:
        return _group_versions(found, read, compared, definition_version(graph, rows.spec.key), algorithm=algorithm)
    return _row_versions(found, read, compared, partition)


class _StoredMember(NamedTuple):
    """A stored row as a member of a group, perhaps the only one.

    Attributes:
        partition: Where it is.
        member: The row.
        retires: Whether it retires the sample.
        returns: Whether it does so only until that comes back.
        provenance: What its versions follow from, where that is kept beside them.
    """

    partition: str
    member: Member
    retires: bool
    returns: bool
    provenance: Versions


class _FoundRows(NamedTuple):
    """What one store holds of a feature.

    Attributes:
        rows: Those that are meant, in commit order.
        definitions: The definitions of all rows of the feature, by partition.
        others: The declarations of the other partitions.
    """

    rows: Sequence[_StoredMember]
    definitions: Mapping[str, DefinitionVersion]
    others: Sequence[FeatureSpec]

    def of(self, partition: str) -> list[Member]:
        """Return the rows of one partition."""
        return [row.member for row in self.rows if row.partition == partition]

    def compared(self, partition: str) -> _StoredMember:
        """Return the row that an increment compares with: the last of the current partition, or else of any."""
        return next((row for row in reversed(self.rows) if row.partition == partition), self.rows[-1])


def _row_versions(
    found: Sequence[_FoundRows], read: Sequence[Member], compared: Sequence[_FoundRows], partition: str
) -> StoredVersions:
    is_kept = bool(read) and read[-1].is_kept
    last = [(one.compared(partition), one.definitions) for one in compared if one.rows]
    # As in an increment: what the nearest store has in the current partition decides, or else the nearest of all.
    deciding = next((row for row, _ in last if row.partition == partition), last[0][0] if last else None)
    is_gone = deciding is not None and deciding.retires
    last = [] if is_gone else [(row, definitions) for row, definitions in last if not row.retires]
    return StoredVersions(
        current=read[-1].versions if is_kept else None,
        layers=[StoredRow(row.member.versions, each[row.partition], row.provenance) for row, each in last],
        history=[row.member.versions for one in found for row in reversed(one.rows) if not row.retires],
        given=[
            StoredRow(row.member.versions, one.definitions[row.partition], row.provenance)
            for one in found
            for row in reversed(one.rows)
            if row.provenance
        ],
        is_retired=deciding is not None and deciding.retires and not deciding.returns,
        definitions=_definitions(found),
        code_versions=_code_versions(found),
        is_excluded=bool(read) and not is_kept,
    )


def _group_versions(
    found: Sequence[_FoundRows],
    read: Sequence[Member],
    compared: Sequence[_FoundRows],
    current: DefinitionVersion,
    *,
    algorithm: str,
) -> StoredVersions:
    present = group_states(read, algorithm=algorithm)
    past = [
        (one, definition, group_states(one.of(partition), algorithm=algorithm))
        for one in found
        for partition, definition in one.definitions.items()
    ]
    is_kept = bool(present and present[0].members)
    elsewhere = [(definition, states) for one, definition, states in past if any(one is each for each in compared)]
    layers = [StoredRow(present[0].digests, current)] if is_kept else []
    states = [*present, *(state for *_, several in past for state in several)]
    return StoredVersions(
        current=present[0].digests if is_kept else None,
        layers=layers or [StoredRow(states[0].digests, d) for d, states in elsewhere if states and states[0].members],
        history=[state.digests for state in states if state.members],
        definitions=_definitions(found),
        code_versions=_code_versions(found),
        is_excluded=bool(read) and not is_kept,
        states=states,
    )


def _definitions(found: Sequence[_FoundRows]) -> list[DefinitionVersion]:
    return [definition for one in found for definition in one.definitions.values()]


def _code_versions(found: Sequence[_FoundRows]) -> dict[str, list[int | str]]:
    """Return the code versions that containers had in other partitions, each once."""
    versions: dict[str, dict[int | str, None]] = {}
    for spec in (spec for one in found for spec in one.others):
        for container in spec.containers:
            versions.setdefault(str(container.key), {})[container.code_version] = None
    return {name: list(several) for name, several in versions.items()}


def _find(store: Backend, rows: AncestorRows, feature: Declared) -> list[_FoundRows]:
    """Return what each store of a chain holds that has any commit of the feature, the nearest first.

    As an increment, it leaves out the rows of other partitions whose ids are of types that never match.
    """
    stores = list(chain(store, fallback=True))
    try:
        return _found(store, rows, feature, {candidate: frozenset() for candidate in stores})
    except MetadataSchemaError:
        types = _id_types(stores, rows, feature)
        strange = {candidate: strange_versions(candidate, feature, types) for candidate in stores}
        if not any(strange.values()):
            raise
    for candidate in stores:
        if strange[candidate]:
            warn_of_strange(strange[candidate], feature, candidate.location)
    return _found(store, rows, feature, strange)


def _id_types(stores: Sequence[Backend], rows: AncestorRows, feature: Declared) -> Mapping[str, pl.DataType]:
    """Return the types of the ids of the current partition, or else of the values that are looked for."""
    ids = frozenset(rows.spec.id_columns)
    query = Query(key=rows.spec.key, partition=feature.definition.partition, columns=ids)
    scan = next((scan for candidate in stores if (scan := candidate.scan_rows(query)) is not None), None)
    return pl.DataFrame([rows.values]).schema if scan is None else scan.rows.collect_schema()


def _found(
    store: Backend, rows: AncestorRows, feature: Declared, without: Mapping[Backend, frozenset[str]]
) -> list[_FoundRows]:
    query, partition = _query(rows), feature.definition.partition
    asked = [
        (candidate, scan_retired(candidate, msgspec.structs.replace(query, without=strange)))
        for candidate, strange in without.items()
    ]
    holders = [(candidate, scan) for candidate, scan in asked if scan is not None]
    scans = [scan for _, scan in holders]
    for scan in scans:
        require_id_columns(scan, rows.spec)
    once: list[pl.LazyFrame] = []
    if store.fallback_mode == "sample":  # a sample may be in the group in one store, and hidden by the row of another
        scans = fitting([(candidate.location, scan) for candidate, scan in holders])
        once = [scan.rows for scan in scans]
    return [
        _found_rows(candidate, scan, rows, partition, among=once or [scan.rows])
        for (candidate, _), scan in zip(holders, scans, strict=True)
    ]


def _query(rows: AncestorRows) -> Query:
    ids, below = rows.spec.id_columns, rows.below
    needed = {*ids, *version_columns(rows.spec), RETIRED, *(() if below is None else stored_columns(below, rows.spec))}
    # Pruning takes the values as they come; what it cannot compare keeps every file. Rows that are told by columns that
    # are no ids may have other values there since.
    prune = _all_of(pl.col(column) == id_literal(value) for column, value in rows.values.items())
    return Query(
        key=rows.spec.key,
        partition=None,
        columns=frozenset(needed),
        prune=prune if set(rows.values) <= set(ids) else None,
        with_partition=True,
        with_commits=rows.is_group,
    )


def _found_rows(
    store: Backend, scan: Scan, rows: AncestorRows, partition: str, *, among: Sequence[pl.LazyFrame]
) -> _FoundRows:
    definitions = {definition.partition: definition for definition in scan.definitions}
    kept = store.stored_specs(rows.spec.key, sorted(set(definitions) - {partition}))
    others = [stored.spec for stored in kept.values()]
    is_told = set(rows.values) <= set(scan.rows.collect_schema())
    return _FoundRows(_members(scan, rows, among) if is_told else [], definitions, others)


def _members(scan: Scan, rows: AncestorRows, among: Sequence[pl.LazyFrame]) -> list[_StoredMember]:
    """Return the rows that are meant, and those of samples that were once among all rows, in commit order."""
    schema, ids, below = scan.rows.collect_schema(), list(rows.spec.id_columns), rows.below
    wanted = _all_of(id_equals(name, schema[name], value, rows.spec.key) for name, value in rows.values.items())
    ever = scan.rows.filter(wanted)
    if not set(rows.values) <= set(ids):
        once = pl.concat(every.filter(wanted).select(ids) for every in among).unique()
        ever = scan.rows.join(once, on=ids, how="semi", maintain_order="left")
    apart: tuple[str, ...] = ()
    row, is_kept = pl.lit(""), wanted
    if below is not None and set(stored_columns(below, rows.spec)) <= set(schema):
        apart = stored_names(below.dep(rows.spec.key), group_row_columns(below, rows.spec))
        ever = marked_rows(below, rows.spec, ever)
        row, is_kept = pl.col(ROW_IN_GROUP), wanted & pl.col(present_column(rows.spec.key))
    elif below is not None:  # rows that lack what the predicate looks at
        is_kept = pl.lit(value=False)
    commit = pl.col(RESERVED_COMMIT) if rows.is_group else pl.lit("")
    retires, returns = retirements(schema)
    # A row that retires its sample is in no group, as one that `where` excludes.
    is_kept &= ~retires
    columns = (row.alias(ROW_IN_GROUP), commit.alias(RESERVED_COMMIT), is_kept.alias(_IS_KEPT), retires, returns)
    with evaluating_where(below):
        made = made_from(schema, rows.spec) or [pl.lit(None).alias(MADE_FROM)]
        found = ever.select(PARTITION, *columns, DATA_VERSION, *made, *apart).collect()
    members = []
    for partition, text, written, kept, retired, back, versions, provenance, *values in found.iter_rows():
        member = Member(text, _named(apart, values), written, kept, _own(versions))
        members.append(_StoredMember(partition, member, retired, back, _own(provenance)))
    return members


def _own(versions: Mapping[str, str | None] | None) -> Versions:
    """Return the versions of one row alone: columns of several partitions have the containers of them all."""
    return {container: version for container, version in (versions or {}).items() if version is not None}


def _named(columns: Sequence[str], values: Sequence[object]) -> str:
    """Return what a row of a group is called."""
    if len(columns) == 1:
        return repr(values[0])
    return f"({', '.join(f'{column}={value!r}' for column, value in zip(columns, values, strict=True))})"


def _all_of(predicates: Iterable[pl.Expr]) -> pl.Expr:
    return reduce(and_, predicates)
