"""Decide at which time a commit counts: the one that it claims, unless that is far ahead.

Theory of operation. Commits are ordered by the times that their writers claim, and a clock that is years ahead would
decide for years which row is latest. Storages tell when an object was written, by a clock that all readers see alike.
So a commit that claims a time long after it arrived counts at the time of its arrival, for every reader. Clocks that
are ahead by less are believed: storages of whole seconds, copies and slow writes blur the time of arrival.

On a disk whose machine had the wrong clock both times are wrong. They are held to be if they are more than a year after
the present of the reader, and the partition has objects that are not: else the reader's own clock is behind. Nobody
knows when such commits were written. They count as the earliest of all, in their own order, so that what is written
after the clock was set right is later.

A compaction writes down the times at which its commits count, which settles them: they are taken as they are.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from metaxy_fs.ids import AHEAD, datetime_of, microseconds_of
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.manifest import Manifest
from metaxy_fs.storage.base import ObjectInfo
from metaxy_fs.storage.logged import LOGGER

_YEAR: Final = 366 * 24 * 60 * 60 * 1_000_000
_UNKNOWN: Final = 1_000
"""The time of a commit of which nobody knows when it was written is divided by this: the result is before 1979."""

_WARNED: set[str] = set()
"""The manifests of which this process has warned."""


class Arrivals(NamedTuple):
    """When the manifests of a partition were written, as far as the storage tells.

    Attributes:
        moments: By commit; those of which nothing is known are left out.
        now: The time of the reader, in microseconds since 1970 (UTC).
    """

    moments: dict[str, datetime]
    now: int

    @classmethod
    def of(cls, listed: Mapping[str, ObjectInfo], *, now: int) -> "Arrivals":
        """Return what a listing tells."""
        return cls({commit: info.modified for commit, info in listed.items() if info.modified is not None}, now)

    def times_that_count(self, manifests: Mapping[str, Manifest]) -> dict[str, int]:
        """Return the times at which those single writes count that claim others.

        Args:
            manifests: All that are known of the partition, by commit.
        """
        horizon = self.now + _YEAR
        found = {}
        for commit, manifest in manifests.items():
            if manifest.covers or not self._may_be_ahead(manifest, horizon):
                continue
            arrived = self._arrived(manifest)
            if min(manifest.time, arrived) > horizon and self._earliest(manifests) <= horizon:
                found[commit] = manifest.time // _UNKNOWN
            elif manifest.time > arrived + AHEAD:
                found[commit] = arrived
        return found

    def bound(self, compaction: Manifest) -> int:
        """Return a time that is not before any commit with rows of a compaction, and to which a clock may be set."""
        arrived = self._arrived(compaction)
        if compaction.time <= arrived:
            return compaction.time
        inside = [file.time if file.last is None else file.last[0] for file in compaction.files]
        return min(compaction.time, max([arrived, *(time or 0 for time in inside)]))

    def _may_be_ahead(self, manifest: Manifest, horizon: int) -> bool:
        """Whether it is worth a closer look: there are many manifests, and a float says roughly when each arrived."""
        moment = self.moments.get(manifest.commit)
        if moment is None or manifest.time > horizon:
            return manifest.time > horizon
        return manifest.time > (moment.timestamp() - 1) * 1_000_000 + AHEAD

    def _arrived(self, manifest: Manifest) -> int:
        moment = self.moments.get(manifest.commit)
        return manifest.time if moment is None else microseconds(moment)

    def _earliest(self, manifests: Mapping[str, Manifest]) -> int:
        """Return when the first of all was written; if that is to come, the reader's clock is the wrong one."""
        moments = [microseconds(min(self.moments.values()))] if self.moments else []
        return min([*moments, *map(self._arrived, manifests.values())])


def warn_once(partition: Partition, manifest: Manifest, *, counts: int, location: str) -> None:
    """Tell the operator of a commit that is ahead, once in a process."""
    path = f"{location}/{partition.append_manifest(manifest.commit)}"
    if path not in _WARNED:
        _WARNED.add(path)
        LOGGER.warning("%s %s. %s", path, problem(manifest, counts=counts), REMEDY)


def problem(manifest: Manifest, *, counts: int) -> str:
    """Return what is wrong with a commit that is ahead."""
    claimed = f"claims to be of {_shown(manifest.time)}"
    if counts == manifest.time // _UNKNOWN:
        return f"{claimed}, and nothing tells when it was written: its rows count as earlier than all others"
    return f"{claimed}, but was written at {_shown(counts)} as the storage has it: its rows count as of then"


REMEDY: Final = (
    "Set the clock of the machine right that wrote it; `compact` writes down the time at which the commit counts."
)


def counting_at(manifest: Manifest, time: int | None) -> Manifest:
    """Return a manifest with the time at which it counts."""
    return manifest if time is None else msgspec.structs.replace(manifest, time=time)


def _shown(microseconds: int) -> str:
    return f"{datetime_of(microseconds):%Y-%m-%d %H:%M} UTC"


def microseconds(moment: datetime) -> int:
    """Return a time that a storage tells as commits have it."""
    return max(0, microseconds_of(moment))
