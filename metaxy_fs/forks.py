"""Refuse to use Polars in a process that was forked from one that did.

Polars works in threads of its own, which it starts at its first use. A fork copies memory and no threads: the child
believes that it has them, and its first request to them waits forever. So a process that is about to fork looks
whether they run, where the system shows the names of threads (Linux), and a child without them says so at once.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from metaxy_fs.errors import ForkedProcessError

_THREADS = Path("/proc/self/task")
_OF_POLARS = re.compile(r"polars-\d+")


def refuse_lost_threads() -> None:
    """Refuse to begin what would wait forever in this process.

    Raises:
        ForkedProcessError: Polars was used before this process was forked.
    """
    if _STATE.are_lost:
        raise ForkedProcessError(
            f"Process {os.getpid()} was forked after Polars had been used, and any use of Polars in it would wait for "
            'ever. Start processes with `spawn` or `forkserver`, such as multiprocessing.get_context("spawn"), or fork '
            "before the first use of Polars and of any store."
        )


class _PolarsThreads:
    """What is known of the threads of Polars.

    Attributes:
        are_running: Whether they were seen to run in this process or in one that it was forked from.
        are_lost: Whether they ran in a process that this one was forked from.
    """

    are_running = False
    are_lost = False

    def look(self) -> None:
        """See whether they run; called before a fork."""
        self.are_running = self.are_running or any(map(_OF_POLARS.fullmatch, _names_of_threads()))

    def lose(self) -> None:
        """Note that they are not here; called in a child."""
        self.are_lost = self.are_running


def _names_of_threads() -> Iterator[str]:
    for thread in _THREADS.glob("*/comm"):
        with suppress(OSError):  # it has ended meanwhile, as those of Polars never do
            yield thread.read_text().strip()


_STATE = _PolarsThreads()
# A fork may come before the first store is opened, so it is watched from now on.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_STATE.look, after_in_child=_STATE.lose)
