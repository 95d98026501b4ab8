"""The manifest: its fields, its encoding, and the checksum at its end.

A flipped digit in a time, a bound or the id of a commit still parses, but yields wrong rows. So the last field of an
object is the sha256 of all bytes before it. It guards against what happens to bytes, not against those who write them.

A manifest is one JSON object. Its existence is the commit: of one write, or of a compaction, which stands for many
writes. `metaxy_fs.log.decoding` reads it back.

Every JSON object of a root states the version of its format. One of a newer format need not decode otherwise, so its
version is looked for on its own: a reader that meets it says to upgrade, and not that it is damaged.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeVar

import msgspec
import polars as pl

from metaxy_fs.errors import CorruptObjectError, UnsupportedFormatError
from metaxy_fs.ids import MAX_TIME
from metaxy_fs.log.statistics import Bound, ColumnStatistics

_BEGIN: Final = b',"sha256":"'
_END: Final = b'"}'
_LENGTH: Final = len(_BEGIN) + 64 + len(_END)


def sealed(data: bytes) -> bytes:
    """Return the bytes of a JSON object of at least one field with its checksum."""
    body = data[:-1]
    return b"".join((body, _BEGIN, hashlib.sha256(body).hexdigest().encode(), _END))


def unsealed(data: bytes, *, name: str) -> bytes:
    """Return the bytes of an object without its checksum; a damaged checksum is left where it is, as a strange field.

    Args:
        data: All bytes. Objects of earlier versions have no checksum, and are returned as they are.
        name: What to call the object, such as `The manifest ...`.

    Raises:
        CorruptObjectError: The checksum is that of other bytes.
    """
    seal = data[-_LENGTH:]
    if not (seal.startswith(_BEGIN) and seal.endswith(_END)):
        return data
    body = memoryview(data)[:-_LENGTH]
    if hashlib.sha256(body).hexdigest().encode() != seal[len(_BEGIN) : -len(_END)]:
        raise CorruptObjectError(f"{name} does not have the checksum that it ends with: it was damaged, or changed.")
    return b"".join((body, b"}"))


MAX_TAGS: Final = 32
MAX_VALUE: Final = 1_000
"""How many tags a commit has at most, and how many characters the value of one."""

_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"

TagName = Annotated[str, msgspec.Meta(pattern=rf"^{_NAME}\Z")]
TagValue = Annotated[str, msgspec.Meta(max_length=MAX_VALUE)]
Tags = Annotated[dict[TagName, TagValue], msgspec.Meta(min_length=1, max_length=MAX_TAGS)]


def check_tags(*tags: Mapping[str, str] | None) -> dict[str, str]:
    """Return the tags of several mappings together, of which a later one wins name by name.

    Raises:
        TypeError: One of them is no mapping.
        ValueError: The tags cannot be kept with a commit.
    """
    together: dict[Any, Any] = {}
    for some in tags:
        if some is not None and not isinstance(some, Mapping):
            raise TypeError(f'tags takes a mapping of strings by name, such as {{"run": "2026-11-28"}}, got {some!r}.')
        together.update(some or {})
    for name, value in together.items():
        if not isinstance(name, str) or not re.fullmatch(_NAME, name):
            raise ValueError(
                f"The name of a tag has 1 to 100 letters, digits, '.', '_' and '-', and begins with a letter or a "
                f"digit; got {name!r}."
            )
        if not isinstance(value, str) or len(value) > MAX_VALUE or not _is_encodable(value):
            shown = value if not isinstance(value, str) or len(value) <= MAX_VALUE else f"one of {len(value)}"
            raise ValueError(
                f"The value of the tag {name!r} is a string of at most {MAX_VALUE} characters that can be encoded as "
                f"UTF-8, got {shown!r}."
            )
    if len(together) > MAX_TAGS:
        raise ValueError(f"A commit has at most {MAX_TAGS} tags, got {len(together)}: {', '.join(sorted(together))}.")
    return together


def encode_tags(tags: Mapping[str, str]) -> str | None:
    """Return tags as one string, a JSON object with its names in order; None if there are none."""
    return msgspec.json.encode(dict(tags), order="sorted").decode() if tags else None


def are_tags(text: str) -> bool:
    """Whether a string is what `encode_tags` may have given."""
    try:
        msgspec.json.decode(text, type=Tags)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


def _is_encodable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


FORMAT_VERSION: Final = 1

COPY_MARK: Final = b'{"format_version":1}'
"""What says that a table shows no commit of a root until there is the manifest that names it."""

Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
FooterDigest = Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{16})?$")]
MAX_COLUMN_BYTES: Final = 2**21
"""How long the description of the columns of one file is at most: a quarter of a million columns of row groups."""
ColumnSums = Annotated[bytes, msgspec.Meta(max_length=MAX_COLUMN_BYTES)]
Time = Annotated[int, msgspec.Meta(ge=0, le=MAX_TIME)]
CommitKey = tuple[Time, str]
"""What orders commits: the time of one, and its id."""


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
        tags: What the caller says of the write, strings by name; the field is left out where there is none.
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
    tags: Tags | msgspec.UnsetType = msgspec.UNSET


class FileHeader(CommitHeader, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the footer of a data file says: the header of its commit, and which of the commit's files it is.

    Attributes:
        part: The place of the file among those of the commit, counted from 0.
        parts: How many files the commit has; null in all but the last, since rows come as they are made.
    """

    part: Count
    parts: Count | None


class DataFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True, gc=False):
    """One immutable Parquet file.

    The file of an append, and one that a compaction lists again as it is, holds rows of one commit in their order. One
    that a compaction has written holds rows of many, and says in three more columns which row is whose.

    Attributes:
        name: Its name within the partition's directory.
        rows: How many rows it has.
        bytes: Its size.
        sha256: The checksum of all its bytes.
        footer: The beginning of the checksum of its footer, which decides what else is read of a large file.
        columns: Of a large file the size and the CRC-32 of each column of each row group; see
            `metaxy_fs.log.parquet`.
        statistics: What is known of the values of its columns; may leave columns out.
        split_points: Values of the first id column that cut the rows in parts of about the same size, ascending.
        schema: Which of the manifest's schemas it has: 0 is `schema`, n the nth of `schemas`.
        commit: Where a compaction lists the file of an append again: the commit of all its rows.
        time: The time of that commit.
        offset: How many rows of that commit come before the first of this file.
        first: Of a file that a compaction has written: the first commit that went into it.
        last: The last one.
        repeats: Whether a sample may stand in more than one row of such a file.
        ordered: Whether the rows of such a file stand in commit order.
    """

    name: str
    rows: Count
    bytes: Count
    sha256: Digest
    footer: FooterDigest = ""
    columns: ColumnSums = b""
    statistics: tuple[ColumnStatistics, ...] = ()
    split_points: tuple[Bound, ...] = msgspec.field(default=(), name="fences")
    schema: Count = 0
    commit: str | None = None
    time: Time | None = None
    offset: Count = 0
    first: CommitKey | None = None
    last: CommitKey | None = None
    repeats: bool = False
    ordered: bool = False


class CommitTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The Parquet file that says of each commit which a compaction stands for what its manifest had said.

    Attributes:
        name: Its name within the partition's directory.
        rows: How many commits there are.
        bytes: Its size.
        sha256: The checksum of all its bytes.
    """

    name: str
    rows: Count
    bytes: Count
    sha256: Digest


class Manifest(CommitHeader, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A commit: the header, and the files that hold its rows in order.

    Attributes:
        rows: How many rows there are in all.
        retired: How many of them retire a sample.
        digest: A digest of the rows that does not depend on the commit's id or time (see
            `metaxy_fs.log.parquet`); of a compaction the sha256 over the sorted digests of what it stands for.
        schemas: Further schemas that files of a compaction have.
        covers: The ids of the commits that a compaction stands for, in commit order with a space between; one string,
            because a list of so many takes fifty times as long to decode. Empty in the manifest of one write.
        commits: The table of these commits.
    """

    format_version: int
    rows: Count
    retired: Count = 0
    digest: Digest
    files: tuple[DataFile, ...]
    schemas: tuple[msgspec.Raw, ...] = ()
    covers: str = ""
    commits: CommitTable | None = None

    @property
    def tags_as_json(self) -> str | None:
        """The tags of the commit as `encode_tags` gives them."""
        return None if self.tags is msgspec.UNSET else encode_tags(self.tags)

    @property
    def named_files(self) -> "tuple[DataFile | CommitTable, ...]":
        """Every file in the partition that the manifest names."""
        return self.files if self.commits is None else (*self.files, self.commits)

    def schema_of(self, file: DataFile) -> bytes:
        """Return the schema of one of the files, encoded."""
        return bytes(self.schemas[file.schema - 1] if file.schema else self.schema)


HISTORY: Final = pl.Schema(
    {
        "time": pl.Int64(),
        "commit": pl.String(),
        "rows": pl.Int64(),
        "retired": pl.Int64(),
        "bytes": pl.Int64(),
        "partition": pl.String(),
        "write_id": pl.String(),
        "writer": pl.String(),
        "compacted": pl.Boolean(),
        "tags": pl.String(),
    }
)
"""What is known of a commit. `rows` leaves out those that retire a sample, which `retired` counts."""

FILES: Final = pl.Schema(
    {
        "path": pl.String(),
        "rows": pl.Int64(),
        "bytes": pl.Int64(),
        "sha256": pl.String(),
        "partition": pl.String(),
        "commit": pl.String(),
        "first": pl.Datetime("us", "UTC"),
        "last": pl.Datetime("us", "UTC"),
        "excluded": pl.List(pl.String()),
        "schema": pl.String(),
    }
)
"""What is said of each file; the bounds of its ids, `min` and `max`, come on top, since they have the types of these.

`commit` is null where a file holds rows of several commits, each of which says whose it is; `first` and `last` are the
times of the first and the last of them. `excluded` are commits whose rows in the file do not count, and
`schema` its columns and their types, but for those of commits, as `metaxy_fs.log.schema` writes them.
"""


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the bytes of a manifest, which end with their checksum."""
    return sealed(msgspec.json.encode(manifest))


_Object = TypeVar("_Object")


class _Version(msgspec.Struct):
    format_version: int = FORMAT_VERSION


def decode_object(data: bytes, kind: type[_Object], *, name: str, advice: str = "") -> _Object:
    """Return what a JSON object of this format holds.

    Args:
        data: The object's bytes.
        kind: What it has to be.
        name: What to call it, such as `The snapshot ...`.
        advice: What to do where it is something else.

    Raises:
        UnsupportedFormatError: A newer version wrote it.
        CorruptObjectError: It is something else.
    """
    refuse_other_format(data, name=name)
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise CorruptObjectError(f"{name} cannot be decoded: {error}.{advice}") from error


def refuse_other_format(data: bytes, *, name: str) -> None:
    """Refuse an object of another format than this version knows; one that does not say is left to its decoder.

    Args:
        data: The object's bytes.
        name: What to call it, such as `The manifest ...`.

    Raises:
        UnsupportedFormatError: A newer version wrote it.
        CorruptObjectError: No version did.
    """
    try:
        version = msgspec.json.decode(data, type=_Version).format_version
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return
    if version > FORMAT_VERSION:
        raise UnsupportedFormatError(
            f"{name} has format version {version}; this metaxy_fs knows up to {FORMAT_VERSION}. Upgrade metaxy_fs."
        )
    if version != FORMAT_VERSION:
        raise CorruptObjectError(f"{name} claims format version {version}, which never existed.")
