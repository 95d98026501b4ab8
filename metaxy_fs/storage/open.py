"""Open the storage that a root names: local files, or whatever client reaches a URL or a filesystem of the user."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from metaxy_fs.storage.addresses import address_of, is_url, protocols_of, text_of_root
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.local import LocalStorage
from metaxy_fs.storage.redaction import redact

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_EXTRAS = {"s3": "s3", "gs": "gcs"}


def open_storage(
    root: str | os.PathLike[str] | Storage,
    *,
    storage_options: Mapping[str, Any] | None = None,
    filesystem: "AbstractFileSystem | None" = None,
) -> Storage:
    """Return the storage that a root names. Nothing is sent, made or looked up before the first use.

    Args:
        root: A path of the local file system (`~` is expanded), or a URL of any protocol of fsspec, chained ones too.
            Doubled and trailing slashes mean nothing; `s3a` is `s3`, and `gcs` is `gs`. A storage is returned as it
            is. What s3fs, gcsfs, obstore and fsspec's memory do not reach can be read only.
        storage_options: Handed on to the filesystem of a URL, with what the user's configuration of fsspec has for it.
        filesystem: A filesystem of fsspec to use; `root` is then a path on it, or a URL of its protocol.

    Raises:
        ImportError: The protocol needs a package that is not installed; the message names it.
        TypeError: The root is a path of another library that does not name a place of this machine.
        ValueError: The protocol is unknown, the root is none that all clients understand alike, or the options are not
            for this kind of root.

    Examples:
        >>> open_storage("/data/features")
        LocalStorage('/data/features')
        >>> open_storage("memory://features")
        ObjectStorage('memory://features')
    """
    if isinstance(root, Storage):
        return _as_it_is(root, storage_options, filesystem)
    if filesystem is not None:
        return _on_filesystem(text_of_root(root), storage_options, filesystem)
    address = address_of(root)
    return _on_url(address, storage_options) if is_url(address) else _on_disk(address, storage_options)


def _as_it_is(
    storage: Storage, storage_options: Mapping[str, Any] | None, filesystem: "AbstractFileSystem | None"
) -> Storage:
    if storage_options or filesystem is not None:
        raise ValueError(f"{storage!r} is open already, and takes neither storage_options nor a filesystem")
    return storage


def _on_disk(path: str, storage_options: Mapping[str, Any] | None) -> Storage:
    if storage_options:
        raise ValueError(
            f"storage_options are for URLs of object stores; {redact(path)!r} is a local path and takes none"
        )
    return LocalStorage(path)


def _on_url(url: str, storage_options: Mapping[str, Any] | None) -> Storage:
    # fsspec costs more to import than all else that a store on a local disk needs.
    from metaxy_fs.storage.connect import check_options, class_of, options_of_chain  # noqa: PLC0415
    from metaxy_fs.storage.remote import ObjectStorage  # noqa: PLC0415

    protocols = protocols_of(url)
    for protocol in protocols:
        _check_protocol(protocol, url)
    options = options_of_chain(protocols, storage_options or {})
    for protocol, given in options.items() if len(protocols) > 1 else [(protocols[0], options)]:
        if protocol in _EXTRAS and given:
            check_options(protocol, class_of(protocol), given)
    return ObjectStorage(url, storage_options=options)


def _on_filesystem(root: str, storage_options: Mapping[str, Any] | None, filesystem: "AbstractFileSystem") -> Storage:
    from fsspec.implementations.local import LocalFileSystem  # noqa: PLC0415  # see `_on_url`

    from metaxy_fs.storage.connect import check_obstore, unwrapped  # noqa: PLC0415
    from metaxy_fs.storage.obstore import is_obstore  # noqa: PLC0415
    from metaxy_fs.storage.remote import ObjectStorage  # noqa: PLC0415

    if storage_options:
        raise ValueError(
            "storage_options belong into the constructor of the filesystem; or give a URL in the place of a filesystem"
        )
    filesystem, path = unwrapped(filesystem, root)
    if isinstance(filesystem, LocalFileSystem):
        return _on_disk(address_of(path), None)
    storage = ObjectStorage(path, filesystem=filesystem)
    if is_obstore(filesystem):
        check_obstore(filesystem, path)
    return storage


def _check_protocol(protocol: str, url: str) -> None:
    from fsspec import get_filesystem_class  # noqa: PLC0415  # see `_on_url`

    try:
        get_filesystem_class(protocol)
    except ImportError as error:
        hint = f'; install it with: pip install "metaxy_fs[{_EXTRAS[protocol]}]"' if protocol in _EXTRAS else ""
        raise ImportError(f"{redact(url)!r} needs a package that is missing ({error}){hint}") from error
    except ValueError as error:
        raise ValueError(f"{redact(url)!r} is of the protocol {protocol!r}, which fsspec does not know") from error
