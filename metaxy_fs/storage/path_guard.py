"""Keep paths below a local root, and refuse what is no plain file.

A root is shared, so somebody may put a link into it that leads to files of its readers, a loop of links in
which a listing never ends, or a pipe at which a reader waits forever.

Theory of operation. A directory that is closed to others is worth nothing where they may rename it and put one of their
own in its place. They may do so in any directory on the way to it that they own, or may write to without the sticky
bit; and they may turn a link that is theirs. So each step of the way is looked at, those behind links too. Where all
are safe now, others cannot make them unsafe later.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from metaxy_fs.errors import CorruptObjectError, StorageError

REMEMBERED = 2**14
"""How many directories are remembered: a process that reads for months would else remember all that there ever were."""


class PathGuard:
    """Refuses what leads out of a root. Safe to share between threads.

    The root itself may be a link, or lie below one. A directory is looked at when it is first seen.

    Args:
        root: An absolute path.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._inside: set[str] = set()

    def check_directory(self, directory: str) -> None:
        """Refuse a directory of the root that is a link, or lies below one.

        Raises:
            CorruptObjectError: It is.
        """
        if directory in self._inside:
            return
        expected = os.path.join(os.path.realpath(self._root), os.path.relpath(directory, self._root))
        real = os.path.realpath(directory)
        if os.path.normcase(real) != os.path.normcase(os.path.normpath(expected)):
            raise CorruptObjectError(
                f"{directory} is a link, or lies below one: it is {real}. Links to directories are not followed below "
                f"the root {self._root}; move the directory here, or open the place that it leads to as a root.",
                root=self._root,
                path=self._below(directory),
            )
        if os.path.isdir(real):
            if len(self._inside) >= REMEMBERED:
                self._inside.clear()
            self._inside.add(directory)

    def check_file(self, path: str) -> None:
        """Refuse a file that is a link out of the root, or no file but something else that can be opened.

        Raises:
            CorruptObjectError: It is.
            FileNotFoundError: There is none.
            IsADirectoryError: It is a directory.
        """
        self.check_directory(os.path.dirname(path))
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            self._check_link(path)
            found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(path)
        if not stat.S_ISREG(found.st_mode):
            raise CorruptObjectError(
                f"{path} is a pipe, a socket or a device, and is not opened. Remove it.",
                root=self._root,
                path=self._below(path),
            )

    def _below(self, path: str) -> str:
        return os.path.relpath(path, self._root).replace(os.sep, "/")

    def _check_link(self, path: str) -> None:
        real = os.path.normcase(os.path.realpath(path))
        root = os.path.normcase(os.path.realpath(self._root))
        if not real.startswith(os.path.join(root, "")):
            raise CorruptObjectError(
                f"{path} is a link that leads out of the root {self._root}, to {real}. It is not followed; put the "
                "file itself there, or remove the link.",
                root=self._root,
                path=self._below(path),
            )


_MOST_LINKS = 40
_ADVICE = "Choose a directory that is yours alone, such as one below your home directory."


def open_private(directory: Path, *, purpose: str) -> None:
    """Make a directory of this user alone, or look at the one that there is.

    Args:
        directory: An absolute path; missing parents are made, and are private too.
        purpose: What it is for, for messages.

    Raises:
        StorageError: It cannot be made, or others could read it, write it, or exchange it.
    """
    try:
        for missing in [*reversed([each for each in directory.parents if not each.exists()]), directory]:
            missing.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
        problem = next(filter(None, map(_weakness, _steps(directory))), None)
    except OSError as error:
        raise StorageError(f"cannot keep {purpose} in {directory}: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise StorageError(
            f"cannot keep {purpose} in {directory}: it is no directory of this user alone. Remove it, or choose "
            "another place."
        )
    if problem is not None:
        raise StorageError(
            f"cannot keep {purpose} in {directory}: another user could put a directory of his own in its place, since "
            f"{problem}. {_ADVICE}"
        )


def _steps(path: Path) -> Iterator[Path]:
    """Yield the directories and links that lead to a path, those behind links too, and the path itself last."""
    at, rest, links = Path(path.anchor), list(path.parts[1:]), 0
    yield at
    while rest:
        part = rest.pop(0)
        at = at.parent if part == ".." else at / part
        yield at
        if at.is_symlink() and (links := links + 1) <= _MOST_LINKS:
            target = at.readlink()
            at = Path(target.anchor) if target.is_absolute() else at.parent
            rest = [*target.parts[bool(target.anchor) :], *rest]


def _weakness(step: Path) -> str | None:
    """Return why others could exchange what a step leads to, None if they cannot."""
    found = step.lstat()
    # Who owns the root directory owns all; in some containers that is not the user 0.
    if found.st_uid not in {0, os.geteuid(), Path(step.anchor).stat().st_uid}:
        return f"{step} belongs to the user {found.st_uid}"
    mode = found.st_mode
    if not stat.S_ISDIR(mode) or mode & stat.S_ISVTX:
        return None
    if mode & stat.S_IWOTH:
        return f"all users may write to {step}, which has no sticky bit"
    if mode & stat.S_IWGRP and not _is_own_group(found.st_gid):
        return f"the group {found.st_gid} may write to {step}, which has no sticky bit"
    return None


def _is_own_group(group: int) -> bool:
    """Whether a group is that of this user alone, which many systems make for each user."""
    import grp  # noqa: PLC0415  # not on Windows, which has no such groups
    import pwd  # noqa: PLC0415  # likewise

    try:
        user, about = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return user.pw_gid == group and about.gr_name == user.pw_name and set(about.gr_mem) <= {user.pw_name}
