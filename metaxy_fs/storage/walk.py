"""List a tree of directories in the order of paths, while others write to it.

Theory of operation. A listing of a tree is no snapshot: an object may be deleted from `a/` after its successor was
written to `b/`. A reader misses neither if `a/` is listed before `b/`: when the former is gone already, the latter is
there. So each directory is listed to its end before the next is begun. That alone fails when `b/` itself is younger
than the listing that names its parent's entries. Hence a parent is scanned again after its directories were listed, and
all that is not before the first new directory is listed once more. A parent without directories needs no second look:
nothing in it was listed late.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from metaxy_fs.storage.base import ObjectInfo, join


class Entry(NamedTuple):
    """One name in a directory; `describe` makes the object's info from its path, None if it has vanished meanwhile."""

    name: str
    is_directory: bool
    describe: Callable[[str], ObjectInfo | None]


ScanDirectory = Callable[[str], list[Entry]]
"""Returns the entries of a directory in any order; none if it does not exist."""


def walk(scan: ScanDirectory, directory: str, *, limit: int | None) -> list[ObjectInfo]:
    """Return the objects below a directory, sorted by path; with a limit the first alone, without a second look."""
    return _all_of(scan, directory) if limit is None else list(islice(_lazily(scan, directory), limit))


def _all_of(scan: ScanDirectory, directory: str) -> list[ObjectInfo]:
    found: dict[str, list[ObjectInfo]] = {}
    entries = _in_order(scan(directory))
    while entries:
        for key, entry in entries.items():
            found[key] = _objects_of(scan, directory, entry)
        entries = _since_first_new(found, scan, directory)
    return [info for key in sorted(found) for info in found[key]]


def _objects_of(scan: ScanDirectory, directory: str, entry: Entry) -> list[ObjectInfo]:
    path = join(directory, entry.name)
    if entry.is_directory:
        return _all_of(scan, path)
    info = entry.describe(path)
    return [] if info is None else [info]


def _since_first_new(found: dict[str, list[ObjectInfo]], scan: ScanDirectory, directory: str) -> dict[str, Entry]:
    if not any(key.endswith("/") for key in found):
        return {}
    entries = _in_order(scan(directory))
    first = min((key for key in entries if key.endswith("/") and key not in found), default=None)
    return {} if first is None else {key: entry for key, entry in entries.items() if key >= first}


def _lazily(scan: ScanDirectory, directory: str) -> Iterator[ObjectInfo]:
    for entry in _in_order(scan(directory)).values():
        path = join(directory, entry.name)
        if entry.is_directory:
            yield from _lazily(scan, path)
        elif (info := entry.describe(path)) is not None:
            yield info


def _in_order(entries: list[Entry]) -> dict[str, Entry]:
    # The slash makes the order that of paths: `a-b/x` comes before `a/x`, as an object store has it.
    keyed = ((entry.name + "/" if entry.is_directory else entry.name, entry) for entry in entries)
    return dict(sorted(keyed, key=lambda item: item[0]))  # by names alone: some file systems list one twice
