"""Find commits that existed and that no manifest holds any more.

Commits never end. So where something shows that a commit existed, and no manifest holds it, a manifest was damaged,
moved or left behind by a copy, and what is left of its rows lies in files that no manifest names. Four things show it:
a snapshot names the commit; a commit table lists it; `repair` has kept what was in the place of its manifest; or rows
in a file that a compaction has written say that they are its rows.

Vacuum deletes nothing of such a partition, and `verify` calls it an error.
"""

from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from io import BytesIO
from typing import NamedTuple

import polars as pl

from metaxy_fs.errors import CorruptObjectError, ObjectNotFoundError
from metaxy_fs.log.files.commit_columns import COMMIT
from metaxy_fs.log.objects.inventory import Inventory
from metaxy_fs.log.objects.layout import Partition, compaction_of_table, owners_of_data_file, snapshot_file
from metaxy_fs.log.objects.tolerant import Fetched, fetch_each
from metaxy_fs.storage.base import ObjectInfo, Storage


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
    partition: Partition, pinned: Mapping[str, AbstractSet[str]], held: Collection[str]
) -> Iterator[Loss]:
    """Yield the snapshots that name commits which nothing holds.

    Args:
        partition: Whose commits these are.
        pinned: The commits of the partition that each snapshot names.
        held: The commits that a manifest answers for.
    """
    for name, commits in pinned.items():
        if gone := frozenset(commits - set(held)):
            problem = f"names {len(gone)} commits of {partition} that are gone, such as {min(gone)}"
            yield Loss(snapshot_file(name), problem, gone)


def losses(
    storage: Storage, inventory: Inventory, *, unnamed: Collection[str], held: Collection[str]
) -> Iterator[Loss]:
    """Yield what a partition itself shows of commits that nothing holds.

    Args:
        storage: The root.
        inventory: What the partition holds.
        unnamed: The data files and commit tables that no manifest names and that are looked into.
        held: The commits that a manifest answers for.

    Raises:
        StorageError: A file could not be read, so nobody knows what it says.
    """
    held = frozenset(held)
    for commit, info in inventory.damaged.items():
        if commit not in held:
            problem = f"shows that there was a commit {commit}, whose manifest is gone"
            yield Loss(info.path, problem, frozenset([commit]))
    tables = {name: table for name in unnamed if (table := compaction_of_table(name)) is not None}
    yield from _told(storage, inventory, tables, held, column="commit", verb="lists")
    # A file whose compaction, or whose write, is known by its manifest or its table holds nothing that these do not.
    known = held | inventory.compactions.keys() | frozenset(tables.values())
    alone = [name for name in unnamed if name not in tables and known.isdisjoint(owners_of_data_file(name))]
    yield from _told(storage, inventory, alone, held, column=COMMIT, verb="holds rows of")


def _told(
    storage: Storage, inventory: Inventory, names: Collection[str], held: frozenset[str], *, column: str, verb: str
) -> Iterator[Loss]:
    wanted: list[tuple[str, ObjectInfo]] = [(name, inventory.data[name]) for name in sorted(names)]
    for _, info, data in fetch_each(storage, wanted):
        if isinstance(data, ObjectNotFoundError):  # another vacuum has removed it
            continue
        commits = _commits(data, column=column)
        if commits is None:
            yield Loss(info.path, "cannot be read, so nobody knows which commits it lists", frozenset())
        elif gone := commits - held:
            problem = f"{verb} {len(gone)} commits that no manifest holds, such as {min(gone)}"
            yield Loss(info.path, problem, gone)


def _commits(data: Fetched, *, column: str) -> frozenset[str] | None:
    """Return the commits that a file tells of; None for a commit table that cannot be read."""
    if isinstance(data, Exception) and not isinstance(data, CorruptObjectError):
        raise data
    is_table = column != COMMIT
    if isinstance(data, Exception):
        return None if is_table else frozenset()
    try:
        if not is_table and column not in pl.read_parquet_schema(BytesIO(data)):
            return frozenset()  # of a write: by itself it does not show that there was a commit
        commits = pl.read_parquet(BytesIO(data), columns=[column]).get_column(column)
        return frozenset(commits.cast(pl.String).drop_nulls())
    # A panic is no Exception, and whatever Polars makes of a hostile file must not end the process.
    except (Exception, pl.exceptions.PanicException):  # noqa: BLE001
        return None if is_table else frozenset()
