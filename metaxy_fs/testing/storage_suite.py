"""The contract of a storage, as tests that any implementation can run."""

from metaxy_fs.testing.storage_bypass import StorageBypass
from metaxy_fs.testing.storage_listings import StorageListings
from metaxy_fs.testing.storage_places import StoragePlaces
from metaxy_fs.testing.storage_reads import StorageReads
from metaxy_fs.testing.storage_writes import StorageWrites


class StorageSuite(StorageWrites, StorageReads, StorageListings, StoragePlaces, StorageBypass):
    """Tests of one kind of storage; each test gets a fresh one from the fixture `storage`.

    The fixture `bypass` leads to the same objects without the storage, so that a test sees what is really kept.
    See `StorageCase` for what else a subclass may say.

    Examples:
        >>> from pathlib import Path
        >>> import pytest
        >>> from metaxy_fs.storage import LocalStorage
        >>> class Files:
        ...     def __init__(self, root):
        ...         self.root = Path(root)
        ...
        ...     def get(self, path):
        ...         file = self.root / path
        ...         return file.read_bytes() if file.is_file() else None
        ...
        ...     def put(self, path, data):
        ...         (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        ...         (self.root / path).write_bytes(data)
        >>> class TestLocalStorage(StorageSuite):
        ...     @pytest.fixture
        ...     def storage(self, tmp_path):
        ...         return LocalStorage(tmp_path / "root")
        ...
        ...     @pytest.fixture
        ...     def bypass(self, storage, tmp_path):
        ...         return Files(tmp_path / "root")
    """
