"""What the Delta log of a feature says: its versions and checkpoints, read and written."""

import io
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import polars as pl

from metaxy_fs.errors import CorruptObjectError, StorageError
from metaxy_fs.log.layout import delta_log, version_of_delta
from metaxy_fs.storage.base import ObjectInfo, Storage

GUARD: Final = "metaxyFsPublished"
"""A feature of writers that no other program has: who does not know it must not write to the table."""
_COLUMNS: Final = "metaxyFs.columns"
"""A property of the table: the columns that were asked for."""


class Protocol(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Which features readers and writers have to know."""

    min_reader_version: int
    min_writer_version: int
    reader_features: list[str] | None = None
    writer_features: list[str] | None = None


class MetaData(msgspec.Struct, frozen=True, rename="camel"):
    """What the table is, and which columns it has."""

    id: str
    name: str | None
    schema_string: str
    format: dict[str, Any] = msgspec.field(default_factory=lambda: {"provider": "parquet", "options": {}})
    partition_columns: list[str] = []
    configuration: dict[str, str] = {}


class Add(msgspec.Struct, frozen=True, rename="camel"):
    """A data file of the table."""

    path: str
    size: int
    modification_time: int
    stats: str | None = None
    partition_values: dict[str, str] = {}
    data_change: bool = True


class Remove(msgspec.Struct, frozen=True, rename="camel"):
    """A data file that is none of the table any more."""

    path: str
    deletion_timestamp: int | None = None
    data_change: bool = True


class Action(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One line of a version: one of these."""

    commit_info: dict[str, Any] | None = None
    protocol: Protocol | None = None
    meta_data: MetaData | None = None
    add: Add | None = None
    remove: Remove | None = None


class DeltaTable(msgspec.Struct, frozen=True, kw_only=True):
    """What a log says up to a version, or what it is to say.

    Attributes:
        version: The last version; -1 if there is none.
        checkpoint: The last version with a checkpoint; -1 if there is none.
        protocol: Which features readers and writers have to know.
        schema: The columns, as Delta writes them.
        id: What tells the table from all others.
        columns: Those that were asked for; None if it has all.
        files: Its data files, by path.
    """

    version: int = -1
    checkpoint: int = -1
    protocol: Protocol | None = None
    schema: str = ""
    id: str = ""
    columns: tuple[str, ...] | None = None
    files: dict[str, Add] = {}


def has_delta_log(storage: Storage, feature: str) -> bool:
    """Whether a feature is published."""
    return bool(storage.list(delta_log(feature), limit=1))


def replay(storage: Storage, feature: str) -> DeltaTable:
    """Return what the log of a feature says.

    Raises:
        CorruptObjectError: It cannot be read.
        StorageError: It is the log of somebody else.
    """
    listed = {version_of_delta(info.path, feature): info for info in storage.list(delta_log(feature))}
    known = {place: info for place, info in listed.items() if place is not None}
    checkpoint = max((version for version, is_checkpoint in known if is_checkpoint), default=-1)
    versions = sorted(version for version, is_checkpoint in known if not is_checkpoint and version > checkpoint)
    if versions != [*range(checkpoint + 1, checkpoint + 1 + len(versions))]:
        raise _unreadable(storage, feature, "lacks versions")
    table = DeltaTable(checkpoint=checkpoint, version=checkpoint)
    if checkpoint >= 0:
        table = _from_checkpoint(storage, feature, known[checkpoint, True], table)
    for version, data in zip(versions, storage.get_many([known[each, False] for each in versions]), strict=True):
        try:
            table = _applied(table, data, version)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise _unreadable(storage, feature, f"cannot be decoded: {error}") from error
    if table.version >= 0 and GUARD not in ((table.protocol and table.protocol.writer_features) or ()):
        raise StorageError(
            f"{storage.location}/{delta_log(feature)} was not written by metaxy_fs. Nothing was published: move it "
            "elsewhere if nobody needs it.",
            feature=feature,
            root=storage.location,
        )
    return table


def _applied(table: DeltaTable, data: bytes, version: int) -> DeltaTable:
    """Return what a log says with one version more."""
    files, changes = dict(table.files), dict[str, Any](version=version)
    for action in (msgspec.json.decode(line, type=Action) for line in data.splitlines() if line.strip()):
        if action.protocol is not None:
            changes["protocol"] = action.protocol
        if action.meta_data is not None:
            changes |= _said(action.meta_data)
        if action.add is not None:
            files[action.add.path] = action.add
        if action.remove is not None:
            files.pop(action.remove.path, None)
    return msgspec.structs.replace(table, files=files, **changes)


def meta_data_of(table: DeltaTable, name: str) -> MetaData:
    """Return how a log says what a table is; `name` is the feature."""
    columns = {} if table.columns is None else {_COLUMNS: msgspec.json.encode(table.columns).decode()}
    return MetaData(table.id, name, table.schema, configuration=columns)


def _said(found: MetaData) -> dict[str, Any]:
    """Return what the metadata of a table says, by the names of `DeltaTable`."""
    columns = found.configuration.get(_COLUMNS)
    chosen = None if columns is None else msgspec.json.decode(columns, type=tuple[str, ...])
    return {"schema": found.schema_string, "id": found.id, "columns": chosen}


_TEXTS: Final = pl.List(pl.String())
_TEXT_BY_NAME: Final = pl.Map(pl.String(), pl.String())
_CHECKPOINT: Final = pl.Schema(
    {
        "protocol": pl.Struct(
            {
                "minReaderVersion": pl.Int32(),
                "minWriterVersion": pl.Int32(),
                "readerFeatures": _TEXTS,
                "writerFeatures": _TEXTS,
            }
        ),
        "metaData": pl.Struct(
            {
                "id": pl.String(),
                "name": pl.String(),
                "format": pl.Struct({"provider": pl.String(), "options": _TEXT_BY_NAME}),
                "schemaString": pl.String(),
                "partitionColumns": _TEXTS,
                "configuration": _TEXT_BY_NAME,
            }
        ),
        "add": pl.Struct(
            {
                "path": pl.String(),
                "partitionValues": _TEXT_BY_NAME,
                "size": pl.Int64(),
                "modificationTime": pl.Int64(),
                "dataChange": pl.Boolean(),
                "stats": pl.String(),
            }
        ),
    }
)


def encode_checkpoint(table: DeltaTable, feature: str) -> bytes:
    """Return a checkpoint: all that the log says, as Parquet, so that readers need no earlier version."""
    rows: list[Mapping[str, Any]] = [
        {"protocol": msgspec.to_builtins(table.protocol)},
        {"metaData": msgspec.to_builtins(meta_data_of(table, feature))},
        *({"add": msgspec.to_builtins(add)} for add in table.files.values()),
    ]
    buffer = io.BytesIO()
    pl.DataFrame({name: [row.get(name) for row in rows] for name in _CHECKPOINT}, schema=_CHECKPOINT).write_parquet(
        buffer, compression="zstd"
    )
    return buffer.getvalue()


def _from_checkpoint(storage: Storage, feature: str, info: ObjectInfo, table: DeltaTable) -> DeltaTable:
    try:
        rows = pl.read_parquet(storage.get(info.path), columns=list(_CHECKPOINT))
        adds = rows["add"].drop_nulls().struct.unnest().drop("partitionValues").to_dicts()
        said = _said(msgspec.convert(rows["metaData"].drop_nulls().to_list()[0], MetaData))
        protocol = msgspec.convert(rows["protocol"].drop_nulls().to_list()[0], Protocol)
        files = {add.path: add for add in msgspec.convert(adds, list[Add])}
    # A panic is no Exception, and whatever Polars makes of a hostile file must not end the process.
    except (Exception, pl.exceptions.PanicException) as error:
        if isinstance(error, StorageError):
            raise
        raise _unreadable(storage, feature, "has a checkpoint that cannot be read") from error
    return msgspec.structs.replace(table, files=files, protocol=protocol, **said)


def _unreadable(storage: Storage, feature: str, problem: str) -> CorruptObjectError:
    return CorruptObjectError(
        f"{storage.location}/{delta_log(feature)} {problem}. It holds nothing of its own: remove the directory, and "
        "publish again.",
        feature=feature,
        root=storage.location,
        path=delta_log(feature),
    )
