"""A root that a careless reader misreads, and what the library reads from it."""

import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
from polars.testing import assert_frame_equal

from metaxy_fs import Feature, FeatureGraph, FeatureKey, FeatureSpec, FilesystemMetadataStore, compact, vacuum

with FeatureGraph().use():

    class Clip(Feature, spec=FeatureSpec(key=FeatureKey(["clip"]))):
        """Samples that were rewritten and retired, under columns that drift."""


def clips(*ids: int, size: pl.DataType | type[pl.DataType] = pl.Int32, note: str | None = None) -> pl.DataFrame:
    """Rows of these clips."""
    frame = pl.DataFrame({"sample_id": ids}, schema={"sample_id": pl.Int64}).with_columns(
        path=pl.format("clips/{} ü.mp4", "sample_id"),
        size=pl.col("sample_id").cast(size) * 3,
        day=pl.lit(date(2026, 11, 29)),
        at=pl.lit(datetime(2026, 11, 29, 6, tzinfo=UTC)),
        tags=pl.concat_list(pl.lit("a"), pl.lit("b")),
        data_version=pl.struct(pl.format("v{}{}", "sample_id", pl.lit(note or "")).alias("default")),
    )
    return frame if note is None else frame.with_columns(note=pl.lit(note))


def troubled(root: Path) -> FilesystemMetadataStore:
    """Write a root with a compaction, an orphan, rewritten and retired samples, and drifting types."""
    store = FilesystemMetadataStore(root)
    for start in range(0, 60, 10):
        store.write_metadata(Clip, clips(*range(start, start + 10)))
    store.retire(Clip, clips(5, 15))
    compact(store, Clip, full=True)
    store.write_metadata(Clip, clips(1, 2, 60, size=pl.Int64, note="again"))
    store.write_metadata(Clip, clips(3, 61, size=pl.Float64, note="later"))
    store.retire(Clip, clips(7, 60))
    store.write_metadata(Clip, clips(5, size=pl.Int64, note="back"))
    [partition] = root.glob("clip/*")
    data = min(partition.glob("*.parquet")).read_bytes()
    (partition / "20200101T000000.000000Z-0123456789abcdef-0.parquet").write_bytes(data)  # of a write that died
    return store


def vacuumed(store: FilesystemMetadataStore) -> FilesystemMetadataStore:
    """Leave nothing but what counts."""
    compact(store, Clip, full=True)
    for _ in range(2):
        zero = timedelta(0)
        vacuum(store, dry_run=False, grace=zero, retention=zero, unsafe=True)
    return store


def in_state(state: str, directory: Path) -> FilesystemMetadataStore:
    """Write such a root as it is, with two compactions that overlap, or compacted and vacuumed."""
    store = troubled(directory / "root")
    if state == "overlapping":
        overlap(store, directory / "scratch")
    return vacuumed(store) if state == "vacuumed" else store


STATES = ["troubled", "overlapping", "vacuumed"]


def check(found: pl.DataFrame, store: FilesystemMetadataStore, *, latest_only: bool, columns: str = ".*") -> None:
    """Compare what an engine reads with what the library reads, in the columns whose names match a pattern."""
    expected = rows_of(store, latest_only=latest_only).select(f"^({columns})$")
    found = found.select(expected.columns).cast(expected.schema)  # type: ignore[arg-type]  # a schema is a mapping
    assert_frame_equal(found.sort("sample_id", "committed_at"), expected)


def check_table(table: pl.DataFrame, store: FilesystemMetadataStore, *, lacking: str = "") -> None:
    """Compare a published table, as an engine reads it, with all rows that the library reads.

    Args:
        table: What was read.
        store: Whose it is.
        lacking: A column that the engine cannot read.
    """
    expected = store.read_metadata(Clip).drop(lacking, strict=False)
    rows = table.filter(pl.col("_metaxy_retired").ne_missing(pl.lit(value=True))).select(expected.columns)
    by = pl.struct("sample_id", "data_version")
    assert_frame_equal(rows.cast(expected.schema).sort(by), expected.sort(by))  # type: ignore[arg-type]


def rows_of(store: FilesystemMetadataStore, *, latest_only: bool = False) -> pl.DataFrame:
    """Return what the library reads, each with its commit, in an order of its own."""
    return store.read_metadata(Clip, latest_only=latest_only, with_commits=True).sort("sample_id", "committed_at")


def overlap(store: FilesystemMetadataStore, scratch: Path) -> None:
    """Leave two compactions that have commits in common, of which neither covers all of the other."""
    root = Path(store.location)
    store.write_metadata(Clip, clips(70, 71))
    store.write_metadata(Clip, clips(70, 72, note="x"))
    other = FilesystemMetadataStore(shutil.copytree(root, scratch))
    max(scratch.glob("clip/*/_manifests/appends/*.json")).unlink()
    other.write_metadata(Clip, clips(72, 73, note="x"))
    for each in (store, other):
        compact(each, Clip, full=True)
    for path in scratch.rglob("*"):
        if path.is_file() and not (copy := root / path.relative_to(scratch)).exists():
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(path, copy)
