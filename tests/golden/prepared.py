"""Contents of the golden root of prepared writes; `python -m tests.golden.prepared DIRECTORY` writes one.

One group was compacted and vacuumed, another lists its files as they are, and a third has everything but a manifest.
"""

import sys
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import polars as pl

from metaxy_fs import (
    Feature,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    Receipt,
    StorageError,
    compact,
    vacuum,
)
from metaxy_fs.log import prepared
from tests.golden.compacted import small_files

with FeatureGraph().use():

    class Tile(Feature, spec=FeatureSpec(key=FeatureKey(["tile"]))):
        """What workers prepare, in parts that have samples in common and columns of their own."""


def tiles(*ids: int, take: str, **columns: pl.Expr) -> pl.DataFrame:
    """Rows of these tiles."""
    frame = pl.DataFrame({"sample_id": ids}, schema={"sample_id": pl.Int64})
    versions = pl.struct(pl.format("{}{}", pl.lit(take), "sample_id").alias("default"))
    return frame.with_columns(data_version=versions, **columns)


SIZE = pl.col("sample_id").cast(pl.Int32)
FIRST = [tiles(*range(10), take="a", size=SIZE), tiles(8, 9, 10, take="b", note=pl.lit("ü")), tiles(take="c")]
BETWEEN = tiles(1, 20, take="d")
SECOND = [tiles(*range(20, 31), take="e", size=SIZE * 0.5), tiles(0, 20, take="f", size=SIZE)]
NEVER = [tiles(0, 40, take="g"), tiles(41, take="h")]
LAST = tiles(30, take="i")


def prepare(store: FilesystemMetadataStore, parts: list[pl.DataFrame]) -> list[Receipt]:
    """Prepare parts, each as a task of its own."""
    return [store.prepare_write(Tile, part, task_id=f"t{number}") for number, part in enumerate(parts)]


def write(directory: Path) -> None:
    """Write a golden root."""
    with small_files():
        store = FilesystemMetadataStore(directory)
        store.commit_prepared(Tile, prepare(store, FIRST), tags={"run": "1"})
        store.write_metadata(Tile, BETWEEN)
        compact(store, Tile, full=True)
        vacuum(store, dry_run=False, grace=timedelta(0), retention=timedelta(0), unsafe=True)
        receipts = [*prepare(store, SECOND), *prepare(store, SECOND[:1])]
        store.commit_prepared(Tile, reversed(receipts), write_id="job 7", tags={"run": "2"})
        store.create_snapshot("then")
        _never(store)
        store.write_metadata(Tile, LAST)


def _never(store: FilesystemMetadataStore) -> None:
    """Let a driver die before it puts the manifest."""
    with patch.object(prepared, "_put_manifest", side_effect=StorageError("killed")):
        try:
            store.commit_prepared(Tile, prepare(store, NEVER), write_id="job 8")
        except StorageError:
            return


if __name__ == "__main__":
    write(Path(sys.argv[1]))
