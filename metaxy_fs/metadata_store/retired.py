"""Which samples are retired, and which of these are new again once they come back.

A user retires samples for good: they stay retired until a row of theirs is written. What a job retires only because its
sample was gone, it marks by a tag of the commit; such a retirement ends when the sample is there again.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import msgspec
import polars as pl

from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.chain import chain, layered
from metaxy_fs.metadata_store.features import Declared, about_feature
from metaxy_fs.metadata_store.operations import Query
from metaxy_fs.metadata_store.read import latest
from metaxy_fs.metadata_store.scan import Scan
from metaxy_fs.versioning.columns import RESERVED_COMMIT, RESERVED_TIME, RETIRED, RETURNS

UNTIL_BACK: Final[Mapping[str, str]] = {"metaxy_fs.until": "back"}
"""The tag of a commit whose retirements end when their samples come back."""


def scan_retired(store: Backend, query: Query) -> Scan | None:
    """Return the rows of a query, each with whether it retires its sample until that comes back, if any does."""
    scan = store.scan_rows(query)
    if scan is None or RETIRED not in scan.columns:
        return scan
    # The commits are looked up last, so that all of those scanned are among them.
    marked = store.scan_rows(msgspec.structs.replace(query, with_commits=True))
    [(name, value)] = UNTIL_BACK.items()
    is_marked = pl.col("tags").str.json_path_match(f"$['{name}']") == value
    commits = store.stored_commits(query.key).filter((pl.col("retired") > 0) & is_marked).get_column("commit")
    if marked is None or commits.is_empty():
        return scan
    returns = (pl.col(RETIRED) & pl.col(RESERVED_COMMIT).is_in(commits.implode())).alias(RETURNS)
    added = () if query.with_commits else (RESERVED_COMMIT, RESERVED_TIME)
    return marked.mapped(partial(_marked, returns=returns, added=added), columns=scan.columns)


def _marked(rows: pl.LazyFrame, *, returns: pl.Expr, added: Sequence[str]) -> pl.LazyFrame:
    return rows.with_columns(returns).drop(added)


def retirements(rows: pl.Schema) -> list[pl.Expr]:
    """Return for rows with some columns whether they retire their sample, and whether that ends when it comes back."""
    return [
        (pl.col(name).fill_null(value=False) if name in rows else pl.lit(value=False)).alias(name)
        for name in (RETIRED, RETURNS)
    ]


@about_feature
def retired_for_good(store: Backend, feature: Declared, *, fallback: bool) -> pl.DataFrame:
    """Return the ids of the samples that are retired until somebody writes a row of theirs."""
    ids = feature.spec.id_columns
    query = Query(key=feature.key, partition=feature.definition.partition, columns=frozenset((*ids, RETIRED)))
    found = [(each.location, scan_retired(each, query)) for each in chain(store, fallback=fallback)]
    scans = [(location, scan) for location, scan in found if scan is not None]
    if not any(RETIRED in scan.columns for _, scan in scans):
        return pl.DataFrame(schema=dict.fromkeys(ids, pl.Null))
    rows = latest(layered(scans), id_columns=ids, with_retired=True)
    is_retired, returns = retirements(rows.collect_schema())
    return rows.filter(is_retired & ~returns).select(ids).collect()
