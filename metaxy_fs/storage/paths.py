"""Which paths may a storage be asked for?

The layers above make every path themselves; this is the second line of defence against a name that was read from a
shared root.
"""

import os

from metaxy_fs.errors import StorageError


def check_path(path: str, *, location: str) -> str:
    """Return the path of an object if it stays below the root.

    Args:
        path: Parts joined by `/`.
        location: The root, for the message.

    Raises:
        StorageError: The path is absolute, or has an empty part, `.`, `..`, a NUL, or a drive or backslash on Windows.
    """
    if not path or "\0" in path or not {"", ".", ".."}.isdisjoint(path.split("/")) or _leaves_on_windows(path):
        raise StorageError(
            f"{path!r} is no path below {location}: expected parts joined by '/', none empty, '.' or '..'"
        )
    return path


def check_directory(directory: str, *, location: str) -> str:
    """Return the path of a directory if it is the root (`""`) or stays below it."""
    return check_path(directory, location=location) if directory else directory


def join(directory: str, name: str) -> str:
    """Return the path of a name in a directory, where `""` is the root."""
    return f"{directory}/{name}" if directory else name


def _leaves_on_windows(path: str) -> bool:
    return os.name == "nt" and ("\\" in path or ":" in path)
