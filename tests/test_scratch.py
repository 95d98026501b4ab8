"""A temporary directory is private, and there for as long as its process needs it."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl
import pytest

from metaxy_fs.errors import StorageError
from metaxy_fs.scratch import ScratchDirectory, writing_to

FULL = """
import resource, signal
import polars as pl
from metaxy_fs.errors import StorageError
from metaxy_fs.metadata_store.samples import Spool

rows = pl.DataFrame({"sample_id": range(10_000)}).with_columns(pl.col("sample_id").hash().alias("digest"))
spool = Spool(rows.schema)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, resource.RLIM_INFINITY))
try:
    spool.add(rows)
except StorageError as error:
    print(error)
"""


FORKED = """
import os, sys
from pathlib import Path
from metaxy_fs.scratch import ScratchDirectory

made = ScratchDirectory()
file = Path(made.path("file"))
file.write_text("rows")
pid = os.fork()
if not pid:
    sys.exit()
os.waitpid(pid, 0)
print(file.read_text())
"""


def run(code: str, directory: Path) -> "subprocess.CompletedProcess[str]":
    environment = {"TMPDIR": str(directory), "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]  # from 3.12 on, of forks with threads
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_nobody_else_can_look_into_a_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    before = os.umask(0)
    try:
        made = ScratchDirectory()
    finally:
        os.umask(before)
    assert Path(made.path("file")).parent.stat().st_mode & 0o077 == 0


def test_a_forked_child_leaves_the_directory_of_its_parent_where_it_is(tmp_path: Path) -> None:
    done = run(FORKED, tmp_path)
    assert (done.stdout, done.stderr) == ("rows\n", "")
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_directory_that_is_full_is_named(tmp_path: Path) -> None:
    done = run(FULL, tmp_path)
    assert f"cannot write to {tmp_path}" in done.stdout, done.stderr
    assert "set TMPDIR" in done.stdout


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "gone"))
    with pytest.raises(StorageError, match=r"gone, a temporary directory of this process: .*, or set TMPDIR"):
        ScratchDirectory()


def test_a_machine_without_any_temporary_directory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp', '/var/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", find_none)
    with pytest.raises(StorageError, match=r"No usable temporary directory found in .* set TMPDIR"):
        ScratchDirectory()


def test_too_few_descriptors_are_no_lack_of_room(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="ulimit -n") as caught, writing_to(tmp_path / "file"):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    assert "TMPDIR" not in str(caught.value)


def test_a_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "file"
    with pytest.raises(StorageError, match=str(tmp_path / "gone")), writing_to(path):
        path.write_bytes(b"")


def test_an_error_of_a_query_is_none_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(pl.exceptions.ComputeError), writing_to(tmp_path / "file"):
        raise pl.exceptions.ComputeError("regex error")
