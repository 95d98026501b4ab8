"""The commit table of a compaction: what the manifests that it covers said.

A compaction's manifest names them and no more, since every reader gets it. The rest is in a table beside it, which
those get who ask for single commits, and who compact again. The table is put after all data files and before the
manifest, and its footer has the whole manifest, so that one that was lost can be made again.
"""

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Final

import msgspec
import polars as pl

from metaxy_fs.errors import CorruptObjectError
from metaxy_fs.ids import MAX_TIME
from metaxy_fs.log.decoding import decode_manifest
from metaxy_fs.log.layout import Partition, compaction_of_table
from metaxy_fs.log.manifest import HISTORY, CommitTable, Manifest, are_tags, encode_manifest
from metaxy_fs.log.parquet import FOOTER_KEY
from metaxy_fs.log.verified_io import decode_or_refetch
from metaxy_fs.log.view import View
from metaxy_fs.storage.base import ObjectInfo, Storage

TABLE: Final = pl.Schema(
    {
        "commit": pl.String(),
        "time": pl.Int64(),
        "rows": pl.Int64(),
        "bytes": pl.Int64(),
        "digest": pl.String(),
        "write_id": pl.String(),
        "writer": pl.String(),
        "schema": pl.Int64(),
    }
)
"""The columns of every commit table; one row per commit, in commit order."""

OPTIONAL: Final = pl.Schema({"retired": pl.Int64(), "tags": pl.String()})
"""Those that a table has if some commit retires a sample or has tags; the latter as `encode_tags` gives them."""

_WHOLE: Final = pl.Schema({**TABLE, **OPTIONAL})

_KEPT_ROWS = 2_000_000
"""How many rows of tables are kept: those of the compactions that a process reads again and again."""


class CommitTables:
    """The commit tables of one root; the last ones are kept, since they never change. Safe to share between threads."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._kept: OrderedDict[str, pl.DataFrame] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, partition: Partition, manifest: Manifest) -> pl.DataFrame:
        """Return the table of a compaction.

        Raises:
            ObjectNotFoundError: It is gone, since a larger compaction has replaced this one.
            CorruptObjectError: It is not what its manifest describes.
        """
        if manifest.commits is None:
            raise CorruptObjectError(f"The compaction {manifest.commit} of {partition} names no table of its commits.")
        path = partition.data_file(manifest.commits.name)
        with self._lock:
            if path in self._kept:
                self._kept.move_to_end(path)
                return self._kept[path]
        [table] = read_tables(self._storage, partition, [manifest])
        self._keep(path, table)
        return table

    def _keep(self, path: str, table: pl.DataFrame) -> None:
        with self._lock:
            self._kept[path] = table
            while len(self._kept) > 1 and sum(kept.height for kept in self._kept.values()) > _KEPT_ROWS:
                self._kept.popitem(last=False)


def read_tables(storage: Storage, partition: Partition, manifests: Iterable[Manifest]) -> list[pl.DataFrame]:
    """Return the tables of some compactions, got at once.

    Raises:
        ObjectNotFoundError: One is gone, since a larger compaction has replaced its own.
        CorruptObjectError: One is not what its manifest describes.
    """
    named = [(manifest, manifest.commits) for manifest in manifests if manifest.commits is not None]
    infos = [ObjectInfo(partition.data_file(entry.name), entry.bytes) for _, entry in named]
    decoders = [
        partial(decode_table, manifest=manifest, entry=entry, name=f"{storage.location}/{info.path}")
        for (manifest, entry), info in zip(named, infos, strict=True)
    ]
    found = zip(infos, storage.get_many(infos), decoders, strict=True)
    return [decode_or_refetch(storage, info, data, decode) for info, data, decode in found]


def rows_of(appends: Sequence[Manifest], schemas: Sequence[int]) -> pl.DataFrame:
    """Return the rows of a table for some appends, each with the number of its schema."""
    rows = [
        (
            manifest.commit,
            manifest.time,
            manifest.rows,
            sum(file.bytes for file in manifest.files),
            manifest.digest,
            manifest.write_id,
            manifest.writer,
            schema,
            manifest.retired,
            manifest.tags_as_json,
        )
        for manifest, schema in zip(appends, schemas, strict=True)
    ]
    return pl.DataFrame(rows, schema=_WHOLE, orient="row")


def encode_table(table: pl.DataFrame, *, manifest: Manifest, name: str) -> tuple[bytes, CommitTable]:
    """Return the bytes of a table, and what the manifest is to say of it.

    Args:
        table: The rows, in commit order.
        manifest: The manifest, but for `covers` and `commits`.
        name: The name that the table gets.
    """
    buffer = io.BytesIO()
    footer = {FOOTER_KEY: msgspec.json.encode(manifest).decode()}
    is_used = {"retired": bool(table["retired"].sum()), "tags": bool(table["tags"].count())}
    table = table.drop(name for name in OPTIONAL if not is_used[name])
    table.write_parquet(buffer, compression="zstd", metadata=footer)
    data = buffer.getvalue()
    return data, CommitTable(name=name, rows=table.height, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def covers_of(table: pl.DataFrame) -> str:
    """Return the ids of a table as a manifest lists them."""
    return " ".join(table.get_column("commit"))


def digest_of(table: pl.DataFrame) -> str:
    """Return the digest of all that a compaction stands for; any two that cover the same have the same."""
    return group_digest(table.get_column("digest"))


def group_digest(digests: Iterable[str]) -> str:
    """Return the digest of writes together, in whatever order they come."""
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def decode_table(data: bytes, *, manifest: Manifest, entry: CommitTable, name: str) -> pl.DataFrame:
    """Return the commit table that an object holds, with all optional columns.

    Raises:
        CorruptObjectError: It is another object than its manifest describes, or contradicts it.
    """
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise CorruptObjectError(f"The commit table {name} does not have the checksum that its manifest gives.")
    try:
        table = pl.read_parquet(io.BytesIO(data))
    # A panic is no Exception, and whatever Polars makes of a hostile file must not end the process.
    except (Exception, pl.exceptions.PanicException) as error:
        raise CorruptObjectError(f"The commit table {name} is no Parquet file that can be read.") from error
    if problem := _problem(table, manifest):
        raise CorruptObjectError(f"The commit table {name} {problem}.")
    return _whole(table)


def rebuild_compaction(data: bytes, *, name: str, partition: Partition) -> tuple[Manifest, pl.DataFrame]:
    """Return the manifest of the compaction that a commit table belongs to, and the table.

    Raises:
        CorruptObjectError: It is no commit table, or not one of a compaction of this partition.
    """
    try:
        commits = pl.read_parquet(io.BytesIO(data)).get_column("commit")
        manifest = msgspec.json.decode(pl.read_parquet_metadata(data)[FOOTER_KEY], type=Manifest)
        covers = " ".join(commits)
    # A panic is no Exception, and whatever Polars makes of a hostile file must not end the process.
    except (Exception, pl.exceptions.PanicException) as error:
        reason = " ".join(str(error).split())[:200]
        raise CorruptObjectError(f"{name} does not tell of which compaction it is ({reason}).") from error
    entry = CommitTable(name=name, rows=len(commits), bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    whole = encode_manifest(msgspec.structs.replace(manifest, covers=covers, commits=entry))
    commit = compaction_of_table(name) or ""
    rebuilt = decode_manifest(whole, partition=partition, commit=commit, name=name, is_compaction=True)
    return rebuilt, decode_table(data, manifest=rebuilt, entry=entry, name=name)


def _whole(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table with the optional columns that it lacks."""
    lacking = {"retired": pl.lit(0, pl.Int64), "tags": pl.lit(None, pl.String)}
    added = {name: each for name, each in lacking.items() if name not in table.columns}
    return table.with_columns(**added).select(*_WHOLE)


def _problem(table: pl.DataFrame, manifest: Manifest) -> str | None:
    known = {name: dtype for name, dtype in _WHOLE.items() if name in TABLE or name in table.columns}
    if list(table.schema.items()) != list(known.items()):
        return f"has the columns {dict(table.schema)}, not {known}"
    table = _whole(table)
    if any(table.drop("write_id", "tags").null_count().row(0)):
        return "has nulls"
    if not all(map(are_tags, table.get_column("tags").drop_nulls().unique())):
        return "has tags that are no strings by name"
    if covers_of(table) != manifest.covers:
        return "has other commits than its manifest covers"
    if not table.filter(~_is_plausible(manifest)).is_empty():
        return "has times, counts or schemas that cannot be"
    keys = table.select("time", "commit")
    return None if keys.equals(keys.sort("time", "commit")) else "is not in commit order"


def _is_plausible(manifest: Manifest) -> pl.Expr:
    counts = pl.all_horizontal(pl.col("rows", "bytes").is_between(0, 2**53 - 1))
    return (
        counts
        & pl.col("retired").is_between(0, pl.col("rows"))
        & pl.col("time").is_between(0, min(manifest.time, MAX_TIME))
        & pl.col("schema").is_between(0, len(manifest.schemas))
    )


def combined_table(
    storage: Storage, partition: Partition, manifests: Sequence[Manifest], *, only: AbstractSet[str] | None
) -> tuple[list[bytes], pl.DataFrame]:
    """Return the schemas of the commits of some manifests, in order of first appearance, and the table of these.

    Args:
        storage: The root.
        partition: Where the manifests are.
        manifests: What stands for the commits.
        only: The commits, if they are not all.
    """
    appends = [manifest for manifest in manifests if not manifest.covers]
    # Of a commit in several tables the one that answers for it counts (see `metaxy_fs.log.resolve`).
    compactions = sorted((manifest for manifest in manifests if manifest.covers), key=lambda each: each.commit)
    numbers: dict[bytes, int] = {}
    of_appends = [numbers.setdefault(bytes(manifest.schema), len(numbers)) for manifest in appends]
    tables = [rows_of(appends, of_appends)]
    for manifest, table in zip(compactions, read_tables(storage, partition, compactions), strict=True):
        own = [numbers.setdefault(bytes(schema), len(numbers)) for schema in (manifest.schema, *manifest.schemas)]
        tables.append(table.with_columns(pl.col("schema").replace_strict(range(len(own)), own, return_dtype=pl.Int64)))
    table = pl.concat(tables).unique("commit", keep="first", maintain_order=True).sort("time", "commit")
    if only is not None:
        table = table.filter(pl.col("commit").is_in(sorted(only)))
    order = table["schema"].unique(maintain_order=True).to_list()
    renumbered = pl.col("schema").replace_strict(order, range(len(order)), return_dtype=pl.Int64)
    schemas = list(numbers)
    return [schemas[number] for number in order], table.with_columns(renumbered)


TableOf = Callable[[Partition, Manifest], pl.DataFrame]
"""Gives the commit table of a compaction."""


def commits_of(views: Sequence[View], *, table_of: TableOf) -> pl.DataFrame:
    """Return one row a commit of the views, in commit order across them; times are microseconds since 1970 (UTC).

    Raises:
        ObjectNotFoundError: A commit table is gone, since a larger compaction has replaced its own.
    """
    frames = [_commits(view, table_of) for view in views]
    return pl.concat([HISTORY.to_frame(), *frames]).sort("time", "commit")


def digests_of(view: View, *, table_of: TableOf) -> dict[str, str]:
    """Return the digest of the rows of every commit of a view.

    Raises:
        ObjectNotFoundError: A commit table is gone, since a larger compaction has replaced its own.
    """
    digests = {manifest.commit: manifest.digest for manifest in view.manifests if not manifest.covers}
    for manifest in view.manifests:
        if manifest.covers:
            digests.update(table_of(view.partition, manifest).select("commit", "digest").iter_rows())
    return digests


def _commits(view: View, table_of: TableOf) -> pl.DataFrame:
    appends = [manifest for manifest in view.manifests if not manifest.covers]
    tables = [table_of(view.partition, manifest) for manifest in view.manifests if manifest.covers]
    known = [rows_of(appends, [0] * len(appends)).with_columns(compacted=False)]
    known += [table.with_columns(compacted=True) for table in tables]
    # Compactions that live may have commits in common, of which their tables say the same.
    commits = pl.concat(known).unique("commit", keep="first", maintain_order=True)
    commits = commits if view.only is None else commits.filter(pl.col("commit").is_in(sorted(view.only)))
    retired, version = pl.col("retired"), pl.lit(view.partition.version)
    return commits.with_columns(rows=pl.col("rows") - retired, partition=version).select(*HISTORY)
