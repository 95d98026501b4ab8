"""Compactions made by hand, without the code that compacts."""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import polars as pl

from metaxy_fs.ids import LamportClock, timestamp_id
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.manifest import Manifest
from metaxy_fs.log.scan import reading_schema, scan_files
from metaxy_fs.log.view import View, ViewLoader, live_files
from metaxy_fs.storage.base import Storage
from tests.log.commits import PARTITION

Fields = dict[str, Any]


def put_compaction(
    storage: Storage,
    appends: Sequence[Manifest],
    *,
    token: str = "0" * 16,
    listed_again: Iterable[str] = (),
    file_rows: int = 2**19,
    change: Callable[[Fields], object] = lambda _fields: None,
    partition: Partition = PARTITION,
) -> str:
    """Put a compaction that covers these appends, and return its id.

    Args:
        storage: The root.
        appends: What it covers.
        token: The end of its id.
        listed_again: Ids of appends whose files are left as they are.
        file_rows: How many rows a file gets at most.
        change: Falsifies the manifest.
        partition: Where the appends are.
    """
    ordered = sorted(appends, key=lambda append: (append.time, append.commit))
    time = ordered[-1].time + 1
    commit = timestamp_id(time, token)
    schemas = list(dict.fromkeys(bytes(append.schema) for append in ordered))
    files: list[Fields] = []
    for index, schema in enumerate(schemas):
        group = [append for append in ordered if bytes(append.schema) == schema]
        files += _listed_again(group, index, set(listed_again))
        merged = [append for append in group if append.commit not in set(listed_again)]
        files += _rewritten(storage, merged, index, f"{commit}-{index}", file_rows=file_rows, partition=partition)
    fields = {
        "format_version": 1,
        "commit": commit,
        "time": time,
        "feature": list(ordered[0].feature),
        "definition": {"version": ordered[0].definition.version, "containers": dict(ordered[0].definition.containers)},
        "id_columns": list(ordered[0].id_columns),
        "schema": json.loads(schemas[0]),
        "schemas": [json.loads(schema) for schema in schemas[1:]],
        "writer": "by hand",
        "rows": sum(file["rows"] for file in files),
        "digest": hashlib.sha256("".join(sorted(append.digest for append in ordered)).encode()).hexdigest(),
        "files": files,
        "covers": " ".join(append.commit for append in ordered),
        "commits": _put_table(storage, ordered, f"_commits/{commit}.table", schemas, partition),
    }
    change(fields)
    path = f"{partition}/_manifests/compactions/{commit}.json"
    storage.put(path, json.dumps(fields, separators=(",", ":")).encode())
    return commit


def delete_covered(storage: Storage, appends: Iterable[Manifest], *, data: bool = True) -> None:
    """Remove appends, as a vacuum does long after they were covered, on demand with their data files."""
    for append in appends:
        storage.delete(PARTITION.append_manifest(append.commit))
        for file in append.files if data else ():
            storage.delete(PARTITION.data_file(file.name))


def view_of(storage: Storage, partition: Partition = PARTITION) -> View:
    """What a new process sees."""
    view = ViewLoader(storage, clock=LamportClock()).load(partition)
    assert view is not None
    return view


def read(storage: Storage, *, predicate: pl.Expr | None = None, limit: int | None = None) -> pl.DataFrame:
    """What a new process reads, as stores do: the predicate prunes and filters."""
    files = live_files([view_of(storage)])
    schema = reading_schema(files, location=storage.location, columns=None)
    rows = scan_files(storage, files, schema=schema, predicate=predicate if limit is None else None)
    rows = rows if limit is None else rows.head(limit)
    return (rows if predicate is None else rows.filter(predicate)).collect()


def _listed_again(group: Sequence[Manifest], schema: int, chosen: set[str]) -> list[Fields]:
    found = []
    for append in (append for append in group if append.commit in chosen):
        offset = 0
        for file in append.files:
            entry = {name: getattr(file, name) for name in ("name", "rows", "bytes", "sha256")}
            found.append(entry | {"commit": append.commit, "time": append.time, "offset": offset, "schema": schema})
            offset += file.rows
    return found


def _rewritten(
    storage: Storage, group: Sequence[Manifest], schema: int, stem: str, *, file_rows: int, partition: Partition
) -> list[Fields]:
    if not group:
        return []
    frames = []
    for append in group:
        held = [pl.read_parquet(storage.get(partition.data_file(file.name))) for file in append.files]
        frames.append(
            pl.concat(held)
            .with_row_index("_metaxy_ordinal")
            .with_columns(_metaxy_commit=pl.lit(append.commit), _metaxy_time=pl.lit(append.time, pl.Int64))
        )
    marks = ["_metaxy_commit", "_metaxy_time", "_metaxy_ordinal"]
    columns = [name for name in frames[0].columns if name not in marks]
    rows = pl.concat(frames).select(*columns, *marks).sort(*group[0].id_columns, *(marks[place] for place in (1, 0, 2)))
    files = []
    for index, part in enumerate(rows.iter_slices(file_rows) if rows.height else [rows]):
        buffer = io.BytesIO()
        part.write_parquet(buffer)
        name = f"{stem}-{index}.parquet"
        storage.put(partition.data_file(name), buffer.getvalue())
        entry = _entry(name, part.height, buffer.getvalue()) | {"schema": schema}
        keys = part.select("_metaxy_time", "_metaxy_commit").unique().sort(pl.all()).rows()
        keys = keys or [(append.time, append.commit) for append in group]
        entry |= {"first": list(keys[0]), "last": list(keys[-1])}
        entry["repeats"] = bool(rows.select(group[0].id_columns).is_duplicated().any())
        if part.height:
            bounds = {"min": part["sample_id"].min(), "max": part["sample_id"].max()}
            entry["statistics"] = [{"path": ["sample_id"], "nulls": 0, **bounds}]
        files.append(entry)
    # Commits without rows, which bring their columns all the same.
    files[0]["first"] = min(files[0]["first"], [group[0].time, group[0].commit])
    return files


def _put_table(
    storage: Storage, appends: Sequence[Manifest], name: str, schemas: Sequence[bytes], partition: Partition
) -> Fields:
    table = pl.DataFrame(
        {
            "commit": [append.commit for append in appends],
            "time": [append.time for append in appends],
            "rows": [append.rows for append in appends],
            "bytes": [sum(file.bytes for file in append.files) for append in appends],
            "digest": [append.digest for append in appends],
            "write_id": [append.write_id for append in appends],
            "writer": [append.writer for append in appends],
            "schema": [schemas.index(bytes(append.schema)) for append in appends],
        },
        schema_overrides={"write_id": pl.String},
    )
    tags = [None if append.tags is msgspec.UNSET else json.dumps(append.tags) for append in appends]
    if any(append.retired for append in appends):
        table = table.with_columns(pl.Series("retired", [append.retired for append in appends], dtype=pl.Int64))
    if any(tags):
        table = table.with_columns(pl.Series("tags", tags, dtype=pl.String))
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    storage.put(partition.data_file(name), buffer.getvalue())
    return _entry(name, table.height, buffer.getvalue())


def _entry(name: str, rows: int, data: bytes) -> Fields:
    return {"name": name, "rows": rows, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
