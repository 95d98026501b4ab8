"""Times, pauses and random names: the only module that reads a clock, sleeps, or asks for randomness.

A test can drive all three (`driven_by`). A wait for another thread or for an answer ends with what it waits for, and is
no pause.
"""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from metaxy_fs.errors import CorruptObjectError

MAX_TIME = int(datetime(9999, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
"""The latest commit time that a manifest may claim, in microseconds since 1970 (UTC)."""

AHEAD = 36 * 60 * 60 * 1_000_000
"""By how many microseconds a time is ahead that is not followed; clocks are wrong by whole hours, or by whole days."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def wall_clock() -> int:
    """Return the microseconds since 1970 (UTC)."""
    return _SOURCES[-1].microseconds()


def elapsed() -> float:
    """Return the seconds since some moment of this process, whatever becomes of the wall clock."""
    return time.monotonic()


def random_token() -> str:
    """Return 16 hex digits that no other call, in any process, is going to return."""
    return _SOURCES[-1].token()


def random_fraction() -> float:
    """Return a number from 0 up to but not including 1, each as likely as any other."""
    return _SOURCES[-1].fraction()


def pause(seconds: float) -> None:
    """Let time pass before something is tried again."""
    _SOURCES[-1].pause(seconds)


def datetime_of(microseconds: int) -> datetime:
    """Return the moment of so many microseconds since 1970 (UTC), exactly; a float would not hold them."""
    return _EPOCH + timedelta(microseconds=microseconds)


def microseconds_of(moment: datetime) -> int:
    """Return the microseconds since 1970 (UTC)."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def timestamp_id(microseconds: int, token: str) -> str:
    """Return a name that sorts by time, then by token, and that a person can read.

    Examples:
        >>> timestamp_id(1_795_000_000_123_456, "00ff00ff00ff00ff")
        '20261118T110640.123456Z-00ff00ff00ff00ff'
    """
    seconds, fraction = divmod(microseconds, 1_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y%m%dT%H%M%S}.{fraction:06d}Z-{token}"


def shared_clock(root: str) -> "LamportClock":
    """Return the clock that orders this process's commits to a root, the same for all who ask with the same name."""
    return _SOURCES[-1].clocks.setdefault(root, LamportClock())


class Source:
    """The system's clock, randomness and patience; a subclass gives others.

    Attributes:
        clocks: One clock a root: two store objects on one root must not order their commits apart.
    """

    def __init__(self) -> None:
        self.clocks: dict[str, LamportClock] = {}

    def microseconds(self) -> int:
        """Return the microseconds since 1970 (UTC)."""
        return time.time_ns() // 1000

    def token(self) -> str:
        """Return 16 hex digits that were never returned before."""
        return secrets.token_hex(8)

    def fraction(self) -> float:
        """Return a number from 0 up to but not including 1."""
        return secrets.randbits(53) / 2**53

    def pause(self, seconds: float) -> None:
        """Return after so many seconds."""
        time.sleep(seconds)


@contextmanager
def driven_by(source: Source) -> Iterator[None]:
    """Take times, tokens and pauses of the whole process, all its threads, from a source of a test's own."""
    _SOURCES.append(source)
    try:
        yield
    finally:
        _SOURCES.remove(source)


class LamportClock:
    """A wall clock that never gives a time at or below one that it has given or been shown.

    Wall clocks of different machines disagree. A process that has seen a commit must order its own next commit after
    it, whatever its clock says: so every time that is read from a root is shown to the clock of that root (L.
    Lamport, 1978, "Time, Clocks, and the Ordering of Events in a Distributed System"). Safe to share between threads.
    """

    def __init__(self, wall: Callable[[], int] = wall_clock) -> None:
        self._wall = wall
        self._latest = 0
        self._lock = threading.Lock()

    def tick(self) -> int:
        """Return a new time, in microseconds since 1970 (UTC).

        Raises:
            CorruptObjectError: The clock is at the end of the calendar, and no time is left above it.
        """
        with self._lock:
            self._latest = max(self._wall(), self._latest + 1)
            if self._latest > MAX_TIME:
                raise CorruptObjectError(
                    "The clock of this machine, or a compaction in the root, says that this is the year 9999, so no "
                    "commit can follow. Set the clock right."
                )
            return self._latest

    def observe(self, microseconds: int) -> None:
        """Make every later `tick` greater than a time that was seen."""
        with self._lock:
            self._latest = max(self._latest, microseconds)


_SOURCES = [Source()]
"""The last one counts."""
