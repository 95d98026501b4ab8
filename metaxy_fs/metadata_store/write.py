"""Write a frame as a commit of a store.

Theory of operation. A row that retires a sample has the sample's ids, no version, and says so in a column of its own.
It is a row like others to the log, so that compaction, copies and snapshots carry it. Reads leave it out, after they
have chosen the latest row of each sample: a sample whose latest row retires it is not there.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime

import polars as pl

from metaxy_fs.errors import FeatureNotFoundError
from metaxy_fs.log import ROW_GROUP_ROWS, Chunks, check_tags, conform, exact_in, unify
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.chain import chain, not_found, report_corruption
from metaxy_fs.metadata_store.expected import same_id_types
from metaxy_fs.metadata_store.features import Declared, about_feature, flag
from metaxy_fs.metadata_store.frames import FrameLike, check_write_id, rows_to_write
from metaxy_fs.metadata_store.operations import Append, Query
from metaxy_fs.metadata_store.read import Read, find_scan, first_scan, latest
from metaxy_fs.metadata_store.sample_ids import SampleIds, named_samples
from metaxy_fs.metadata_store.samples import SpooledSamples
from metaxy_fs.metadata_store.snapshots import BackendAt, at
from metaxy_fs.progress import tallying
from metaxy_fs.reserved import PLACE
from metaxy_fs.spec import FeatureSpec
from metaxy_fs.versioning.columns import DATA_VERSION, RESERVED_COMMIT, RESERVED_TIME, RETIRED, version_type

GivenTags = Mapping[str, str] | None
"""What the caller says of a commit, beside what the store says of all."""


@about_feature
def write(
    store: Backend,
    feature: Declared,
    df: FrameLike,
    *,
    write_id: str | None,
    tags: GivenTags = None,
    progress: bool = False,
) -> None:
    """Commit the rows of a frame, or say why they do not fit; those of a LazyFrame need not fit into memory."""
    if write_id is not None:
        check_write_id(write_id)
    check_tags(store.tags, tags)
    rows = checked_rows(feature, df)
    if not flag(progress, name="progress"):
        append(store, feature, rows, write_id=write_id, tags=tags)
        return
    with tallying(f"writing {feature.key}", unit=" rows") as advance:
        counted = Chunks(rows.schema, lambda: _counted(rows, advance))
        append(store, feature, counted, write_id=write_id, tags=tags)


def _counted(rows: Chunks, advance: Callable[[int], object]) -> Iterator[pl.DataFrame]:
    """Yield rows in parts, each of which is counted once the next one is asked for."""
    for frame in rows:
        for part in frame.iter_slices(8 * ROW_GROUP_ROWS):
            yield part
            advance(part.height)


def checked_rows(feature: Declared, df: FrameLike) -> Chunks:
    """Return the rows of a frame as they are written, or say why they do not fit."""
    if isinstance(df, pl.LazyFrame):
        return SpooledSamples(df, feature.spec, check=lambda run: rows_to_write(run, feature.spec)).chunks()
    return Chunks.of(rows_to_write(df, feature.spec))


def append(
    store: Backend, feature: Declared, rows: Chunks, *, write_id: str | None = None, tags: GivenTags = None
) -> None:
    """Commit rows that have been checked, and do what the store does after a commit."""
    commit(store, feature, rows, write_id=write_id, tags=tags)
    store.after_commits(feature.key, feature.definition.partition, commits=1)


def commit(
    store: Backend, feature: Declared, rows: Chunks, *, write_id: str | None = None, tags: GivenTags = None
) -> None:
    """Commit rows that have been checked, unless the types of their columns do not fit those seen."""
    partition = feature.definition.partition
    rows = rows if store.takes_chunks else Chunks.of(rows.collect())
    store.seen.check(feature.spec, partition, rows)
    store.append_rows(
        Append(
            spec=feature.spec,
            definition=feature.definition,
            chunks=rows,
            write_id=write_id,
            tags=check_tags(store.tags, tags),
        )
    )
    store.seen.add(feature.key, partition, rows.schema)


REASON = "reason"
"""The tag that says why samples were retired or restored."""


@about_feature
def retire(
    store: Backend, feature: Declared, ids: SampleIds, *, reason: str | None, tags: Mapping[str, str] | None
) -> None:
    """Commit that some samples exist no more.

    Raises:
        MetadataSchemaError: The id columns do not name each sample once.
        FeatureNotFoundError: The rows are in a fallback store, and would all be hidden.
    """
    tags = with_reason(store, reason, tags)
    spec = feature.spec
    samples = named_samples(ids, spec)
    refuse_hiding(store, feature, "retire")
    if samples.height:
        _see_commits(store, feature)
        rows = retired_rows(samples, spec).sort(spec.id_columns)
        append(store, feature, Chunks.of(rows), tags=tags)


def _see_commits(store: Backend, feature: Declared) -> None:
    """Look at the commits that are there, so that the next one comes after them whatever the clocks say.

    A retirement means the rows that exist. Its time alone would put it before those of a writer whose clock is ahead,
    and the samples would stay.
    """
    store.scan_rows(Query(key=feature.key, partition=feature.definition.partition, columns=frozenset()))


def retired_rows(samples: pl.DataFrame, spec: FeatureSpec) -> pl.DataFrame:
    """Return the rows that retire some samples."""
    return samples.select(
        *spec.id_columns,
        pl.lit(None, version_type(spec)).alias(DATA_VERSION),
        pl.lit(value=True).alias(RETIRED),
    )


def with_reason(store: Backend, reason: str | None, tags: Mapping[str, str] | None) -> dict[str, str]:
    """Return the tags of a commit that was given a reason, checked as they will be kept."""
    together = {**check_tags(tags), **({} if reason is None else {REASON: reason})}
    check_tags(store.tags, together)
    return together


def refuse_hiding(store: Backend, feature: Declared, what: str) -> None:
    """Refuse a commit to a store that has none, where it would hide all rows of a fallback store."""
    if (other := _read_instead(store, feature)) is not None:
        raise _hiding(
            store,
            feature,
            other,
            f"a commit that {what}s a few samples here would hide all of those. Open {other.location} by itself and "
            f'{what} them there, or open the chain with fallback_mode="sample".',
        )


def refuse_partial(store: Backend, feature: Declared, given: Callable[[], pl.DataFrame]) -> None:
    """Refuse to write some samples to a store that has no commit, where that would hide others of a fallback store.

    Args:
        store: The first of the chain.
        feature: The feature.
        given: Returns the samples that will be written, or that there should not be, by ids or by those of parents.

    Raises:
        FeatureNotFoundError: Rows of others would be hidden.
    """
    if (other := _read_instead(store, feature)) is None or (samples := given()).is_empty():
        return
    scan = find_scan(store, feature, Read(columns=tuple(feature.spec.id_columns), latest_only=True), fallback=True)
    rows = latest(scan, id_columns=feature.spec.id_columns)
    schema = rows.collect_schema()
    written = samples.lazy().select(pl.col(name).cast(schema[name]) for name in samples.columns)
    hidden = rows.join(written, on=samples.columns, how="anti").select(pl.len()).collect().item()
    if hidden:
        raise _hiding(
            store,
            feature,
            other,
            f"a commit of the samples that are due would hide {hidden} others. Copy the feature to {store.location} "
            'first, or open the chain with fallback_mode="sample".',
        )


def _read_instead(store: Backend, feature: Declared) -> Backend | None:
    """Return the fallback store that a feature is read from, None if that is the store itself, or none."""
    partition = feature.definition.partition
    if store.fallback_mode == "sample" or store.has_version(feature.key, partition):
        return None
    return next((other for other in chain(store, fallback=True) if other.has_version(feature.key, partition)), None)


def _hiding(store: Backend, feature: Declared, other: Backend, problem: str) -> FeatureNotFoundError:
    return FeatureNotFoundError(
        f"{store.location} has no rows of feature '{feature.key}' under data version {feature.definition.partition}: "
        f"reads take them from its fallback store {other.location}, and {problem}",
        feature=feature.key.dotted,
        root=store.location,
        roots=[store.location],
    )


@about_feature
@report_corruption
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
    tags = with_reason(store, reason, tags)
    rows = restoration(store, feature, moment)
    if rows is not None:
        append(store, feature, Chunks.of(rows), tags=tags)


@about_feature
@report_corruption
def restoration(store: Backend, feature: Declared, moment: str | datetime) -> pl.DataFrame | None:
    """Return the rows that `restore` commits; None if nothing differs. It raises what `restore` does."""
    spec = feature.spec
    then = at(store, moment, kind=BackendAt)
    refuse_hiding(store, feature, "restore")
    before, now = same_id_types([_commits(then, feature), _commits(store, feature)], spec)
    ids = list(spec.id_columns)
    others = before.join(now, on=now.columns, how="anti").select(ids)
    since = now.join(before, on=ids, how="anti").select(ids)
    rows = _differing(_rows(then, feature, others), _rows(store, feature, others), spec)
    return _together(rows, since, spec) if rows.height or since.height else None


def _commits(store: Backend, feature: Declared) -> pl.DataFrame:
    """Return the ids of all samples, each with the commit of its latest row."""
    ids, partition = feature.spec.id_columns, feature.definition.partition
    query = Query(key=feature.key, partition=partition, columns=frozenset((*ids, RETIRED)), with_commits=True)
    scan = first_scan(store, query, fallback=True)
    if scan is None:
        raise not_found(feature.key, partition=partition, store=store, fallback=True)
    return latest(scan, id_columns=ids).select(*ids, RESERVED_COMMIT, RESERVED_TIME).collect()


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
