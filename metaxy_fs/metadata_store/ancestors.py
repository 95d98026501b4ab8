"""Find what the stores of a chain hold of the rows that a sample is made from."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import reduce
from operator import and_
from typing import NamedTuple

import polars as pl

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.insight.ancestry import AncestorRows
from metaxy_fs.insight.explanation import Versions
from metaxy_fs.insight.stored import Member, StoredRow, StoredVersions, group_states
from metaxy_fs.metadata_store.backend import Backend, Query
from metaxy_fs.metadata_store.chain import chain
from metaxy_fs.metadata_store.read import require_id_columns
from metaxy_fs.metadata_store.scan import Scan
from metaxy_fs.reserved import KEPT as _IS_KEPT
from metaxy_fs.reserved import ROW_IN_GROUP
from metaxy_fs.spec import FeatureGraph, FeatureKey, FeatureSpec
from metaxy_fs.spec.lineage import group_row_columns, stored_names
from metaxy_fs.versioning.columns import DATA_VERSION, PARTITION, RESERVED_COMMIT, RETIRED, is_id_type, present_column
from metaxy_fs.versioning.definition import DefinitionVersion, definition_version
from metaxy_fs.versioning.relations import evaluating_where, marked_rows, stored_columns


def ancestor_versions(store: Backend, graph: FeatureGraph, rows: AncestorRows, *, algorithm: str) -> StoredVersions:
    """Return what the stores of a chain hold of some rows; they are read, and compared, where reads would find them."""
    partition = definition_version(graph, rows.spec.key).partition
    asked = (_find(candidate, rows, partition) for candidate in chain(store, fallback=True))
    found = [one for one in asked if one is not None]
    if store.fallback_mode == "sample":
        read, compared = [member for one in reversed(found) for member in one.of(partition)], found
    else:
        holder = next((one for one in found if partition in one.definitions), None)
        read, compared = holder.of(partition) if holder else [], [holder] if holder else found[:1]
    if rows.is_group:
        return _group_versions(found, read, compared, definition_version(graph, rows.spec.key), algorithm=algorithm)
    return _row_versions(found, read, compared, partition)


class _StoredMember(NamedTuple):
    """A stored row as a member of a group, perhaps the only one, its partition, and whether it retires the sample."""

    partition: str
    member: Member
    retires: bool


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
    is_retired = deciding is not None and deciding.retires
    last = [] if is_retired else [(row, definitions) for row, definitions in last if not row.retires]
    return StoredVersions(
        current=read[-1].versions if is_kept else None,
        layers=[StoredRow(row.member.versions, definitions[row.partition]) for row, definitions in last],
        history=[row.member.versions for one in found for row in reversed(one.rows) if not row.retires],
        is_retired=is_retired,
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


def _find(store: Backend, rows: AncestorRows, partition: str) -> _FoundRows | None:
    """Return what one store holds, None if it has no commit of the feature."""
    ids, below = rows.spec.id_columns, rows.below
    needed = {*ids, DATA_VERSION, RETIRED, *(() if below is None else stored_columns(below, rows.spec))}
    # Pruning takes the values as they come; what it cannot compare keeps every file. Rows that are told by columns that
    # are no ids may have other values there since.
    prune = _all_of(pl.col(column) == _literal(value) for column, value in rows.values.items())
    query = Query(
        key=rows.spec.key,
        partition=None,
        columns=frozenset(needed),
        prune=prune if set(rows.values) <= set(ids) else None,
        with_partition=True,
        with_commits=rows.is_group,
    )
    scan = store.scan_rows(query)
    if scan is None:
        return None
    require_id_columns(scan, rows.spec)
    definitions = {definition.partition: definition for definition in scan.definitions}
    others = store.stored_specs(rows.spec.key, sorted(set(definitions) - {partition}))
    return _FoundRows(_members(scan, rows) if set(rows.values) <= set(scan.columns) else [], definitions, others)


def _members(scan: Scan, rows: AncestorRows) -> list[_StoredMember]:
    """Return the rows that are meant, and those that were once, in commit order."""
    schema, ids, below = scan.rows.collect_schema(), list(rows.spec.id_columns), rows.below
    wanted = _all_of(_equals(name, schema[name], value, rows.spec.key) for name, value in rows.values.items())
    ever = scan.rows.filter(wanted)
    if not set(rows.values) <= set(ids):
        ever = scan.rows.join(ever.select(ids).unique(), on=ids, how="semi", maintain_order="left")
    apart: tuple[str, ...] = ()
    row, is_kept = pl.lit(""), wanted
    if below is not None and set(stored_columns(below, rows.spec)) <= set(scan.columns):
        apart = stored_names(below.dep(rows.spec.key), group_row_columns(below, rows.spec))
        ever = marked_rows(below, rows.spec, ever)
        row, is_kept = pl.col(ROW_IN_GROUP), wanted & pl.col(present_column(rows.spec.key))
    elif below is not None:  # rows that lack what the predicate looks at
        is_kept = pl.lit(value=False)
    commit = pl.col(RESERVED_COMMIT) if rows.is_group else pl.lit("")
    retires = pl.col(RETIRED).fill_null(value=False) if RETIRED in scan.columns else pl.lit(value=False)
    # A row that retires its sample is in no group, as one that `where` excludes.
    is_kept &= ~retires
    columns = (row.alias(ROW_IN_GROUP), commit.alias(RESERVED_COMMIT), is_kept.alias(_IS_KEPT), retires.alias(RETIRED))
    with evaluating_where(below):
        found = ever.select(PARTITION, *columns, DATA_VERSION, *apart).collect()
    return [
        _StoredMember(
            partition, Member(text, _named(apart, values), commit, kept, _without_nulls(versions or {})), retires
        )
        for partition, text, commit, kept, retires, versions, *values in found.iter_rows()
    ]


def _named(columns: Sequence[str], values: Sequence[object]) -> str:
    """Return what a row of a group is called."""
    if len(columns) == 1:
        return repr(values[0])
    return f"({', '.join(f'{column}={value!r}' for column, value in zip(columns, values, strict=True))})"


def _without_nulls(versions: Mapping[str, str | None]) -> Versions:
    """Return the versions of one row alone: columns of several partitions have the containers of them all."""
    return {container: version for container, version in versions.items() if version is not None}


def _all_of(predicates: Iterable[pl.Expr]) -> pl.Expr:
    return reduce(and_, predicates)


def _equals(column: str, dtype: pl.DataType, value: object, key: FeatureKey) -> pl.Expr:
    """Return the test whether an id column holds a value, which has to be of its kind."""
    if not is_id_type(dtype):
        raise MetadataSchemaError(
            f"Rows of feature '{key}' are grouped by '{column}', which has the type {dtype}; ids are integers, "
            "strings, binary, dates or datetimes.",
            feature=key.dotted,
            column=column,
        )
    # To Python a flag is a number, and a datetime a date; here they are not.
    if type(value) is bool or not isinstance(value, _kind(dtype)) or _has_time(value) is not (dtype == pl.Datetime):
        raise MetadataSchemaError(
            f"The id column '{column}' of feature '{key}' holds {dtype}, got {value!r}, a {type(value).__name__}.",
            feature=key.dotted,
            column=column,
        )
    literal = _literal(value)
    if isinstance(dtype, pl.Datetime) and isinstance(value, datetime):
        if (value.tzinfo is None) != (dtype.time_zone is None):
            raise MetadataSchemaError(
                f"The id column '{column}' of feature '{key}' holds {dtype}, got {value!r}: either both have a time "
                "zone or neither.",
                feature=key.dotted,
                column=column,
            )
        if dtype.time_zone is not None:
            literal = _literal(value.astimezone(UTC)).dt.convert_time_zone(dtype.time_zone)
    return pl.col(column) == literal


def _literal(value: object) -> pl.Expr:
    try:
        return pl.lit(value)
    except (OverflowError, TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise MetadataSchemaError(f"No sample_id is or holds {value!r}: {error}") from error


def _kind(dtype: pl.DataType) -> type:
    """Return the Python type of the values of an id column."""
    if dtype.is_integer():
        return int
    kinds: dict[type[pl.DataType], type] = {pl.String: str, pl.Binary: bytes, pl.Date: date, pl.Datetime: datetime}
    return kinds[dtype.base_type()]


def _has_time(value: object) -> bool:
    return isinstance(value, datetime)
