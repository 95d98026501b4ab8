"""List files of a directory or a bucket as rows of a root feature, and keep the feature up to date with them."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl
from polars.io.plugins import register_io_source

from metaxy_fs.errors import FeatureNotFoundError, MetadataSchemaError, StorageError
from metaxy_fs.ids import elapsed
from metaxy_fs.listing import HASHED_AT, By, Listing, of_schema
from metaxy_fs.markup import counted, fragment, note
from metaxy_fs.metadata_store import MetadataStore
from metaxy_fs.metadata_store.features import FeatureLike, require_declaration
from metaxy_fs.metadata_store.retired import UNTIL_BACK, retired_for_good
from metaxy_fs.reserved import DATA_VERSION
from metaxy_fs.spec import FeatureSpec
from metaxy_fs.storage.files import Unread

__all__ = ["FileUpdate", "list_files", "update_files"]


@dataclass(frozen=True)
class FileUpdate:
    """What `update_files` found, each a frame of `path`.

    Attributes:
        new: Files that had no row.
        changed: Files that have another version than their rows.
        touched: Files whose version is the same, and whose time or ETag is another. Their rows were written again, so
            that they need not be hashed again; what is made from them stays as it is.
        missing: Files that have rows and are gone. They were retired if that was asked for.
        failed: Files and directories that could not be read, with `error`. What has rows there keeps them.
        retired: Files that are there although somebody retired them, by `MetadataStore.retire` or `metaxy-fs retire`.
            Their samples stay retired until somebody writes a row of them, or restores it.
        unchanged: How many files are as their rows say.
        seconds: How long it took.
    """

    new: pl.DataFrame
    changed: pl.DataFrame
    touched: pl.DataFrame
    missing: pl.DataFrame
    failed: pl.DataFrame
    retired: pl.DataFrame
    unchanged: int
    seconds: float

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}={frame.height}" for name, frame in self._frames.items())
        return f"FileUpdate({counts}, unchanged={self.unchanged})"

    def _repr_html_(self) -> str:
        frames = [counted(name, frame) for name, frame in self._frames.items()]
        return fragment("FileUpdate", *frames, note(f"unchanged: {self.unchanged:,}"))

    @property
    def _frames(self) -> dict[str, pl.DataFrame]:
        return {name: getattr(self, name) for name in ("new", "changed", "touched", "missing", "failed", "retired")}

    def __bool__(self) -> bool:
        """Whether any row was written because a file was new or changed."""
        return bool(self.new.height or self.changed.height)


def list_files(
    pattern: str | os.PathLike[str],
    *,
    by: By = "etag",
    known: pl.DataFrame | pl.LazyFrame | None = None,
    relative_to: str | os.PathLike[str] | None = None,
    include_hidden: bool = False,
    container: str = "default",
    storage_options: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> pl.LazyFrame:
    """List the files that a pattern names, as rows of a root feature whose id column is `path`.

    Nothing is listed before the frame is collected, and then in batches: a million files need not fit into memory where
    the frame is written or streamed. No file gives a frame without rows.

    Args:
        pattern: A path of the local file system or a URL such as `s3://bucket/videos/**/*.mp4`. In a part between two
            slashes `*` stands for any characters, `?` for one, `[abc]` and `[!abc]` for one of a set; a part `**`
            stands for directories at any depth, at the end for all files below. `[*]` is an asterisk. Without any of
            these, it names a file, or a directory with all files below.
        by: What versions are made from. `"etag"` takes the ETag of S3 or the generation of GCS, and the size and the
            modification time of files that have neither, as local ones do. `"modified"` always takes these two.
            `"content"` takes the SHA-256 of the bytes, which are read in threads.
        known: What an earlier call with `by="content"` gave, such as the latest rows of the feature: files with the
            same size, modification time and ETag are not read again.
        relative_to: A directory, or the beginning of a URL: paths are given from there on. By default they are whole
            URLs, and local paths as the pattern begins.
        include_hidden: Whether wildcards match names that begin with a dot. They do not by default, so that `.git` and
            a store in `.metaxy` are left out.
        container: The container of the feature that gets the version.
        storage_options: Handed on to the filesystem of a URL, as those of a store.
        progress: Whether to show a bar on a terminal.

    Returns:
        One row per file, in no particular order: `path` (String), `bytes` (Int64), `modified` (Datetime("us", "UTC")),
        `etag` (String, null where there is none) and `data_version`; with `by="content"` also `hashed_at`, when the
        bytes were read (Datetime("us", "UTC")).

    Raises:
        ValueError: The pattern names no place, or an option has no meaning.
        StorageError: When the frame is collected: a directory or a file cannot be read, or the bucket does not exist.

    Examples:
        >>> from pathlib import Path
        >>> Path("videos/day").mkdir(parents=True)
        >>> _ = Path("videos/day/cat.mp4").write_bytes(b"cat"), Path("videos/day/notes.txt").write_bytes(b"")
        >>> list_files("videos/**/*.mp4", by="content").select("path", "bytes").collect().to_dicts()
        [{'path': 'videos/day/cat.mp4', 'bytes': 3}]
    """
    listing = Listing.of(
        pattern, storage_options, by=by, relative_to=relative_to, include_hidden=include_hidden, container=container
    )

    def read(
        columns: list[str] | None, predicate: pl.Expr | None, rows: int | None, _size: int | None
    ) -> Iterator[pl.DataFrame]:
        tested = [] if predicate is None else predicate.meta.root_names()
        is_wanted = columns is None or not {DATA_VERSION, HASHED_AT}.isdisjoint([*columns, *tested])
        earlier = None if known is None else of_schema(known, listing.schema)
        for files in listing.frames(earlier, _raise, hashes=by == "content" and is_wanted, progress=progress):
            kept = files if predicate is None else files.filter(predicate)
            kept = kept if columns is None else kept.select(columns)
            yield kept if rows is None else kept.head(rows)
            if rows is not None and (rows := rows - kept.height) <= 0:
                return

    return register_io_source(read, schema=listing.schema)


def update_files(
    store: MetadataStore,
    feature: FeatureLike,
    pattern: str | os.PathLike[str],
    *,
    by: By = "etag",
    relative_to: str | os.PathLike[str] | None = None,
    include_hidden: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    retire_missing: bool = False,
    rehash: bool = False,
    on_error: Literal["raise", "skip"] = "raise",
    tags: Mapping[str, str] | None = None,
    progress: bool = True,
) -> FileUpdate:
    """List files and write the rows of those that are new or changed since the last call; a second call writes nothing.

    Rows are committed in batches of 100,000 files, with `by="content"` of 10,000 files or 4 GiB. A job that is killed
    is started again and goes on from there. Several calls may keep the files of several patterns in one feature.

    Args:
        store: Where the rows are kept.
        feature: A root feature with the id column `path` and one container.
        pattern: See `list_files`, as for the options that are not listed here.
        by: See `list_files`.
        relative_to: See `list_files`.
        include_hidden: See `list_files`.
        storage_options: See `list_files`; those of the files, not of the store.
        retire_missing: Whether to retire files that have rows, match the pattern, and are gone; a file that is there
            again is new. One that somebody else has retired stays so.
        rehash: With `by="content"`, whether to read all files, also those with the size, time and ETag of their rows.
        on_error: Whether a file or directory that cannot be read ends the call, or is left for the next one and
            returned in `failed`. Nothing is retired that could not be looked at.
        tags: What each commit says of itself; see `MetadataStore.write_metadata`.
        progress: Whether to show a bar on a terminal.

    Raises:
        ValueError: The pattern names no place, or an option has no meaning.
        MetadataSchemaError: The feature is not of that form.
        StorageError: A file could not be read, a row not be written, or no file at all is left to retire the others by:
            a wrong pattern or a disk that is not mounted looks like that.

    Examples:
        >>> from pathlib import Path
        >>> from metaxy_fs import Feature, FeatureKey, FeatureSpec, open_store
        >>> class Photo(Feature, spec=FeatureSpec(key=FeatureKey(["photo"]), id_columns=["path"])):
        ...     pass
        >>> Path("photos").mkdir()
        >>> _ = Path("photos/cat.png").write_bytes(b"cat")
        >>> store = open_store("./photo-features")
        >>> update_files(store, Photo, "photos/*.png")
        FileUpdate(new=1, changed=0, touched=0, missing=0, failed=0, retired=0, unchanged=0)
        >>> update_files(store, Photo, "photos/*.png")
        FileUpdate(new=0, changed=0, touched=0, missing=0, failed=0, retired=0, unchanged=1)
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error is "raise" or "skip", got {on_error!r}')
    started, declared = elapsed(), require_declaration(feature)
    listing = Listing.of(
        pattern,
        storage_options,
        by=by,
        relative_to=relative_to,
        include_hidden=include_hidden,
        container=_only_container(declared.spec),
    )
    stored = _stored(store, feature)
    known = listing.schema.to_frame() if stored is None else of_schema(stored, listing.schema)
    retired = retired_for_good(store, declared, fallback=store.fallback_mode == "sample").cast(pl.String)
    failed: list[Unread] = []
    fail = failed.append if on_error == "skip" else _raise
    differences: list[pl.DataFrame] = []
    is_begun = stored is not None
    held = None if rehash else known
    for files in listing.frames(held, fail, hashes=by == "content", progress=progress):
        rows, difference = _compared(files, known, retired)
        differences.append(difference)
        if rows.height or not is_begun:
            store.write_metadata(feature, rows, tags=tags)
            is_begun = True
    seen = pl.concat([_NO_DIFFERENCE, *differences])
    missing = listing.missing(known, seen, failed)
    if retire_missing and missing.height:
        _refuse_to_retire_all(seen, missing, listing)
        store.retire(feature, missing, reason="the file is gone", tags={**UNTIL_BACK, **(tags or {})})
    unread = [(each.path.removeprefix(listing.before), str(each.error)) for each in failed]
    return _outcome(seen, missing, unread, seconds=elapsed() - started)


_DIFFERENCE = "difference"
_NO_DIFFERENCE = pl.DataFrame(schema={"path": pl.String, _DIFFERENCE: pl.String})


def _compared(files: pl.DataFrame, known: pl.DataFrame, retired: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows to write, which are not as they are known, and of each file in what it differs."""
    others = [name for name in files.columns if name not in ("path", DATA_VERSION)]
    joined = files.join(known, on="path", how="left", suffix="_known", maintain_order="left")
    same_version = pl.col(DATA_VERSION).eq_missing(pl.col(f"{DATA_VERSION}_known"))
    same_notes = pl.all_horizontal(pl.col(name).eq_missing(pl.col(f"{name}_known")) for name in others)
    difference = (
        pl.when(pl.col("path").is_in(retired["path"].implode()))
        .then(pl.lit("retired"))
        .when(pl.col("bytes_known").is_null() & pl.col(f"{DATA_VERSION}_known").is_null())
        .then(pl.lit("new"))
        .when(~same_version)
        .then(pl.lit("changed"))
        .when(~same_notes)
        .then(pl.lit("touched"))
        .otherwise(pl.lit("unchanged"))
        .alias(_DIFFERENCE)
    )
    found = joined.select("path", difference)
    return files.filter(~found[_DIFFERENCE].is_in(["unchanged", "retired"])), found


def _stored(store: MetadataStore, feature: FeatureLike) -> pl.LazyFrame | None:
    """Return the latest rows of a feature, None where there is no commit that a write would not hide."""
    try:
        return store.scan_metadata(feature, latest_only=True, allow_fallback=store.fallback_mode == "sample")
    except FeatureNotFoundError:
        return None


def _only_container(spec: FeatureSpec) -> str:
    if not spec.is_root or list(spec.id_columns) != ["path"] or len(spec.container_names) != 1:
        raise MetadataSchemaError(
            f"Files are rows of a feature without deps, with the id column 'path' and one container; '{spec.key}' has "
            f"id_columns={list(spec.id_columns)} and the containers {list(spec.container_names)}. Declare it with "
            "id_columns=['path'], or write what list_files returns yourself.",
            feature=str(spec.key),
        )
    return spec.container_names[0]


def _refuse_to_retire_all(seen: pl.DataFrame, missing: pl.DataFrame, listing: Listing) -> None:
    if not seen.height:
        raise StorageError(
            f"no file is left below {listing.files.directory!r}, and {missing.height} have rows: a wrong pattern or a "
            "disk that is not mounted looks like that. If they are gone, retire them with store.retire",
            root=listing.files.directory,
        )


def _outcome(
    seen: pl.DataFrame, missing: pl.DataFrame, failed: Sequence[tuple[str, str]], *, seconds: float
) -> FileUpdate:
    names = ("new", "changed", "touched", "retired")
    parts = {name: seen.filter(pl.col(_DIFFERENCE) == name).select("path") for name in names}
    return FileUpdate(
        **parts,
        missing=missing,
        failed=pl.DataFrame(failed, schema={"path": pl.String, "error": pl.String}, orient="row"),
        unchanged=seen.height - sum(part.height for part in parts.values()),
        seconds=seconds,
    )


def _raise(found: Unread) -> None:
    raise found.error
