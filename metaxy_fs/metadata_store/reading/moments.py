"""What did a store hold at some moment?

A store at a moment answers every question from the commits that there were, asks the store itself for their rows, and
takes no new ones.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import msgspec
import polars as pl

from metaxy_fs.errors import StorageAccessError
from metaxy_fs.metadata_store.backends.backend import Append, Backend, Moment, Query
from metaxy_fs.metadata_store.backends.scan import Scan
from metaxy_fs.spec import FeatureKey, FeatureSpec


class Pin(NamedTuple):
    """What is seen of one feature.

    Attributes:
        commits: The ids of its commits by the version of their partition.
        schemas: What the rows of each partition were read as, and under None those of all; absent where unknown.
    """

    commits: Mapping[str, frozenset[str]]
    schemas: Mapping[str | None, pl.Schema]


class Pins(NamedTuple):
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
        pins: What is seen of it.
        fallback_stores: Those of the same moment.
    """

    def __init__(self, store: Backend, pins: Pins, *, fallback_stores: Sequence[Backend] = ()) -> None:
        super().__init__(fallback_stores=fallback_stores, fallback_mode=store.fallback_mode)
        self._store = store
        self._pins = pins

    def __getstate__(self) -> dict[str, Any]:
        """Keep what is seen of which store, as any store does that is handed to another process."""
        return {"store": self._store, "pins": self._pins, "fallback_stores": self.fallback_stores}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["store"], state["pins"], fallback_stores=state["fallback_stores"])  # type: ignore[misc]

    @property
    def location(self) -> str:
        return f"{self._store.location} at {self._pins.label}"

    @property
    def hash_algorithm(self) -> str:
        return self._store.hash_algorithm

    def append_rows(self, append: Append) -> NoReturn:
        raise StorageAccessError(
            f"{self.location} is read-only, and rows of feature '{append.spec.key}' were to be written to it. Write to "
            f"the store itself, {self._store.location}."
        )

    def scan_rows(self, query: Query) -> Scan | None:
        moment = self._pins.moment(query.key)
        if moment is None:
            return None
        if query.at is not None:
            return self._store.scan_rows(msgspec.structs.replace(query, at=_both(moment, query.at)))
        pin = (self._pins.features or {}).get(query.key)
        schema = None if pin is None else pin.schemas.get(query.partition)
        return self._store.scan_rows(msgspec.structs.replace(query, at=moment, schema=schema))

    def stored_versions(self, key: FeatureKey) -> list[str]:
        if self._pins.features is not None:
            return sorted(self._pins.features[key].commits) if key in self._pins.features else []
        return sorted(self.stored_commits(key).get_column("partition").unique())

    def stored_features(self) -> list[FeatureKey]:
        if self._pins.features is not None:
            return sorted(self._pins.features)
        return [key for key in self._store.stored_features() if self.stored_versions(key)]

    def stored_commits(self, key: FeatureKey) -> pl.DataFrame:
        moment = self._pins.moment(key)
        commits = self._store.stored_commits(key)
        return commits.clear() if moment is None else commits.filter(_is_seen(moment))

    def stored_specs(self, key: FeatureKey, partitions: Sequence[str]) -> list[FeatureSpec]:
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
    pins = (moment.commits or {}).items()
    seen = [(pl.col("partition") == version) & pl.col("commit").is_in(sorted(ids)) for version, ids in pins]
    return pl.any_horizontal(pl.lit(value=False), *seen)
