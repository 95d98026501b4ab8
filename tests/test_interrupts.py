"""Does Ctrl-C end a wait in a process that has Polars?"""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from metaxy_fs import InMemoryMetadataStore

WAITS = """
    import os, signal, sys, threading, time
    import polars
    {before}

    def press():
        # Again, since a signal that comes between the last step of Python and the system call ends no wait.
        for _ in range({presses}):
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        os._exit(3)

    threading.Thread(target=press, daemon=True).start()
    held = threading.Lock()
    held.acquire()
    try:
        held.acquire()
    except KeyboardInterrupt:
        os._exit(7)
"""


def test_a_process_that_has_opened_a_store_ends_its_waits():
    assert run("from metaxy_fs import InMemoryMetadataStore; InMemoryMetadataStore()", presses=300) == 7


def test_polars_alone_waits_on():
    # If this fails, Polars has been mended, and `metaxy_fs.interrupts` may go.
    assert run("", presses=3) == 3


def test_handlers_that_are_not_from_python_are_left_alone(monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    monkeypatch.setattr("metaxy_fs.interrupts._INTERRUPT", pytest.fail)
    InMemoryMetadataStore()


def run(before: str, *, presses: int) -> int:
    code = textwrap.dedent(WAITS).format(before=before, presses=presses)
    return subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode
