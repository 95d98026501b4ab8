"""Walk a directory: list its files, name each, and open it safely.

Nothing that is met on the way ends the walk: what cannot be listed, looked at or read is kept with its reason.
"""

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, NamedTuple

import polars as pl

from metaxy_fs.progress import counting

DEFAULT_ROOT = ".metaxy"
SKIPPED_DIRECTORIES = (DEFAULT_ROOT, ".git", ".hg", ".jj", ".svn")

# A file that became a pipe since it was listed would otherwise be waited on forever.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
_ESCAPE = re.compile(rb"\\(?:\\|x([0-9a-f]{2}))")
_FOUND = {"path": pl.String, "size": pl.Int64, "stat": pl.String}


class Skip(StrEnum):
    """Why something is left out on purpose."""

    ROOT = "root of a store"
    VCS = "directory of a version control system"
    LINKED_DIRECTORY = "link to a directory"
    SPECIAL = "pipe, socket or device"


class FileStat(NamedTuple):
    """What the file system notes of a file that matters here; `modified` is in microseconds since 1970 (UTC)."""

    size: int
    mode: int
    modified: int
    version: str

    @classmethod
    def of(cls, status: os.stat_result) -> "FileStat":
        """Return what matters of a file's status."""
        mode = stat.S_IMODE(status.st_mode)
        version = f"{status.st_size} bytes, mode {mode:04o}, modified {status.st_mtime_ns} ns"
        return cls(status.st_size, mode, status.st_mtime_ns // 1000, version)


class OutOfReach(NamedTuple):
    """A file, or a directory with all that may be in it, that could not be read; `path` is formed as ids of samples."""

    path: str
    reason: str
    is_directory: bool = False


@dataclass(frozen=True)
class Tree:
    """What a walk found.

    Attributes:
        files: One row a file, sorted by path: `path` (the sample's id), `size` in bytes, `stat` (that part's version).
        out_of_reach: What could not be listed or looked at.
        skipped: How many things were left out on purpose.
    """

    files: pl.DataFrame
    out_of_reach: Sequence[OutOfReach]
    skipped: Counter[Skip]


class _DirectoryEntry(NamedTuple):
    path: str
    outcome: os.stat_result | OSError | Skip
    is_directory: bool = False


def walk(directory: Path, *, root: str) -> Tree:
    """Return the files below a directory, at any depth.

    Links to files count as files; links to directories are not followed.

    Args:
        directory: Where to begin.
        root: Where the store keeps its own files, which are left out if they are below the directory.
    """
    rows: list[tuple[str, int, str]] = []
    out_of_reach: list[OutOfReach] = []
    skipped: Counter[Skip] = Counter()
    entries = _entries(os.path.realpath(directory), os.path.realpath(root))
    for path, outcome, is_directory in counting(entries, what="walking"):
        if isinstance(outcome, Skip):
            skipped[outcome] += 1
        elif isinstance(outcome, OSError):
            out_of_reach.append(OutOfReach(to_id(path), reason_of(outcome), is_directory))
        else:
            found = FileStat.of(outcome)
            rows.append((to_id(path), found.size, found.version))
    return Tree(pl.DataFrame(rows, schema=_FOUND, orient="row").sort("path"), out_of_reach, skipped)


def to_id(path: str) -> str:
    r"""Return a relative path as the id of a sample, a text; no two paths have one id, and `from_id` undoes it.

    File names are bytes. Those that are no UTF-8 become `\xNN`; so that this is no other name, a backslash becomes two.

    Examples:
        >>> to_id("a/b.txt"), to_id("caf" + chr(0xDC00 + 0xE9))
        ('a/b.txt', 'caf\\xe9')
    """
    return os.fsencode(path).replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def from_id(sample: str) -> str:
    """Return the relative path that has an id."""
    return os.fsdecode(_ESCAPE.sub(lambda found: bytes([int(found[1], 16)]) if found[1] else b"\\", sample.encode()))


def open_file(directory: Path, sample: str) -> BinaryIO:
    """Open the file of a sample to be read as bytes.

    Raises:
        OSError: It cannot be opened, or is no regular file any more.
    """
    file = os.fdopen(os.open(f"{directory}/{from_id(sample)}", _READ), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("it is no regular file any more")
    return file


def reason_of(error: OSError) -> str:
    """Return what the system says of an error, without the path."""
    return error.strerror or str(error)


def _entries(top: str, root: str) -> Iterator[_DirectoryEntry]:
    # No recursion: a tree may be deeper than Python's stack.
    waiting = [""]
    while waiting:
        directory = waiting.pop()
        try:
            with os.scandir(f"{top}/{directory}") as listing:
                children = list(listing)
        except OSError as error:
            yield _DirectoryEntry(directory, error, is_directory=True)
            continue
        for child in children:
            entry = _look_at(child, f"{directory}/{child.name}" if directory else child.name, top=top, root=root)
            if entry is None:
                waiting.append(f"{directory}/{child.name}" if directory else child.name)
            else:
                yield entry


def _look_at(child: "os.DirEntry[str]", path: str, *, top: str, root: str) -> _DirectoryEntry | None:
    """Return what became of an entry, None for a directory to walk."""
    try:
        if child.is_dir(follow_symlinks=False):
            skip = _skip(child.name, is_root=f"{top}/{path}" == root)
            return None if skip is None else _DirectoryEntry(path, skip)
        status = child.stat()
    except OSError as error:
        return _DirectoryEntry(path, error)
    if stat.S_ISDIR(status.st_mode):
        return _DirectoryEntry(path, Skip.LINKED_DIRECTORY)
    return _DirectoryEntry(path, status if stat.S_ISREG(status.st_mode) else Skip.SPECIAL)


def _skip(name: str, *, is_root: bool) -> Skip | None:
    if is_root or name == DEFAULT_ROOT:
        return Skip.ROOT
    return Skip.VCS if name in SKIPPED_DIRECTORIES else None
