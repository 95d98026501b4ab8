"""Where is a directory for the moment, which goes when nobody needs it any more?"""

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from metaxy_fs.errors import StorageError
from metaxy_fs.ids import random_token
from metaxy_fs.interrupts import press_again


class ScratchDirectory:
    """A temporary directory of this process (see `tempfile`), removed with this object or at the end of the process."""

    def __init__(self) -> None:
        self._path = Path(tempfile.gettempdir(), f"metaxy_fs-{random_token()}")
        # Before there is one: Ctrl-C may come at any moment from then on.
        weakref.finalize(self, _remove, self._path, os.getpid())
        self._path.mkdir(mode=0o700)

    def path(self, name: str) -> str:
        """Return the path of a file in the directory."""
        return str(self._path / name)


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Say of a temporary file that cannot be written where it is, and what to do.

    Args:
        path: The file.

    Raises:
        StorageError: It could not be written.
    """
    try:
        yield
    except (OSError, pl.exceptions.ComputeError) as error:
        if isinstance(error, pl.exceptions.ComputeError) and "os error" not in str(error):
            raise
        raise StorageError(
            f"cannot write to {path.parent}, a temporary directory of this process: {error}. Make room there, or set "
            "TMPDIR to a directory that has some."
        ) from error


def _remove(path: Path, maker: int) -> None:
    # A forked process inherits the object, but not what it stands for.
    if os.getpid() == maker:
        try:
            shutil.rmtree(path, ignore_errors=True)
        except KeyboardInterrupt:
            shutil.rmtree(path, ignore_errors=True)
            press_again()
