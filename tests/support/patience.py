"""How long tests wait for what has to come, and a time without pauses."""

import time
from collections.abc import Callable
from typing import Final

from metaxy_fs.ids import Source

PATIENCE: Final = 600.0
"""In seconds: long enough for a machine that is ten times as busy. Nothing waits so long unless it hangs."""


def wait_until(is_so: Callable[[], object]) -> None:
    """Return once something is so; raise AssertionError if it never is."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.01)


class Hurried(Source):
    """The system's clock and randomness, without patience."""

    def pause(self, seconds: float) -> None:
        pass
