"""Tell a root from any other place, and a feature that it holds from one that it does not."""

from typing import NoReturn

from metaxy_fs.errors import FeatureNotFoundError, ObjectNotFoundError, StorageError
from metaxy_fs.log import STORE_FILE, all_partitions, is_partition_directory
from metaxy_fs.metadata_store.features import FeatureLike, key_of
from metaxy_fs.metadata_store.filesystem import FilesystemMetadataStore, storage_of
from metaxy_fs.spec import FeatureKey
from metaxy_fs.spec.keys import did_you_mean
from metaxy_fs.storage.base import Storage

_LOOKED_INTO = 20
"""So many directories are looked into for a root that the caller may have meant."""


def existing_feature(store: FilesystemMetadataStore, feature: FeatureLike | None) -> str | None:
    """Return the parts of a feature's key joined by `.`, None for all features.

    Raises:
        FeatureNotFoundError: The root holds nothing of the feature.
    """
    if feature is None:
        return None
    storage, key = storage_of(store), key_of(feature)
    name = key.dotted
    if not all_partitions(storage, feature=name):
        known = sorted({FeatureKey.parse(partition.feature) for partition in all_partitions(storage)})
        raise FeatureNotFoundError(
            f"{store.location} holds nothing of a feature '{key}'; it holds "
            f"{', '.join(map(str, known)) or 'no feature'}.{did_you_mean(key, known)}",
            feature=name,
            root=store.location,
            roots=[store.location],
        )
    return name


def require_root(store: FilesystemMetadataStore, *, may_be_new: bool = False) -> None:
    """Refuse a store whose root is none.

    A root that has lost its `_store.json` is one, if it holds a partition.

    Args:
        store: Whose root.
        may_be_new: Take a place at which there is nothing.

    Raises:
        StorageError: There is nothing, or something else.
    """
    storage = storage_of(store)
    if _has_store_file(storage, "") or all_partitions(storage):
        return
    if not storage.list("", limit=1):
        if not may_be_new:
            refuse_nothing_at(store.location)
        return
    raise StorageError(
        f"{store.location} is no root of metadata: it has no {STORE_FILE}{_hint(storage)}", root=store.location
    )


def refuse_nothing_at(location: str) -> NoReturn:
    """Refuse a place to which nothing was ever written."""
    raise StorageError(f"there is nothing at {location}: correct its name, or write to it first", root=location)


def _has_store_file(storage: Storage, directory: str) -> bool:
    try:
        storage.get(f"{directory}/{STORE_FILE}" if directory else STORE_FILE)
    except ObjectNotFoundError:
        return False
    return True


def _hint(storage: Storage) -> str:
    names = storage.list_directories("")
    if names and any(map(is_partition_directory, names)):
        return ". It looks like the directory of a feature: give the root above it"
    if "_manifests" in names:
        return ". It looks like a partition of a feature: give the root two directories above it"
    roots = [name for name in names[:_LOOKED_INTO] if _has_store_file(storage, name)]
    return f". There is a root in it: {', '.join(roots)}" if roots else ". Give another place, or an empty one"
