"""Complete the options of a filesystem with the user's configuration of fsspec, and refuse those that it does not have.

s3fs hands options that it does not know to botocore, which fails at the first request, and gcsfs drops them.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.config import conf

from metaxy_fs.storage import gcs, s3
from metaxy_fs.storage.open import one_name

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
