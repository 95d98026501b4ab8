"""Errors of the operating system: which number they have, what they mean for a user, and what to do."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

PERMISSION_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
"""The system refuses this user the operation."""
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
"""There is no room on the disk, or none that this user may take."""
NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})
"""No more files can be opened."""

_ADVICE = {
    errno.EACCES: "Check the permissions of this user on it and on the directories above it",
    errno.EPERM: "Check the permissions of this user on it and on the directories above it",
    errno.EROFS: "Its file system can only be read; write to another, or mount this one for writing",
    errno.ENOSPC: "The disk is full: make room there",
    errno.EDQUOT: "The quota of this user is used up: make room there, or ask for more",
    errno.EMFILE: "This process has too many files open: close some, or allow more (`ulimit -n`)",
    errno.ENFILE: "All processes of this machine have too many files open: end some, or allow more",
}
_ADVICE_ON_FILES = {
    errno.ENOENT: "Correct the path, or make what is missing of it",
    errno.ENOTDIR: "Correct the path: what stands there for a directory is a file",
    errno.EISDIR: "Name a file in it",
    errno.ENAMETOOLONG: "Give a shorter name",
}
# Polars gives its errors no number, but writes it.
_WRITTEN = re.compile(r"\(os error (\d+)\)")


def number_of(error: BaseException) -> int | None:
    """Return the number of a system's error, also where it stands in the message alone; None if there is none."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    written = _WRITTEN.search(str(error))
    return int(written[1]) if written else None


@contextmanager
def naming(what: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Have an error of the system on a file that somebody named say what was to be done, with which, and what to do.

    Args:
        what: What is done, such as `"read the fingerprint"`.
        path: The file, as it was given.

    Raises:
        OSError: The block raised one; its class and number are kept.
    """
    try:
        yield
    except OSError as error:
        advice = _ADVICE_ON_FILES.get(error.errno or 0)
        told = type(error)(f"cannot {what} {os.fspath(path)}: {explained(error)}.{f' {advice}.' if advice else ''}")
        told.errno = error.errno  # with a file name, Python would write a message of its own
        raise told from error


def explained(error: BaseException) -> str:
    """Return what a system's error means, and what to do about it where that is known; no full stop at the end.

    Examples:
        >>> explained(OSError(errno.EMFILE, "Too many open files"))
        'Too many open files. This process has too many files open: close some, or allow more (`ulimit -n`)'
    """
    number = number_of(error)
    reason = (isinstance(error, OSError) and error.strerror) or (os.strerror(number) if number else str(error))
    advice = _ADVICE.get(number) if number else None
    return f"{reason}. {advice}" if advice else str(reason)
