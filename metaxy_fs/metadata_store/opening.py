"""Open a chain of stores from paths and URLs."""

import os
from collections.abc import Mapping
from typing import Any

from metaxy_fs.hashing import HashAlgorithm
from metaxy_fs.metadata_store.backend import FallbackMode
from metaxy_fs.metadata_store.base import MetadataStore
from metaxy_fs.metadata_store.filesystem import FilesystemMetadataStore
from metaxy_fs.storage.addresses import address_of, is_url
from metaxy_fs.storage.cache import DEFAULT_BYTES

RootPath = str | os.PathLike[str]


def open_store(
    root: RootPath,
    *fallback_roots: RootPath | MetadataStore,
    storage_options: Mapping[str, Any] | None = None,
    fallback_mode: FallbackMode = "feature",
    hash_algorithm: HashAlgorithm | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    cache_bytes: int = DEFAULT_BYTES,
    compact_after: int | None = None,
    tags: Mapping[str, str] | None = None,
) -> FilesystemMetadataStore:
    """Return a store that is written at the first root, and reads the others in order where that lacks a feature.

    Args:
        root: A path or URL; the only root that is ever written.
        fallback_roots: Paths, URLs or open stores, nearest first.
        storage_options: Handed to the fsspec filesystem of every root that is not local; these have to be of one
            protocol. Roots that need options of their own are passed as open stores: `FilesystemMetadataStore(url,
            storage_options=...)`.
        fallback_mode: Whether the others are read by feature or by sample; see `MetadataStore`.
        hash_algorithm: What the versions of rows are hashed with in every root that is given as a path or URL; by
            default what each records, sha256 where there is none yet. See `FilesystemMetadataStore`.
        cache_dir: A directory of this machine to keep what was fetched of remote roots in, for every root that is given
            as a URL; none by default. See `FilesystemMetadataStore`.
        cache_bytes: What the cache may take.
        compact_after: Compact a partition of the first root once more than so many writes to it wait for that; see
            `FilesystemMetadataStore`.
        tags: What every commit that is made through this store says of itself, strings by name, such as
            `{"run": "2026-11-28", "git": "3f2a9c1"}`; see `MetadataStore.write_metadata`.

    Raises:
        ImportError: The package for some kind of root is not installed; the message says which extra to install.
        ValueError: It is unclear which root the options are for, there is no such algorithm, or
            `compact_after` or `cache_bytes` is out of range, or the tags cannot be kept.

    Examples:
        >>> store = open_store("./dev", "./prod")
        >>> len(store.fallback_stores)
        1
    """
    roots = [root, *(fallback for fallback in fallback_roots if not isinstance(fallback, MetadataStore))]
    _check_options(roots, storage_options)

    def opened(root: RootPath, **first: Any) -> FilesystemMetadataStore:
        is_remote = _remote_protocol(root) is not None
        return FilesystemMetadataStore(
            root,
            storage_options=storage_options if is_remote else None,
            hash_algorithm=hash_algorithm,
            cache_dir=cache_dir if is_remote else None,
            cache_bytes=cache_bytes,
            **first,
        )

    fallbacks = [fallback if isinstance(fallback, MetadataStore) else opened(fallback) for fallback in fallback_roots]
    return opened(root, fallback_stores=fallbacks, fallback_mode=fallback_mode, compact_after=compact_after, tags=tags)


def _check_options(roots: list[RootPath], storage_options: Mapping[str, Any] | None) -> None:
    """Options hold credentials: they are handed to one kind of service, or to none."""
    protocols = sorted({protocol for root in roots if (protocol := _remote_protocol(root))})
    if storage_options and len(protocols) != 1:
        raise ValueError(
            f"storage_options are for the roots of one protocol, and these have {protocols or 'only local paths'}. "
            "Open the others with FilesystemMetadataStore(url, storage_options=...) and pass the stores."
        )


def _remote_protocol(root: RootPath) -> str | None:
    """Return what stands before `://` in a URL, None for a local path."""
    address = address_of(root)
    return address.partition("://")[0] if is_url(address) else None
