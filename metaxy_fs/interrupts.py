"""Let Ctrl-C end a wait, also while Polars works.

Python runs its handlers between two steps of the main thread. What wakes a main thread that waits, for a lock or for
another thread, is that a signal makes its system call fail. Importing Polars takes that away: its own handler of
SIGINT, which calls Python's, asks the system to go on with the interrupted call. Ctrl-C is then noted and never acted
upon.

Python also drops whatever is raised in a finalizer. One that may take long catches Ctrl-C and presses it again.
"""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

_INTERRUPT: Final[Callable[[int, bool], None] | None] = getattr(signal, "siginterrupt", None)
"""None on Windows, which has no such signals."""
_UNTIL_FINALIZED: Final = 0.05
"""In seconds."""


def let_ctrl_c_end_waits() -> None:
    """Make SIGINT interrupt system calls again, as in any process whose handlers are Python's. Costs microseconds.

    A handler that was not installed from Python is left as it is.
    """
    if _INTERRUPT is not None and signal.getsignal(signal.SIGINT) is not None:
        _INTERRUPT(signal.SIGINT, True)  # noqa: FBT003  # it takes no names


def reraise_sigint_later() -> None:
    """Have KeyboardInterrupt raised once more, when the finalizer that calls this has ended."""
    timer = threading.Timer(_UNTIL_FINALIZED, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    with suppress(RuntimeError):  # the interpreter is ending, as was wished
        timer.start()
