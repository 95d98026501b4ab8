"""Make one compaction of some manifests: merge their rows, then put files, the table of commits and the manifest."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, count

import msgspec
import polars as pl

from metaxy_fs.errors import CorruptObjectError, StorageError
from metaxy_fs.ids import random_token, timestamp_id, wall_clock
from metaxy_fs.log.commit import MAX_AGE_SECONDS
from metaxy_fs.log.commit_table import combined_table, covers_of, digest_of, encode_table
from metaxy_fs.log.decoding import MAX_COMPACTION_BYTES
from metaxy_fs.log.layout import Partition, commit_table
from metaxy_fs.log.left_out import LeftOut
from metaxy_fs.log.levels import FANOUT
from metaxy_fs.log.manifest import CommitHeader, CommitKey, DataFile, Manifest, encode_manifest
from metaxy_fs.log.merge import (
    Division,
    bounds_of,
    by_id,
    has_repeats,
    is_in_commit_order,
    listed_again,
    merged,
)
from metaxy_fs.log.parquet import encode_rows
from metaxy_fs.log.verified_io import put_idempotent
from metaxy_fs.log.view import LiveFile, View
from metaxy_fs.parallel import ordered_map
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.logged import LOGGER

Progress = Callable[[int, int], object]
"""Called with how many rows were read and written so far, and how many are going to be."""


class Compaction(msgspec.Struct, frozen=True, kw_only=True):
    """What one compaction has done.

    Attributes:
        partition: Whose commits it covers.
        commit: Its id.
        manifests: How many manifests it has taken the place of.
        commits: How many commits it covers.
        rows: How many rows these have.
        files_before: How many data files held them.
        files_after: How many do now.
        bytes_before: The size of the former.
        bytes_after: That of the latter.
    """

    partition: Partition
    commit: str
    manifests: int
    commits: int
    rows: int
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a partition is compacted.

    Attributes:
        writer: The library, as manifests name it.
        fan: How many members of a level are compacted into one (see `metaxy_fs.log.levels`).
        full: Compact all commits into one, whatever the levels are.
        cluster: Rewrite large files, too, whose ids overlap, so that each holds a range of ids of its own.
        progress: Called as the work goes on.
    """

    writer: str
    fan: int = FANOUT
    full: bool = False
    cluster: bool = False
    progress: Progress | None = None


class Compactor:
    """One compaction under way.

    Args:
        storage: The root.
        view: What counts in the partition.
        manifests: Those of them that become one.
        options: How.
        time: The time of the compaction.
        divide: Tells which files are listed again as they are.
        source: The root that has the manifests and their files, if it is another one.
        left_out: The rows that the compaction does not get, of files that are not listed again.
    """

    def __init__(
        self,
        storage: Storage,
        view: View,
        manifests: Sequence[Manifest],
        options: Options,
        *,
        time: int,
        divide: Callable[[Sequence[LiveFile]], Division],
        source: Storage | None = None,
        left_out: LeftOut | None = None,
    ) -> None:
        self._storage = storage
        self._source = storage if source is None else source
        self._left_out = left_out
        self._partition = view.partition
        self._only = view.only
        self._manifests = manifests
        chosen = set(map(id, manifests))
        self._files = [live for live in view.files if id(live.manifest) in chosen]
        self._options = options
        self._divide = divide
        self._time = time
        self.commit = timestamp_id(time, random_token())
        self._done = self._known = 0
        self._parts = count()

    def run(self, started: int) -> Compaction:
        """Put what is new, the manifest last.

        Args:
            started: When the view was listed.
        """
        schemas, table = combined_table(self._source, self._partition, self._manifests, only=self._only)
        table = table if self._left_out is None else self._left_out.from_table(table)
        divided = [(index, self._divide(files)) for index, files in self._by_schema(schemas)]
        self._known = 2 * sum(live.file.rows for _, parts in divided for group in parts.merged for live in group)
        header = self._header(schemas)
        files = [entry for index, parts in divided for entry in self._entries(index, parts, header)]
        manifest = self._manifest(header, schemas, table, files)
        if wall_clock() - started > MAX_AGE_SECONDS * 1_000_000:
            raise StorageError(
                f"Compacting {self._storage.location}/{self._partition} took longer than {MAX_AGE_SECONDS} seconds, "
                "after which what was written may be vacuumed. Nothing was compacted; compact smaller parts, by "
                "compacting more often."
            )
        self._put_manifest(manifest)
        return self._report(manifest, table)

    def _by_schema(self, schemas: Sequence[bytes]) -> Iterator[tuple[int, list[LiveFile]]]:
        found: dict[bytes, list[LiveFile]] = {schema: [] for schema in schemas}
        for live in self._files:
            if (schema := live.manifest.schema_of(live.file)) not in found:
                raise CorruptObjectError(
                    f"The data file {self._source.location}/{live.path} has columns that no commit of its compaction "
                    "has. Nothing was compacted; find out what is wrong with `verify`.",
                    feature=self._partition.feature,
                    root=self._source.location,
                    path=live.path,
                )
            found[schema].append(live)
        return ((index, files) for index, files in enumerate(found.values()) if files)

    def _header(self, schemas: Sequence[bytes]) -> CommitHeader:
        first = self._manifests[0]
        return CommitHeader(
            commit=self.commit,
            time=self._time,
            feature=first.feature,
            definition=first.definition,
            id_columns=first.id_columns,
            schema=msgspec.Raw(schemas[0]),
            writer=self._options.writer,
        )

    def _entries(self, schema: int, parts: Division, header: CommitHeader) -> list[DataFile]:
        """Put the files of a schema that are new, and return what the manifest says of all: the new by their ids."""
        again = [listed_again(live, schema=schema) for live in parts.kept]
        written = [entry for group in parts.merged for entry in self._merge(schema, group, header)]
        if parts.merged:
            # A commit without rows may be the first of its schema, which decides the place of its columns.
            begin = min(live.first for group in parts.merged for live in group)
            earliest = min(range(len(written)), key=lambda index: written[index].first or begin)
            written[earliest] = msgspec.structs.replace(written[earliest], first=begin)
        single = [entry for entry in again if entry.first is None]
        return single + by_id([entry for entry in again if entry.first is not None] + written, header.id_columns[0])

    def _merge(self, schema: int, files: Sequence[LiveFile], header: CommitHeader) -> list[DataFile]:
        change = None if self._left_out is None else self._left_out.from_rows
        rows = merged(self._source, files, id_columns=header.id_columns, read=self._advance, change=change)
        frames = rows if change is None else _with_rows(rows)
        bounds = min(live.first for live in files), max(live.last for live in files)
        numbered, entries = zip(frames, self._parts, strict=False), []
        for entry in ordered_map(partial(self._put_rows, header, schema, bounds), numbered):
            entries.append(entry)
            self._advance(entry.rows)
        return entries

    def _put_rows(
        self,
        header: CommitHeader,
        schema: int,
        bounds: tuple[CommitKey, CommitKey],
        item: tuple[pl.DataFrame, int],
    ) -> DataFile:
        rows, part = item
        file = encode_rows(rows, header=header, name=f"{self.commit}-{part}.parquet")
        put_idempotent(self._storage, self._partition.data_file(file.entry.name), file.data)
        first, last = bounds_of(rows) if rows.height else bounds
        return msgspec.structs.replace(
            file.entry,
            schema=schema,
            first=first,
            last=last,
            repeats=has_repeats(rows, header.id_columns),
            ordered=is_in_commit_order(rows),
        )

    def _manifest(
        self, header: CommitHeader, schemas: Sequence[bytes], table: pl.DataFrame, files: Sequence[DataFile]
    ) -> Manifest:
        """Put the table of commits, and return the manifest."""
        rows = sum(file.rows for file in files)
        if rows != table["rows"].sum():
            raise CorruptObjectError(
                f"The commits of {self._source.location}/{self._partition} that were to be compacted have "
                f"{table['rows'].sum()} rows by their manifests, but {rows} in their files. Nothing was compacted; "
                "find out what is wrong with `verify`."
            )
        unlisted = Manifest(
            **msgspec.structs.asdict(header),
            rows=rows,
            digest=digest_of(table),
            files=tuple(files),
            schemas=tuple(msgspec.Raw(schema) for schema in schemas[1:]),
        )
        data, described = encode_table(table, manifest=unlisted, name=commit_table(self.commit))
        put_idempotent(self._storage, self._partition.data_file(described.name), data)
        return msgspec.structs.replace(unlisted, covers=covers_of(table), commits=described)

    def _put_manifest(self, manifest: Manifest) -> None:
        data = encode_manifest(manifest)
        if len(data) > MAX_COMPACTION_BYTES:
            raise StorageError(
                f"The manifest of a compaction of {manifest.commits.rows if manifest.commits else 0} commits of "
                f"{self._storage.location}/{self._partition} would have {len(data)} bytes, more than the "
                f"{MAX_COMPACTION_BYTES} that one may have. Nothing was compacted."
            )
        put_idempotent(self._storage, self._partition.compaction_manifest(self.commit), data)

    def _report(self, manifest: Manifest, table: pl.DataFrame) -> Compaction:
        done = Compaction(
            partition=self._partition,
            commit=self.commit,
            manifests=len(self._manifests),
            commits=table.height,
            rows=manifest.rows,
            files_before=len(self._files),
            files_after=len(manifest.files),
            bytes_before=sum(live.file.bytes for live in self._files),
            bytes_after=sum(file.bytes for file in manifest.files),
        )
        LOGGER.info(
            "%s: compacted %d commits of %s, %d rows, as %s: %d files instead of %d",
            self._storage.location,
            done.commits,
            done.partition,
            done.rows,
            done.commit,
            done.files_after,
            done.files_before,
        )
        return done

    def _advance(self, rows: int) -> None:
        self._done += rows
        if self._options.progress is not None:
            self._options.progress(self._done, self._known)


def _with_rows(frames: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Yield the frames that have rows, or the first one if none has."""
    first = next(frames)
    found = (frame for frame in chain([first], frames) if frame.height)
    yield next(found, first)
    yield from found
