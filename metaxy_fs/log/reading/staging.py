"""How are data files of a remote root read more than once, and fetched once?

They are put into a temporary directory of this machine (see `tempfile`), which goes when the last who reads them does.
Data files never change, so what was fetched stays true.
"""

import threading
from collections.abc import Sequence
from pathlib import Path

from metaxy_fs.log.pruning.pieces import Piece, fetch, in_batches
from metaxy_fs.log.views.live import LiveFile
from metaxy_fs.scratch import ScratchDirectory, writing_to
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.forwarding import ForwardingStorage


class StagedStorage(ForwardingStorage):
    """A remote storage of which data files are kept here once they were fetched. Safe to share between threads.

    Args:
        storage: The remote one.
    """

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage)
        self._scratch: ScratchDirectory | None = None
        self._held: dict[str, str] = {}
        self._lock = threading.Lock()

    def fetch(self, files: Sequence[LiveFile]) -> None:
        """Have some data files here, each of which is then at its `local_path`.

        Raises:
            ObjectNotFoundError: One is gone.
            CorruptObjectError: One is not what its manifest vouches for.
        """
        with self._lock:
            scratch = self._scratch = self._scratch or ScratchDirectory()
            for batch in in_batches(Piece(live) for live in files if live.path not in self._held):
                for (live, _), data in zip(batch, fetch(self._storage, batch), strict=True):
                    path = scratch.path(f"{len(self._held)}.parquet")
                    with writing_to(Path(path)):
                        Path(path).write_bytes(data)
                    self._held[live.path] = path

    def local_path(self, path: str) -> str | None:
        return self._held.get(path)
