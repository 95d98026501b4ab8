"""Find the rows that were made from some samples, or that they were made from.

Theory of operation. What a dep says of a row and of what is made from it is that some columns of both have the same
values. So a trace goes from feature to feature with the values that it has found, and reads the rows that have them and
no others: statistics rule out the other files and row groups. All rows that were ever written count, and a `where` is
not looked at: what it holds for now may not be what it held for when something was made.

Where the columns of a dep name a sample by themselves, a feature between two others need have no row for the trace to
go on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import polars as pl

from metaxy_fs.errors import StorageError
from metaxy_fs.forks import refuse_lost_threads
from metaxy_fs.insight.trace import Direction, Link, Trace, links
from metaxy_fs.log import conform, exact_in, holds_any, snapshots_of, unify, values_as_stored
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.chain import chain, not_found, report_corruption
from metaxy_fs.metadata_store.features import Declared, about_feature
from metaxy_fs.metadata_store.operations import Query
from metaxy_fs.metadata_store.sample_ids import SampleIds, named_samples
from metaxy_fs.metadata_store.snapshots import stores_seen
from metaxy_fs.metadata_store.stored_graph import stored_graph, with_stored
from metaxy_fs.reserved import PLACE
from metaxy_fs.spec import FeatureKey, FeatureSpec
from metaxy_fs.versioning.columns import (
    DATA_VERSION,
    PARTITION,
    RESERVED_COMMIT,
    RETIRED,
    refuse_id_columns,
    version_type,
)

_STORE = "store"
_SHOWN_RETIRED = "retired"
_SNAPSHOTS = "snapshots"
_SHOWN_COLUMNS = (_STORE, _SHOWN_RETIRED, _SNAPSHOTS)
_COMMIT = [PLACE, PARTITION, RESERVED_COMMIT]


@about_feature
@report_corruption
def trace(store: Backend, feature: Declared | FeatureKey, ids: SampleIds, *, direction: Direction) -> Trace:
    """Return the rows that some samples lead to, in the graph of the feature and of what is stored beside it.

    Raises:
        FeatureNotFoundError: The feature is neither declared nor stored.
        MetadataSchemaError: The ids do not name samples of the feature.
    """
    refuse_lost_threads()
    if isinstance(feature, FeatureKey):
        feature = _stored(store, feature)
    if direction not in ("down", "up"):
        raise ValueError(f'direction is "down" or "up", got {direction!r}')
    # A process need not have loaded all that others have made from the samples.
    followed = list(links(with_stored(feature.graph, store), feature.key, direction))
    specs = [feature.spec, *(far for far, _ in followed)]
    for spec in specs:
        refuse_id_columns(_SHOWN_COLUMNS, ids=spec.id_columns, key=spec.key, what="a trace")
    stores = list(chain(store, fallback=True))
    pins = list(_pins(stores))
    search = _Tracing(stores, [link for _, several in followed for link in several], pins)
    search.look_for(feature.spec, [named_samples(ids, feature.spec)])
    for far, several in followed:
        search.look_for(far, [values for link in several for values in search.values(link)])
    rows = {str(spec.key): _shown(search.found[spec.key], spec, pins) for spec in specs}
    return Trace.of(direction, rows, {str(spec.key): tuple(spec.id_columns) for spec in specs})


def _stored(store: Backend, key: FeatureKey) -> Declared:
    graph = stored_graph(store).frozen()
    spec = graph.find(key)
    if spec is None:
        raise not_found(key, partition=None, store=store, fallback=True)
    return Declared(spec, graph)


class _SeenBySnapshot(NamedTuple):
    """What a snapshot saw of a feature in a store of the chain, which its place tells: its commits by partition."""

    snapshot: str
    place: int
    feature: FeatureKey
    commits: Mapping[str, frozenset[str]]


@dataclass
class _Tracing:
    """What was found so far.

    Attributes:
        stores: Those of the chain; several may have one location.
        links: All that will be followed.
        pins: What snapshots saw.
        found: The rows of each feature.
        named: The ids that are known of each feature, whether there are rows or not.
    """

    stores: Sequence[Backend]
    links: Sequence[Link]
    pins: Sequence[_SeenBySnapshot]
    found: dict[FeatureKey, pl.DataFrame] = field(default_factory=dict)
    named: dict[FeatureKey, list[pl.DataFrame]] = field(default_factory=dict)

    def look_for(self, spec: FeatureSpec, wanted: Sequence[pl.DataFrame]) -> None:
        """Find the samples of a feature with a row that has any of these values, and all of their rows.

        Args:
            spec: The feature.
            wanted: Frames of some of its columns, each for itself.
        """
        rows = self._rows(spec, wanted)
        by_ids = [values for values in wanted if set(values.columns) <= set(spec.id_columns)]
        if len(by_ids) < len(wanted) and rows.height:
            rows = self._rows(spec, [*by_ids, rows.select(spec.id_columns).unique()])
        self.found[spec.key] = rows
        self.named[spec.key] = [values for values in by_ids if len(values.columns) == len(spec.id_columns)]

    def values(self, link: Link) -> list[pl.DataFrame]:
        """Return the values that rows at the other end of a link have, under the names that these give them."""
        known = [self.found[link.near.key], *self.named[link.near.key]]
        renamed = [pl.col(near).alias(far) for near, far in link.columns.items()]
        taken: dict[tuple[pl.DataType, ...], list[pl.DataFrame]] = {}
        for rows in known:
            if set(link.columns) <= set(rows.columns):
                values = rows.select(renamed).drop_nulls()
                taken.setdefault(tuple(values.dtypes), []).append(values)
        return [values for frames in taken.values() if (values := pl.concat(frames).unique()).height]

    def _rows(self, spec: FeatureSpec, wanted: Sequence[pl.DataFrame]) -> pl.DataFrame:
        """Return the rows that have any of these values, in all stores, in commit order."""
        needed = {name for link in self.links if link.near.key == spec.key for name in link.columns}
        columns = (*spec.id_columns, *sorted(needed.difference(spec.id_columns)))
        found = [
            rows.with_columns(pl.lit(place, pl.Int64).alias(PLACE))
            for place, store in enumerate(self.stores)
            for values in wanted
            if (rows := _matching(store, spec, values, columns, with_commits=self._is_pinned(place, spec))) is not None
        ]
        return _together(found) if found else _no_rows(spec, columns)

    def _is_pinned(self, place: int, spec: FeatureSpec) -> bool:
        return any(pin.feature == spec.key and pin.place == place for pin in self.pins)


def _matching(
    store: Backend, spec: FeatureSpec, values: pl.DataFrame, columns: Sequence[str], *, with_commits: bool
) -> pl.DataFrame | None:
    """Return the rows that one store has, in commit order, and whether they retire their sample; None without any.

    Args:
        store: The store, without its fallback stores.
        spec: The feature.
        values: What the rows have to have.
        columns: The columns to return.
        with_commits: Whether to tell which commit each row belongs to, for which files are read whole.
    """
    query = Query(
        key=spec.key,
        partition=None,
        columns=frozenset((*columns, *values.columns, DATA_VERSION, RETIRED)),
        with_partition=with_commits,
        with_commits=with_commits,
    )
    scan = store.scan_rows(query)
    if scan is None or not {*values.columns, *spec.id_columns} <= set(scan.columns):
        return None
    schema = scan.rows.collect_schema()
    texts = [name for name in {*columns, *values.columns} if isinstance(schema.get(name), pl.Categorical | pl.Enum)]
    stored = scan.rows.with_columns(pl.col(texts).cast(pl.String)) if texts else scan.rows
    fitting = values_as_stored(values, stored.collect_schema(), feature=str(spec.key))
    if not fitting.height:
        return None
    rows = stored.filter(holds_any(fitting))
    rows = rows.join(fitting.lazy(), on=fitting.columns, how="semi", maintain_order="left")
    names = [*columns, *([PARTITION, RESERVED_COMMIT] if with_commits else [])]
    retired = pl.col(RETIRED).fill_null(value=False) if RETIRED in scan.columns else pl.lit(value=False)
    known = {*scan.columns, PARTITION, RESERVED_COMMIT}
    return rows.select(
        *(pl.col(name) if name in known else pl.lit(None).alias(name) for name in names),
        DATA_VERSION,
        retired.alias(_SHOWN_RETIRED),
        pl.lit(store.location).alias(_STORE),
    ).collect()


def _together(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return the rows of several stores, with types that hold the values of all of them exactly."""
    described = [(str(frame.get_column(_STORE).first()), frame.schema, exact_in(frame)) for frame in frames]
    target = unify(described)
    fitted = [conform(frame.lazy(), source=frame.schema, target=target) for frame in frames]
    return pl.concat(pl.collect_all(fitted))


def _no_rows(spec: FeatureSpec, columns: Sequence[str]) -> pl.DataFrame:
    others = {DATA_VERSION: version_type(spec), _SHOWN_RETIRED: pl.Boolean(), _STORE: pl.String(), PLACE: pl.Int64()}
    return pl.DataFrame(schema={**dict.fromkeys(columns, pl.Null()), **others})


def _pins(stores: Sequence[Backend]) -> Iterator[_SeenBySnapshot]:
    """Yield what all snapshots that the stores of a chain keep saw there."""
    for keeper in stores:
        try:
            storage = keeper.snapshot_storage
        except StorageError:  # it keeps none
            continue
        own = list(chain(keeper, fallback=True))
        asked = [*own, *(each for each in stores if each not in own)]
        for snapshot in snapshots_of(storage):
            for holder, pinned in stores_seen(asked, snapshot):
                for feature in pinned.features if holder is not None else ():
                    commits = {partition.version: partition.ids for partition in feature.partitions}
                    key = FeatureKey(list(feature.feature))
                    yield _SeenBySnapshot(snapshot.name, stores.index(holder), key, commits)


def _shown(rows: pl.DataFrame, spec: FeatureSpec, pins: Sequence[_SeenBySnapshot]) -> pl.DataFrame:
    """Return one row per sample and store, as a trace has them."""
    names = [*spec.id_columns, _STORE, PLACE]
    version = pl.when(~pl.col(_SHOWN_RETIRED)).then(DATA_VERSION).alias(DATA_VERSION)
    last = rows.unique(names, keep="last", maintain_order=True).select(*names, version, _SHOWN_RETIRED).sort(names)
    if RESERVED_COMMIT not in rows.columns:
        return last.with_columns(pl.lit([], pl.List(pl.String)).alias(_SNAPSHOTS)).drop(PLACE)
    seen = _seen(set(rows.select(_COMMIT).drop_nulls().iter_rows()), [pin for pin in pins if pin.feature == spec.key])
    holding = rows.filter(~pl.col(_SHOWN_RETIRED)).join(seen, on=_COMMIT)
    held = holding.group_by(names).agg(pl.col(_SNAPSHOTS).unique().sort())
    shown = last.join(held, on=names, how="left", maintain_order="left")
    return shown.with_columns(pl.col(_SNAPSHOTS).fill_null([])).drop(PLACE)


def _seen(commits: set[tuple[int, str, str]], pins: Sequence[_SeenBySnapshot]) -> pl.DataFrame:
    """Return which of some commits each snapshot saw."""
    found = {
        (pin.place, partition, commit, pin.snapshot)
        for pin in pins
        for partition, ids in pin.commits.items()
        for commit in ids
        if (pin.place, partition, commit) in commits
    }
    schema = {PLACE: pl.Int64(), **dict.fromkeys((PARTITION, RESERVED_COMMIT, _SNAPSHOTS), pl.String())}
    return pl.DataFrame(sorted(found), schema=schema, orient="row")
