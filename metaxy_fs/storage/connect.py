"""Make the client of a root from its URL and options, or from a filesystem that the user made.

Options are completed with the user's configuration of fsspec, and those that a filesystem does not have are refused:
s3fs hands options that it does not know to botocore, which fails at the first request, and gcsfs drops them.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fsspec import AbstractFileSystem, get_filesystem_class
from fsspec.config import conf
from fsspec.core import url_to_fs
from fsspec.implementations.cached import CachingFileSystem
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from metaxy_fs.storage import gcs, http, obstore, s3
from metaxy_fs.storage.addresses import one_name, protocols_of
from metaxy_fs.storage.client import CachedClient, Client, MemoryClient

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


_OF_EVERY_FILESYSTEM = {
    "asynchronous",
    "batch_size",
    "listings_expiry_time",
    "loop",
    "max_paths",
    "skip_instance_cache",
    "use_listings_cache",
}
_REGION = 'client_kwargs={"region_name": ...}'
_CONFIG = "config_kwargs={...}"
# What Polars, delta-rs, obstore, boto3 and PyArrow call what s3fs and gcsfs have another name for, without `aws_` and
# `google_` before it.
_S3_NAMES = {
    "access_key": "key",
    "access_key_id": "key",
    "secret_access_key": "secret",
    "secret_key": "secret",
    "session_token": "token",
    "endpoint": "endpoint_url",
    "endpoint_override": "endpoint_url",
    "endpoint_url": "endpoint_url",
    "endpoint_url_s3": "endpoint_url",
    "region": _REGION,
    "region_name": _REGION,
    "default_region": _REGION,
    "profile": "profile",
    "profile_name": "profile",
    "anonymous": "anon",
    "skip_signature": "anon",
    "allow_http": 'endpoint_url="http://..."',
    "scheme": 'endpoint_url="http://..."',
    "addressing_style": 'config_kwargs={"s3": {"addressing_style": ...}}',
    "force_virtual_addressing": 'config_kwargs={"s3": {"addressing_style": "virtual"}}',
    "virtual_hosted_style_request": 'config_kwargs={"s3": {"addressing_style": "virtual"}}',
    "signature_version": _CONFIG,
    "connect_timeout": _CONFIG,
    "read_timeout": _CONFIG,
    "timeout": _CONFIG,
    "max_pool_connections": _CONFIG,
    "request_checksum_calculation": _CONFIG,
    "response_checksum_validation": _CONFIG,
    "config": _CONFIG,
    "client_options": "client_kwargs={...}",
    "verify": 'client_kwargs={"verify": ...}',
}
_GCS_NAMES = {
    "application_credentials": "token",
    "credentials": "token",
    "service_account": "token",
    "service_account_key": "token",
    "service_account_path": "token",
    "access_token": "token",
    "key": "token",
    "anon": 'token="anon"',
    "anonymous": 'token="anon"',
    "skip_signature": 'token="anon"',
    "project_id": "project",
    "endpoint": "endpoint_url",
    "endpoint_override": "endpoint_url",
    "base_url": "endpoint_url",
    "location": "default_location",
}
_NAMES = {"s3": _S3_NAMES, "gs": _GCS_NAMES}
_OBSTORE_NAMES = {
    "key": "access_key_id",
    "secret": "secret_access_key",
    "project": "nothing: a bucket's name is enough",
    "profile": "credential_provider=obstore.auth.boto3.Boto3CredentialProvider(...)",
    "anon": "skip_signature=True",
    "client_kwargs": "region=... and client_options={...}",
    "config_kwargs": "client_options={...}",
}


_S3_OPTIONS = frozenset(
    {"anon", "client_kwargs", "config_kwargs", "endpoint_url", "key", "profile", "secret", "token", *_S3_NAMES}
)
_GCS_OPTIONS = frozenset({"endpoint_url", "project", "requests_timeout", "token", *_GCS_NAMES})


def configured(protocol: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with those of the user's configuration of fsspec, which give way.

    Examples:
        >>> configured("s3", {"profile": "acoustics"})
        {'profile': 'acoustics'}
    """
    names = next((sorted(names) for names in (s3.PROTOCOLS, gcs.PROTOCOLS) if protocol in names), [protocol])
    merged: dict[str, Any] = {}
    for name in names:
        merged |= conf.get(name) or {}
    return {**merged, **options}


def options_of_chain(protocols: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a URL, where those of each protocol of a chain stand under its one name.

    Raises:
        ValueError: One stands beside them that a service has and the outermost protocol has not, which would drop it.
    """
    if len(protocols) == 1:
        return dict(options)
    named = {one_name(name) if one_name(name) in protocols else name: value for name, value in options.items()}
    services = {"s3": _S3_OPTIONS, "gs": _GCS_OPTIONS}
    for protocol in protocols[1:]:
        if lost := sorted(services.get(protocol, frozenset()) & named.keys()):
            raise ValueError(
                "the storage_options of each protocol of a chained URL stand under its name: give "
                f"{', '.join(lost)} as storage_options={{{protocol!r}: {{{lost[0]!r}: ...}}}}"
            )
    return named


def check_options(protocol: str, kind: type[AbstractFileSystem], options: Mapping[str, Any]) -> None:
    """Refuse options that a filesystem of S3 or GCS would not understand.

    Raises:
        ValueError: It has none of such a name; the message tells the one that it has.
    """
    known = _OF_EVERY_FILESYSTEM | _parameters(kind)
    if protocol == "s3":
        from aiobotocore.session import AioSession  # noqa: PLC0415  # comes with the optional extra

        known |= _parameters(AioSession)
    unknown = [str(name) for name in options if name not in known]
    if unknown:
        library = {"s3": "s3fs", "gs": "gcsfs"}[protocol]
        advice = "; ".join(_advice(name, _NAMES[protocol]) for name in unknown)
        raise ValueError(
            f"storage_options are handed to {library}, which has none of these names: {advice}. It has "
            f"{', '.join(sorted(known - _OF_EVERY_FILESYSTEM))}"
        )


def check_obstore(filesystem: AbstractFileSystem, path: str) -> None:
    """Refuse a filesystem of obstore that was made with options that it does not have; it says so when it connects.

    Raises:
        ValueError: It was.
    """
    try:
        filesystem._construct_store(filesystem._split_path(f"{path}/")[0])  # noqa: SLF001  # it has no other name for it
    except Exception as error:
        if type(error).__name__ != "UnknownConfigurationKeyError":
            return
        given = getattr(filesystem, "_config_kwargs", {})
        advice = "; ".join(_advice(name, _OBSTORE_NAMES) for name in given if name in _OBSTORE_NAMES)
        reason = str(error).partition("\n")[0].strip()
        raise ValueError(f"the filesystem of obstore cannot be used: {reason} {advice}".rstrip()) from error


def _advice(name: str, names: Mapping[str, str]) -> str:
    plain = name.lower()
    for prefix in ("aws_", "google_", "gcp_", "gcs_", "s3_", "fs_"):
        plain = plain.removeprefix(prefix)
    meant = names.get(plain)
    return f"{name!r} (give {meant})" if meant else repr(name)


def _parameters(kind: type) -> set[str]:
    parameters = inspect.signature(kind.__init__).parameters.values()  # type: ignore[misc]  # of the class itself
    named = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    return {parameter.name for parameter in parameters if parameter.kind in named} - {"self"}
