"""Make the client of a root from its URL, or from a filesystem that the user made."""

from collections.abc import Callable, Mapping
from typing import Any

from fsspec import AbstractFileSystem, get_filesystem_class
from fsspec.core import url_to_fs
from fsspec.implementations.cached import CachingFileSystem
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from metaxy_fs.storage import gcs, http, obstore, s3
from metaxy_fs.storage.client import CachedClient, Client, MemoryClient
from metaxy_fs.storage.open import protocols_of
from metaxy_fs.storage.options import configured

# fsspec keeps one instance for all who ask with the same options. Those that share it would share its directory cache,
# which hides what other processes write, and would see each other's settings.
_PRIVATE = {"skip_instance_cache": True}
_NO_LISTINGS = {"use_listings_cache": False}


def connect(url: str, storage_options: Mapping[str, Any]) -> Client:
    """Return the client of a root, on a filesystem that nothing else uses. Sends nothing."""
    protocols = protocols_of(url)
    storage_options = configured(protocols[0], storage_options)
    if len(protocols) > 1:
        filesystem, root = url_to_fs(url, **_chained_options(protocols, storage_options))
        _bound_attempts(_innermost(filesystem))
    elif protocols[0] in s3.PROTOCOLS | gcs.PROTOCOLS:
        filesystem = _of_service(protocols[0], storage_options)
        root = str(filesystem._strip_protocol(url))  # noqa: SLF001  # fsspec has no other name for it
    else:
        filesystem, root = url_to_fs(url, **_options(protocols[0], storage_options))
    return client_of(filesystem, root)


def client_of(filesystem: AbstractFileSystem, root: str) -> Client:
    """Return the client that knows a filesystem best; one of which none knows how to create objects can be read."""
    filesystem, path = unwrapped(filesystem, root.rstrip("/"))
    if isinstance(filesystem, CachingFileSystem):
        return CachedClient(filesystem, path, target=client_of(filesystem.fs, path))
    return next((kind for speaks, kind in _CLIENTS if speaks(filesystem)), Client)(filesystem, path)


def unwrapped(filesystem: AbstractFileSystem, path: str) -> tuple[AbstractFileSystem, str]:
    """Return the filesystem that another one shows a directory of, and what a path there is on it."""
    while isinstance(filesystem, DirFileSystem):
        filesystem, path = filesystem.fs, str(filesystem._join(path))  # noqa: SLF001  # it has no other name for it
    return filesystem, path


def class_of(protocol: str) -> type[AbstractFileSystem]:
    """Return the class of the filesystem for a protocol."""
    if protocol in gcs.PROTOCOLS:
        return gcs.filesystem_class()
    return get_filesystem_class(protocol)  # type: ignore[no-any-return]  # it has no types


def _of_service(protocol: str, storage_options: Mapping[str, Any]) -> AbstractFileSystem:
    kind = class_of(protocol)
    filesystem = kind(**_options(protocol, storage_options))
    _bound_attempts(filesystem)
    return filesystem


def _bound_attempts(filesystem: AbstractFileSystem) -> None:
    if s3.speaks_s3(filesystem):
        s3.bound_attempts(filesystem)
    if gcs.speaks_gcs(filesystem):
        gcs.bound_attempts(filesystem)


def _options(protocol: str, storage_options: Mapping[str, Any]) -> dict[str, Any]:
    if protocol in s3.PROTOCOLS:
        return {**s3.connection_options(storage_options), **_NO_LISTINGS, **_PRIVATE}
    if protocol in gcs.PROTOCOLS:
        return {**gcs.connection_options(storage_options), **_NO_LISTINGS, **_PRIVATE}
    return {**storage_options, **_PRIVATE}


def _chained_options(protocols: list[str], storage_options: Mapping[str, Any]) -> dict[str, Any]:
    # fsspec takes the options of each protocol under its name, and hands all others to the outermost.
    named = {
        protocol: _options(protocol, configured(protocol, storage_options.get(protocol) or {}))
        for protocol in protocols
    }
    return {**storage_options, **named}


def _innermost(filesystem: AbstractFileSystem) -> AbstractFileSystem:
    return _innermost(filesystem.fs) if isinstance(filesystem, CachingFileSystem | DirFileSystem) else filesystem


def _is_memory(filesystem: AbstractFileSystem) -> bool:
    return isinstance(filesystem, MemoryFileSystem)


_CLIENTS: tuple[tuple[Callable[[AbstractFileSystem], bool], type[Client]], ...] = (
    (obstore.is_obstore, obstore.ObstoreClient),
    (s3.speaks_s3, s3.S3Client),
    (gcs.speaks_gcs, gcs.GCSClient),
    (http.speaks_http, http.HTTPClient),
    (_is_memory, MemoryClient),
)
