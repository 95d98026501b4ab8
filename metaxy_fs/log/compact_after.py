"""Compact a partition after a write to it, now and then.

Theory of operation. Thousands of processes that write once each share nothing but the root, so none can count writes,
and a listing at each would cost more than the write. So each write checks with a small probability: it looks how many
appends no compaction covers, and compacts if these are more than a limit N. The chance is `_LOOKS` in N, so that about
`_LOOKS` of the N writes that it takes to reach the limit look in vain, and past it N / `_LOOKS` further ones come on
average before one looks: k times as many with a chance of e^-k. It is never more than `_MOST_OFTEN`.

A look is one listing. It counts the appends that were written after the last compaction, as the times of the storage
have it; one look in `1 / _EXACTLY` gets the compactions too and counts what none of them covers, in case that older
appends wait, or the storage tells no times.

The write is committed before, and stands whatever becomes of this. Two writers that look at the same time may both
compact, which does no harm (see `metaxy_fs.log.compact`). One write does one step, so a partition that
has been neglected for long holds up no single writer until all of it is done.
"""

from metaxy_fs._version import WRITER
from metaxy_fs.ids import LamportClock, random_fraction
from metaxy_fs.log.compact import compact_partition
from metaxy_fs.log.compactor import Options
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.levels import FANOUT, MAX_MEMBERS
from metaxy_fs.log.view import ViewLoader
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.logged import LOGGER

_LOOKS = 2
_MOST_OFTEN = 1 / 20
_EXACTLY = 1 / 10


def check_threshold(more_than: int) -> None:
    """Refuse a number of appends that is not worth a compaction.

    Raises:
        ValueError: It is fewer than a level has, more than a step takes (see `metaxy_fs.log.levels`), or no
            number.
    """
    if not isinstance(more_than, int) or not FANOUT <= more_than <= MAX_MEMBERS:
        raise ValueError(
            f"compact_after is how many writes may wait for a compaction, from {FANOUT} to {MAX_MEMBERS}, or None to "
            f"leave that to `compact`; got {more_than!r}."
        )


class Upkeep:
    """Compacts partitions of one root once many of their appends are uncovered. Safe to share between threads.

    Args:
        storage: The root.
        clock: That of the root in this process.
        more_than: So many appends may be uncovered.
    """

    def __init__(self, storage: Storage, *, clock: LamportClock, more_than: int) -> None:
        self._storage = storage
        self._clock = clock
        self._more_than = more_than
        self._views = ViewLoader(storage, clock=clock)

    def after_commits(self, partition: Partition, *, commits: int) -> None:
        """Look into the partition with the chance that so many commits have, and compact it if that is due.

        What fails is logged, since the commits stand.
        """
        chance = min(_LOOKS / self._more_than, _MOST_OFTEN)
        if not any(random_fraction() < chance for _ in range(commits)):
            return
        try:
            self._compact(partition)
        except Exception as error:  # noqa: BLE001  # whatever it is, it must not be taken for a failure of the write
            LOGGER.warning(
                "What was written to %s/%s is committed, but compacting it afterwards failed: %s The next write that "
                "looks tries again, and so does `metaxy-fs compact`.",
                self._storage.location,
                partition,
                error,
            )

    def _compact(self, partition: Partition) -> None:
        exactly = random_fraction() < _EXACTLY
        if self._views.has_uncovered(partition, more_than=self._more_than, exactly=exactly):
            options = Options(writer=WRITER)
            steps = compact_partition(self._storage, self._views, partition, clock=self._clock, options=options)
            next(steps, None)
