"""Send requests to a remote root again while that makes sense, and give them up in time.

What fails for a moment is tried again: a broken connection, an answer that does not come, a server that is busy or in
trouble (see `metaxy_fs.storage.failures`). Pauses grow from try to try and are random, so that many jobs that fail at
once do not come back at once. Nothing begins later than a deadline, and every try has an end, so that each operation
has one.

Retries are what turns a service that is slow into one that is down. So those of a process to a root draw on one budget,
which requests that succeed fill: where most fail, there are few retries, and where none succeeds, ten a second.
"""

import os
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeGuard, TypeVar

import tenacity

from metaxy_fs.ids import elapsed, pause
from metaxy_fs.storage.failures import Failure, failure_of

DEADLINE_SECONDS = 60.0
"""Nothing is tried again later than this after the first try began."""
UNREACHABLE_SECONDS = 6.0
"""The same where no connection could ever be made: that is a wrong address more often than a moment's trouble."""
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
"""A pause is a random part of a length that doubles from try to try, between these two."""
TRY_SECONDS = 60.0
BYTES_A_SECOND = 100_000
"""A try may take so long, and longer by the bytes that it moves at this rate."""
BUDGET = 100.0
"""How many retries may follow each other at once."""
BUDGET_A_SUCCESS = 0.2
BUDGET_A_SECOND = 10.0
"""What fills the budget again: a fifth of a retry for each request that succeeds, and ten each second."""

# A refusal may come from a client without credentials, which has sent nothing.
_ANSWERS = frozenset(Failure) - {Failure.PERMISSION_DENIED, Failure.UNREACHABLE, Failure.UNKNOWN}
_answered: set[tuple[int, str]] = set()
"""The endpoints that have answered a process."""

T = TypeVar("T")


class GaveUpError(Exception):
    """A request failed for the last time; the cause says how.

    Args:
        error: What the last try raised; `last` from then on.
        tries: How many there were.
    """

    def __init__(self, error: Exception, *, tries: int) -> None:
        super().__init__(str(error))
        self.last = error
        self.tries = tries


class Budget:
    """How many retries are left to one process on one root. Safe to share between threads."""

    def __init__(self) -> None:
        self._left = BUDGET
        self._filled = elapsed()
        self._lock = threading.Lock()

    def earn(self, successes: int) -> None:
        """Put in what requests that succeeded are worth."""
        with self._lock:
            self._left = min(BUDGET, self._left + successes * BUDGET_A_SUCCESS)

    def spend(self, retries: int) -> float:
        """Take out some retries, and return the seconds until they are covered."""
        with self._lock:
            now = elapsed()
            self._left = min(BUDGET, self._left + (now - self._filled) * BUDGET_A_SECOND) - retries
            self._filled = now
            return max(0.0, -self._left / BUDGET_A_SECOND)

    def give_back(self, retries: int) -> None:
        """Put back what was taken out for retries that are not made."""
        with self._lock:
            self._left += retries


class Retries:
    """The tries of all requests of one process to one root. Safe to share between threads.

    Args:
        endpoint: Whom the requests are sent to. If it has answered this process before, to whatever root, it is there:
            then one that cannot be reached is busy, and gets the whole deadline.
    """

    def __init__(self, endpoint: str) -> None:
        self._budget = Budget()
        self._endpoint = endpoint

    def run(self, request: Callable[[], T], *, requests: Callable[[], int] = lambda: 1) -> T:
        """Return what a request returns, tried again while that makes sense.

        Args:
            request: Sends it, and raises what went wrong.
            requests: How many requests the next try is.

        Raises:
            GaveUpError: It failed for a moment each time, and the time is over.
        """
        started, sent = elapsed(), requests()
        tries = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_momentary),
            wait=partial(self._pause_before, requests=requests),
            stop=partial(self._is_over, started=started, requests=requests),
            sleep=pause,
            retry_error_callback=_give_up,
        )
        try:
            result = tries(request)
        except GaveUpError:
            raise
        except Exception as error:  # an answer, if not the one that was hoped for
            self._budget.earn(sent)
            self.note(error)
            raise
        self._budget.earn(sent)
        self.note(result)
        return result

    def note(self, outcome: object) -> None:
        """Remember that the endpoint has answered, if what a request has returned or raised says so."""
        if not isinstance(outcome, Exception) or failure_of(outcome) in _ANSWERS:
            _answered.add((os.getpid(), self._endpoint))

    def _pause_before(self, state: tenacity.RetryCallState, *, requests: Callable[[], int]) -> float:
        return max(_JITTER(state), self._budget.spend(requests()))

    def _is_over(self, state: tenacity.RetryCallState, *, started: float, requests: Callable[[], int]) -> bool:
        error = _error_of(state)
        self.note(error)
        is_over = elapsed() + state.upcoming_sleep > started + self._deadline(error)
        if is_over:
            self._budget.give_back(requests())
        return is_over

    def _deadline(self, error: Exception) -> float:
        is_new = (os.getpid(), self._endpoint) not in _answered
        return UNREACHABLE_SECONDS if is_new and failure_of(error) is Failure.UNREACHABLE else DEADLINE_SECONDS


def is_momentary(error: object) -> TypeGuard[Exception]:
    """Whether something is an error of a request that may succeed in a moment."""
    return isinstance(error, Exception) and failure_of(error) in {Failure.TRANSIENT, Failure.UNREACHABLE}


def longest_try(moved: int) -> float:
    """Return the seconds that one try may take which moves so many bytes."""
    return TRY_SECONDS + moved / BYTES_A_SECOND


def _give_up(state: tenacity.RetryCallState) -> None:
    error = _error_of(state)
    raise GaveUpError(error, tries=state.attempt_number) from error


def _error_of(state: tenacity.RetryCallState) -> Exception:
    error = state.outcome.exception() if state.outcome is not None else None
    if not isinstance(error, Exception):
        raise TypeError(f"expected a try that failed, got {state!r}")
    return error


_JITTER = tenacity.wait_random_exponential(multiplier=FIRST_PAUSE_SECONDS, max=LONGEST_PAUSE_SECONDS)
