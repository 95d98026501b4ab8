"""How does a third party show that its storage or store keeps the promises that metaxy_fs relies on?

Subclass a suite in a test module and give it the fixture that it asks for; pytest does the rest.
"""

from metaxy_fs.testing.storage_suite import StorageSuite
from metaxy_fs.testing.store_suite import StoreSuite

__all__ = ["StorageSuite", "StoreSuite"]
