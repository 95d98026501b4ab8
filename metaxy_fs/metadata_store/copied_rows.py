"""Copy commits from one store into another of a different kind: row by row, under names that a repetition finds.

Between two roots objects are copied as they are. Here each commit is read and written again: it gets an id and a time
of the target, and keeps its order, its tags and its `write_id`. A commit without one gets a name that is made of its
id, so that a copy which is repeated, or was cut short, writes nothing twice.
"""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import msgspec
import polars as pl

from metaxy_fs.errors import HashAlgorithmError, SpecError
from metaxy_fs.log import Chunks, Copied, Partition
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.operations import Append, Moment, Query, StoredSpec
from metaxy_fs.spec import FeatureKey

Advance = Callable[[int, int], object]


def copy_rows(
    source: Backend, target: Backend, chosen: Mapping[Partition, AbstractSet[str]], *, progress: Advance
) -> Copied:
    """Copy the rows of some commits, partition by partition.

    Args:
        source: Whose commits.
        target: Where to.
        chosen: Their ids by partition.
        progress: Called after each commit with the bytes that are dealt with, and with those that there are.

    Raises:
        WriteConflictError: A `write_id` stands for other rows in the target.
        MetadataSchemaError: The target cannot keep a column.
        HashAlgorithmError: The versions in the two stores are hashed with two algorithms.
        SpecError: The source does not keep the declaration that the rows were written under.
        StorageError: A store could not be read or written; what was copied stays.
    """
    if source.hash_algorithm != target.hash_algorithm:
        raise HashAlgorithmError(
            f"The versions of rows are hashed with {source.hash_algorithm} in {source.location}, and with "
            f"{target.hash_algorithm} in {target.location}. Copy between stores of one algorithm.",
            root=target.location,
        )
    commits = {partition: _commits(source, partition, ids) for partition, ids in chosen.items()}
    known, done, added = sum(int(each["bytes"].sum()) for each in commits.values()), 0, 0
    for partition, found in commits.items():
        declared, there = _declared(source, partition), _names(target, partition)
        for commit in found.iter_rows(named=True):
            name = commit["write_id"] or f"copy of {commit['commit']}"
            _copy(source, target, partition, commit, declared=declared, name=name)
            added += name not in there
            done += commit["bytes"]
            progress(done, known)
    return Copied(commits=sum(each.height for each in commits.values()), added=added)


def _copy(
    source: Backend,
    target: Backend,
    partition: Partition,
    commit: Mapping[str, Any],
    *,
    declared: StoredSpec,
    name: str,
) -> None:
    moment = Moment(commits={partition.version: frozenset([commit["commit"]])})
    scan = source.scan_rows(Query(key=declared.spec.key, partition=partition.version, at=moment))
    if scan is not None:  # it is among the commits of the source
        append = Append(
            spec=declared.spec,
            definition=declared.definition,
            chunks=Chunks.of(scan.rows.collect()),
            write_id=name,
            tags={} if commit["tags"] is None else msgspec.json.decode(commit["tags"]),
        )
        target.append_rows(append)


def _commits(store: Backend, partition: Partition, ids: AbstractSet[str]) -> pl.DataFrame:
    mine = (pl.col("partition") == partition.version) & pl.col("commit").is_in(list(ids))
    return store.stored_commits(FeatureKey.parse(partition.feature)).filter(mine)


def _names(store: Backend, partition: Partition) -> AbstractSet[str | None]:
    found = store.stored_commits(FeatureKey.parse(partition.feature))
    return set(found.filter(pl.col("partition") == partition.version)["write_id"])


def _declared(store: Backend, partition: Partition) -> StoredSpec:
    key = FeatureKey.parse(partition.feature)
    declared = store.stored_specs(key, [partition.version]).get(partition.version)
    if declared is None:
        raise SpecError(
            f"{store.location} does not keep the declaration that the rows of feature '{key}' under data version "
            f"{partition.version} were written with, so a store of another kind cannot take them.",
            feature=key.dotted,
            root=store.location,
        )
    return declared
