"""Walk a local tree of files that are not the library's own, and read them.

Links to files count as files; links to directories are not followed, so no walk runs in a circle or leaves the tree.
Pipes, sockets, devices and links that lead nowhere are no files. What vanishes during the walk is not there. Files come
in no particular order, since a directory may hold more names than memory.
"""

import os
import stat
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from metaxy_fs.errors import StorageAccessError, StorageError
from metaxy_fs.ids import datetime_of
from metaxy_fs.storage.base import ObjectInfo
from metaxy_fs.system_errors import PERMISSION_DENIED, explained

# A file that became a pipe since it was listed would otherwise be waited on forever.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)


class Unread(NamedTuple):
    """A file that could not be read, or a directory that could not be listed, and with it all that may be below it."""

    path: str
    error: StorageError
    is_directory: bool = False


def walk_tree(top: str, *, enters: Callable[[str], bool]) -> Iterator[ObjectInfo | Unread]:
    """Yield the files below a directory, each by its path from `top` on.

    Args:
        top: The directory; `""` is the working directory.
        enters: Whether to look into a directory, by its path.

    Raises:
        StorageError: There is no such directory.
    """
    if not os.path.isdir(_encoded(top) or b"."):
        raise StorageError(f"cannot list {top!r}: there is no such file or directory", root=top)
    # No recursion: a tree may be deeper than Python's stack.
    waiting = [_encoded(top)]
    while waiting:
        directory = waiting.pop()
        try:
            with os.scandir(directory or b".") as children:
                for child in children:
                    path = os.path.join(directory, child.name)
                    if not child.is_dir(follow_symlinks=False):
                        yield from _described(child, path)
                    elif enters(shown(path)):
                        waiting.append(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            yield Unread(shown(directory), _error("list", shown(directory), error), is_directory=True)


def describe_file(path: str) -> ObjectInfo | None:
    """Return what the file system notes of a path, None where it is no file."""
    try:
        return _info(path, os.stat(_encoded(path)))
    except (OSError, ValueError):
        return None


def read_file(path: str, *, piece: int) -> Iterator[bytes]:
    """Yield the bytes of a file in pieces.

    Raises:
        StorageError: It cannot be read, or it was changed meanwhile, so that these are not the bytes of one file.
        FileNotFoundError: It is gone.
    """
    try:
        with _opened(path) as file:
            before = os.fstat(file.fileno())
            while data := file.read(piece):
                yield data
            after = os.fstat(file.fileno())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _error("read", path, error) from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise StorageError(f"cannot read {path!r}: it changed while it was read; list it again", path=path)


def shown(path: bytes) -> str:
    """Return a path in characters that UTF-8 has."""
    return path.decode("utf-8", "backslashreplace")


def _opened(path: str) -> BinaryIO:
    file = os.fdopen(os.open(_encoded(path), _READ), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("it is no file any more")
    return file


def _described(child: "os.DirEntry[bytes]", path: bytes) -> Iterator[ObjectInfo | Unread]:
    """Yield what there is of an entry: a file, something that cannot be looked at, or nothing."""
    try:
        status = child.stat()
    except FileNotFoundError:  # gone meanwhile, or a link that leads nowhere
        return
    except OSError as error:
        yield Unread(shown(path), _error("look at", shown(path), error))
        return
    if (found := _info(shown(path), status)) is None:
        return
    if found.path.encode() == path:
        yield found
        return
    reason = "its name is not UTF-8, and no string can hold it: rename it"
    yield Unread(found.path, StorageError(f"cannot list {found.path!r}: {reason}", path=found.path))


def _info(path: str, status: os.stat_result) -> ObjectInfo | None:
    if not stat.S_ISREG(status.st_mode):
        return None
    return ObjectInfo(path, status.st_size, datetime_of(status.st_mtime_ns // 1_000))


def _encoded(path: str) -> bytes:
    """Return a path as the system has it: file names are bytes, and UTF-8 whatever the locale says."""
    try:
        return path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)


def _error(verb: str, path: str, error: OSError) -> StorageError:
    kind = StorageAccessError if error.errno in PERMISSION_DENIED else StorageError
    return kind(f"cannot {verb} {path!r}: {explained(error)}", path=path)
