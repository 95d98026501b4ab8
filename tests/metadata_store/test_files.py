"""`store.files`: what is listed holds the rows that the library reads, and no others."""

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metaxy_fs import FeatureNotFoundError, FilesystemMetadataStore, StorageError, compact
from metaxy_fs.testing.store_cases import UnreachableStore
from tests.engines.clips import Clip, clips, overlap, rows_of, troubled, vacuumed

ROW_MARKS = ["_metaxy_commit", "_metaxy_time", "_metaxy_ordinal", "_metaxy_retired"]


def read(files: pl.DataFrame, *, latest_only: bool = False) -> pl.DataFrame:
    """Read the rows of listed files as docs/how-to/sql.md says, without the library."""
    frames = []
    for file in files.to_dicts():
        rows = pl.read_parquet(file["path"], hive_partitioning=False)
        rows = rows.with_columns(pl.lit(None).alias(name) for name in ROW_MARKS if name not in rows.columns)
        time = pl.col("_metaxy_time").cast(pl.Datetime("us", "UTC"))
        frames.append(
            rows.with_columns(
                pl.col("_metaxy_retired").cast(pl.Boolean),
                commit=pl.coalesce(pl.col("_metaxy_commit").cast(pl.String), pl.lit(file["commit"], pl.String)),
                committed_at=pl.coalesce(time, pl.lit(file["first"]).dt.cast_time_unit("us")),
            ).filter(~pl.col("commit").is_in(file["excluded"]))
        )
    rows = pl.concat(frames, how="diagonal_relaxed").sort("committed_at", "commit")
    rows = rows.unique("sample_id", keep="last") if latest_only else rows
    kept = rows.filter(pl.col("_metaxy_retired").ne_missing(pl.lit(value=True)))
    return kept.drop(ROW_MARKS).sort("sample_id", "committed_at")


@pytest.fixture
def store(tmp_path: Path) -> FilesystemMetadataStore:
    return troubled(tmp_path / "root")


@pytest.mark.parametrize("state", ["troubled", "overlapping", "compacted again", "vacuumed"])
def test_the_files_hold_the_rows_that_are_read(store: FilesystemMetadataStore, tmp_path: Path, state: str) -> None:
    if state != "troubled":
        overlap(store, tmp_path / "scratch")
        files = store.files(Clip)
        assert files["excluded"].list.len().sum() > 0
    if state == "compacted again":
        compact(store, Clip, full=True)
    if state == "vacuumed":
        vacuumed(store)
    files = store.files(Clip)
    for latest_only in (False, True):
        expected = rows_of(store, latest_only=latest_only)
        assert_frame_equal(read(files, latest_only=latest_only).select(expected.columns), expected)
    assert files["rows"].sum() >= rows_of(store).height
    assert files["bytes"].to_list() == [Path(path).stat().st_size for path in files["path"]]


def test_after_a_compaction_and_a_vacuum_a_glob_finds_the_files_and_nothing_else(
    store: FilesystemMetadataStore,
) -> None:
    found = lambda: sorted(map(str, Path(store.location).glob("clip/**/*.parquet")))  # noqa: E731
    assert len(found()) > store.files(Clip).height
    listed = vacuumed(store).files(Clip)["path"]
    assert found() == sorted(listed)


def test_bounds_have_the_types_of_ids_and_hold_all_of_them(store: FilesystemMetadataStore) -> None:
    files = store.files(Clip)
    assert files.schema["min"] == files.schema["max"] == pl.Struct({"sample_id": pl.Int64})
    for file in files.to_dicts():
        ids = pl.read_parquet(file["path"])["sample_id"]
        assert (ids.min(), ids.max()) == (file["min"]["sample_id"], file["max"]["sample_id"])


def test_a_store_at_a_snapshot_lists_what_it_sees(store: FilesystemMetadataStore) -> None:
    store.create_snapshot("now")
    expected = rows_of(store)
    store.write_metadata(Clip, clips(80))
    vacuumed(store)
    then = store.at("now").files(Clip)
    assert then["excluded"].list.len().max() == 1
    assert_frame_equal(read(then).select(expected.columns), expected)


def test_rows_of_other_definitions_are_listed_on_demand(store: FilesystemMetadataStore) -> None:
    [partition] = Path(store.location).glob("clip/*")
    assert store.files(Clip)["partition"].unique().to_list() == [partition.name]
    assert store.files(Clip, versions="all").equals(store.files(Clip))
    with pytest.raises(ValueError, match='versions is "current" or "all"'):
        store.files(Clip, versions="latest")


def test_what_has_no_files_says_so(tmp_path: Path) -> None:
    with pytest.raises(FeatureNotFoundError, match="has no rows"):
        FilesystemMetadataStore(tmp_path).files(Clip)
    with pytest.raises(StorageError, match="keeps no data files that others could read"):
        UnreachableStore().files("clip")
