"""All stores keep the promises of `MetadataStore`.

Every promise is put to the test in memory, on the local disk and on one service, that of GCS, whose client and server
take the least time. The other storages pass one suite, in `tests/storage`, so stores on them are asked what a storage
could make a difference to: what is written, in which order it is found again, and when.
"""

import uuid

import fsspec
import pytest
from obstore.fsspec import FsspecStore

from metaxy_fs.metadata_store import FilesystemMetadataStore, InMemoryMetadataStore
from metaxy_fs.testing import StoreSuite
from metaxy_fs.testing.store_clocks import StoreClocks
from metaxy_fs.testing.store_commits import StoreCommits
from metaxy_fs.testing.store_moments import StoreMoments
from metaxy_fs.testing.store_reads import StoreReads
from metaxy_fs.testing.store_writes import StoreWrites


class StorageLane(StoreWrites, StoreReads, StoreCommits, StoreMoments, StoreClocks):
    """What a storage could make a difference to."""


class TestInMemory(StoreSuite):
    @pytest.fixture
    def make_store(self):
        opened = {}

        def make(name="", fallback_stores=()):
            if name in opened:  # the rows outlive the object that wrote them for as long as their storage does
                return FilesystemMetadataStore(opened[name].storage, fallback_stores=fallback_stores)
            opened[name] = InMemoryMetadataStore(fallback_stores=fallback_stores)
            return opened[name]

        return make

    def test_snapshot_asks_for_the_stores_that_it_saw(self):
        pytest.skip("needs stores whose locations differ")


class TestLocal(StoreSuite):
    @pytest.fixture
    def make_store(self, tmp_path):
        return lambda name="", fallback_stores=(): FilesystemMetadataStore(
            tmp_path / f"root {name}", fallback_stores=fallback_stores
        )


class TestFsspecMemory(StorageLane):
    @pytest.fixture
    def make_store(self):
        prefix = uuid.uuid4().hex
        return lambda name="", fallback_stores=(): FilesystemMetadataStore(
            f"memory://{prefix}/{name}", fallback_stores=fallback_stores
        )


class TestS3(StorageLane):
    @pytest.fixture
    def make_store(self, s3):
        return below(*s3)


class TestObstore(StorageLane):
    @pytest.fixture
    def make_store(self):
        # The client is the same whatever service its store speaks to, and this one answers at once.
        return below(FsspecStore("memory"), "stores")


class TestGCS(StoreSuite):
    @pytest.fixture
    def make_store(self, gcs):
        return below(*gcs)


@pytest.fixture(scope="module")
def s3(s3_server):
    return open_bucket(s3_server)


@pytest.fixture(scope="module")
def gcs(gcs_server):
    return open_bucket(gcs_server)


def open_bucket(server):
    """Return a client, which takes longer to make than a test to run, and an empty bucket."""
    bucket = f"stores-{uuid.uuid4().hex[:12]}"
    server.create_bucket(bucket)
    options = {"skip_instance_cache": True, "use_listings_cache": False}
    return fsspec.filesystem(server.scheme, **options, **server.storage_options), bucket


def below(filesystem, bucket):
    """Return what opens stores below a prefix of a test's own."""
    prefix = f"{bucket}/{uuid.uuid4().hex}"
    return lambda name="", fallback_stores=(): FilesystemMetadataStore(
        f"{prefix}/{name}", fallback_stores=fallback_stores, filesystem=filesystem
    )
