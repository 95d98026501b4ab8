"""A snapshot reads the same after its files are rewritten and removed."""

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metaxy_fs import (
    Feature,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    MetadataSchemaError,
    MetadataStore,
)
from metaxy_fs.ids import LamportClock
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.view import ViewLoader
from tests.log.compactions import put_compaction
from tests.support.older import forget_types

with FeatureGraph().use():

    class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]))):
        """Declared where processes that are spawned find it."""


def rows(*ids: int, **more: object) -> pl.DataFrame:
    versions = [{"default": f"v{sample}"} for sample in ids]
    return pl.DataFrame({"sample_id": ids, "data_version": versions, **more})


def compact(store: FilesystemMetadataStore) -> None:
    """Compact all that there is, and remove what was covered, as a vacuum does much later."""
    [version] = store.stored_versions(FeatureKey(["video"]))
    partition = Partition("video", version)
    storage = store.storage
    view = ViewLoader(storage, clock=LamportClock()).load(partition)
    assert view is not None
    appends = [manifest for manifest in view.manifests if not manifest.covers]
    put_compaction(storage, appends, partition=partition)
    for append in appends:
        storage.delete(partition.append_manifest(append.commit))
        for file in append.files:
            storage.delete(partition.data_file(file.name))


@pytest.fixture
def store(tmp_path: Path) -> FilesystemMetadataStore:
    return FilesystemMetadataStore(tmp_path / "root")


def test_a_snapshot_is_read_the_same_after_a_compaction_and_a_vacuum(store: FilesystemMetadataStore) -> None:
    for sample in range(4):
        store.write_metadata(Video, rows(sample, 9))
    before, moment = store.read_metadata(Video, with_commits=True), store.history(Video)["time"][2]
    store.create_snapshot("s")
    early = store.at(moment).read_metadata(Video, with_commits=True)
    store.write_metadata(Video, rows(5, 9, later=["x", "y"]))
    compact(store)
    fresh = FilesystemMetadataStore(store.location)

    assert fresh.history(Video)["compacted"].all()
    for each in (store, fresh):
        assert_frame_equal(each.at("s").read_metadata(Video, with_commits=True), before)
        assert_frame_equal(each.at(moment).read_metadata(Video, with_commits=True), early)
        assert each.at("s").history(Video)["commit"].to_list() == before["commit"].unique(maintain_order=True).to_list()
    assert fresh.at("s").read_metadata(Video, latest_only=True)["sample_id"].to_list() == [0, 1, 2, 3, 9]


def test_types_at_a_snapshot_do_not_depend_on_the_values_of_later_rows(store: FilesystemMetadataStore) -> None:
    store.write_metadata(Video, rows(1, size=[1]))
    forget_types(store.storage)
    store = FilesystemMetadataStore(store.location)
    FilesystemMetadataStore(store.location).write_metadata(Video, rows(2, size=[0.5]))
    before = store.read_metadata(Video)
    assert before.schema["size"] == pl.Float64
    store.create_snapshot("s")
    FilesystemMetadataStore(store.location).write_metadata(Video, rows(3, size=[2**60]))
    compact(store)
    with pytest.raises(MetadataSchemaError, match="'size'"):
        store.read_metadata(Video)
    fresh = FilesystemMetadataStore(store.location)
    assert_frame_equal(fresh.at("s").read_metadata(Video), before)
    assert_frame_equal(fresh.at("s").read_metadata(Video, columns=["size"]), before.select("size"))
    assert_frame_equal(fresh.at("s").read_metadata(FeatureKey(["video"]), latest_only=True), before)


def test_a_snapshot_of_types_that_do_not_go_together_is_read_without_them(store: FilesystemMetadataStore) -> None:
    for sample, size in ((1, 1), (2, "big")):
        FilesystemMetadataStore(store.location).write_metadata(Video, rows(sample, size=[size]))
        forget_types(store.storage)
    store.create_snapshot("s")
    with pytest.raises(MetadataSchemaError, match="'size'"):
        store.at("s").read_metadata(Video)
    assert store.at("s").read_metadata(Video, columns=["sample_id"])["sample_id"].to_list() == [1, 2]


def test_a_scan_at_a_snapshot_goes_on_where_its_files_went(tmp_path: Path) -> None:
    remote = FilesystemMetadataStore(f"memory://{tmp_path.name}")
    for sample in range(3):
        remote.write_metadata(Video, rows(sample, 9))
        if sample == 1:
            remote.create_snapshot("s")
    planned = remote.at("s").scan_metadata(Video)
    compact(remote)
    assert planned.collect()["sample_id"].to_list() == [0, 9, 1, 9]


def ids_at(store: MetadataStore) -> list[int]:
    return list(store.read_metadata(Video)["sample_id"])


def test_a_store_at_a_snapshot_is_handed_to_worker_processes(store: FilesystemMetadataStore, tmp_path: Path) -> None:
    dev = FilesystemMetadataStore(tmp_path / "dev", fallback_stores=[store])
    store.write_metadata(Video, rows(1))
    dev.create_snapshot("s")
    store.write_metadata(Video, rows(2))
    then = dev.at("s")
    assert repr(pickle.loads(pickle.dumps(then))) == repr(then)  # noqa: S301  # the bytes are this test's own
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(ids_at, then).result() == [1]


def test_a_snapshot_of_a_root_that_was_moved_is_found_there(store: FilesystemMetadataStore, tmp_path: Path) -> None:
    store.write_metadata(Video, rows(1))
    store.create_snapshot("s")
    Path(store.location).rename(tmp_path / "moved")
    moved = FilesystemMetadataStore(tmp_path / "moved")
    moved.write_metadata(Video, rows(2))
    assert ids_at(moved.at("s")) == [1]
