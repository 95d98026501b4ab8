"""Keep objects as files of a local or mounted file system: all or nothing, and safe from a loss of power.

Theory of operation. A put writes a temporary file, syncs it, links it to its final name, and syncs the directory.
`link` is the one call of POSIX that makes a whole file appear under a name only if the name is free; a rename would
overwrite, an exclusive open would show a half-written file. In this order no crash leaves a name without its bytes: the
bytes are on disk before the name exists. A crash before the last sync may lose the name, but then `put` had not
returned.
"""

import builtins
import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from metaxy_fs.errors import (
    ObjectExistsError,
    ObjectNotFoundError,
    StorageAccessError,
    StorageError,
)
from metaxy_fs.ids import datetime_of, random_token
from metaxy_fs.storage.base import (
    NoRoomError,
    NotDurableError,
    ObjectInfo,
    RootReference,
    Storage,
    by_path,
    check_directory,
    check_path,
)
from metaxy_fs.storage.durable import make_directories, sync_directory, write_synced
from metaxy_fs.storage.path_guard import REMEMBERED, PathGuard
from metaxy_fs.storage.walk import Entry, walk
from metaxy_fs.system_errors import NO_DESCRIPTOR, NO_ROOM, PERMISSION_DENIED, explained

TEMPORARY_PREFIX = ".tmp-"
"""Files of this name are puts under way or cut short; listings leave them out."""

_TEMPORARY = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}[0-9a-f]{{16}}")

_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class LocalStorage(Storage):
    """Objects as files below a directory, which the first write creates.

    Args:
        root: The directory; `~` is the home of the user, a relative path starts at the working directory of this
            moment.

    Raises:
        ValueError: The path is not UTF-8, which manifests, snapshots and Polars could not name.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        # POSIX leaves it to the system what two slashes at the beginning mean, and none here means anything by them.
        self._root = _as_utf8(re.sub(r"^//(?=[^/])", os.sep, os.path.abspath(os.path.expanduser(root))))
        self._prefix = os.path.join(self._root, "")
        # Directories whose names this instance has synced up to the root; see `_make_durable_directory`.
        self._durable_directories: set[str] = set()
        self._guard = PathGuard(self._root)

    @property
    def location(self) -> str:
        return self._root

    @property
    def identity(self) -> str:
        """The directory itself, whatever links lead to it."""
        return os.path.realpath(self._root)

    @property
    def reference(self) -> RootReference:
        return RootReference(self.identity, self.location, self._root)

    @property
    def put_is_conditional(self) -> bool:
        return True

    def local_path(self, path: str) -> str:
        target = self._path(path)
        with suppress(OSError):  # opening it will say
            self._guard.check_file(target)
        return target

    def put(self, path: str, data: bytes) -> None:
        target = self._path(path)
        directory, name = os.path.split(target)
        if name.startswith(TEMPORARY_PREFIX):
            raise self._failed(StorageError, "write", path, "names of that form are temporary files")
        try:
            self._make_durable_directory(directory)
            self._write_and_publish(directory, data, target=target, path=path)
        except ObjectExistsError:
            # The winner may have died before it synced the name, and the caller may take this error for proof that the
            # object is there.
            self._synced(directory, path)
            raise
        except StorageError:
            raise
        except OSError as error:
            raise self._explained("write", path, error) from error
        self._synced(directory, path)

    def get(self, path: str) -> bytes:
        return self._read(path)

    def get_optional(self, paths: Sequence[str], *, max_bytes: int) -> builtins.list[bytes | None]:
        return [self._bounded(path, self._read_if_there(path, max_bytes), max_bytes=max_bytes) for path in paths]

    def list(self, directory: str, *, limit: int | None = None) -> builtins.list[ObjectInfo]:
        check_directory(directory, location=self.location)
        try:
            return walk(self._scan, directory, limit=limit)
        except StorageError:
            raise
        except OSError as error:
            raise self._explained("list", directory, error) from error

    def list_directories(self, directory: str) -> builtins.list[str]:
        check_directory(directory, location=self.location)
        return sorted(entry.name for entry in self._scan(directory) if entry.is_directory)

    def delete(self, path: str) -> None:
        target = self._path(path)
        self._guard.check_directory(os.path.dirname(target))
        try:
            os.unlink(target)
        except (FileNotFoundError, NotADirectoryError):
            self._check_root("delete", path)
            return
        except OSError as error:
            if os.path.isdir(target):  # which is no object, and whose error is another one on each system
                return
            raise self._explained("delete", path, error) from error
        # Until this returns, a crash may bring the name back; what is deleted next must not be lost before it.
        self._synced(os.path.dirname(target), path, what="the deletion of ")

    def list_temporaries(self, directory: str) -> builtins.list[ObjectInfo]:
        check_directory(directory, location=self.location)
        try:
            return sorted(self._temporaries(directory), key=by_path)
        except OSError as error:
            raise self._explained("list", directory, error) from error

    def now(self, *, probe: str) -> datetime:
        try:
            return super().now(probe=probe)
        except NoRoomError:
            return self._touched()

    def __repr__(self) -> str:
        return f"LocalStorage({self._root!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_durable_directories": set()}

    def _path(self, path: str) -> str:
        return self._prefix + check_path(path, location=self.location)

    def _make_durable_directory(self, directory: str) -> None:
        """Make a directory, and make its name survive a crash, and those of its parents up to the root.

        A directory that exists may be the work of another process which has not synced it yet, so its parents are
        synced once by each instance, not only by its maker. After that this costs nothing.
        """
        if directory in self._durable_directories:
            return
        if len(self._durable_directories) >= REMEMBERED:
            self._durable_directories.clear()
        self._guard.check_directory(directory)
        make_directories(directory)
        self._guard.check_directory(directory)
        while len(directory) > len(self._root):
            parent = os.path.dirname(directory)
            self._refuse_other_case(parent, os.path.basename(directory))
            sync_directory(parent)
            self._durable_directories.add(directory)
            directory = parent
        if self._root not in self._durable_directories:
            # One who only writes below the root may not be allowed to open its parent; its maker was.
            with suppress(OSError):
                sync_directory(os.path.dirname(self._root))
            self._durable_directories.add(self._root)

    def _refuse_other_case(self, parent: str, name: str) -> None:
        """Refuse a directory that exists under a name which the file system takes for this one.

        What is put there would be below another name in every listing, with what others have put there.
        """
        if os.path.lexists(os.path.join(parent, name.swapcase())) and name not in (names := os.listdir(parent)):
            existing = next((other for other in names if other.lower() == name.lower()), "another name")
            reason = (
                f"{existing!r} is there, and its file system does not tell the two apart. Use a name that differs in "
                "more than its case, or another file system."
            )
            raise self._failed(StorageError, "write below", name, reason)

    def _write_and_publish(self, directory: str, data: bytes, *, target: str, path: str) -> None:
        # In the same directory, because a link cannot cross file systems.
        temporary = os.path.join(directory, f"{TEMPORARY_PREFIX}{random_token()}")
        try:
            self._write_temporary(temporary, directory, data)
            self._publish(temporary, target, path)
        finally:
            # Ctrl-C may come at any moment from the making of the file on. One that cannot be removed is for vacuum.
            with suppress(OSError):
                os.unlink(temporary)

    def _write_temporary(self, temporary: str, directory: str, data: bytes) -> None:
        try:
            write_synced(temporary, data)
        except FileNotFoundError:
            # Somebody removed the directory that this instance had made.
            self._durable_directories.clear()
            self._make_durable_directory(directory)
            write_synced(temporary, data)

    def _publish(self, temporary: str, target: str, path: str) -> None:
        try:
            os.link(temporary, target)
        except FileExistsError as error:
            raise self._failed(ObjectExistsError, "write", path, "an object of that name exists") from error
        except OSError as error:
            if error.errno in _NO_HARD_LINKS:
                reason = (
                    f"its file system has no hard links ({error.strerror}), without which two writers could overwrite "
                    "each other; use another file system"
                )
                raise self._failed(StorageError, "write", path, reason) from error
            raise

    def _synced(self, directory: str, path: str, *, what: str = "") -> None:
        try:
            # Until this returns, a crash may lose the name that `link` made.
            sync_directory(directory)
        except OSError as error:
            raise NotDurableError(
                f"cannot make {what}{path!r} in {self.location} durable: {error.strerror}; a crash may lose it, `get` "
                "tells",
                root=self.location,
                path=path,
            ) from error

    def _read(self, path: str, *, max_bytes: int | None = None) -> bytes:
        """Return the bytes of an object; of one that has more than a limit, a few more than that."""
        target = self._path(path)
        try:
            self._guard.check_file(target)
            with open(target, "rb", buffering=0 if max_bytes is None else -1, opener=_open_at_once) as file:
                return bytes(file.read(-1 if max_bytes is None else max_bytes + 1))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            self._check_root("read", path)
            raise self._failed(ObjectNotFoundError, "read", path, "no such object") from error
        except OSError as error:
            raise self._explained("read", path, error) from error

    def _read_if_there(self, path: str, max_bytes: int) -> bytes | None:
        try:
            return self._read(path, max_bytes=max_bytes)
        except ObjectNotFoundError:
            return None

    def _scan(self, directory: str) -> builtins.list[Entry]:
        self._guard.check_directory(os.path.join(self._root, *directory.split("/")) if directory else self._root)
        try:
            with os.scandir(self._prefix + directory) as entries:
                return [_entry(entry) for entry in entries if not entry.name.startswith(TEMPORARY_PREFIX)]
        except (FileNotFoundError, NotADirectoryError):
            self._check_root("list", directory)
            return []
        except OSError as error:
            raise self._explained("list", directory, error) from error

    def _temporaries(self, directory: str) -> Iterator[ObjectInfo]:
        for parent, _, names in os.walk(self._prefix + directory, onerror=_raise):
            for name in names:
                # Exactly what `put` makes: listings pass over more, which may be the work of others.
                if _TEMPORARY.fullmatch(name):
                    path = os.path.relpath(os.path.join(parent, name), self._root).replace(os.sep, "/")
                    with suppress(FileNotFoundError):  # the put was under way, and ended
                        status = os.stat(os.path.join(parent, name))
                        yield ObjectInfo(path, status.st_size, _modified(status))

    def _touched(self) -> datetime:
        """Return the time by the clock of the file system where it has no room for a file: a directory needs none."""
        try:
            os.utime(self._root)
            return _modified(os.stat(self._root))
        except OSError as error:
            raise self._explained("write", "", error) from error

    def _check_root(self, verb: str, path: str) -> None:
        # A root that is a file, or lies below one, answers as if there were nothing: a mistake, not an empty root.
        try:
            is_directory = stat.S_ISDIR(os.stat(self._root).st_mode)
        except FileNotFoundError:
            is_directory = not os.path.islink(self._root)
        except OSError as error:
            raise self._explained(verb, path, error) from error
        if not is_directory:
            raise self._failed(StorageError, verb, path, "the root is not a directory")

    def _explained(self, verb: str, path: str, error: OSError) -> StorageError:
        kind = StorageAccessError if error.errno in PERMISSION_DENIED else StorageError
        kind = NoRoomError if verb == "write" and error.errno in NO_ROOM | NO_DESCRIPTOR else kind
        return self._failed(kind, verb, path, explained(error))


def _modified(status: os.stat_result) -> datetime:
    """Return when a file was written."""
    return datetime_of(status.st_mtime_ns // 1_000)


def _open_at_once(path: str, flags: int) -> int:
    # Should a pipe take the place of the file since it was looked at, nobody waits for its bytes.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _as_utf8(root: str) -> str:
    try:
        root.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the path of a root has to be UTF-8, got {os.fsencode(root)!r}: rename the directory, or choose another"
        ) from error
    return root


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _entry(entry: "os.DirEntry[str]") -> Entry:
    def describe(path: str) -> ObjectInfo | None:
        try:
            status = entry.stat()
        except FileNotFoundError:
            return None
        return ObjectInfo(path, status.st_size, _modified(status))

    return Entry(entry.name, entry.is_dir(), describe)
