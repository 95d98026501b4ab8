"""A listing that runs while others write and delete never misses a successor."""

import pytest

from metaxy_fs.storage.base import ObjectInfo
from metaxy_fs.storage.walk import Entry, walk


class Tree:
    """A tree that changes at a given scan: paths of objects, and what happens before which scan of which directory."""

    def __init__(self, paths, changes):
        self.paths = set(paths)
        self.changes = list(changes)
        self.scans = []

    def scan(self, directory):
        if self.changes and self.changes[0][0] == directory:
            _, added, removed = self.changes.pop(0)
            self.paths = self.paths - set(removed) | set(added)
        self.scans.append(directory)
        prefix = f"{directory}/" if directory else ""
        names = {path.removeprefix(prefix).partition("/")[:2] for path in self.paths if path.startswith(prefix)}
        return [Entry(name, bool(slash), lambda path: ObjectInfo(path, 0)) for name, slash in names]


def listed(tree, *, limit=None):
    return [info.path for info in walk(tree.scan, "", limit=limit)]


def test_successor_in_a_directory_younger_than_the_listing_is_seen():
    # Before `a` is scanned, its object is replaced by one in `b`, which the first scan of the parent could not know.
    tree = Tree(["a/old", "a/other"], [("a", ["b/new"], ["a/old"])])

    assert listed(tree) == ["a/other", "b/new"]


def test_directory_after_a_new_one_is_listed_again():
    # `c` was listed when `b` appears; what leaves `b` for `c` before `b` is listed must be seen in `c`.
    tree = Tree(["a/1", "c/1"], [("c", ["b/old", "b/1"], []), ("b", ["c/new"], ["b/old"])])

    assert listed(tree) == ["a/1", "b/1", "c/1", "c/new"]


def test_flat_directory_is_scanned_once():
    tree = Tree(["1", "2"], [])

    assert listed(tree) == ["1", "2"]
    assert tree.scans == [""]


def test_limit_scans_no_further_than_needed():
    tree = Tree(["a/1", "b/1", "c/1"], [])

    assert listed(tree, limit=1) == ["a/1"]
    assert tree.scans == ["", "a"]


def test_object_that_vanished_is_left_out():
    entries = [
        Entry("gone", is_directory=False, describe=lambda path: None),
        Entry("here", is_directory=False, describe=lambda path: ObjectInfo(path, 1)),
    ]

    assert [info.path for info in walk(lambda directory: entries, "", limit=None)] == ["here"]
    assert [info.path for info in walk(lambda directory: entries, "", limit=1)] == ["here"]


@pytest.mark.parametrize("limit", [None, 5])
def test_a_name_that_a_directory_shows_twice_is_one_object(limit):
    """Some mounted file systems do so while they are written to; nothing but the name tells the order."""
    entries = [Entry("twice", is_directory=False, describe=lambda path: ObjectInfo(path, 1)) for _ in range(2)]
    entries += [Entry("a", is_directory=False, describe=lambda path: ObjectInfo(path, 1))]

    assert [info.path for info in walk(lambda directory: entries, "", limit=limit)] == ["a", "twice"]
