"""Publish a view as a Delta table: a log beside the data files, which points to them as they are.

Theory of operation. The log is a cache: what its last version says is a function of the view, and it can be deleted and
made anew at any time. A publisher replays the log, then loads a view, and puts what is different as the next version.
That put fails if another publisher was quicker; then it begins again. A view that is loaded after version n was seen
holds every commit that version n knew, and version n + 1 can follow n alone, so the table never goes back.

The log names a feature of writers that no other program knows. So they refuse to write, to optimize and to vacuum,
which would take the manifests and all files that the table does not name.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final
from uuid import UUID

import msgspec
import polars as pl

from metaxy_fs.errors import CorruptObjectError, MetadataSchemaError, ObjectExistsError, StorageError
from metaxy_fs.ids import random_token, wall_clock
from metaxy_fs.log.delta_types import NAIVE, delta_field, delta_statistics
from metaxy_fs.log.layout import delta_checkpoint, delta_log, delta_version, version_of_delta
from metaxy_fs.log.scan import reading_schema
from metaxy_fs.log.verified_io import put_idempotent
from metaxy_fs.log.view import LiveFile, View
from metaxy_fs.storage.base import ObjectInfo, Storage

GUARD: Final = "metaxyFsPublished"
"""A feature of writers that no other program has: who does not know it must not write to the table."""
_COLUMNS: Final = "metaxyFs.columns"
"""A property of the table: the columns that were asked for."""
_NEVER_IN_NAMES: Final = frozenset(" ,;{}()\n\t=")
_ATTEMPTS: Final = 100
_CHECKPOINT_EVERY: Final = 100
"""A reader replays so many versions at most."""


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """What a feature is published as.

    Attributes:
        feature: The feature, as `video/processing`.
        location: The table: the directory of the feature, as engines take it.
        version: The last version of the table; -1 if there is none yet.
        files: How many data files it has.
        rows: How many rows, those included that retire a sample.
        added: How many files this publication has added; none if the table was up to date.
        removed: How many it has taken out.
        widened: Columns whose type differs from file to file; some readers refuse these.
    """

    feature: str
    location: str
    version: int
    files: int
    rows: int
    added: int
    removed: int
    widened: tuple[str, ...]


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


class _Remove(msgspec.Struct, frozen=True, rename="camel"):
    path: str
    deletion_timestamp: int | None = None
    data_change: bool = True


class _Action(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One line of a version: one of these."""

    commit_info: dict[str, Any] | None = None
    protocol: Protocol | None = None
    meta_data: MetaData | None = None
    add: Add | None = None
    remove: _Remove | None = None


class _DeltaTable(msgspec.Struct, frozen=True, kw_only=True):
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


def publish_view(
    storage: Storage, feature: str, *, look: Callable[[], View], columns: Sequence[str] | None, writer: str | None
) -> Published:
    """Bring the Delta log of a feature to what a view says now.

    Args:
        storage: The root.
        feature: The parts of its key joined by `.`.
        look: Loads the view.
        columns: Those of the table; by default those that it has been asked for before, or all.
        writer: The library and its version; None only says what would be done.

    Raises:
        MetadataSchemaError: A column does not exist, or Delta has no type for it.
        CorruptObjectError: The log cannot be read.
        StorageError: Somebody else wrote it, rows of a file do not count, or the root failed.
    """
    for _ in range(_ATTEMPTS):
        before = _replay(storage, feature)
        view = look()
        chosen = before.columns if columns is None else tuple(columns)
        schema = _chosen(view, storage, chosen)
        after = _changed(before, _counting(view, storage), schema, columns=chosen)
        published = _published(storage, view, schema, before=before, after=after)
        if writer is None or after.version == before.version:
            return msgspec.structs.replace(published, version=before.version)
        try:
            put_idempotent(storage, delta_version(feature, after.version), _encoded(before, after, feature, writer))
        except ObjectExistsError:
            continue
        if after.version - before.checkpoint >= _CHECKPOINT_EVERY:
            with suppress(StorageError):  # readers do without it, and the next publication tries again
                put_idempotent(storage, delta_checkpoint(feature, after.version), _checkpoint(after, feature))
        return published
    raise StorageError(
        f"{storage.location}/{delta_log(feature)} was changed by others {_ATTEMPTS} times while this publication was "
        "under way. Publish again once they are done.",
        feature=feature,
        root=storage.location,
    )


# What the table is to be.


def _chosen(view: View, storage: Storage, columns: Sequence[str] | None) -> pl.Schema:
    """Return the columns of the table; raises if Delta cannot have one of them."""
    schema = reading_schema(view.files, location=storage.location, columns=columns)
    if missing := [name for name in columns or () if name not in schema]:
        raise MetadataSchemaError(
            f"Feature {view.partition.feature!r} has no column {', '.join(map(repr, missing))}.",
            feature=view.partition.feature,
            column=missing[0],
        )
    lower = [name.lower() for name in schema]
    strange = [name for name in schema if not _NEVER_IN_NAMES.isdisjoint(name) or lower.count(name.lower()) > 1]
    lacking = {
        name: str(dtype) for name, dtype in schema.items() if delta_field(name, dtype) is None or name in strange
    }
    if lacking:
        named = ", ".join(f"{name!r} of the type {dtype}" for name, dtype in lacking.items())
        raise MetadataSchemaError(
            f"Delta has no type or no name for the column {named} of feature {view.partition.feature!r}, so nothing "
            f"was published. Publish the others with columns={[name for name in schema if name not in lacking]!r}.",
            feature=view.partition.feature,
            column=next(iter(lacking)),
        )
    return schema


def _counting(view: View, storage: Storage) -> dict[str, LiveFile]:
    """Return the files of the table by the paths that they have there; raises if some rows of one do not count."""
    for live in view.files:
        if live.excluded:
            raise StorageError(
                f"Two compactions of {storage.location}/{view.partition} have commits in common, so some rows of "
                f"{live.file.name} do not count, which a Delta table cannot say to every reader. Nothing was "
                "published: run compact(store, feature, full=True), and publish again.",
                feature=view.partition.feature,
                root=storage.location,
                path=live.path,
            )
    version = view.partition.version
    return {f"{version}/{live.file.name}": live for live in view.files if live.file.rows}


def _changed(
    before: _DeltaTable, files: Mapping[str, LiveFile], schema: pl.Schema, *, columns: tuple[str, ...] | None
) -> _DeltaTable:
    """Return what the log is to say, under the next version if that is anything new."""
    fields = [delta_field(name, dtype) for name, dtype in schema.items()]
    written = msgspec.json.encode({"type": "struct", "fields": fields}).decode()
    features = ["timestampNtz"] if f'"{NAIVE}"' in written else []
    after = msgspec.structs.replace(
        before,
        protocol=Protocol(3 if features else 1, 7, features or None, [*features, GUARD]),
        schema=written,
        id=before.id or str(UUID(random_token() + random_token())),
        columns=columns,
        files={path: before.files.get(path) or _add(path, live, schema) for path, live in files.items()},
    )
    return after if after == before else msgspec.structs.replace(after, version=before.version + 1)


def _add(path: str, live: LiveFile, schema: pl.Schema) -> Add:
    statistics = delta_statistics(live.file, live.schema, columns=schema)
    return Add(path=path, size=live.file.bytes, modification_time=live.last[0] // 1_000, stats=statistics)


def _encoded(before: _DeltaTable, after: _DeltaTable, feature: str, writer: str) -> bytes:
    """Return the version that brings the log from one state to the next."""
    now = wall_clock() // 1_000
    actions = [_Action(commit_info={"timestamp": now, "operation": "PUBLISH", "engineInfo": writer})]
    if before.protocol != after.protocol:
        actions.append(_Action(protocol=after.protocol))
    if (before.schema, before.columns) != (after.schema, after.columns):
        actions.append(_Action(meta_data=_meta_data(after, feature)))
    actions += [_Action(remove=_Remove(path, now)) for path in before.files if path not in after.files]
    actions += [_Action(add=add) for path, add in after.files.items() if path not in before.files]
    return b"\n".join(map(msgspec.json.encode, actions))


def _published(
    storage: Storage, view: View, schema: pl.Schema, *, before: _DeltaTable, after: _DeltaTable
) -> Published:
    feature = view.partition.feature
    distinct = list({id(live.schema): live.schema for live in view.files}.values())
    return Published(
        feature=feature.replace(".", "/"),
        location=storage.local_path(feature) or f"{storage.location}/{feature}",
        version=after.version,
        files=len(after.files),
        rows=sum(live.file.rows for live in view.files),
        added=len(after.files.keys() - before.files.keys()),
        removed=len(before.files.keys() - after.files.keys()),
        widened=tuple(
            name for name, dtype in schema.items() if any(each.get(name, dtype) != dtype for each in distinct)
        ),
    )


# What the log says.


def _replay(storage: Storage, feature: str) -> _DeltaTable:
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
    table = _DeltaTable(checkpoint=checkpoint, version=checkpoint)
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


def _applied(table: _DeltaTable, data: bytes, version: int) -> _DeltaTable:
    """Return what a log says with one version more."""
    files, changes = dict(table.files), dict[str, Any](version=version)
    for action in (msgspec.json.decode(line, type=_Action) for line in data.splitlines() if line.strip()):
        if action.protocol is not None:
            changes["protocol"] = action.protocol
        if action.meta_data is not None:
            changes |= _said(action.meta_data)
        if action.add is not None:
            files[action.add.path] = action.add
        if action.remove is not None:
            files.pop(action.remove.path, None)
    return msgspec.structs.replace(table, files=files, **changes)


def _meta_data(table: _DeltaTable, name: str) -> MetaData:
    columns = {} if table.columns is None else {_COLUMNS: msgspec.json.encode(table.columns).decode()}
    return MetaData(table.id, name, table.schema, configuration=columns)


def _said(found: MetaData) -> dict[str, Any]:
    """Return what the metadata of a table says, by the names of `_DeltaTable`."""
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


def _checkpoint(table: _DeltaTable, feature: str) -> bytes:
    """Return a checkpoint: all that the log says, as Parquet, so that readers need no earlier version."""
    rows: list[Mapping[str, Any]] = [
        {"protocol": msgspec.to_builtins(table.protocol)},
        {"metaData": msgspec.to_builtins(_meta_data(table, feature))},
        *({"add": msgspec.to_builtins(add)} for add in table.files.values()),
    ]
    buffer = io.BytesIO()
    pl.DataFrame({name: [row.get(name) for row in rows] for name in _CHECKPOINT}, schema=_CHECKPOINT).write_parquet(
        buffer, compression="zstd"
    )
    return buffer.getvalue()


def _from_checkpoint(storage: Storage, feature: str, info: ObjectInfo, table: _DeltaTable) -> _DeltaTable:
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
