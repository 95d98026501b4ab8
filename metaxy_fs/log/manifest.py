"""What does a commit say of itself?

A manifest is one JSON object. Its existence is the commit. A root is shared, so a manifest is data from strangers: it
is decoded strictly, its size is bounded before it is fetched, and it must agree with the place that it was found in.
"""

from typing import Annotated, Final

import msgspec

from metaxy_fs.errors import CorruptObjectError, UnsupportedFormatError
from metaxy_fs.ids import MAX_TIME
from metaxy_fs.log.layout import Partition, is_data_file_name
from metaxy_fs.log.schema import decode_schema
from metaxy_fs.log.statistics import Bound, ColumnStatistics

FORMAT_VERSION: Final = 1
MAX_MANIFEST_BYTES: Final = 64 * 1024 * 1024

Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Time = Annotated[int, msgspec.Meta(ge=0, le=MAX_TIME)]


class Definition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The data version of a feature's definition, and those of its containers by name; each 64 hex digits."""

    version: Digest
    containers: dict[str, Digest]


class CommitHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is known of a commit before its files are written.

    Attributes:
        commit: The commit's id, which is also the manifest's file name.
        time: Microseconds since 1970 (UTC). Commits are ordered by `(time, commit)`.
        feature: The full key of the feature, part by part.
        id_columns: The columns that name a sample; rows of a data file are sorted by them.
        schema: The names and types of the columns, as `metaxy_fs.log.schema` writes them.
        writer: The library and version that wrote the commit.
        write_id: What the caller named the write, if anything.
    """

    format_version: int = FORMAT_VERSION
    commit: str
    time: Time
    feature: tuple[str, ...]
    definition: Definition
    id_columns: tuple[str, ...]
    schema: msgspec.Raw
    writer: str
    write_id: str | None = None


class FileHeader(CommitHeader, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the footer of a data file says: the header of its commit, and which of the commit's files it is.

    Attributes:
        part: The place of the file among those of the commit, counted from 0.
        parts: How many files the commit has; null in all but the last, since rows come as they are made.
    """

    part: Count
    parts: Count | None


class DataFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, gc=False, omit_defaults=True):
    """One immutable Parquet file.

    Attributes:
        name: Its name within the partition's directory.
        rows: How many rows it has.
        bytes: Its size.
        sha256: The checksum of all its bytes.
        statistics: What is known of the values of its columns; may leave columns out.
        fences: Values of the first id column that cut the rows in parts of about the same size, ascending.
    """

    name: str
    rows: Count
    bytes: Count
    sha256: Digest
    statistics: tuple[ColumnStatistics, ...] = ()
    fences: tuple[Bound, ...] = ()


class CoveredCommit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, gc=False):
    """A commit that a compaction stands for."""

    commit: str
    time: Time
    rows: Count
    digest: Digest


class Manifest(CommitHeader, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A commit: the header, and the files that hold its rows in order.

    Attributes:
        rows: How many rows there are in all.
        digest: A digest of the rows that does not depend on the commit's id or time (see `metaxy_fs.log.parquet`).
        covers: Empty in the manifest of one write; else the commits that this one stands for.
    """

    format_version: int
    rows: Count
    digest: Digest
    files: tuple[DataFile, ...]
    covers: tuple[CoveredCommit, ...] = ()


class _Version(msgspec.Struct):
    format_version: int


_DECODER = msgspec.json.Decoder(Manifest)


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the bytes of a manifest."""
    return msgspec.json.encode(manifest)


def decode_manifest(data: bytes, *, partition: Partition, commit: str, name: str) -> Manifest:
    """Return the manifest that an object holds, if it is one that can belong where it was found.

    Args:
        data: The object's bytes.
        partition: The partition that it was found in.
        commit: The commit that its file name gives.
        name: The object as users would look it up, for messages.

    Raises:
        UnsupportedFormatError: A newer metaxy_fs wrote it.
        CorruptObjectError: It is not a manifest, or not of this place.
    """
    try:
        manifest = _DECODER.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        _refuse_newer_format(data, name=name)
        raise CorruptObjectError(f"The manifest {name} cannot be decoded: {error}.") from error
    if manifest.format_version != FORMAT_VERSION:
        _refuse_newer_format(data, name=name)
        raise CorruptObjectError(
            f"The manifest {name} claims format version {manifest.format_version}, which never existed."
        )
    problem = _problem(manifest, partition=partition, commit=commit)
    if problem:
        raise CorruptObjectError(f"The manifest {name} {problem}.")
    return manifest


def refuse_oversized(size: int, *, name: str) -> None:
    """Refuse to fetch a manifest that no writer makes."""
    if size > MAX_MANIFEST_BYTES:
        raise CorruptObjectError(
            f"The manifest {name} has {size} bytes, more than the {MAX_MANIFEST_BYTES} that one may have."
        )


def _refuse_newer_format(data: bytes, *, name: str) -> None:
    """A newer format need not decode, so its version is looked for on its own."""
    try:
        version = msgspec.json.decode(data, type=_Version).format_version
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return
    if version > FORMAT_VERSION:
        raise UnsupportedFormatError(
            f"The manifest {name} has format version {version}; this metaxy_fs reads up to {FORMAT_VERSION}. Upgrade "
            "metaxy_fs."
        )


def _problem(manifest: Manifest, *, partition: Partition, commit: str) -> str | None:
    """Return what a manifest claims that its place contradicts, None where it is consistent."""
    return _misplaced(manifest, partition=partition, commit=commit) or _inconsistent(manifest)


def _misplaced(manifest: Manifest, *, partition: Partition, commit: str) -> str | None:
    if manifest.commit != commit:
        return f"says that it is commit {manifest.commit!r}"
    if ".".join(manifest.feature) != partition.feature:
        return f"says that it belongs to the feature {list(manifest.feature)!r}"
    if manifest.definition.version[:16] != partition.version:
        return f"says that it belongs to the data version {manifest.definition.version!r}"
    if manifest.covers:
        return "is that of one write and yet covers others"
    return None


def _inconsistent(manifest: Manifest) -> str | None:
    for file in manifest.files:
        if not is_data_file_name(file.name):
            return f"names the data file {file.name!r}, which is not a plain name of a Parquet file in its partition"
    if manifest.rows != sum(file.rows for file in manifest.files):
        return f"counts {manifest.rows} rows, its files {sum(file.rows for file in manifest.files)}"
    try:
        decode_schema(bytes(manifest.schema))
    except CorruptObjectError as error:
        return f"has no schema that can be read: {error}"
    return None
