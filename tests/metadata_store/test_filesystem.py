"""What is particular to a store of files, whatever the rows."""

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from metaxy_fs import (
    Feature,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    InMemoryMetadataStore,
    MetadataSchemaError,
    WriteConflictError,
    compact,
)
from metaxy_fs.storage import MemoryStorage

with FeatureGraph().use():

    class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]))):
        """Declared where processes that are spawned find it."""


def frame(*ids: int) -> pl.DataFrame:
    versions = pl.struct(pl.lit("v").alias("default")).alias("data_version")
    return pl.DataFrame({"sample_id": list(ids)}).with_columns(versions)


def write_one(store: FilesystemMetadataStore, number: int) -> int:
    store.write_metadata(Video, frame(number))
    return store.read_metadata(Video, filters=pl.col("sample_id") == number).height


def test_a_pickled_store_is_the_same_chain(tmp_path: Path) -> None:
    production = FilesystemMetadataStore(tmp_path / "production")
    production.write_metadata(Video, frame(1))
    store = FilesystemMetadataStore(tmp_path / "dev", fallback_stores=[production])
    store.read_metadata(Video)
    again = pickle.loads(pickle.dumps(store))  # noqa: S301  # the bytes are this test's own
    assert repr(again) == repr(store)
    assert again.read_metadata(Video).height == 1


def test_a_store_keeps_its_rows_in_a_storage_that_it_is_given() -> None:
    storage = MemoryStorage()
    FilesystemMetadataStore(storage).write_metadata(Video, frame(1))
    assert FilesystemMetadataStore(storage).read_metadata(Video).height == 1
    assert any(info.path.endswith(".parquet") for info in storage.list("video"))


def test_a_store_is_handed_to_worker_processes(tmp_path: Path) -> None:
    store = FilesystemMetadataStore(tmp_path)
    store.write_metadata(Video, frame(0))
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(write_one, [store] * 4, range(1, 5))) == [1] * 4
    assert sorted(store.read_metadata(Video)["sample_id"]) == [0, 1, 2, 3, 4]


def test_a_text_is_no_filter(tmp_path: Path) -> None:
    store = FilesystemMetadataStore(tmp_path)
    with pytest.raises(TypeError, match="got 'sample_id > 1'"):
        store.read_metadata(Video, filters="sample_id > 1")  # type: ignore[arg-type]


def test_a_store_in_memory_is_not_copied_to_other_processes() -> None:
    for store in (InMemoryMetadataStore(), FilesystemMetadataStore(".", fallback_stores=[InMemoryMetadataStore()])):
        with pytest.raises(TypeError, match=r"InMemoryMetadataStore lives in one process.* local directory"):
            pickle.dumps(store)


def test_a_buffer_of_a_fresh_process_refuses_types_when_it_is_given_them(tmp_path):
    FilesystemMetadataStore(tmp_path).write_metadata(Video, frame(1).with_columns(label=pl.lit("a"), size=0.5))
    with FilesystemMetadataStore(tmp_path).buffered(Video) as buffer:
        for wrong in ({"sample_id": pl.lit("b")}, {"label": pl.lit(2)}, {"size": pl.lit(2**60)}):
            with pytest.raises(MetadataSchemaError, match="in the rows that are stored"):
                buffer.write(frame(2).with_columns(**wrong))
        buffer.write(frame(3).with_columns(size=2))
    assert FilesystemMetadataStore(tmp_path).read_metadata(Video)["size"].to_list() == [0.5, 2]


@pytest.mark.parametrize("is_fresh", [True, False])
def test_a_store_refuses_other_id_columns_whether_or_not_it_wrote_before(tmp_path, *, is_fresh):
    with FeatureGraph().use():

        class Renamed(Feature, spec=FeatureSpec(key=FeatureKey(["video"]), id_columns=["name"])):
            """The same definition, whose samples have other names."""

    store = FilesystemMetadataStore(tmp_path)
    store.write_metadata(Video, frame(1))
    store = FilesystemMetadataStore(tmp_path) if is_fresh else store
    with pytest.raises(MetadataSchemaError, match=r"\['name'\].*\['sample_id'\]"):
        store.write_metadata(Renamed, frame(2).with_columns(name=pl.lit("b")))
    assert store.read_metadata(Video)["sample_id"].to_list() == [1]


def test_a_named_write_in_another_order_is_found_where_its_files_were_vacuumed(tmp_path):
    rows = frame(1, 2).with_columns(x=pl.lit(0.5), y=pl.lit("a"))
    store = FilesystemMetadataStore(tmp_path)
    store.write_metadata(Video, rows, write_id="import")
    store.write_metadata(Video, rows)
    compact(store, full=True)
    [merged] = tmp_path.glob("*/*/write-*")
    merged.unlink()  # as a vacuum does much later
    again = rows.select("y", "x", "data_version", "sample_id")
    FilesystemMetadataStore(tmp_path).write_metadata(Video, again, write_id="import")
    assert store.read_metadata(Video)["sample_id"].to_list() == [1, 2, 1, 2]
    with pytest.raises(WriteConflictError):
        store.write_metadata(Video, rows.with_columns(y=pl.lit("b")), write_id="import")
