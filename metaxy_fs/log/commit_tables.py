"""Which commits does a compaction stand for, and what had their manifests said?

The table of a compaction is a Parquet file beside its data files, one row a commit, in commit order. It is small, and
who reads rows does not need it: whoever makes the next compaction, shows the history of a feature, or restricts a view
does. It is put after all data files and before the manifest, and its footer has the whole manifest, so that one that
was lost can be made again.
"""

import io
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

import polars as pl

from metaxy_fs.errors import CorruptObjectError
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.manifest import CommitTable, Manifest, encode_manifest
from metaxy_fs.log.parquet import FOOTER_KEY
from metaxy_fs.storage.base import ObjectInfo, Storage

COLUMNS: Final = pl.Schema(
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


def read_tables(storage: Storage, partition: Partition, manifests: Sequence[Manifest]) -> list[pl.DataFrame]:
    """Return the table of each of some compactions.

    Raises:
        ObjectNotFoundError: A table is gone.
        CorruptObjectError: A table is not what its manifest says.
    """
    tables = [(manifest, manifest.commits) for manifest in manifests if manifest.commits is not None]
    infos = [ObjectInfo(partition.data_file(table.name), table.bytes) for _, table in tables]
    fetched = storage.get_many(infos)
    return [
        _decode(data, manifest, name=f"{storage.location}/{info.path}")
        for data, (manifest, _), info in zip(fetched, tables, infos, strict=True)
    ]


def table_of(appends: Iterable[Manifest]) -> pl.DataFrame:
    """Return the rows that appends get in a table; all of them are said to have schema 0."""
    rows = [
        (
            manifest.commit,
            manifest.time,
            manifest.rows,
            sum(file.bytes for file in manifest.files),
            manifest.digest,
            manifest.write_id,
            manifest.writer,
            0,
        )
        for manifest in appends
    ]
    return pl.DataFrame(rows, schema=COLUMNS, orient="row")


def encode_table(table: pl.DataFrame, *, manifest: Manifest, name: str) -> tuple[bytes, CommitTable]:
    """Return the bytes of a table, and what the manifest is to say of it.

    Args:
        table: The rows, in commit order.
        manifest: The manifest, but for `covers` and `commits`.
        name: The name that the table gets.
    """
    buffer = io.BytesIO()
    footer = {FOOTER_KEY: encode_manifest(manifest).decode()}
    table.write_parquet(buffer, compression="zstd", metadata=footer)
    data = buffer.getvalue()
    return data, CommitTable(name=name, rows=table.height, bytes=len(data), sha256=sha256(data).hexdigest())


def covers_of(table: pl.DataFrame) -> str:
    """Return the ids of a table as a manifest lists them."""
    return " ".join(table["commit"])


def digest_of(table: pl.DataFrame) -> str:
    """Return the digest of all that a compaction stands for; any two that cover the same have the same."""
    return sha256("".join(sorted(table["digest"])).encode()).hexdigest()


def _decode(data: bytes, manifest: Manifest, *, name: str) -> pl.DataFrame:
    expected = manifest.commits
    if expected is None or sha256(data).hexdigest() != expected.sha256:
        raise CorruptObjectError(f"The table of commits {name} does not have the checksum that its manifest gives.")
    try:
        table = pl.read_parquet(data)
    # A panic is no Exception, and whatever Polars makes of a hostile file must not end the process.
    except (Exception, pl.exceptions.PanicException) as error:
        reason = " ".join(str(error).split())[:200]
        raise CorruptObjectError(f"The table of commits {name} cannot be read as Parquet: {reason}.") from error
    if (
        table.schema != COLUMNS
        or covers_of(table) != manifest.covers
        or not table["schema"].is_between(0, len(manifest.schemas)).all()
    ):
        raise CorruptObjectError(f"The table of commits {name} lists other commits than its manifest, or no commits.")
    return table
