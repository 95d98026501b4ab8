"""Turn the arguments of a read into a query, and its answer into rows."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial, reduce
from operator import and_
from typing import Any, Literal, Self

import msgspec
import polars as pl

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.forks import refuse_lost_threads
from metaxy_fs.log import EVERYTHING, IdRange, balanced, column, conjuncts_on, flattened, without_empty_chunks
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.chain import chain, layered, not_found, report_corruption
from metaxy_fs.metadata_store.features import Declared, about_feature, check_predicate, flag
from metaxy_fs.metadata_store.operations import Query
from metaxy_fs.metadata_store.scan import Scan
from metaxy_fs.spec import FeatureKey, FeatureSpec
from metaxy_fs.versioning.columns import (
    COMMIT,
    COMMIT_TAGS,
    COMMITTED_AT,
    DATA_VERSION,
    PARTITION,
    RESERVED_COMMIT,
    RESERVED_TAGS,
    RESERVED_TIME,
    RETIRED,
)
from metaxy_fs.versioning.layers import latest_rows


class Read(msgspec.Struct, frozen=True):
    """The options of a read, checked."""

    filters: pl.Expr | None = None
    columns: tuple[str, ...] | None = None
    latest_only: bool = False
    all_versions: bool = False
    with_commits: bool = False
    with_tags: bool = False
    prune: pl.Expr | None = None
    """What a row of any interest satisfies, whether or not it is the latest of its sample."""

    @classmethod
    def checked(
        cls,
        *,
        filters: pl.Expr | Iterable[pl.Expr] | None,
        columns: Sequence[str] | None,
        latest_only: bool,
        versions: Literal["current", "all"],
        with_commits: bool | Literal["tags"] = False,
    ) -> Self:
        """Return the options, or say which of them has no meaning."""
        all_versions = _are_all(versions)
        selected = _column_names(columns)
        has_tags = with_commits == "tags"
        is_marked = has_tags or flag(with_commits, name="with_commits", others='"tags"')
        if selected is not None and is_marked:
            selected = tuple(dict.fromkeys((*selected, *commit_columns(has_tags=has_tags))))
        is_latest = flag(latest_only, name="latest_only")
        return cls(_one_predicate(filters), selected, is_latest, all_versions, is_marked, has_tags)


@about_feature
@report_corruption
def read_chain(store: Backend, feature: Declared | FeatureKey, read: Read, *, fallback: bool) -> pl.DataFrame:
    """Return what `scan_chain` does, collected.

    Raises:
        CorruptObjectError: An object cannot be read; the message names it.
    """
    return without_empty_chunks(scan_chain(store, feature, read, fallback=fallback).collect())


@about_feature
def scan_chain(store: Backend, feature: Declared | FeatureKey, read: Read, *, fallback: bool) -> pl.LazyFrame:
    """Return the rows that the first store of a chain which holds the feature has of it.

    Raises:
        FeatureNotFoundError: None does.
        MetadataSchemaError: A column that the read names does not exist.
    """
    scan = find_scan(store, feature, read, fallback=flag(fallback, name="allow_fallback"))
    return answer(scan, read, feature.spec.id_columns if isinstance(feature, Declared) else None)


def answer(
    scan: Scan, read: Read, declared: Sequence[str] | None, *, by: str = "", within: IdRange = EVERYTHING
) -> pl.LazyFrame:
    """Return the rows of a scan that a read asks for.

    Args:
        scan: What `find_scan` gave for the read.
        read: What is asked for.
        declared: What names a sample, as far as it is declared.
        by: One of these columns.
        within: The only values of that column which matter.
    """
    if read.latest_only:
        where = _prune(read, declared)
        rows = latest(scan, id_columns=declared or scan.id_columns, column=by, within=within, where=where)
    else:
        found = [rows for rows, _ in scan.layers(column=by, within=within)] if within else [scan.rows]
        rows = without_retired(pl.concat(found) if len(found) > 1 else found[0], scan)
    rows = rows if read.filters is None else rows.filter(flattened(read.filters))
    return rows if read.columns is None else rows.select(map(column, read.columns))


def find_scan(store: Backend, feature: Declared | FeatureKey, read: Read, *, fallback: bool) -> Scan:
    """Return what the first store of a chain which holds the feature has of it, enough to answer a read.

    Rows that retire a sample are among its rows: which of the others count depends on them.

    Raises:
        FeatureNotFoundError: None does.
        MetadataSchemaError: A column that the read names does not exist.
    """
    refuse_lost_threads()
    key, partition = _subject(feature, all_versions=read.all_versions)
    id_columns = feature.spec.id_columns if isinstance(feature, Declared) else None
    named = _named_columns(read, id_columns)
    query = Query(
        key=key,
        partition=partition,
        columns=_enough(read, named, id_columns),
        prune=_prune(read, id_columns),
        with_commits=read.with_commits,
        with_partition=read.with_tags and partition is None,
    )
    scan = first_scan(store, query, fallback=fallback, with_tags=read.with_tags)
    if scan is None:
        raise not_found(key, partition=partition, store=store, fallback=fallback)
    scan = show_commits(scan, key, has_tags=read.with_tags) if read.with_commits else scan
    refuse_unknown(named, scan, key)
    if read.filters is not None:
        check_predicate(balanced(read.filters), shown_schema(scan), name="filters", key=key)
    return scan


def shown_schema(scan: Scan) -> pl.Schema:
    """Return the columns that users may see of a scan."""
    return pl.Schema({name: dtype for name, dtype in scan.rows.collect_schema().items() if name != RETIRED})


def without_retired(rows: pl.LazyFrame, scan: Scan) -> pl.LazyFrame:
    """Leave out the rows of a scan that retire a sample, and the column that says so.

    A scan of the feature whose rows these are has to have that column if any commit does (see `RETIRED`).
    """
    return (
        rows.filter(pl.col(RETIRED).ne_missing(pl.lit(value=True))).drop(RETIRED) if RETIRED in scan.columns else rows
    )


def latest(
    scan: Scan,
    *,
    id_columns: Sequence[str],
    column: str = "",
    within: IdRange = EVERYTHING,
    where: pl.Expr | None = None,
    with_retired: bool = False,
) -> pl.LazyFrame:
    """Return the latest row of each sample that is not retired.

    Args:
        scan: All rows, of which those that retire samples say so.
        id_columns: What names a sample.
        column: One of the id columns.
        within: Leave out samples whose value in that column is not in a range.
        where: Leave out samples whose ids do not satisfy this; a test of ids alone commutes with the choice of the
            latest row, and Polars can push it down to row groups.
        with_retired: Keep the rows that retire their samples, and the column that says so.
    """
    layers = scan.layers(column=column, within=within)
    if where is not None:
        layers = [(rows.filter(where), is_distinct) for rows, is_distinct in layers]
    rows = latest_rows(layers, id_columns=id_columns)
    return rows if with_retired else without_retired(rows, scan)


def first_scan(store: Backend, query: Query, *, fallback: bool, with_tags: bool = False) -> Scan | None:
    """Return what a chain holds of a query, None if no store of it holds the feature.

    That is what the first store which holds the feature has of it; in a chain that falls back by sample, what all have.

    Args:
        store: The first of the chain.
        query: What is asked; it adds the columns of commits, and of partitions unless it names one, if tags are wanted.
        fallback: Whether to go on to the fallback stores.
        with_tags: Whether to add the tags of the commit of each row, which are those of its store.
    """
    found = []
    for candidate in chain(store, fallback=fallback):
        scan = candidate.scan_rows(query)
        if scan is not None:
            _remember(candidate, query, scan)
            scan = mark_tags(scan, candidate.stored_commits(query.key), query) if with_tags else scan
            found.append((candidate.location, scan))
            if store.fallback_mode == "feature":
                break
    return layered(found) if found else None


def require_id_columns(scan: Scan, spec: FeatureSpec) -> None:
    """Refuse stored rows that were written when other columns named the samples."""
    for name in spec.id_columns:
        if name not in scan.columns:
            raise MetadataSchemaError(
                f"Feature '{spec.key}' names its samples by {list(spec.id_columns)}, but no stored row has a column "
                f"'{name}'; they are named by {list(scan.id_columns)}. Give a feature with other id columns another "
                "key.",
                column=name,
            )


@about_feature
def has_commit(store: Backend, feature: Declared | FeatureKey, *, fallback: bool) -> bool:
    """Whether any store of a chain holds a commit of a feature."""
    key, partition = _subject(feature, all_versions=False)
    stores = chain(store, fallback=flag(fallback, name="check_fallback"))
    if partition is None:
        return any(candidate.stored_versions(key) for candidate in stores)
    return any(candidate.has_version(key, partition) for candidate in stores)


def refuse_unknown(named: set[str], scan: Scan, key: FeatureKey) -> None:
    """Refuse a read that names a column which the feature does not have."""
    unknown = sorted(named.difference(shown_schema(scan)))
    if unknown:
        present = [name for name in scan.columns if name != RETIRED]
        raise MetadataSchemaError(
            f"Feature '{key}' has no column {', '.join(map(repr, unknown))}; it has {present}.",
            feature=key.dotted,
            column=unknown[0],
        )


def _subject(feature: Declared | FeatureKey, *, all_versions: bool) -> tuple[FeatureKey, str | None]:
    """Return whose rows are meant, and in which partition: in all where the declaration is unknown."""
    if isinstance(feature, FeatureKey):
        return feature, None
    return feature.key, None if all_versions else feature.definition.partition


def _are_all(versions: Literal["current", "all"]) -> bool:
    if versions not in ("current", "all"):
        raise ValueError(f'versions is "current" or "all", got {versions!r}.')
    return versions == "all"


def _named_columns(read: Read, id_columns: Sequence[str] | None) -> set[str]:
    """Return the columns that a read cannot do without."""
    filtered = [] if read.filters is None or _selects(read.filters) else read.filters.meta.root_names()
    return {*(read.columns or ()), *filtered, *(id_columns or () if read.latest_only else ())}


def _selects(filters: pl.Expr) -> bool:
    """Whether a predicate picks its columns from those that there are."""
    return filters.meta.has_multiple_outputs()


def _enough(read: Read, named: set[str], id_columns: Sequence[str] | None) -> frozenset[str] | None:
    """Return the columns that the answer is made from, None where it may be any.

    Versions are among them, which all rows have: a store of a chain may have none of the others, and a frame without
    columns has no rows.
    """
    is_open = read.columns is None or (read.latest_only and id_columns is None)
    is_open = is_open or (read.filters is not None and _selects(read.filters))
    added = commit_columns(has_tags=read.with_tags) if read.with_commits else ()
    return None if is_open else frozenset((*named.difference(added), DATA_VERSION, RETIRED))


def _prune(read: Read, id_columns: Sequence[str] | None) -> pl.Expr | None:
    """Return by what rows may be left out: of a rewritten sample, a test of its id alone holds for all rows or none."""
    if read.filters is None:
        return read.prune
    filters = flattened(read.filters)
    return filters if not read.latest_only else conjuncts_on(filters, columns=set(id_columns or ()))


def _remember(store: Backend, query: Query, scan: Scan) -> None:
    """Let the store know the types that it holds, so that it can refuse a write that does not fit them."""
    if query.partition is not None and not query.with_partition and not query.with_commits:
        store.seen.add(query.key, query.partition, scan.rows.collect_schema())


def _one_predicate(filters: pl.Expr | Iterable[pl.Expr] | None) -> pl.Expr | None:
    if filters is None:
        return None
    several = isinstance(filters, Iterable) and not isinstance(filters, pl.Expr | str)
    predicates: list[Any] = list(filters) if several else [filters]  # type: ignore[arg-type]  # an expression is one
    for predicate in predicates:
        if not isinstance(predicate, pl.Expr):
            raise TypeError(f"filters takes Polars expressions such as pl.col('sample_id') > 1, got {predicate!r}.")
    return reduce(and_, predicates) if predicates else None


def _column_names(columns: Sequence[str] | None) -> tuple[str, ...] | None:
    if columns is None:
        return None
    names = list(columns) if isinstance(columns, Iterable) and not isinstance(columns, str) else [columns]
    if isinstance(columns, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"columns takes a list of column names, got {columns!r}.")
    if len(set(names)) < len(names):
        raise MetadataSchemaError(f"columns names a column more than once: {names!r}.")
    return tuple(names)


def commit_columns(*, has_tags: bool) -> tuple[str, ...]:
    """Return what a read with commits adds."""
    return (COMMIT, COMMITTED_AT, COMMIT_TAGS) if has_tags else (COMMIT, COMMITTED_AT)


@about_feature
def history(store: Backend, key: FeatureKey) -> pl.DataFrame:
    """Return the commits of a feature in one store.

    Raises:
        FeatureNotFoundError: There are none.
    """
    refuse_lost_threads()
    commits = store.stored_commits(key)
    if commits.is_empty():
        raise not_found(key, partition=None, store=store, fallback=False)
    return commits


@about_feature
def list_files(store: Backend, feature: Declared | FeatureKey, *, versions: Literal["current", "all"]) -> pl.DataFrame:
    """Return the live data files of a feature in one store.

    Raises:
        FeatureNotFoundError: There is no commit of it.
        ValueError: `versions` has no meaning.
    """
    refuse_lost_threads()
    key, partition = _subject(feature, all_versions=_are_all(versions))
    files = store.list_files(Query(key=key, partition=partition))
    if files is None:
        raise not_found(key, partition=partition, store=store, fallback=False)
    return files


def mark_tags(scan: Scan, commits: pl.DataFrame, query: Query) -> Scan:
    """Return a scan of one store, whose rows say which commit they belong to, with the tags of that.

    Args:
        scan: Rows with the columns of commits, and of partitions where the query names none.
        commits: All commits of the feature in that store.
        query: What the scan answers. In several partitions one `write_id` makes several commits of one id.
    """
    tagged = commits.drop_nulls("tags")
    place = pl.col(RESERVED_COMMIT)
    if query.partition is None:
        place = pl.concat_str(PARTITION, pl.lit("/"), place)
        ids = tagged.select(pl.concat_str("partition", pl.lit("/"), "commit")).to_series()
    else:
        ids = tagged.filter(pl.col("partition") == query.partition).get_column("commit")
        tagged = tagged.filter(pl.col("partition") == query.partition)
    tags = place.replace_strict(ids, tagged.get_column("tags"), default=None, return_dtype=pl.String)
    partition = [] if query.partition is not None else [PARTITION]
    return scan.mapped(partial(_with_tags, tags.alias(RESERVED_TAGS), partition), columns=scan.columns)


def _with_tags(tags: pl.Expr, dropped: Sequence[str], rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.with_columns(tags).drop(dropped)


def show_commits(scan: Scan, key: FeatureKey, *, has_tags: bool) -> Scan:
    """Return a scan that has the columns of commits, with these as its last columns, for users.

    Raises:
        MetadataSchemaError: The feature has columns of these names.
    """
    schema = scan.rows.collect_schema()
    if clashing := [name for name in commit_columns(has_tags=has_tags) if name in schema]:
        raise MetadataSchemaError(
            f"Feature '{key}' has a column {', '.join(map(repr, clashing))} of its own, which with_commits=True would "
            "hide. Read with `columns=` that leave it out, or without with_commits.",
            feature=key.dotted,
            column=clashing[0],
        )
    names = {RESERVED_COMMIT: COMMIT, RESERVED_TIME: COMMITTED_AT} | ({RESERVED_TAGS: COMMIT_TAGS} if has_tags else {})
    others = [name for name in schema if name not in names]
    return scan.mapped(partial(_shown, names, others), columns=[*scan.columns, *names.values()])


def _shown(names: Mapping[str, str], others: Sequence[str], rows: pl.LazyFrame) -> pl.LazyFrame:
    times = pl.col(RESERVED_TIME).cast(pl.Datetime("us", "UTC"))
    return rows.with_columns(times).rename(names).select(*map(column, others), *names.values())
