"""Rows and commits that the tests of the log write."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import polars as pl

from metaxy_fs.ids import LamportClock
from metaxy_fs.log.chunks import Chunks
from metaxy_fs.log.commit import CommitRequest, commit
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.manifest import Definition, Manifest
from metaxy_fs.log.ranges import distinct_groups
from metaxy_fs.log.view import LiveFile
from metaxy_fs.storage.base import Storage

VERSION = "0123456789abcdef" * 4
PARTITION = Partition("video.processing", VERSION[:16])


def rows(*ids: int) -> pl.DataFrame:
    """Rows that differ in their ids alone."""
    versions = pl.struct(pl.format("f{}", "sample_id").alias("frames")).alias("data_version")
    return pl.DataFrame({"sample_id": list(ids)}, schema={"sample_id": pl.Int64}).with_columns(versions)


def request(
    frame: pl.DataFrame,
    *,
    write_id: str | None = None,
    partition: Partition = PARTITION,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> CommitRequest:
    """A write to a partition, by default the one that most of these tests have."""
    return CommitRequest(
        partition=partition,
        feature=("video", "processing"),
        definition=Definition(partition.version * 4, {"frames": VERSION}),
        id_columns=("sample_id",),
        rows=Chunks.of(frame),
        writer="a test",
        write_id=write_id,
        tags=tags,
    )


def write(storage: Storage, *ids: int, write_id: str | None = None, clock: LamportClock | None = None) -> Manifest:
    """Commit rows of these ids."""
    return commit(storage, request(rows(*ids), write_id=write_id), clock=clock or LamportClock())


def may_repeat(files: Sequence[LiveFile]) -> bool:
    """Whether it is not proven that no sample stands twice in some files."""
    groups = distinct_groups(files)
    return len(groups) > 1 or not groups[0][1]
