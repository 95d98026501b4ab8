"""Which commits does a store hold of a feature, and which of them does a row belong to?"""

import polars as pl

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.forks import refuse_lost_threads
from metaxy_fs.log.objects.schema import column
from metaxy_fs.metadata_store.backends.backend import Backend
from metaxy_fs.metadata_store.backends.chain import not_found
from metaxy_fs.metadata_store.backends.scan import Scan
from metaxy_fs.spec import FeatureKey
from metaxy_fs.versioning.columns import COMMIT, COMMITTED_AT, MARKED_COMMIT, MARKED_TIME

COMMIT_COLUMNS = (COMMIT, COMMITTED_AT)
"""What a read with commits adds."""


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


def show_commits(scan: Scan, key: FeatureKey) -> Scan:
    """Return a scan that was asked to mark commits, with the marks as its last columns, for users.

    Raises:
        MetadataSchemaError: The feature has columns of these names.
    """
    schema = scan.rows.collect_schema()
    if taken := [name for name in COMMIT_COLUMNS if name in schema]:
        raise MetadataSchemaError(
            f"Feature '{key}' has a column {', '.join(map(repr, taken))} of its own, which with_commits=True would "
            "hide. Read with `columns=` that leave it out, or without with_commits."
        )
    marks = {MARKED_COMMIT: COMMIT, MARKED_TIME: COMMITTED_AT}
    others = [name for name in schema if name not in marks]
    times = pl.col(MARKED_TIME).cast(pl.Datetime("us", "UTC"))

    def show(rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows.with_columns(times).rename(marks).select(*map(column, others), *marks.values())

    return scan.mapped(show, columns=[*scan.columns, *marks.values()])
