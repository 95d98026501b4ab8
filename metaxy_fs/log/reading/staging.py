"""How are data files of a remote root read more than once, and fetched once?

They are put into a temporary directory of this machine (see `tempfile`), which goes when the last who reads them does.
Data files never change, so what was fetched stays true.
"""

import builtins
import threading
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from metaxy_fs.log.pruning.pieces import Piece, fetch, in_batches
from metaxy_fs.log.views.live import LiveFile
from metaxy_fs.scratch import ScratchDirectory
from metaxy_fs.storage.base import ObjectInfo, ObjectRange, Storage


class StagedStorage(Storage):
    """A remote storage of which data files are kept here once they were fetched. Safe to share between threads.

    Args:
        storage: The remote one.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
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
                    Path(path).write_bytes(data)
                    self._held[live.path] = path

    @property
    def location(self) -> str:
        return self._storage.location

    def local_path(self, path: str) -> str | None:
        return self._held.get(path)

    def put(self, path: str, data: bytes) -> None:
        self._storage.put(path, data)

    def get(self, path: str) -> bytes:
        return self._storage.get(path)

    def forget(self, fetched: ObjectInfo | ObjectRange) -> None:
        self._storage.forget(fetched)

    def find(self, paths: Sequence[str], *, limit: int) -> builtins.list[bytes | None]:
        return self._storage.find(paths, limit=limit)

    def get_many(self, objects: Sequence[ObjectInfo]) -> builtins.list[bytes]:
        return self._storage.get_many(objects)

    def list(self, directory: str, *, limit: int | None = None) -> builtins.list[ObjectInfo]:
        return self._storage.list(directory, limit=limit)

    def list_directories(self, directory: str) -> builtins.list[str]:
        return self._storage.list_directories(directory)

    def delete(self, path: str) -> None:
        self._storage.delete(path)

    def now(self, *, probe: str) -> datetime:
        return self._storage.now(probe=probe)
