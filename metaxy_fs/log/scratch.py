"""Where is a directory for the moment, which goes when nobody needs it any more?"""

import os
import shutil
import tempfile
import weakref
from pathlib import Path


class ScratchDirectory:
    """A temporary directory of this process (see `tempfile`), removed with this object or at the end of the process."""

    def __init__(self) -> None:
        self._path = Path(tempfile.mkdtemp(prefix="metaxy_fs-"))
        weakref.finalize(self, _remove, self._path, os.getpid())

    def path(self, name: str) -> str:
        """Return the path of a file in the directory."""
        return str(self._path / name)


def _remove(path: Path, maker: int) -> None:
    # A forked process inherits the object, but not what it stands for.
    if os.getpid() == maker:
        shutil.rmtree(path, ignore_errors=True)
