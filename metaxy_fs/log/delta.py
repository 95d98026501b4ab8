"""Publish a view as a Delta table: a log beside the data files, which points to them as they are.

Theory of operation. The log is a cache: what its last version says is a function of the view, and it can be deleted and
made anew at any time. A publisher replays the log, then loads a view, and puts what is different as the next version.
That put fails if another publisher was quicker; then it begins again. A view that is loaded after version n was seen
holds every commit that version n knew, and version n + 1 can follow n alone, so the table never goes back.

The log names a feature of writers that no other program knows. So they refuse to write, to optimize and to vacuum,
which would take the manifests and all files that the table does not name.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final
from uuid import UUID

import msgspec
import polars as pl

from metaxy_fs.errors import MetadataSchemaError, ObjectExistsError, StorageError
from metaxy_fs.ids import random_token, wall_clock
from metaxy_fs.log.delta_log import (
    GUARD,
    Action,
    Add,
    DeltaTable,
    Protocol,
    Remove,
    encode_checkpoint,
    meta_data_of,
    replay,
)
from metaxy_fs.log.delta_types import NAIVE, delta_field, delta_statistics
from metaxy_fs.log.layout import delta_checkpoint, delta_log, delta_version
from metaxy_fs.log.scan import reading_schema
from metaxy_fs.log.verified_io import put_idempotent
from metaxy_fs.log.view import LiveFile, View
from metaxy_fs.storage.base import Storage

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
        before = replay(storage, feature)
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
                put_idempotent(storage, delta_checkpoint(feature, after.version), encode_checkpoint(after, feature))
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
        present = ", ".join(map(repr, reading_schema(view.files, location=storage.location, columns=None)))
        raise MetadataSchemaError(
            f"Feature '{_named(view)}' has no column {', '.join(map(repr, missing))}; it has {present}.",
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
            f"Delta has no type or no name for the column {named} of feature '{_named(view)}', so nothing "
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
    before: DeltaTable, files: Mapping[str, LiveFile], schema: pl.Schema, *, columns: tuple[str, ...] | None
) -> DeltaTable:
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


def _encoded(before: DeltaTable, after: DeltaTable, feature: str, writer: str) -> bytes:
    """Return the version that brings the log from one state to the next."""
    now = wall_clock() // 1_000
    actions = [Action(commit_info={"timestamp": now, "operation": "PUBLISH", "engineInfo": writer})]
    if before.protocol != after.protocol:
        actions.append(Action(protocol=after.protocol))
    if (before.schema, before.columns) != (after.schema, after.columns):
        actions.append(Action(meta_data=meta_data_of(after, feature)))
    actions += [Action(remove=Remove(path, now)) for path in before.files if path not in after.files]
    actions += [Action(add=add) for path, add in after.files.items() if path not in before.files]
    return b"\n".join(map(msgspec.json.encode, actions))


def _published(storage: Storage, view: View, schema: pl.Schema, *, before: DeltaTable, after: DeltaTable) -> Published:
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


def _named(view: View) -> str:
    """Return what people call the feature."""
    return view.partition.feature.replace(".", "/")
