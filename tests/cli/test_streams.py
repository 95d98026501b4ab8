"""Work with standard streams that are closed, that nobody reads, or that have few characters."""

import os
import subprocess
import sys

import pytest

from metaxy_fs.metadata_store import open_store, verify
from tests.cli.conftest import write

PROGRAM = f"{sys.executable} -W error -m metaxy_fs"
STREAMS = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-"}
CLOSED = [["stdout"], ["stderr"], ["stdin", "stdout", "stderr"]]


def shell(line: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line of a shell that fails where any command of a pipe does."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        capture_output=True,
        check=False,
        text=True,
        errors="surrogateescape",
        env=os.environ | variables,
    )


@pytest.mark.parametrize("closed", CLOSED, ids="+".join)
def test_closed_streams_change_nothing(notes, closed):
    redirections = " ".join(STREAMS[name] for name in closed)
    done = shell(
        f"{PROGRAM} demo {notes} {redirections} && {PROGRAM} compact --root {notes}/.metaxy --full --yes {redirections}"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "demo/files" in done.stdout or "stdout" in closed
    assert verify(open_store(notes / ".metaxy")).is_sound


@pytest.mark.parametrize("closed", CLOSED, ids="+".join)
def test_exit_code_tells_of_an_error_through_closed_streams(notes, closed):
    redirections = " ".join(STREAMS[name] for name in closed)
    done = shell(f"{PROGRAM} verify --root {notes} {redirections}")
    assert done.returncode == 1
    assert done.stdout == ""
    assert ("is no root" in done.stderr) == ("stderr" not in closed)
    assert shell(f"{PROGRAM} verify --nope {redirections}").returncode == 2


@pytest.mark.parametrize("arguments", ["demo {notes}", "verify --root {notes}/.metaxy", "verify --help"])
def test_reader_who_reads_nothing_sees_no_traceback(notes, demo, arguments):
    demo()
    # The reader is gone before anything is written.
    done = shell(f"(sleep 0.01; {PROGRAM} {arguments.format(notes=notes)}) | exec true")
    assert done.stderr == ""
    assert done.returncode in (0, 1)


def test_complaint_that_nobody_reads_is_no_traceback(notes):
    done = shell(f"{{ {PROGRAM} verify --root {notes} 2>&1 >&3 | exec true; }} 3>&1")
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize(
    "variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}]
)
def test_locale_of_few_characters_takes_any_name(notes, variables):
    write(notes / "Größe ☃.txt", "größer")
    os.link(notes / "eggs.txt", os.fsencode(notes) + b"/\xff.txt")
    for command in (
        f"demo {notes}",
        f"verify --root {notes}/.metaxy",
        f"compact --root {notes}/.metaxy --yes",
        f"vacuum --root {notes}/.metaxy",
        f"demo {notes}",
    ):
        done = shell(f"{PROGRAM} {command}", **variables)
        assert (done.returncode, done.stderr) == (0, ""), (command, done.stdout)
    assert "Plan of 2 features: 0 samples to compute" in done.stdout
    assert verify(open_store(notes / ".metaxy")).is_sound
