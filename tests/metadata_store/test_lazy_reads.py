"""Reads of local roots cost what they return, and wrong questions are not taken for damage."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from metaxy_fs import (
    CorruptObjectError,
    Feature,
    FeatureDep,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    MetadataSchemaError,
    compact,
    copy_metadata,
    vacuum,
)
from metaxy_fs.log import local_files, parquet
from metaxy_fs.log.parquet import ROW_GROUP_ROWS, Section
from metaxy_fs.metadata_store import pieces

with FeatureGraph().use():

    class Sample(Feature, spec=FeatureSpec(key=FeatureKey(["sample"]))):
        """What all of these tests write."""

    class Made(Feature, spec=FeatureSpec(key=FeatureKey(["made"]), deps=[FeatureDep(key=FeatureKey(["sample"]))])):
        """What is made from it."""


@pytest.fixture(autouse=True)
def _large_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read files of any size in part, as large ones are."""
    monkeypatch.setattr(local_files, "SMALL_BYTES", 0)
    monkeypatch.setattr(parquet, "LARGE_BYTES", 1)


@pytest.fixture
def store(tmp_path: Path) -> FilesystemMetadataStore:
    return FilesystemMetadataStore(tmp_path / "root")


def write(store: FilesystemMetadataStore, *ids: int) -> Path:
    """Write some samples; return their data file."""
    before = set(data_files(store))
    versions = pl.struct(pl.lit("v").alias("default")).alias("data_version")
    notes = pl.Series("note", [f"note of {sample}" for sample in ids])
    store.write_metadata(Sample, pl.DataFrame({"sample_id": ids, "note": notes}).with_columns(versions))
    [path] = set(data_files(store)) - before
    return path


def data_files(store: FilesystemMetadataStore) -> list[Path]:
    return sorted(Path(store.location).rglob("*-0.parquet"))


def damage_notes(path: Path) -> None:
    """Flip a bit in the column of notes, without a trace in the times of the file."""
    data = bytearray(path.read_bytes())
    notes = pl.read_parquet(path)["note"]
    place = data.index(notes[0].encode()) if notes[0].encode() in data else None
    data[place if place is not None else data.index(b"PAR1") + 150] ^= 1
    path.write_bytes(bytes(data))


def shorten(path: Path) -> None:
    """Damage a file so that every reader of it finds out."""
    path.write_bytes(path.read_bytes()[:-1])


def test_a_scan_looks_at_no_file_until_it_is_collected(store: FilesystemMetadataStore) -> None:
    shorten(write(store, 1, 2, 3))
    scanned = store.scan_metadata(Sample)
    assert scanned.collect_schema().names() == ["sample_id", "note", "data_version"]
    with pytest.raises(CorruptObjectError, match="were committed"):
        scanned.collect()


@pytest.mark.parametrize("latest_only", [False, True])
def test_a_scan_reads_the_columns_that_are_selected_later(store: FilesystemMetadataStore, *, latest_only: bool) -> None:
    path = write(store, 1, 2, 3)
    damage_notes(path)
    scanned = store.scan_metadata(Sample, latest_only=latest_only)
    assert scanned.select("sample_id").collect().to_series().to_list() == [1, 2, 3]
    with pytest.raises(CorruptObjectError, match="'note'"):
        scanned.select("note").collect()


def test_a_scan_reads_the_files_that_a_later_filter_leaves(store: FilesystemMetadataStore) -> None:
    write(store, 1, 2, 3)
    shorten(write(store, 4, 5, 6))
    scanned = store.scan_metadata(Sample)
    assert scanned.filter(pl.col("sample_id") < 3).select("sample_id").collect().to_series().to_list() == [1, 2]


def test_the_first_rows_cost_the_first_file(store: FilesystemMetadataStore) -> None:
    write(store, 1, 2, 3)
    for first in (4, 7, 10):
        shorten(write(store, first, first + 1, first + 2))
    assert store.scan_metadata(Sample).head(3).collect()["sample_id"].to_list() == [1, 2, 3]
    with pytest.raises(CorruptObjectError):
        store.scan_metadata(Sample).head(4).collect()


def test_a_snapshot_reads_no_rows(store: FilesystemMetadataStore) -> None:
    for first in (1, 4):
        shorten(write(store, first, first + 1))
    store.create_snapshot("before")
    assert store.list_snapshots()["commits"].to_list() == [2]
    assert store.at("before").scan_metadata(Sample).collect_schema().names() == ["sample_id", "note", "data_version"]


def test_a_copy_of_latest_rows_reads_ids_to_find_them(store: FilesystemMetadataStore, tmp_path: Path) -> None:
    damage_notes(write(store, 1, 2))
    write(store, 1, 2)
    target = FilesystemMetadataStore(tmp_path / "target")
    copy_metadata(Sample, source=store, target=target, which="latest")
    assert target.read_metadata(Sample)["sample_id"].to_list() == [1, 2]


def test_a_wrong_filter_says_so_after_a_vacuum(store: FilesystemMetadataStore) -> None:
    for sample in range(3):
        write(store, sample)
    store.read_metadata(Sample)
    compact(store, Sample, full=True)
    vacuum(store, grace=timedelta(0), retention=timedelta(0), unsafe=True, dry_run=False)
    assert len(data_files(store)) == 1
    with pytest.raises(pl.exceptions.InvalidOperationError, match="conversion from `str` to `i64` failed"):
        store.read_metadata(Sample, filters=pl.col("note").cast(pl.Int64) == 1)


def test_a_wrong_filter_costs_no_look_at_other_files_and_columns(store: FilesystemMetadataStore) -> None:
    paths = [write(store, sample) for sample in range(3)]
    store.read_metadata(Sample)
    shorten(paths[2])
    wrong = (pl.col("note").cast(pl.Int64) == 1) & (pl.col("sample_id") < 2)
    with pytest.raises(pl.exceptions.InvalidOperationError, match="conversion from `str` to `i64` failed"):
        store.read_metadata(Sample, filters=wrong)


def test_a_filter_of_a_wrong_type_names_the_column_that_it_compares(store: FilesystemMetadataStore) -> None:
    rows = pl.DataFrame(
        {"sample_id": [1, 2], "taken": [datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC)]}
    )
    versions = pl.struct(pl.lit("v").alias("default")).alias("data_version")
    store.write_metadata(Sample, rows.with_columns(versions))
    with pytest.raises(Exception, match="taken") as caught:
        store.read_metadata(Sample, filters=pl.col("taken") > datetime(2024, 1, 2))  # noqa: DTZ001
    assert "taken_m" not in str(caught.value)


@pytest.mark.parametrize("sample_id", [1, 1_000])
def test_a_filter_that_compares_numbers_with_strings_is_refused_whatever_is_read(
    store: FilesystemMetadataStore, sample_id: int
) -> None:
    write(store, 1)
    wrong = (pl.col("sample_id") == sample_id) & (pl.col("sample_id") == "1")
    with pytest.raises(MetadataSchemaError, match="cannot compare string with numeric type"):
        store.read_metadata(Sample, filters=wrong)


@pytest.mark.parametrize("lazy", [False, True])
def test_what_is_found_right_of_files_is_forgotten_where_they_are_many(
    store: FilesystemMetadataStore, monkeypatch: pytest.MonkeyPatch, *, lazy: bool
) -> None:
    monkeypatch.setattr(local_files, "_REMEMBERED", 2)
    for sample in range(5):
        write(store, sample)
    for _ in range(2):
        assert store.scan_metadata(Sample).collect().height == 5 if lazy else store.read_metadata(Sample).height == 5
    known = store._log._local_files._right  # nothing else tells how much is kept
    assert len(known) == 2


@pytest.mark.parametrize("lazy", [False, True])
def test_versions_of_few_samples_cost_the_files_that_hold_them(store: FilesystemMetadataStore, *, lazy: bool) -> None:
    shorten(write(store, 1, 2, 3))
    write(store, 4, 5, 6)
    shorten(write(store, 7, 8, 9))
    given = pl.DataFrame({"sample_id": [6, 4]})
    made = store.calculate_data_versions(Made, given.lazy() if lazy else given).lazy().collect()
    assert sorted(made["sample_id"].to_list()) == [4, 6]
    with pytest.raises(CorruptObjectError):
        store.calculate_data_versions(Made, pl.DataFrame({"sample_id": [4, 7]}))


@pytest.mark.parametrize(
    "ids",
    [
        pl.Series([-(2**63), -(2**53) - 1, 0, 2**53, 2**53 + 1, 2**63 - 2, 2**63 - 1]),
        pl.Series([0, 2**53, 2**63, 2**64 - 1], dtype=pl.UInt64),
        pl.Series([-128, 0, 127], dtype=pl.Int8),
        pl.Series(["", "a", "x" * 1_100, "x" * 1_100 + "a", "\U0010ffff" * 1_100]),
        pl.Series([date(1, 1, 1), date(9999, 12, 31)]),
        pl.Series([datetime(1677, 9, 22), datetime(2262, 4, 11)], dtype=pl.Datetime("ns")),  # noqa: DTZ001
        pl.Series([b"", b"\xff"]),
    ],
)
def test_samples_at_the_ends_of_their_type_are_found(store: FilesystemMetadataStore, ids: pl.Series) -> None:
    rows = ids.alias("sample_id").to_frame()
    store.write_metadata(Sample, rows.with_columns(pl.struct(pl.lit("v").alias("default")).alias("data_version")))
    for place in range(len(ids)):
        for given in (rows[place:], rows[: place + 1], rows[place : place + 1]):
            assert store.calculate_data_versions(Made, given)["sample_id"].to_list() == given["sample_id"].to_list()


def test_latest_rows_are_those_of_the_scan_after_their_files_were_merged_and_vacuumed(
    store: FilesystemMetadataStore,
) -> None:
    write(store, *range(20))
    write(store, 1, 2)
    scan = store.scan_metadata(Sample, latest_only=True)
    expected = scan.collect()
    write(store, 1, 30)
    compact(store, full=True)
    for _ in range(2):
        vacuum(store, dry_run=False, grace=timedelta(0), retention=timedelta(0), unsafe=True)
    assert scan.collect().equals(expected)


def test_an_increment_in_ranges_looks_at_what_it_reads_once(
    store: FilesystemMetadataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE_ROWS", ROW_GROUP_ROWS)
    write(store, *range(4 * ROW_GROUP_ROWS))
    looked_at: list[int] = []
    check = local_files.check_section

    def counted(data: bytes, section: Section, *, name: str) -> None:
        looked_at.append(section.start)
        check(data, section, name=name)

    monkeypatch.setattr(local_files, "check_section", counted)
    for _ in range(2):
        assert store.resolve_update(Made).new.height == 4 * ROW_GROUP_ROWS
    assert looked_at
    assert len(looked_at) == len(set(looked_at))
