"""Ctrl-C ends a wait in a process that has Polars."""

import os
import signal
import subprocess
import sys
import textwrap

from metaxy_fs import InMemoryMetadataStore

WAITS = """
    import os, signal, sys, threading, time
    import polars
    {before}

    ended = threading.Event()

    def press():
        time.sleep(0.1)
        # Again, since a signal that comes between the last step of Python and the system call ends no wait.
        for _ in range({presses}):
            os.kill(os.getpid(), signal.SIGINT)
            if ended.wait(0.5):
                return
        os._exit(3)

    held = threading.Lock()
    held.acquire()
    try:
        try:
            threading.Thread(target=press, daemon=True).start()
            held.acquire()
        except KeyboardInterrupt:
            ended.set()
        # From here on nothing is to be cut short, such as what measures coverage at the end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    os._exit(7)
"""


def test_a_process_that_has_opened_a_store_ends_its_waits():
    assert run("from metaxy_fs import InMemoryMetadataStore; InMemoryMetadataStore()", presses=600) == 7


def test_polars_alone_waits_on():
    # If this fails, Polars has been fixed, and `metaxy_fs.interrupts` may go.
    assert run("", presses=3) == 3


def test_handlers_that_are_not_from_python_are_left_alone(monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    called = []
    with monkeypatch.context() as patch:
        patch.setattr(signal, "getsignal", lambda number: None)
        patch.setattr("metaxy_fs.interrupts._INTERRUPT", called.append)
        InMemoryMetadataStore()
    assert called == []
    assert signal.getsignal(signal.SIGINT) == before


def run(before: str, *, presses: int) -> int:
    code = textwrap.dedent(WAITS).format(before=before, presses=presses)
    return subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode
