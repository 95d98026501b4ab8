"""Find commits that existed and that no manifest holds any more.

Commits never end. So where something shows that a commit existed, and no manifest holds it, a manifest was damaged,
moved or left behind by a copy, and what is left of its rows lies in files that no manifest names. Three things show it:
a snapshot names the commit; a commit table lists it; or `repair` has kept what was in the place of its manifest. That
data files hold rows of it shows nothing: so do those of a copy that was cut short. Neither does a table that a copy has
brought whose mark, in `_copies`, is still there.

Vacuum deletes nothing of such a partition, and `verify` calls it an error.
"""

from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from io import BytesIO
from typing import NamedTuple

import polars as pl

from metaxy_fs.errors import CorruptObjectError, ObjectNotFoundError
from metaxy_fs.log.layout import Inventory, Partition, compaction_of_table, snapshot_file
from metaxy_fs.log.verified_io import Fetched, fetch_each
from metaxy_fs.storage.base import Storage


class Loss(NamedTuple):
    """Commits that no manifest holds.

    Attributes:
        path: The object that shows that they existed, below the root.
        problem: What it says, and which of the commits are gone.
        commits: Their ids; none where the object cannot be read, so that nobody knows.
    """

    path: str
    problem: str
    commits: frozenset[str]


def pinned_losses(
    partition: Partition, pinned: Mapping[str, AbstractSet[str]], present: Collection[str]
) -> Iterator[Loss]:
    """Yield the snapshots that name commits which nothing holds.

    Args:
        partition: Whose commits these are.
        pinned: The commits of the partition that each snapshot names.
        present: The commits that a manifest answers for.
    """
    for name, commits in pinned.items():
        if gone := frozenset(commits - set(present)):
            problem = f"names {len(gone)} commits of {partition} that are gone, such as {min(gone)}"
            yield Loss(snapshot_file(name), problem, gone)


def losses(
    storage: Storage, inventory: Inventory, *, unnamed: Collection[str], present: Collection[str]
) -> Iterator[Loss]:
    """Yield what a partition itself shows of commits that nothing holds.

    Args:
        storage: The root.
        inventory: What the partition holds.
        unnamed: The data files and commit tables that no manifest names.
        present: The commits that a manifest answers for.

    Raises:
        StorageError: A table could not be read, so nobody knows what it says.
    """
    present = frozenset(present)
    for commit, info in inventory.damaged.items():
        if commit not in present:
            problem = f"shows that there was a commit {commit}, whose manifest is gone"
            yield Loss(info.path, problem, frozenset([commit]))
    tables = [(name, inventory.data[name]) for name in sorted(unnamed) if _is_evidence(inventory, name)]
    for _, info, data in fetch_each(storage, tables):
        if isinstance(data, ObjectNotFoundError):  # another vacuum has removed it
            continue
        commits = _listed(data)
        if commits is None:
            yield Loss(info.path, "cannot be read, so nobody knows which commits it lists", frozenset())
        elif gone := commits - present:
            problem = f"lists {len(gone)} commits that no manifest holds, such as {min(gone)}"
            yield Loss(info.path, problem, gone)


def _is_evidence(inventory: Inventory, name: str) -> bool:
    """Whether a data file is a table of commits of this root, and not of a copy that has not ended."""
    compaction = compaction_of_table(name)
    return compaction is not None and compaction not in inventory.copies


def _listed(data: Fetched) -> frozenset[str] | None:
    """Return the commits that a table lists, None if it cannot be read."""
    if isinstance(data, CorruptObjectError):
        return None
    if isinstance(data, Exception):
        raise data
    try:
        commits = pl.read_parquet(BytesIO(data), columns=["commit"]).get_column("commit")
        return frozenset(commits.cast(pl.String).drop_nulls())
    # A panic is no Exception, and whatever Polars makes of a hostile file must not end the process.
    except (Exception, pl.exceptions.PanicException):  # noqa: BLE001
        return None
