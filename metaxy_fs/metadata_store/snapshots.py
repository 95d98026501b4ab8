"""Read a store as it was at a snapshot or a time.

A store at a moment answers every question from the commits that there were, asks the store itself for their rows, and
takes no new ones.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from typing import Any, Final, NamedTuple, NoReturn, TypeVar

import msgspec
import polars as pl

from metaxy_fs._version import WRITER
from metaxy_fs.errors import MetadataSchemaError, SnapshotError, StorageAccessError
from metaxy_fs.forks import refuse_lost_threads
from metaxy_fs.ids import microseconds_of, wall_clock
from metaxy_fs.log import (
    UNKNOWN_SCHEMA,
    Chunks,
    PinnedFeature,
    PinnedPartition,
    PinnedStore,
    Snapshot,
    encode_schema,
    find_snapshot,
    is_snapshot_name,
    known_schema,
    put_snapshot,
    snapshot_names,
    snapshots_of,
)
from metaxy_fs.log import drop_snapshot as drop_object
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.chain import chain, not_found
from metaxy_fs.metadata_store.operations import Append, Moment, PreparedWrites, Query, StoredSpec
from metaxy_fs.metadata_store.scan import Scan
from metaxy_fs.parallel import ordered_map
from metaxy_fs.spec import FeatureKey, FeatureSpec


class Pin(NamedTuple):
    """What is seen of one feature.

    Attributes:
        commits: The ids of its commits by the version of their partition.
        schemas: What the rows of each partition were read as, and under None those of all; absent where unknown.
    """

    commits: Mapping[str, frozenset[str]]
    schemas: Mapping[str | None, pl.Schema]


class VisibleCommits(NamedTuple):
    """Which commits of each feature are seen: those up to a time, or those of the features that are named.

    Attributes:
        label: What the moment is called, for messages.
        until: The last time, in microseconds since 1970 (UTC).
        features: What is seen of each feature; no other one is.
    """

    label: str
    until: int | None = None
    features: Mapping[FeatureKey, Pin] | None = None

    def moment(self, key: FeatureKey) -> Moment | None:
        """Return which commits of a feature are seen, None if none is."""
        if self.features is None:
            return Moment(until=self.until)
        return Moment(commits=self.features[key].commits) if key in self.features else None


class BackendAt(Backend):
    """A store as it was at some moment.

    Args:
        store: The store as it is.
        visible: What is seen of it.
        fallback_stores: Those of the same moment.
    """

    def __init__(self, store: Backend, visible: VisibleCommits, *, fallback_stores: Sequence[Backend] = ()) -> None:
        super().__init__(fallback_stores=fallback_stores, fallback_mode=store.fallback_mode)
        self._store = store
        self._visible = visible

    def __getstate__(self) -> dict[str, Any]:
        """Keep what is seen of which store, as any store does that is handed to another process."""
        return {"store": self._store, "visible": self._visible, "fallback_stores": self.fallback_stores}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["store"], state["visible"], fallback_stores=state["fallback_stores"])  # type: ignore[misc]

    @property
    def location(self) -> str:
        return f"{self._store.location} at {self._visible.label}"

    @property
    def identity(self) -> str | None:
        return self._store.identity

    @property
    def hash_algorithm(self) -> str:
        return self._store.hash_algorithm

    def append_rows(self, append: Append) -> NoReturn:
        self._refuse(append.spec)

    def prepare_rows(self, append: Append, *, task_id: str | None) -> NoReturn:  # noqa: ARG002  # of any task
        self._refuse(append.spec)

    def commit_prepared_rows(self, writes: PreparedWrites) -> NoReturn:
        self._refuse(writes.spec)

    def refuse_types(self, spec: FeatureSpec, partition: str, rows: Chunks) -> NoReturn:  # noqa: ARG002  # of any type
        self._refuse(spec)

    def _refuse(self, spec: FeatureSpec) -> NoReturn:
        raise StorageAccessError(
            f"{self.location} is read-only, and rows of feature '{spec.key}' were to be written to it. Write to "
            f"the store itself, {self._store.location}.",
            feature=spec.key.dotted,
            root=self._store.location,
        )

    def list_files(self, query: Query) -> pl.DataFrame | None:
        moment = self._visible.moment(query.key)
        if moment is None:
            return None
        at = moment if query.at is None else _both(moment, query.at)
        return self._store.list_files(msgspec.structs.replace(query, at=at))

    def scan_rows(self, query: Query) -> Scan | None:
        moment = self._visible.moment(query.key)
        if moment is None:
            return None
        if query.at is not None:
            return self._store.scan_rows(msgspec.structs.replace(query, at=_both(moment, query.at)))
        pin = (self._visible.features or {}).get(query.key)
        schema = None if pin is None else pin.schemas.get(query.partition)
        return self._store.scan_rows(msgspec.structs.replace(query, at=moment, schema=schema))

    def stored_versions(self, key: FeatureKey) -> list[str]:
        if self._visible.features is not None:
            return sorted(self._visible.features[key].commits) if key in self._visible.features else []
        return sorted(self.stored_commits(key).get_column("partition").unique())

    def stored_features(self) -> list[FeatureKey]:
        if self._visible.features is not None:
            return sorted(self._visible.features)
        return [key for key in self._store.stored_features() if self.stored_versions(key)]

    def stored_commits(self, key: FeatureKey) -> pl.DataFrame:
        moment = self._visible.moment(key)
        commits = self._store.stored_commits(key)
        return commits.clear() if moment is None else commits.filter(_is_seen(moment))

    @property
    def is_written(self) -> bool:
        return self._store.is_written

    def stored_specs(self, key: FeatureKey, partitions: Sequence[str]) -> Mapping[str, StoredSpec]:
        return self._store.stored_specs(key, partitions)


def _both(one: Moment, other: Moment) -> Moment:
    """Return the moment that sees what both do."""
    times = [moment.until for moment in (one, other) if moment.until is not None]
    named = [moment.commits for moment in (one, other) if moment.commits is not None]
    commits = {
        version: frozenset.intersection(*(each.get(version, frozenset()) for each in named))
        for version in (named[0] if named else ())
    }
    return Moment(until=min(times, default=None), commits=commits if named else None)


def _is_seen(moment: Moment) -> pl.Expr:
    if moment.until is not None:
        return pl.col("time").dt.epoch("us") <= moment.until
    ids_by_version = (moment.commits or {}).items()
    seen = [(pl.col("partition") == version) & pl.col("commit").is_in(sorted(ids)) for version, ids in ids_by_version]
    return pl.any_horizontal(pl.lit(value=False), *seen)


SNAPSHOTS: Final = pl.Schema(
    {
        "name": pl.String(),
        "time": pl.Datetime("us", "UTC"),
        "features": pl.List(pl.String()),
        "commits": pl.Int64(),
        "stores": pl.List(pl.String()),
        "writer": pl.String(),
    }
)
"""The columns of a list of snapshots."""

_NAMED = 5
"""How many snapshots an error names, those that are most like the one that is not there."""

_QUESTIONS_AT_ONCE = 8
_StoreAt = TypeVar("_StoreAt", bound=BackendAt)


def create_snapshot(store: Backend, name: str, features: Sequence[FeatureKey] | None) -> None:
    """Keep which commits of some features a chain holds now, by default of all.

    Raises:
        FeatureNotFoundError: No store of the chain holds one of them.
    """
    refuse_lost_threads()
    check_name(name)
    stores = list(chain(store, fallback=True))
    keys = sorted({key for each in stores for key in each.stored_features()} if features is None else set(features))
    questions = [(each, key) for each in stores for key in keys]
    answers = ordered_map(lambda question: _pinned(*question), questions, workers=_QUESTIONS_AT_ONCE)
    pinned = dict(zip(questions, answers, strict=True))
    for key in keys:
        if not any(pinned[each, key].partitions for each in stores):
            raise not_found(key, partition=None, store=store, fallback=True)
    snapshot = Snapshot(
        name=name,
        time=wall_clock(),
        writer=WRITER,
        stores=tuple(_store(store, each, [pinned[each, key] for key in keys]) for each in stores),
    )
    put_snapshot(store.snapshot_storage, snapshot, hash_algorithm=store.hash_algorithm)


def list_snapshots(store: Backend) -> pl.DataFrame:
    """Return the snapshots that a store keeps, as a frame of `SNAPSHOTS`."""
    refuse_lost_threads()
    found = snapshots_of(store.snapshot_storage)
    rows = [_described(store, snapshot) for snapshot in found]
    return pl.DataFrame(rows, schema=SNAPSHOTS, orient="row")


def drop_snapshot(store: Backend, name: str) -> None:
    """Remove a snapshot.

    Raises:
        SnapshotError: There is none of that name.
    """
    check_name(name)
    if not drop_object(store.snapshot_storage, name):
        raise _unknown(store, name)


def at(store: Backend, moment: str | datetime, *, kind: type[_StoreAt]) -> _StoreAt:
    """Return a chain as it was at a snapshot, or at a time, as stores of this kind.

    Raises:
        SnapshotError: There is no such snapshot, or it saw a store that is not in the chain.
    """
    if isinstance(moment, datetime):
        visible = VisibleCommits(f"{moment.isoformat()}", until=_microseconds(moment))
        return _chained([(each, visible) for each in chain(store, fallback=True)], kind)
    if not isinstance(moment, str) or not is_snapshot_name(moment):
        raise ValueError(
            f"A moment is the name of a snapshot, or a time with a time zone, got {moment!r}; such as 'october', or "
            "datetime(2026, 11, 1, tzinfo=UTC)."
        )
    snapshot = find_snapshot(store.snapshot_storage, moment)
    if snapshot is None:
        raise _unknown(store, moment)
    return _chained(list(_seen(store, snapshot)), kind)


def stores_seen(stores: Sequence[Backend], snapshot: Snapshot) -> Iterator[tuple[Backend | None, PinnedStore]]:
    """Yield what a snapshot saw, each with the store that it saw it in, None where that is not among the stores.

    Stores of one location are told from each other by their order, in which a snapshot has them.

    Args:
        stores: The one that keeps the snapshot, then those that it falls back on.
        snapshot: A snapshot that the first of them keeps.
    """
    keeper, *waiting = stores
    for pinned in snapshot.stores:
        if pinned.location is None:
            yield keeper, pinned
            continue
        holder = next((each for each in waiting if each.location == pinned.location), None)
        if holder is not None:
            waiting.remove(holder)
        yield holder, pinned


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a snapshot.

    Raises:
        ValueError: It cannot.
    """
    if not isinstance(name, str) or not is_snapshot_name(name):
        raise ValueError(
            f"The name of a snapshot has 1 to 100 letters, digits, '.', '_' and '-', and begins with a letter or a "
            f"digit; got {name!r}."
        )


def _pinned(store: Backend, key: FeatureKey) -> PinnedFeature:
    """Return what a store holds of a feature now."""
    found = store.stored_commits(key).group_by("partition").agg(pl.col("commit").str.join(" ")).sort("partition")
    commits = dict(found.iter_rows())
    seen = Moment(commits={version: frozenset(ids.split(" ")) for version, ids in commits.items()})
    partitions = [
        PinnedPartition(version=version, commits=ids, schema=_schema(store, key, version, seen))
        for version, ids in commits.items()
    ]
    schema = partitions[0].schema if len(partitions) == 1 else _schema(store, key, None, seen)
    return PinnedFeature(feature=tuple(key.parts), partitions=tuple(partitions), schema=schema)


def _schema(store: Backend, key: FeatureKey, partition: str | None, seen: Moment) -> msgspec.Raw:
    """Return what the rows are read as; not known where some column has no type that holds them all."""
    try:
        scan = store.scan_rows(Query(key=key, partition=partition, at=seen))
    except MetadataSchemaError:
        scan = None
    return UNKNOWN_SCHEMA if scan is None else msgspec.Raw(encode_schema(scan.rows.collect_schema()))


def _store(first: Backend, store: Backend, pinned: Sequence[PinnedFeature]) -> PinnedStore:
    pinned_features = tuple(feature for feature in pinned if feature.partitions)
    return PinnedStore(location=None if store is first else store.location, features=pinned_features)


def _seen(store: Backend, snapshot: Snapshot) -> Iterator[tuple[Backend, VisibleCommits]]:
    """Yield the stores that a snapshot saw, each with what it saw there; the first one is the one that keeps it."""
    stores = list(chain(store, fallback=True))
    for holder, pinned in stores_seen(stores, snapshot):
        if holder is not None:
            features = {FeatureKey(list(feature.feature)): _pin(feature) for feature in pinned.features}
            yield holder, VisibleCommits(f"snapshot {snapshot.name!r}", features=features)
        elif pinned.features:
            raise SnapshotError(
                f"The snapshot {snapshot.name!r} in {store.location} saw rows in {pinned.location}, which is not among "
                f"the stores of this chain: {', '.join(each.location for each in stores)}. Open "
                "the chain that it was made through, with the same fallback stores.",
                name=snapshot.name,
                root=store.location,
            )


def _pin(feature: PinnedFeature) -> Pin:
    kept: list[tuple[str | None, msgspec.Raw]] = [(None, feature.schema)]
    kept += [(partition.version, partition.schema) for partition in feature.partitions]
    schemas = {version: schema for version, raw in kept if (schema := known_schema(raw)) is not None}
    return Pin({partition.version: partition.ids for partition in feature.partitions}, schemas)


def _chained(seen: Sequence[tuple[Backend, VisibleCommits]], kind: type[_StoreAt]) -> _StoreAt:
    (first, visible), *others = seen
    return kind(first, visible, fallback_stores=[kind(store, theirs) for store, theirs in others])


def _described(store: Backend, snapshot: Snapshot) -> tuple[object, ...]:
    pinned = [feature for each in snapshot.stores for feature in each.features]
    return (
        snapshot.name,
        snapshot.time,
        sorted({str(FeatureKey(list(feature.feature))) for feature in pinned}),
        sum(partition.commits.count(" ") + 1 for feature in pinned for partition in feature.partitions),
        [store.location if each.location is None else each.location for each in snapshot.stores if each.features],
        snapshot.writer,
    )


def _unknown(store: Backend, name: str) -> SnapshotError:
    there = snapshot_names(store.snapshot_storage)
    near = get_close_matches(name, there, n=_NAMED, cutoff=0.0)
    more = f" and {len(there) - len(near)} more" if len(there) > len(near) else ""
    return SnapshotError(
        f"{store.location} keeps no snapshot {name!r}; it keeps {', '.join(map(repr, near)) or 'none'}{more}. A "
        "snapshot is kept by the first store of the chain that it was made through.",
        name=name,
        root=store.location,
    )


def _microseconds(moment: datetime) -> int:
    if moment.tzinfo is None:
        raise ValueError(f"A moment needs a time zone, such as datetime(2026, 11, 1, tzinfo=UTC); {moment!r} has none.")
    return microseconds_of(moment)
