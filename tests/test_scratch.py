"""Is a temporary file that cannot be written named?"""

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from metaxy_fs.errors import StorageError
from metaxy_fs.scratch import writing_to

FULL = """
import resource, signal
import polars as pl
from metaxy_fs.errors import StorageError
from metaxy_fs.metadata_store.arguments.spool import Spool

rows = pl.DataFrame({"sample_id": range(10_000)}).with_columns(pl.col("sample_id").hash().alias("digest"))
spool = Spool(rows.schema)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, resource.RLIM_INFINITY))
try:
    spool.add(rows)
except StorageError as error:
    print(error)
"""


def test_a_temporary_directory_that_is_full_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL],
        env={"TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"cannot write to {tmp_path}" in done.stdout, done.stderr
    assert "set TMPDIR" in done.stdout


def test_a_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "file"
    with pytest.raises(StorageError, match=str(tmp_path / "gone")), writing_to(path):
        path.write_bytes(b"")


def test_an_error_of_a_query_is_none_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(pl.exceptions.ComputeError), writing_to(tmp_path / "file"):
        raise pl.exceptions.ComputeError("regex error")
