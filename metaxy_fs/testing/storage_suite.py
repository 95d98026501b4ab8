"""Does a storage keep every sentence of its contract?

class TestMyStorage(StorageSuite):
@pytest.fixture
def storage(self):
return MyStorage(...)
"""

from metaxy_fs.testing.storage_listings import StorageListings
from metaxy_fs.testing.storage_places import StoragePlaces
from metaxy_fs.testing.storage_reads import StorageReads
from metaxy_fs.testing.storage_writes import StorageWrites


class StorageSuite(StorageWrites, StorageReads, StorageListings, StoragePlaces):
    """Tests of one kind of storage; each test gets a fresh one from the fixture `storage`, see `StorageCase`."""
