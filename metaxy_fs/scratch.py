"""Temporary directories that are private, and removed when nothing needs them any more."""

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
from metaxy_fs.interrupts import reraise_sigint_later
from metaxy_fs.system_errors import NO_DESCRIPTOR, explained, number_of

_ADVICE = "set TMPDIR to a directory that has room."


class ScratchDirectory:
    """A temporary directory of this process (see `tempfile`), removed with this object or at the end of the process.

    Raises:
        StorageError: There is none that can be written to.
    """

    def __init__(self) -> None:
        self._path = Path(_temporary_directory(), f"metaxy_fs-{random_token()}")
        # Before there is one: Ctrl-C may come at any moment from then on.
        weakref.finalize(self, _remove, self._path, os.getpid())
        with writing_to(self._path):
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
        advice = "." if number_of(error) in NO_DESCRIPTOR else f", or {_ADVICE}"
        raise StorageError(
            f"cannot write to {path.parent}, a temporary directory of this process: {explained(error)}{advice}"
        ) from error


def _temporary_directory() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:  # all that it knows are full, or closed to this user
        raise StorageError(f"cannot write to a temporary directory: {error}. Make room in one, or {_ADVICE}") from error


def _remove(path: Path, maker: int) -> None:
    # A forked process inherits the object, but not what it stands for.
    if os.getpid() == maker:
        try:
            shutil.rmtree(path, ignore_errors=True)
        except KeyboardInterrupt:
            shutil.rmtree(path, ignore_errors=True)
            reraise_sigint_later()
