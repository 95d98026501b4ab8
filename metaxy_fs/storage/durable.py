"""Write files and directories that survive a loss of power, as far as their file system can keep them."""

import errno
import os
from typing import Any

# SMB before Linux 4.17, shared folders of virtual machines, and some FUSE and 9p have no sync of a directory.
_NO_DIRECTORY_SYNC = {errno.EINVAL, errno.EBADF, errno.EISDIR, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


def make_directories(directory: str) -> None:
    """Make a directory and its parents, and sync the parent of each that is new, the topmost first."""
    missing = []
    while not os.path.isdir(directory) and os.path.dirname(directory) != directory:
        missing.append(directory)
        directory = os.path.dirname(directory)
    for made in reversed(missing):
        try:
            os.mkdir(made)
        except FileExistsError:
            # Another writer was faster. Anything else of that name is an error.
            if not os.path.isdir(made):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), made) from None
        # A crash before this loses the directory, and with it every object that is put there later.
        sync_directory(os.path.dirname(made))


def write_synced(path: str, data: bytes) -> None:
    """Write a new file, and have its bytes on disk when this returns."""
    # 0o666 less the umask, as for any new file; the modules of the library for temporary files make theirs private.
    descriptor = os.open(path, _CREATE, 0o666)
    with open(descriptor, "wb", buffering=0) as file:
        _write_all(file, data)
        # Before the file has its name: a crash between the two would leave an empty or torn object.
        os.fsync(file.fileno())


def sync_directory(directory: str) -> None:
    """Make the names in a directory survive a crash, as far as its file system can; others pass over the same errors.

    Where it cannot, a crash of the machine may lose the last names, as it may for every database and for git there.
    """
    if os.name == "nt":
        # Windows cannot open a directory for that; NTFS keeps names in its journal.
        return
    try:
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise


def _write_all(file: Any, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        # One write moves at most 2 GiB.
        rest = rest[file.write(rest) :]
