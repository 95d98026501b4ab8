"""Suites and faults for tests of storages and stores that third parties make.

Subclass a suite in a test module and give it the fixture that it asks for; pytest does the rest. `FaultyStorage` lets
the requests to any storage fail.
"""

try:
    import pytest  # noqa: F401  # which all suites need
except ImportError as error:
    raise ImportError("metaxy_fs.testing needs pytest: pip install 'metaxy_fs[testing]'") from error

from metaxy_fs.testing.faults import Fault, Faults, random_faults
from metaxy_fs.testing.faulty_storage import FaultyStorage
from metaxy_fs.testing.storage_cases import Bypass
from metaxy_fs.testing.storage_suite import StorageSuite
from metaxy_fs.testing.store_suite import StoreSuite

__all__ = ["Bypass", "Fault", "Faults", "FaultyStorage", "StorageSuite", "StoreSuite", "random_faults"]
