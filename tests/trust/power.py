"""The disks that a loss of power may leave.

Of a local root every call is recorded that makes, links, removes or syncs. A file system promises no more than POSIX
says: the bytes of a file are on disk once it was synced, a name is (or is gone) once its directory was. Whatever was
not synced may have got there or not, each call for itself and in any order; a file that was not synced is empty. So a
disk after the first n calls is a throw of dice.
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from threading import RLock
from typing import Any, NamedTuple

import pytest


class Call(NamedTuple):
    """One call, or something that the program has acknowledged.

    Attributes:
        kind: `"mkdir"`, `"create"`, `"link"`, `"unlink"`, `"sync directory"`, `"sync file"` or `"done"`.
        path: The name that it is about, below the root; of `"done"` what was done.
        file: The number of the file that the name stands for.
        data: The bytes that were synced.
    """

    kind: str
    path: str
    file: int = -1
    data: bytes = b""


class Recorder:
    """Records the calls below a directory."""

    def __init__(self, top: Path) -> None:
        self.calls: list[Call] = []
        self._top = str(top)
        self._files: dict[str, int] = {}
        self._descriptors: dict[int, str] = {}
        self._lock = RLock()

    def done(self, what: str) -> None:
        """Note that something was acknowledged."""
        self.calls.append(Call("done", what))

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the calls of this process."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("mkdir", "open", "link", "unlink", "fsync"):
                patch.setattr(os, name, self._recorded(getattr(os, name), getattr(self, f"_{name}")))
            yield

    def _recorded(self, call: Callable[..., Any], record: Callable[..., None]) -> Callable[..., Any]:
        def recorded(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                result = call(*args, **kwargs)
                record(result, *args)
                return result

        return recorded

    def _below(self, path: Any) -> str | None:
        name = os.fspath(path) if not isinstance(path, int) else ""
        return os.path.relpath(name, self._top) if name.startswith(f"{self._top}/") or name == self._top else None

    def _mkdir(self, _: Any, path: Any, *__: Any) -> None:
        if (name := self._below(path)) is not None:
            self.calls.append(Call("mkdir", name))

    def _open(self, descriptor: int, path: Any, flags: int, *_: Any) -> None:
        if (name := self._below(path)) is not None:
            self._descriptors[descriptor] = str(path)
            if flags & os.O_CREAT:
                self._files[name] = len(self._files)
                self.calls.append(Call("create", name, self._files[name]))

    def _link(self, _: Any, old: Any, new: Any) -> None:
        if (name := self._below(new)) is not None:
            self._files[name] = self._files[self._below(old) or ""]
            self.calls.append(Call("link", name, self._files[name]))

    def _unlink(self, _: Any, path: Any, **__: Any) -> None:
        if (name := self._below(path)) is not None:
            self.calls.append(Call("unlink", name))

    def _fsync(self, _: Any, descriptor: int) -> None:
        path = self._descriptors.get(descriptor)
        if path is None or (name := self._below(path)) is None:
            return
        if Path(path).is_dir():
            self.calls.append(Call("sync directory", name))
        else:
            self.calls.append(Call("sync file", name, self._files[name], Path(path).read_bytes()))


def disk_after(calls: list[Call], dice: random.Random) -> dict[str, bytes]:
    """Return the files that a disk may hold if the power fails after these calls."""
    entries: dict[str, int | None] = {}  # None is a directory
    last_sync = {call.path: place for place, call in enumerate(calls) if call.kind == "sync directory"}
    luck = dice.choice([0.0, 0.5, 1.0])
    for place, call in enumerate(calls):
        if call.kind not in ("mkdir", "create", "link", "unlink"):
            continue
        is_durable = place < last_sync.get(str(PurePath(call.path).parent), -1)
        if not is_durable and dice.random() >= luck:
            continue
        if call.kind == "unlink":
            entries.pop(call.path, None)
        else:
            entries[call.path] = None if call.kind == "mkdir" else call.file
    synced = {call.file: call.data for call in calls if call.kind == "sync file"}
    return {
        path: synced.get(file, b"")
        for path, file in entries.items()
        if file is not None and all(parent in entries for parent in _parents(path))
    }


def make(disk: dict[str, bytes], top: Path) -> None:
    """Make the files of a disk below a directory."""
    for path, data in disk.items():
        target = top / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def _parents(path: str) -> Iterator[str]:
    return (str(parent) for parent in PurePath(path).parents if parent.name)
