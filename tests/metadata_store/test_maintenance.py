"""Every kind of root can be verified, repaired and vacuumed."""

import uuid
from collections.abc import Callable
from datetime import timedelta

import polars as pl
import pytest

from metaxy_fs import (
    Feature,
    FeatureGraph,
    FeatureKey,
    FeatureNotFoundError,
    FeatureSpec,
    FilesystemMetadataStore,
    repair,
    vacuum,
    verify,
)
from metaxy_fs.ids import LamportClock
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.view import ViewLoader
from metaxy_fs.testing.store_cases import UnreachableStore
from tests.log.compactions import put_compaction

Opener = Callable[[], FilesystemMetadataStore]
AT_ONCE = {"grace": timedelta(0), "retention": timedelta(0), "unsafe": True}


@pytest.fixture(params=["local", "memory", "cached", "s3", "gcs"])
def open_root(request: pytest.FixtureRequest, tmp_path) -> Opener:
    """Opens a new store on one root."""
    memory = f"memory://{uuid.uuid4().hex}/root"
    if request.param == "local":
        return lambda: FilesystemMetadataStore(tmp_path / "root")
    if request.param == "memory":
        return lambda: FilesystemMetadataStore(memory)
    if request.param == "cached":
        options = {"simplecache": {"cache_storage": str(tmp_path)}}
        return lambda: FilesystemMetadataStore(f"simplecache::{memory}", storage_options=options)
    server = request.getfixturevalue(f"{request.param}_server")
    url = server.url(request.getfixturevalue(f"{request.param}_bucket"), "root")
    return lambda: FilesystemMetadataStore(url, storage_options=server.storage_options)


@pytest.fixture
def video() -> type[Feature]:
    with FeatureGraph().use():

        class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]))):
            """A feature without upstream."""

    return Video


def frame(*ids: int) -> pl.DataFrame:
    return pl.DataFrame({"sample_id": ids, "data_version": [{"default": f"v{sample}"} for sample in ids]})


def test_a_root_is_verified_repaired_and_vacuumed(open_root: Opener, video: type[Feature]) -> None:
    for number in range(3):
        open_root().write_metadata(video, frame(number, number + 1), write_id=f"job {number}")
    store = open_root()
    expected = store.read_metadata(video)
    [version] = store.stored_versions(FeatureKey(["video"]))
    partition = Partition("video", version)
    view = ViewLoader(store.storage, clock=LamportClock()).load(partition)
    assert view is not None

    broken = partition.append_manifest(view.manifests[0].commit)
    store.storage.delete(broken)
    store.storage.put(broken, b"")
    assert [finding.path for finding in verify(open_root()).findings] == [broken]
    assert [restoration.state for restoration in repair(open_root(), video, dry_run=False)] == ["restored"]
    assert verify(open_root(), video).findings == ()

    put_compaction(store.storage, view.manifests, partition=partition)
    # Three manifests and their data files, what repair has kept, and what it has noted for a vacuum.
    assert len(vacuum(open_root(), video, dry_run=True, **AT_ONCE).removals) == 8
    for _ in range(2):
        removals = vacuum(open_root(), dry_run=False, **AT_ONCE).removals
        assert {removal.state for removal in removals} <= {"deleted"}
    assert vacuum(open_root(), dry_run=False, **AT_ONCE).removals == ()
    assert open_root().read_metadata(video).equals(expected)
    assert verify(open_root()).is_sound
    open_root().write_metadata(video, frame(1, 2), write_id="job 1")
    assert open_root().read_metadata(video).equals(expected)


@pytest.mark.parametrize("function", [verify, repair, vacuum])
def test_a_store_without_a_root_is_refused(function) -> None:
    options = {} if function is verify else {"dry_run": True}
    with pytest.raises(TypeError, match="objects; got UnreachableStore"):
        function(UnreachableStore(), **options)


def test_a_feature_that_is_not_there_cannot_be_verified(tmp_path, video: type[Feature]) -> None:
    with pytest.raises(FeatureNotFoundError, match="holds nothing of a feature 'video'"):
        verify(FilesystemMetadataStore(tmp_path), video)
