"""For how long is kept what nobody needs any more?"""

from datetime import timedelta
from typing import Final

import msgspec

from metaxy_fs.log.writing.commit import MAX_AGE_SECONDS

MIN_GRACE: Final = timedelta(minutes=10)
"""A listing of a million names takes a few minutes; a reader whose listing takes longer could miss a commit."""

MIN_RETENTION: Final = timedelta(days=2)
"""Writers and compactors may put a manifest up to a day after they began; another day is for those that stall then."""

_SETTLED: Final = timedelta(seconds=MAX_AGE_SECONDS) + timedelta(hours=1)


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """For how long a vacuum keeps things; all ages are by the clock of the storage.

    Attributes:
        grace: For how long a manifest is kept after another one stands for it.
        retention: For how long a data file is kept after it was first seen that no manifest names it.
        is_safe: Whether values below the floors are refused; only a root that nobody else uses can do without.

    Raises:
        ValueError: A value is below what the protocol needs.
    """

    grace: timedelta = timedelta(hours=1)
    retention: timedelta = timedelta(days=7)
    is_safe: bool = True

    def __post_init__(self) -> None:
        if self.is_safe and self.grace < MIN_GRACE:
            raise ValueError(
                f"grace is at least {MIN_GRACE}, got {self.grace}: a reader whose listing takes longer could miss a "
                "commit. On a root that nobody else uses, pass unsafe=True."
            )
        if self.is_safe and self.retention < MIN_RETENTION:
            raise ValueError(
                f"retention is at least {MIN_RETENTION}, got {self.retention}: a write may take a day, and would lose "
                "its data files. On a root that nobody else uses, pass unsafe=True."
            )

    @property
    def settled(self) -> timedelta:
        """How old an object is when whoever put it has no more to do with it."""
        return min(_SETTLED, self.retention)
