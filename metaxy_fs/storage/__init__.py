"""Storages: one contract for bytes, kept by memory, local disks and object stores.

Object stores are reached by `open_storage` alone: their module imports fsspec, which a store on a local disk does
without.
"""

from metaxy_fs.storage.base import ObjectInfo, ObjectRange, Storage
from metaxy_fs.storage.local import LocalStorage
from metaxy_fs.storage.memory import MemoryStorage
from metaxy_fs.storage.open import open_storage

__all__ = ["LocalStorage", "MemoryStorage", "ObjectInfo", "ObjectRange", "Storage", "open_storage"]
