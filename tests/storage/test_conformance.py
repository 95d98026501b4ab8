"""All storages keep the one contract."""

import uuid

import pytest

from metaxy_fs.storage import LocalStorage, MemoryStorage, obstore, open_storage, s3
from metaxy_fs.storage.cache import CachedStorage, DiskCache
from metaxy_fs.testing import StorageSuite
from tests.servers.s3 import obstore_of
from tests.storage.bypasses import BotoObjects, Dictionary, Files, FsspecMemory, GCSObjects


class TestMemoryStorage(StorageSuite):
    pickles = False

    @pytest.fixture
    def storage(self):
        return MemoryStorage()

    @pytest.fixture
    def bypass(self, storage):
        return Dictionary(storage)


class TestLocalStorage(StorageSuite):
    @pytest.fixture
    def storage(self, tmp_path):
        return LocalStorage(tmp_path / "not" / "there yet")

    @pytest.fixture
    def bypass(self, tmp_path):
        return Files(tmp_path / "not" / "there yet")


class TestFsspecMemory(StorageSuite):
    page = 50

    @pytest.fixture
    def storage(self):
        return open_storage(f"memory://{uuid.uuid4().hex}/root")

    @pytest.fixture
    def bypass(self, storage):
        return FsspecMemory(storage.location.partition(":/")[2])


class TestCachedFsspecMemory(StorageSuite):
    page = 50

    @pytest.fixture
    def storage(self, tmp_path):
        options = {"simplecache": {"cache_storage": str(tmp_path)}}
        return open_storage(f"simplecache::memory://{uuid.uuid4().hex}/root", storage_options=options)

    @pytest.fixture
    def bypass(self, storage):
        return FsspecMemory(storage.location.partition(":/")[2])


class TestCachedMemory(StorageSuite):
    pickles = False

    @pytest.fixture
    def storage(self, tmp_path):
        return CachedStorage(MemoryStorage(), DiskCache(tmp_path))

    @pytest.fixture
    def bypass(self, storage):
        return Dictionary(storage._storage)


class TestS3(StorageSuite):
    page = 50

    @pytest.fixture
    def storage(self, s3_server, s3_bucket, monkeypatch):
        monkeypatch.setattr(s3, "PAGE", self.page)
        return open_storage(s3_server.url(s3_bucket, "pre/fix"), storage_options=s3_server.storage_options)

    @pytest.fixture
    def bypass(self, s3_server, s3_bucket):
        return BotoObjects(s3_server, s3_bucket, "pre/fix/")


class TestObstore(StorageSuite):
    page = 50

    @pytest.fixture
    def storage(self, s3_server, s3_bucket, monkeypatch):
        monkeypatch.setattr(obstore, "PAGE", self.page)
        return open_storage(f"{s3_bucket}/pre/fix", filesystem=obstore_of(s3_server))

    @pytest.fixture
    def bypass(self, s3_server, s3_bucket):
        return BotoObjects(s3_server, s3_bucket, "pre/fix/")


# gcsfs hands a small upload to aiohttp in one piece, which aiohttp dislikes above one megabyte.
@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
class TestGCS(StorageSuite):
    # The emulator answers with all objects at once, whatever their number.
    page = 50

    @pytest.fixture
    def storage(self, gcs_server, gcs_bucket):
        return open_storage(gcs_server.url(gcs_bucket, "pre/fix"), storage_options=gcs_server.storage_options)

    @pytest.fixture
    def bypass(self, gcs_server, gcs_bucket):
        return GCSObjects(gcs_server, gcs_bucket, "pre/fix/")
