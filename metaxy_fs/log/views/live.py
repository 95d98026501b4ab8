"""Which data files does a view read, and which rows of them?"""

from collections.abc import Iterator
from functools import lru_cache

import msgspec
import polars as pl

from metaxy_fs.log.files.commit_columns import COMMIT_COLUMNS
from metaxy_fs.log.objects.layout import Partition
from metaxy_fs.log.objects.manifest import CommitKey, DataFile, Manifest
from metaxy_fs.log.objects.schema import decode_schema


class LiveFile(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A data file that is to be read.

    Attributes:
        partition: Where it is.
        manifest: The one that lists it.
        file: Its entry there.
        first: The first commit that it may hold rows of.
        last: The last one.
        offset: How many rows of its commit come before it; of no meaning in a file of many commits.
        excluded: Commits whose rows in this file do not count: others answer for them.
    """

    partition: Partition
    manifest: Manifest
    file: DataFile
    first: CommitKey
    last: CommitKey
    offset: int = 0
    excluded: frozenset[str] = frozenset()

    @property
    def path(self) -> str:
        """The file's path below the root."""
        return self.partition.data_file(self.file.name)

    @property
    def schema(self) -> pl.Schema:
        """The file's own columns, but for those of commits; files of equal schemas share one object."""
        return decode_schema(self.manifest.schema_of(self.file))

    @property
    def stored_schema(self) -> pl.Schema:
        """All columns that are in the file."""
        encoded = self.manifest.schema_of(self.file)
        return _with_commit_columns(encoded) if self.is_rewritten else decode_schema(encoded)

    @property
    def is_rewritten(self) -> bool:
        """Whether a compaction has written it, so that each row says whose it is."""
        return self.file.first is not None


def place(live: LiveFile) -> tuple[CommitKey, CommitKey, int]:
    """Return what the files of a view are ordered by."""
    return live.first, live.last, live.offset


def files_of(partition: Partition, manifest: Manifest, *, excluded: frozenset[str] = frozenset()) -> Iterator[LiveFile]:
    """Yield the data files that a manifest has read.

    Args:
        partition: Where it is.
        manifest: One that lives.
        excluded: Commits that others answer for.
    """
    offset = 0
    for file in manifest.files:
        if file.first is not None and file.last is not None:
            yield LiveFile(
                partition=partition,
                manifest=manifest,
                file=file,
                first=file.first,
                last=file.last,
                excluded=excluded,
            )
        else:
            commit, time = (manifest.commit, manifest.time) if file.commit is None else (file.commit, file.time or 0)
            if commit not in excluded:
                key, start = (time, commit), file.offset if manifest.covers else offset
                yield LiveFile(partition=partition, manifest=manifest, file=file, first=key, last=key, offset=start)
            offset += file.rows


@lru_cache(maxsize=1024)
def _with_commit_columns(encoded: bytes) -> pl.Schema:
    return pl.Schema({**decode_schema(encoded), **COMMIT_COLUMNS})
