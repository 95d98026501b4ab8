"""Take fingerprints of what a chain holds, and check them."""

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from metaxy_fs.forks import refuse_lost_threads
from metaxy_fs.insight.fingerprint import (
    CHECKED,
    FeatureFingerprint,
    Fingerprint,
    FingerprintCheck,
    differing_buckets,
    fingerprint_of,
    samples_in,
)
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.chain import not_found, report_corruption
from metaxy_fs.metadata_store.features import Declared
from metaxy_fs.metadata_store.operations import Query
from metaxy_fs.metadata_store.read import first_scan, latest
from metaxy_fs.progress import at
from metaxy_fs.spec import FeatureKey
from metaxy_fs.versioning.columns import DATA_VERSION, PARTITION, RESERVED_COMMIT, RESERVED_TIME, RETIRED

_OF_COMMITS = (PARTITION, RESERVED_COMMIT, RESERVED_TIME)


class LatestVersions(NamedTuple):
    """The latest row of each sample of a feature: its ids and versions, and what names a sample."""

    rows: pl.LazyFrame
    id_columns: Sequence[str]


def latest_versions(
    store: Backend, key: FeatureKey, partition: str | None, *more: str, with_retired: bool = False
) -> LatestVersions | None:
    """Return the latest row of each sample that is not retired, None if no store of a chain has a commit.

    Args:
        store: The first of the chain.
        key: The feature.
        partition: Look at the rows of this partition alone; None for all.
        more: What else to return of each row: its columns, its partition, the id and the time of its commit.
        with_retired: Return the rows that retire their samples, too, and the column that says so.
    """
    known = first_scan(store, Query(key=key, partition=partition, columns=frozenset({DATA_VERSION})), fallback=True)
    if known is None:
        return None
    ids = list(known.id_columns)
    scan = first_scan(
        store,
        Query(
            key=key,
            partition=partition,
            columns=frozenset((*ids, DATA_VERSION, RETIRED, *more)).difference(_OF_COMMITS),
            with_partition=PARTITION in more,
            with_commits=RESERVED_TIME in more,
        ),
        fallback=True,
    )
    if scan is None:
        return None
    rows = latest(scan, id_columns=ids, with_retired=with_retired)
    if with_retired:
        is_retired = pl.col(RETIRED).fill_null(value=False) if RETIRED in scan.columns else pl.lit(value=False)
        rows = rows.with_columns(is_retired.alias(RETIRED))
        more = (*more, RETIRED)
    return LatestVersions(rows.select(*ids, DATA_VERSION, *more), ids)


@report_corruption
def fingerprint(store: Backend, features: Sequence[Declared | FeatureKey]) -> Fingerprint:
    """Return the fingerprint of some features.

    Raises:
        FeatureNotFoundError: No store of the chain has rows of one of them.
    """
    refuse_lost_threads()
    found = {}
    for feature in features:
        at(feature if isinstance(feature, FeatureKey) else feature.key)
        partition = feature.definition.partition if isinstance(feature, Declared) else None
        key = feature.key if isinstance(feature, Declared) else feature
        versions = latest_versions(store, key, partition)
        if versions is None:
            raise not_found(key, partition=partition, store=store, fallback=True)
        found[str(key)] = fingerprint_of(versions.rows, id_columns=versions.id_columns, definition=partition)
    return Fingerprint(features=found)


@report_corruption
def check(store: Backend, taken: Fingerprint) -> FingerprintCheck:
    """Return what differs between a fingerprint and what a chain holds."""
    refuse_lost_threads()
    if not isinstance(taken, Fingerprint):
        raise TypeError(f"check takes a Fingerprint, such as Fingerprint.load('train.json'), got {taken!r}.")
    rows, samples = [], {}
    for name, then in taken.features.items():
        at(name)
        key = FeatureKey.parse(name)
        row, samples[key] = _check_feature(store, key, then)
        rows.append((name, *row))
    return FingerprintCheck(pl.DataFrame(rows, schema=CHECKED, orient="row"), samples)


def _check_feature(
    store: Backend, key: FeatureKey, then: FeatureFingerprint
) -> tuple[tuple[str, int, int, int], pl.DataFrame]:
    versions = latest_versions(store, key, then.definition)
    if versions is None:
        return ("missing", then.samples, 0, len(then.buckets)), pl.DataFrame(schema=list(then.id_columns))
    now = fingerprint_of(versions.rows, id_columns=versions.id_columns, definition=then.definition)
    buckets = differing_buckets(then, now)
    # Where the columns that name samples differ, so does everything.
    is_same = now.digest == then.digest
    status = "same" if is_same else "changed"
    found = samples_in(versions.rows, id_columns=versions.id_columns, buckets=buckets)
    return (status, then.samples, now.samples, len(buckets)), found
