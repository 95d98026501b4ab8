"""Restore the latest rows of a moment: write again what differs since, and retire what came since, in one commit."""

from collections.abc import Mapping
from datetime import datetime

import polars as pl

from metaxy_fs.log.objects.statistics import exact_in
from metaxy_fs.log.objects.widening import conform, unify
from metaxy_fs.log.writing.chunks import Chunks
from metaxy_fs.metadata_store.arguments.features import Declared
from metaxy_fs.metadata_store.arguments.frames import rows_to_write
from metaxy_fs.metadata_store.backends.backend import Backend, Query
from metaxy_fs.metadata_store.backends.chain import not_found
from metaxy_fs.metadata_store.backends.damage import names_damage
from metaxy_fs.metadata_store.increments.expected import same_id_types
from metaxy_fs.metadata_store.reading.moments import BackendAt
from metaxy_fs.metadata_store.reading.queries import Read, find_scan, first_scan, latest
from metaxy_fs.metadata_store.reading.snapshots import at
from metaxy_fs.metadata_store.writing.appending import append
from metaxy_fs.metadata_store.writing.retiring import refuse_hiding, retired_rows, with_reason
from metaxy_fs.reserved import PLACE
from metaxy_fs.spec import FeatureSpec
from metaxy_fs.versioning.columns import MARKED_COMMIT, MARKED_TIME, RETIRED


@names_damage
def restore(
    store: Backend,
    feature: Declared,
    moment: str | datetime,
    *,
    reason: str | None,
    tags: Mapping[str, str] | None,
) -> None:
    """Commit what makes the latest rows of a feature those that there were at a moment; nothing if they are.

    Raises:
        FeatureNotFoundError: There were none, or they are in a fallback store.
        SnapshotError: There is no such snapshot.
    """
    tags, spec = with_reason(store, reason, tags), feature.spec
    then = at(store, moment, kind=BackendAt)
    refuse_hiding(store, feature, "restore")
    before, now = same_id_types([_commits(then, feature), _commits(store, feature)], spec)
    ids = list(spec.id_columns)
    others = before.join(now, on=now.columns, how="anti").select(ids)
    since = now.join(before, on=ids, how="anti").select(ids)
    rows = _differing(_rows(then, feature, others), _rows(store, feature, others), spec)
    if rows.height or since.height:
        append(store, feature, Chunks.of(_together(rows, since, spec)), tags=tags)


def _commits(store: Backend, feature: Declared) -> pl.DataFrame:
    """Return the ids of all samples, each with the commit of its latest row."""
    ids, partition = feature.spec.id_columns, feature.definition.partition
    query = Query(key=feature.key, partition=partition, columns=frozenset((*ids, RETIRED)), mark_commits=True)
    scan = first_scan(store, query, fallback=True)
    if scan is None:
        raise not_found(feature.key, partition=partition, store=store, fallback=True)
    return latest(scan, id_columns=ids).select(*ids, MARKED_COMMIT, MARKED_TIME).collect()


def _rows(store: Backend, feature: Declared, samples: pl.DataFrame) -> pl.DataFrame:
    """Return the latest rows of some samples, sorted by id."""
    ids = list(feature.spec.id_columns)
    scan = find_scan(store, feature, Read(latest_only=True), fallback=True)
    rows = latest(scan, id_columns=ids)
    schema = rows.collect_schema()
    wanted = samples.lazy().select(pl.col(name).cast(schema[name]) for name in ids)
    return rows.join(wanted, on=ids, how="semi").sort(ids).collect()


def _differing(before: pl.DataFrame, now: pl.DataFrame, spec: FeatureSpec) -> pl.DataFrame:
    """Return those rows of a moment that are not there, or are others now; both are sorted by id."""
    ids = list(spec.id_columns)
    described = [(name, frame.schema, exact_in(frame)) for name, frame in (("then", before), ("now", now))]
    target = unify(described)
    aligned, others = (conform(frame.lazy(), source=frame.schema, target=target).collect() for frame in (before, now))
    place = PLACE
    numbered = aligned.select(ids).with_row_index(place)
    both = numbered.join(others.select(ids), on=ids, how="semi", maintain_order="left").get_column(place)
    others = others.join(aligned.select(ids), on=ids, how="semi", maintain_order="left")
    same = aligned[both]
    is_other = pl.Series([False] * both.len(), dtype=pl.Boolean)
    for name in target:
        is_other |= same.get_column(name).ne_missing(others.get_column(name))
    unchanged = both.filter(~is_other)
    return before.filter(~pl.int_range(pl.len()).is_in(unchanged.implode()))


def _together(rows: pl.DataFrame, since: pl.DataFrame, spec: FeatureSpec) -> pl.DataFrame:
    """Return the rows of the commit: those to be written again, and those that retire what came since."""
    again = [rows_to_write(rows, spec)] if rows.height else []
    if not since.height:
        return again[0]
    retired = retired_rows(since, spec)
    several = [*(each.with_columns(pl.lit(value=False).alias(RETIRED)) for each in again), retired]
    return pl.concat(several, how="diagonal_relaxed").sort(spec.id_columns).rechunk()
