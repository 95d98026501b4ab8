"""List files as rows, and hash the bytes of those that are not known."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from glob import escape
from threading import Event
from typing import Any, Final, Literal

import polars as pl

from metaxy_fs.errors import StorageError
from metaxy_fs.ids import wall_clock
from metaxy_fs.parallel import batched, one
from metaxy_fs.progress import tallying
from metaxy_fs.reserved import DATA_VERSION
from metaxy_fs.storage.addresses import text_of_root
from metaxy_fs.storage.base import ObjectInfo
from metaxy_fs.storage.files import FileListing, Unread, find_files

By = Literal["etag", "modified", "content"]
"""What the version of a file is made from."""

_TIME = pl.Datetime("us", "UTC")
_NOTED: Final = {"path": pl.String(), "bytes": pl.Int64(), "modified": _TIME, "etag": pl.String()}
_ROWS = 100_000
ROWS_TO_HASH = 10_000
BYTES_TO_HASH = 4 * 1024**3
"""How much is hashed before it is handed on: what a job loses that is killed."""
PIECE = 2**22
_THREADS = 8
_VERSION = "version"


HASHED_AT: Final = "hashed_at"
"""The column that says when the bytes of a file were read."""
Fail = Callable[[Unread], object]
"""Called with what cannot be read."""


@dataclass(frozen=True)
class Listing:
    """Files that are listed in one way.

    Attributes:
        files: Where they are.
        by: What versions are made from.
        before: What stands before each path and is left out.
        container: The container that gets the version.
    """

    files: FileListing
    by: By
    before: str
    container: str

    @classmethod
    def of(
        cls,
        pattern: str | os.PathLike[str],
        options: Mapping[str, Any] | None,
        *,
        by: By,
        relative_to: str | os.PathLike[str] | None,
        include_hidden: bool,
        container: str,
    ) -> "Listing":
        """Return the files of a pattern, if all options have a meaning."""
        if by not in ("etag", "modified", "content"):
            raise ValueError(f'by is "etag", "modified" or "content", got {by!r}')
        files = find_files(pattern, storage_options=options, include_hidden=include_hidden)
        return cls(files, by, _beginning(files, relative_to, options), container)

    @property
    def schema(self) -> pl.Schema:
        """The columns of the frame."""
        hashed = {HASHED_AT: _TIME} if self.by == "content" else {}
        return pl.Schema({**_NOTED, **hashed, DATA_VERSION: pl.Struct({self.container: pl.String})})

    def frames(self, known: pl.DataFrame | None, fail: Fail, *, hashes: bool, progress: bool) -> Iterator[pl.DataFrame]:
        """Yield the rows of the files in batches; one without rows if there are none."""
        limits = [(one, ROWS_TO_HASH), (_size, BYTES_TO_HASH)] if hashes else [(one, _ROWS)]
        held = self._held(known) if hashes and known is not None else self.schema.to_frame()
        is_empty = True
        with _bars(hashes=hashes, is_hidden=not progress) as (count, advance):
            for batch in batched(self._found(fail, count), *limits):
                is_empty = False
                yield self._versioned(batch, held, fail, advance) if hashes else self._described(batch)
        if is_empty:
            yield self.schema.to_frame()

    def missing(self, known: pl.DataFrame, seen: pl.DataFrame, failed: Sequence[Unread]) -> pl.DataFrame:
        """Return the known files that the pattern names, that were not seen, and that could have been."""
        gone = known.select("path").join(seen, on="path", how="anti")
        covered = [path for path in gone["path"] if self.files.covers(self.before + path)]
        gone = pl.DataFrame({"path": covered}, schema={"path": pl.String})
        return gone.filter(~_is_within(failed, before=self.before)) if failed else gone

    def _held(self, known: pl.DataFrame) -> pl.DataFrame:
        """Return the known rows that spare a read, one of each state of a file."""
        has_version = pl.col(DATA_VERSION).struct.field(self.container).is_not_null()
        return known.filter(_was_quiet() & has_version).unique(list(_NOTED), keep="last", maintain_order=True)

    def _found(self, fail: Fail, count: Callable[[int], object]) -> Iterator[ObjectInfo]:
        for found in self.files.found():
            if isinstance(found, Unread):
                fail(found)
            else:
                count(1)
                yield found

    def _described(self, batch: Sequence[ObjectInfo]) -> pl.DataFrame:
        noted = self._noted(batch)
        # Spelled out, so that no release of Polars makes other versions of it.
        time = pl.col("modified").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
        version = pl.concat_str(pl.col("bytes").cast(pl.String), pl.lit(" bytes, modified "), time)
        if self.by == "etag":
            version = pl.coalesce("etag", version)
        return noted.with_columns(version.alias(_VERSION)).select(self._columns(noted))

    def _noted(self, batch: Sequence[ObjectInfo]) -> pl.DataFrame:
        start = len(self.before)
        return pl.DataFrame(
            {
                "path": [info.path[start:] for info in batch],
                "bytes": [info.size for info in batch],
                "modified": [info.modified for info in batch],
                "etag": [info.tag and info.tag.strip('"') for info in batch],
            },
            schema=_NOTED,
        )

    def _versioned(
        self, batch: Sequence[ObjectInfo], known: pl.DataFrame, fail: Fail, advance: Callable[[int], object]
    ) -> pl.DataFrame:
        """Return the rows of files with the hashes of their bytes; those that are known as they are are not read."""
        noted = self._noted(batch)
        held = noted.join(known, on=list(_NOTED), how="inner", nulls_equal=True)
        is_held = noted["path"].is_in(held["path"].implode())
        to_hash = [info for info, is_known in zip(batch, is_held, strict=True) if not is_known]
        hashes = pl.DataFrame(
            list(_hashed(self.files, to_hash, fail, advance, start=len(self.before))),
            schema={"path": pl.String, HASHED_AT: _TIME, _VERSION: pl.String},
            orient="row",
        )
        fresh = noted.join(hashes, on="path").select(self._columns(noted, HASHED_AT))
        return pl.concat([held.select(self.schema.names()), fresh])

    def _columns(self, noted: pl.DataFrame, *others: str) -> list[pl.Expr]:
        version = pl.struct(pl.col(_VERSION).alias(self.container)).alias(DATA_VERSION)
        hashed = [pl.lit(None, _TIME).alias(HASHED_AT)] if self.by == "content" and not others else []
        return [*map(pl.col, (*noted.columns, *others)), *hashed, version]


def _hashed(
    files: FileListing, batch: Sequence[ObjectInfo], fail: Fail, advance: Callable[[int], object], *, start: int
) -> Iterator[tuple[str, int, str]]:
    """Yield the path of each file that could be read, when it was, and the hash of its bytes."""
    is_stopped = Event()
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for info, outcome in zip(batch, pool.map(partial(_hash, files, advance, is_stopped), batch), strict=True):
            if isinstance(outcome, Unread):
                fail(outcome)
            elif outcome is not None:
                yield info.path[start:], *outcome
    finally:
        # After Ctrl-C nobody waits for the end of a large file.
        is_stopped.set()
        pool.shutdown(cancel_futures=True)


def _hash(
    files: FileListing, advance: Callable[[int], object], is_stopped: Event, info: ObjectInfo
) -> tuple[int, str] | Unread | None:
    """Return when the bytes of a file were read and their hash, None if it is gone."""
    started, digest = wall_clock(), hashlib.sha256()
    try:
        for data in files.read(info, piece=PIECE):
            if is_stopped.is_set():
                return None
            digest.update(data)
            advance(len(data))
    except FileNotFoundError:
        return None
    except StorageError as error:
        return Unread(info.path, error)
    return started, digest.hexdigest()


def _was_quiet() -> pl.Expr:
    """Whether a file was hashed, and long enough after its modification that no later change can bear the same time.

    File systems note times in ticks: of some milliseconds mostly, of up to two seconds where all times are whole
    seconds. A file that is changed twice within a tick looks as it did in between. An ETag changes with the bytes.
    """
    is_coarse = pl.col("modified").dt.microsecond() == 0
    tick = pl.when(is_coarse).then(timedelta(seconds=2)).otherwise(timedelta(milliseconds=100))
    is_quiet = pl.col("etag").is_not_null() | (pl.col(HASHED_AT) - pl.col("modified") > tick)
    return pl.col(HASHED_AT).is_not_null() & is_quiet


def of_schema(rows: pl.DataFrame | pl.LazyFrame, schema: pl.Schema) -> pl.DataFrame:
    """Return rows with these columns alone, null where they have none."""
    given = rows.lazy().collect_schema()
    columns = [
        (pl.col(name) if name in given else pl.lit(None)).cast(dtype).alias(name) for name, dtype in schema.items()
    ]
    return rows.lazy().select(columns).collect()


def _beginning(
    files: FileListing, relative_to: str | os.PathLike[str] | None, options: Mapping[str, Any] | None
) -> str:
    """Return what stands before each path and is left out."""
    if relative_to is None:
        return ""
    base = find_files(escape(text_of_root(relative_to)), storage_options=options).directory.rstrip("/")
    if base and not f"{files.directory}/".startswith(f"{base}/"):
        raise ValueError(f"the files are below {files.directory!r}, and so not relative to {base!r}")
    return f"{base}/" if base else ""


def _is_within(failed: Sequence[Unread], *, before: str) -> pl.Expr:
    """Whether a file is, or is below, something that could not be read: nobody knows whether it is gone."""
    # No path holds a NUL, so a match that begins with one begins where the path does.
    patterns = [_pattern_within(each) for each in failed]
    return pl.concat_str(pl.lit(f"\0{before}"), pl.col("path"), pl.lit("\0")).str.contains_any(patterns)


def _pattern_within(each: Unread) -> str:
    if not each.is_directory:
        return f"\0{each.path}\0"
    return f"\0{each.path.rstrip('/')}/" if each.path else "\0"


@contextmanager
def _bars(*, hashes: bool, is_hidden: bool) -> Iterator[tuple[Callable[[int], object], Callable[[int], object]]]:
    with (
        tallying("listing", unit=" files", is_hidden=is_hidden) as count,
        tallying("hashing", unit="B", is_hidden=is_hidden or not hashes) as advance,
    ):
        yield count, advance


def _size(info: ObjectInfo) -> int:
    return info.size
