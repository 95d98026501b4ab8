"""How is something done before a process reacts to SIGTERM?

Theory of operation. A handler runs in the main thread, between any two of its steps: what it waits for may be held by
the very code that it has interrupted. So it waits for nothing. It asks another thread for the work, by a means that may
be interrupted by itself, and returns; the main thread goes on meanwhile. When the work is done that thread sends the
signal once more, and then the handler passes it on to whoever handled it before. A signal that comes between the last
step of Python and the system call of a wait does not end that wait, so it is sent until the handler was called.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from metaxy_fs.ids import pause

_RESENT_AFTER = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""In seconds. A main thread that has not run its handler by then is in code that lets none run."""


class Termination:
    """A SIGTERM that is held back while some work is done.

    Args:
        request: Asks another thread for the work; called in the handler, so it may neither wait nor take a lock.
    """

    def __init__(self, request: Callable[[], None]) -> None:
        self._request = request
        self._pid = os.getpid()
        self._previous = signal.getsignal(signal.SIGTERM)
        self._is_held = False
        self._is_done = False

    def work_is_done(self) -> None:
        """Let the signal through; called by the thread that did the work."""
        self._is_done = True
        for seconds in _RESENT_AFTER:
            # To the main thread and no other: a wait of the main thread ends only for a signal of its own.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            pause(seconds)
            if not self._is_done:  # the handler has passed it on
                return

    def install(self) -> None:
        """Begin to hold signals back."""
        signal.signal(signal.SIGTERM, self._handle)

    def remove(self) -> None:
        """Let signals through again, one that is still held among them."""
        self._is_done = True
        # Somebody who has put a handler on top of this one calls it for ever; it then passes everything on.
        if signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, self._previous)
        if self._is_held:
            signal.raise_signal(signal.SIGTERM)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # A forked child has the handler, but not the thread that would do the work.
        if self._is_done or os.getpid() != self._pid:
            self._pass_on(number, frame)
        else:
            self._is_held = True
            self._request()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._is_held = self._is_done = False
        if callable(self._previous):
            self._previous(number, frame)
        elif self._previous is signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


@contextmanager
def before_termination(request: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Have some work requested before the process reacts to SIGTERM, and yield what tells that the work is done.

    Nothing is installed outside the main thread, which alone may have handlers, nor where the present handler was not
    installed from Python and could not be called.

    Args:
        request: Asks another thread for the work; must neither wait nor take a lock.
    """
    termination = Termination(request)
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is None:
        yield termination.work_is_done
        return
    termination.install()
    try:
        yield termination.work_is_done
    finally:
        termination.remove()
