"""The faults that one request to a storage can meet."""

import random
import threading
from collections.abc import Callable, Collection
from enum import Enum, auto


class Fault(Enum):
    """What becomes of one request.

    A request is applied by the storage or it is not, and its answer arrives as it was sent or it does not. Clients
    cannot tell most of these from each other, which is why the outcome of a put that fails is unknown.
    """

    REFUSED = auto()
    """The connection is reset before the request was read; not applied."""
    RESET_BEFORE = auto()
    """The connection is reset before the request was applied."""
    RESET_AFTER = auto()
    """The request is applied, and the connection reset before any answer."""
    ERROR_BEFORE = auto()
    """An internal error, status 500; not applied."""
    ERROR_AFTER = auto()
    """An internal error, status 500, although the request is applied."""
    SLOW_DOWN = auto()
    """Status 503, which S3 calls "SlowDown"; not applied."""
    THROTTLED = auto()
    """Status 429; not applied."""
    CONFLICT = auto()
    """Status 409, as S3 answers a conditional put while another one is under way; not applied."""
    REPEATED = auto()
    """Something on the way sends it twice, and hands on the second answer: a put meets its own object."""
    TRUNCATED = auto()
    """The request is applied; the answer ends in the middle, and the client can tell."""
    SHORT = auto()
    """The request is applied; of an object that was asked for, half arrives, and looks whole."""
    WRONG = auto()
    """The request is applied; of an object that was asked for, one byte arrives as another."""
    HANG_BEFORE = auto()
    """There is no answer until the client gives up; not applied."""
    HANG_AFTER = auto()
    """There is no answer until the client gives up, although the request is applied."""


NOT_APPLIED = frozenset(
    {
        Fault.REFUSED,
        Fault.RESET_BEFORE,
        Fault.ERROR_BEFORE,
        Fault.SLOW_DOWN,
        Fault.THROTTLED,
        Fault.CONFLICT,
        Fault.HANG_BEFORE,
    }
)
"""Faults that strike before the request is applied."""

NOTICED = frozenset(Fault) - {Fault.SHORT, Fault.WRONG}
"""Faults that a client notices without a look at what it was sent."""

Faults = Callable[[str, str], Fault | None]
"""Called with the verb and the path of each request; returns the fault that it meets, or None."""


def no_faults(verb: str, path: str) -> Fault | None:  # noqa: ARG001  # as all `Faults`
    """Let every request pass."""
    return None


def random_faults(*, rate: float, seed: int, of: Collection[Fault] = NOTICED) -> Faults:
    """Return faults that each request meets with some probability, the same for one seed and order of requests.

    Safe to share between threads.

    Args:
        rate: The probability that a request meets one, between 0 and 1.
        seed: Any number.
        of: The faults, each as likely as the others; by default those that a client notices, which leaves out `SHORT`
            and `WRONG`.
    """
    # No secret depends on this randomness.
    generator, choices, lock = random.Random(seed), sorted(of, key=lambda fault: fault.value), threading.Lock()  # noqa: S311

    def meet(verb: str, path: str) -> Fault | None:  # noqa: ARG001  # as all `Faults`
        with lock:
            return generator.choice(choices) if generator.random() < rate else None

    return meet
