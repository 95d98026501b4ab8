"""Ctrl-C ends a wait in a process that has Polars."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from metaxy_fs import InMemoryMetadataStore
from tests.support.patience import PATIENCE

WAITS = """
    import threading
    import polars
    {before}

    held = threading.Lock()
    held.acquire()
    print("waits", flush=True)
    held.acquire()
"""


def test_a_process_that_has_opened_a_store_ends_its_waits():
    with waiting("from metaxy_fs import InMemoryMetadataStore; InMemoryMetadataStore()") as child:
        presses = 0
        # Again, since a signal that comes between the last step of Python and the system call ends no wait.
        while child.poll() is None and presses < PATIENCE:
            child.send_signal(signal.SIGINT)
            presses += 1
            with suppress(subprocess.TimeoutExpired):
                child.wait(1)
        assert child.returncode == -signal.SIGINT


def test_polars_alone_waits_on():
    # If this fails, Polars has been fixed, and `metaxy_fs.interrupts` may go.
    assert any(outlives_presses() for _ in range(20))


def outlives_presses() -> bool:
    """Whether three presses end no wait; one that comes before the wait ends the process, busy as it may be."""
    with waiting("") as child:
        time.sleep(0.2)
        for _ in range(3):
            child.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                child.wait(0.5)
        return child.poll() is None


def test_handlers_that_are_not_from_python_are_left_alone(monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    called = []
    with monkeypatch.context() as patch:
        patch.setattr(signal, "getsignal", lambda number: None)
        patch.setattr("metaxy_fs.interrupts._INTERRUPT", called.append)
        InMemoryMetadataStore()
    assert called == []
    assert signal.getsignal(signal.SIGINT) == before


@contextmanager
def waiting(before: str) -> Iterator[subprocess.Popen]:
    """Give a process that waits for a lock, and kill it if it still does."""
    code = textwrap.dedent(WAITS).format(before=before)
    # What measures coverage would meet Ctrl-C, too.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=pipe, stderr=pipe) as child:
        try:
            assert child.stdout.readline() == b"waits\n"
            yield child
        finally:
            child.kill()
