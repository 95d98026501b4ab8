"""Which commits does a store hold of a feature, and which of them does a row belong to?"""

import polars as pl

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.forks import refuse_lost_threads
from metaxy_fs.log.objects.schema import column
from metaxy_fs.metadata_store.backends.backend import Backend, Query
from metaxy_fs.metadata_store.backends.chain import not_found
from metaxy_fs.metadata_store.backends.scan import Scan
from metaxy_fs.spec import FeatureKey
from metaxy_fs.versioning.columns import (
    COMMIT,
    COMMIT_TAGS,
    COMMITTED_AT,
    MARKED_COMMIT,
    MARKED_TAGS,
    MARKED_TIME,
    PARTITION,
)


def commit_columns(*, has_tags: bool) -> tuple[str, ...]:
    """Return what a read with commits adds."""
    return (COMMIT, COMMITTED_AT, COMMIT_TAGS) if has_tags else (COMMIT, COMMITTED_AT)


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


def mark_tags(scan: Scan, commits: pl.DataFrame, query: Query) -> Scan:
    """Return a scan of one store, whose rows say which commit they belong to, with the tags of that.

    Args:
        scan: Rows with the marks of commits, and of partitions where the query names none.
        commits: All commits of the feature in that store.
        query: What the scan answers. In several partitions one `write_id` makes several commits of one id.
    """
    tagged = commits.drop_nulls("tags")
    place = pl.col(MARKED_COMMIT)
    if query.partition is None:
        place = pl.concat_str(PARTITION, pl.lit("/"), place)
        ids = tagged.select(pl.concat_str("partition", pl.lit("/"), "commit")).to_series()
    else:
        ids = tagged.filter(pl.col("partition") == query.partition).get_column("commit")
        tagged = tagged.filter(pl.col("partition") == query.partition)
    tags = place.replace_strict(ids, tagged.get_column("tags"), default=None, return_dtype=pl.String)
    marks = [] if query.partition is not None else [PARTITION]
    return scan.mapped(lambda rows: rows.with_columns(tags.alias(MARKED_TAGS)).drop(marks), columns=scan.columns)


def show_commits(scan: Scan, key: FeatureKey, *, has_tags: bool) -> Scan:
    """Return a scan that was asked to mark commits, with the marks as its last columns, for users.

    Raises:
        MetadataSchemaError: The feature has columns of these names.
    """
    schema = scan.rows.collect_schema()
    if taken := [name for name in commit_columns(has_tags=has_tags) if name in schema]:
        raise MetadataSchemaError(
            f"Feature '{key}' has a column {', '.join(map(repr, taken))} of its own, which with_commits=True would "
            "hide. Read with `columns=` that leave it out, or without with_commits."
        )
    marks = {MARKED_COMMIT: COMMIT, MARKED_TIME: COMMITTED_AT} | ({MARKED_TAGS: COMMIT_TAGS} if has_tags else {})
    others = [name for name in schema if name not in marks]
    times = pl.col(MARKED_TIME).cast(pl.Datetime("us", "UTC"))

    def show(rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows.with_columns(times).rename(marks).select(*map(column, others), *marks.values())

    return scan.mapped(show, columns=[*scan.columns, *marks.values()])
