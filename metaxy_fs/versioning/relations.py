"""Digest the upstream rows of a sample for the preimage of its version.

Of the latest rows of an upstream feature, those count that its `where` holds for. Where one row makes one sample, or
many, it stands for itself: the preimage holds its version. Where several rows make one sample, the preimage holds a
digest of the group. Each row is written as the text

    <id><id>...|<length>:<version>

with its ids that do not name the sample, in the order of the names of their columns, and the length of the version in
bytes. An id is written as `<kind><length>:<text>`, the length that of the text in bytes:

    i  integers      in decimal                                             i2:42
    s  strings       as they are                                            s5:hello
    b  binary        in lowercase hex                                       b4:00ff
    d  dates         days since 1970-01-01                                  d5:19782
    t  datetimes     seconds since 1970-01-01T00:00:00 (in UTC if they      t20:1709208000.000000000
                     have a zone), rounded down, `.`, nine digits

The strings of the rows, sorted by their bytes and joined by nothing, are hashed with the algorithm of versions. So the
digest depends on which row has which version, and neither on the order of the rows nor on the width or unit of the type
of an id.

Everything here takes and gives lazy frames that may hold all rows of an upstream feature, or those of some samples, as
long as these are complete.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import polars as pl

from metaxy_fs.errors import MetadataSchemaError, SpecError
from metaxy_fs.hashing import hash_string
from metaxy_fs.reserved import ROW_IN_GROUP
from metaxy_fs.spec import FeatureDep, FeatureGraph, FeatureSpec
from metaxy_fs.spec.specs import group_row_columns, join_columns, stored_names
from metaxy_fs.versioning.columns import DATA_VERSION, RETIRED, is_id_type
from metaxy_fs.versioning.preimages import needed_containers, present_column, version_column

_QUERY = re.compile(r"\b(?:select|from)\b", re.IGNORECASE)
_READS = re.compile(r"\b(?:read|scan)_", re.IGNORECASE)
_UNITS = {"ms": 10**3, "us": 10**6, "ns": 10**9}


def stored_columns(spec: FeatureSpec, upstream: FeatureSpec) -> tuple[str, ...]:
    """Return the columns of an upstream feature, as they are stored, that the versions of a feature are made from."""
    dep = spec.dep(upstream.key)
    joined = stored_names(dep, join_columns(spec, upstream))
    named = () if dep.where is None else _parsed(spec, dep).meta.root_names()
    return tuple(dict.fromkeys((*upstream.id_columns, *joined, *named, DATA_VERSION)))


def known_rows(spec: FeatureSpec, upstream: FeatureSpec, rows: pl.LazyFrame) -> pl.LazyFrame:
    """Return those of the latest upstream rows that a feature is made from, under the names by which it knows them.

    Raises:
        MetadataSchemaError: A column that is to be renamed does not exist, or two get the same name.
        SpecError: The predicate is none.
    """
    dep = spec.dep(upstream.key)
    schema = rows.collect_schema()
    for old, new in dep.rename.items():
        if old not in schema or (new in schema and new not in dep.rename):
            raise MetadataSchemaError(
                f"Feature '{spec.key}' renames column '{old}' of its upstream '{upstream.key}' to '{new}', but "
                f"{'there is such a column already' if old in schema else 'there is no such column'}; there are "
                f"{list(schema)}.",
                feature=spec.key.dotted,
                column=old,
            )
    kept = rows if dep.where is None else rows.filter(_holds(spec, dep, schema))
    return kept.rename(dict(dep.rename))


def marked_rows(spec: FeatureSpec, upstream: FeatureSpec, rows: pl.LazyFrame) -> pl.LazyFrame:
    """Return upstream rows with what tells them apart in a group, and whether `where` holds for them.

    They have (at least) the `stored_columns`.
    """
    dep, schema = spec.dep(upstream.key), rows.collect_schema()
    return rows.with_columns(
        _holds(spec, dep, schema).alias(present_column(upstream.key)),
        _row_in_group(spec, upstream, schema).alias(ROW_IN_GROUP),
    )


def upstream_versions(
    graph: FeatureGraph,
    spec: FeatureSpec,
    upstream: FeatureSpec,
    rows: pl.LazyFrame,
    *,
    algorithm: str,
    carried: Mapping[str, str] = MappingProxyType({}),
) -> pl.LazyFrame:
    """Return what stands for an upstream feature in the preimages of a feature, by the ids to join on.

    Args:
        graph: Where both features are declared.
        spec: The feature.
        upstream: One of its upstream features.
        rows: Its latest rows, with (at least) the `stored_columns`; those that retire a sample say so.
        algorithm: What groups are hashed with.
        carried: Other columns to return, and the names under which they are stored.

    Returns:
        The id columns of `join_columns`, each combination once; whether it has any row that `where` holds for and that
        is not retired; a string for each upstream container that is needed; and what is carried of the same rows: of
        groups lists in the order of the ids, null where no row counts. What is retired, or excluded by `where`, stays,
        to tell it from what never was.

    Raises:
        MetadataSchemaError: The ids of groups are of a type that no id has.
        SpecError: The predicate is none.
    """
    dep = spec.dep(upstream.key)
    ids = join_columns(spec, upstream)
    schema = rows.collect_schema()
    versions = {
        version_column(upstream.key, name): pl.col(DATA_VERSION).struct.field(name)
        for name in needed_containers(graph, spec, upstream)
    }
    holds = _holds(spec, dep, schema)
    if RETIRED in schema:
        holds &= pl.col(RETIRED).ne_missing(pl.lit(value=True))
    known = [
        *(pl.col(old).alias(new) for old, new in zip(stored_names(dep, ids), ids, strict=True)),
        holds.alias(present_column(upstream.key)),
    ]
    beside = [version.alias(name) for name, version in versions.items()]
    values = [pl.when(holds).then(pl.col(stored)).alias(name) for name, stored in carried.items()]
    if dep.relation != "aggregation":
        return rows.select(*known, *beside, *values)
    _check_id_types(spec, upstream, schema)
    if carried:
        rows = rows.sort(*stored_names(dep, ids), *_ids_apart(spec, upstream))
    row = _row_in_group(spec, upstream, schema).alias(ROW_IN_GROUP)
    groups = _grouped(
        rows.select(*known, row, *beside, *values),
        ids=ids,
        present=present_column(upstream.key),
        versions=list(versions),
        carried=list(carried),
    )
    return groups.with_columns(hash_string(pl.col(name), algorithm=algorithm) for name in versions)


@contextmanager
def evaluating_where(spec: FeatureSpec | None) -> Iterator[None]:
    """Say whose predicates are looked at, where one fails on the values of rows.

    Raises:
        MetadataSchemaError: One did.
    """
    strings = [] if spec is None else [_where(spec, dep) for dep in spec.deps if dep.where is not None]
    try:
        yield
    except pl.exceptions.PolarsError as error:
        if not strings:
            raise
        raise MetadataSchemaError(f"{' or '.join(strings)} cannot be evaluated on the stored rows: {error}") from error


def _grouped(
    named: pl.LazyFrame, *, ids: tuple[str, ...], present: str, versions: list[str], carried: list[str]
) -> pl.LazyFrame:
    """Return each group with the strings of its rows, to be hashed, and what is carried of them."""
    strings = [pl.when(present).then(_row_text(name)).alias(name) for name in versions]
    joined = [pl.col(name).sort().str.join("") for name in versions]
    lists = [pl.col(name).filter(present) for name in carried]
    rows = named.select(*ids, present, *strings, *carried)
    groups = rows.group_by(ids, maintain_order=True).agg(pl.col(present).any(), *joined, *lists)
    return groups.with_columns(pl.when(present).then(pl.col(name)).alias(name) for name in carried)


def _ids_apart(spec: FeatureSpec, upstream: FeatureSpec) -> list[str]:
    """Return the ids that tell the rows of a group apart, as they are stored, in the order of the upstream feature."""
    apart = stored_names(spec.dep(upstream.key), group_row_columns(spec, upstream))
    return [name for name in upstream.id_columns if name in apart]


def _row_in_group(spec: FeatureSpec, upstream: FeatureSpec, schema: pl.Schema) -> pl.Expr:
    """Return the ids of a row that do not name the sample, as they are hashed."""
    apart = stored_names(spec.dep(upstream.key), group_row_columns(spec, upstream))
    return pl.concat_str([pl.lit(""), *(id_text(pl.col(name), schema[name]) for name in apart)])


def _row_text(version: str) -> pl.Expr:
    length = pl.col(version).str.len_bytes().cast(pl.String)
    return pl.concat_str(pl.col(ROW_IN_GROUP), pl.lit("|"), length, pl.lit(":"), pl.col(version))


def id_text(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Return an id of a type as a string that no other id, and no beginning of one, is written as; null for null."""
    match dtype:
        case pl.String():
            kind, text = "s", value
        case pl.Binary():
            kind, text = "b", value.bin.encode("hex")
        case pl.Date():
            kind, text = "d", value.to_physical().cast(pl.String)
        case pl.Datetime():
            kind, text = "t", _seconds(value.to_physical(), _UNITS[dtype.time_unit])
        case _:
            kind, text = "i", value.cast(pl.String)
    return pl.concat_str(pl.lit(kind), text.str.len_bytes().cast(pl.String), pl.lit(":"), text)


def _seconds(ticks: pl.Expr, per_second: int) -> pl.Expr:
    nanoseconds = ticks % per_second * (10**9 // per_second)
    seconds = (ticks // per_second).cast(pl.String)
    return pl.concat_str(seconds, pl.lit("."), nanoseconds.cast(pl.String).str.zfill(9))


def _check_id_types(spec: FeatureSpec, upstream: FeatureSpec, schema: pl.Schema) -> None:
    """Refuse to group by what is no id; the ids of the upstream itself were checked when they were written.

    A column that never had a value has no type yet.
    """
    ids = join_columns(spec, upstream)
    for old, new in zip(stored_names(spec.dep(upstream.key), ids), ids, strict=True):
        if schema[old] != pl.Null and not is_id_type(schema[old]):
            raise MetadataSchemaError(
                f"Feature '{spec.key}' groups the rows of its upstream '{upstream.key}' by '{new}', which has the type "
                f"{schema[old]} there; ids are integers, strings, binary, dates or datetimes. Write one of these.",
                feature=spec.key.dotted,
                column=new,
            )


def _holds(spec: FeatureSpec, dep: FeatureDep, schema: pl.Schema) -> pl.Expr:
    """Return whether a dep's predicate holds for a row; it always does where there is none."""
    if dep.where is None:
        return pl.lit(value=True)
    predicate = _parsed(spec, dep)
    try:
        found = pl.LazyFrame(schema=schema).select(predicate).collect().to_series().dtype
    except pl.exceptions.PolarsError as error:
        raise SpecError(f"{_where(spec, dep)} cannot be evaluated: {error}") from error
    if found != pl.Boolean:
        raise SpecError(f"{_where(spec, dep)} is no predicate: it gives {found}.")
    return predicate.fill_null(value=False)


def _parsed(spec: FeatureSpec, dep: FeatureDep) -> pl.Expr:
    try:
        predicate = parse_sql(dep.where or "")
    except pl.exceptions.PolarsError as error:
        raise SpecError(f"{_where(spec, dep)} cannot be read as SQL: {error}") from error
    if not looks_at_one_row(predicate):
        raise SpecError(
            f"{_where(spec, dep)} looks at more than one row; a predicate has no aggregate, window or subquery."
        )
    return predicate


def _where(spec: FeatureSpec, dep: FeatureDep) -> str:
    return f"The predicate {dep.where!r} of feature '{spec.key}' on its upstream '{dep.key}'"


def parse_sql(text: str) -> pl.Expr:
    """Return a predicate that is written in SQL.

    Polars opens the files of a subquery, and asks URLs, while it parses: `EXISTS (SELECT * FROM read_csv('...'))`. The
    text may come from a root or from an agent, so one with a query and a name like those of functions that read is not
    parsed at all, be it in quotes or not: who knows where Polars sees them end?

    Raises:
        PolarsError: It cannot be read as SQL, or it may read files.
    """
    if _QUERY.search(text) and _READS.search(text):
        raise pl.exceptions.SQLInterfaceError("a predicate reads no files")
    return pl.sql_expr(text)


def looks_at_one_row(predicate: pl.Expr) -> bool:
    """Whether all nodes of an expression give one value a row, from this row alone."""
    waiting = [predicate.meta.undo_aliases()]
    while waiting:
        node = waiting.pop()
        if not _is_of_one_row(node):
            return False
        waiting += node.meta.pop()
    return True


def _is_of_one_row(node: pl.Expr) -> bool:
    if node.meta.is_literal() or node.meta.is_column():
        return True
    try:
        return node.meta.is_row_separable() and (node.meta.is_length_preserving() or node.meta.is_scalar())
    except pl.exceptions.ColumnNotFoundError:
        # A comparison or an operator of SQL, which wants to know its columns; each looks at one row, if its parts do.
        return True
    except pl.exceptions.PolarsError:
        return False
