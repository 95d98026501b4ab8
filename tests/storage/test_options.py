"""Options of a root are checked, and completed with the user's configuration of fsspec."""

from typing import Any

import fsspec.config
import pytest
from obstore.fsspec import FsspecStore

from metaxy_fs.errors import StorageError
from metaxy_fs.metadata_store import open_store
from metaxy_fs.storage import open_storage, retry
from metaxy_fs.storage.remote import ObjectStorage
from tests.servers import Instead, ObjectServer
from tests.servers.s3 import S3Server

NAMES = [
    ("s3", "aws_access_key_id", "give key"),
    ("s3", "AWS_SECRET_ACCESS_KEY", "give secret"),
    ("s3", "session_token", "give token"),
    ("s3", "aws_endpoint_url", "give endpoint_url"),
    ("s3", "endpoint", "give endpoint_url"),
    ("s3", "aws_region", "region_name"),
    ("s3", "region", "region_name"),
    ("s3", "skip_signature", "give anon"),
    ("s3", "max_pool_connections", "config_kwargs"),
    ("s3", "key_", "'key_'"),
    ("gs", "google_service_account", "give token"),
    ("gs", "GOOGLE_APPLICATION_CREDENTIALS", "give token"),
    ("gs", "project_id", "give project"),
    ("gs", "anon", 'give token="anon"'),
]


@pytest.mark.parametrize(("protocol", "name", "advice"), NAMES)
@pytest.mark.parametrize("chain", ["", "simplecache::"])
def test_an_option_that_the_filesystem_does_not_have_is_named_at_once(
    protocol: str, name: str, advice: str, chain: str
) -> None:
    options: dict[str, Any] = {name: "hunter22"}
    with pytest.raises(ValueError, match="storage_options") as caught:
        open_store(f"{chain}{protocol}://bucket/x", storage_options={protocol: options} if chain else options)
    assert name in str(caught.value)
    assert advice in str(caught.value)
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize("name", ["s3", "s3a"])
def test_options_of_a_chain_reach_their_protocol_by_each_of_its_names(
    s3_server: S3Server, s3_bucket: str, name: str
) -> None:
    options = {name: s3_server.storage_options}
    storage = open_storage(f"simplecache::{name}://{s3_bucket}/x", storage_options=options)
    storage.put("a", b"1")
    assert storage.get("a") == b"1"
    assert s3_server.endpoint in storage.identity


def test_options_of_a_chain_that_its_outermost_protocol_would_drop_are_refused(s3_server: S3Server) -> None:
    with pytest.raises(ValueError, match="stand under its name") as caught:
        open_storage("simplecache::s3://bucket/x", storage_options=s3_server.storage_options)
    assert "storage_options={'s3': {'endpoint_url': ...}}" in str(caught.value)


def test_options_that_s3fs_and_gcsfs_have_are_taken() -> None:
    config = {"connect_timeout": 2}
    s3 = {
        "key": "k",
        "profile": "p",
        "config_kwargs": config,
        "client_kwargs": {},
        "max_paths": 1,
        "requester_pays": True,
    }
    gs = {"token": "anon", "project": "p", "requests_timeout": 3, "access": "read_only", "use_listings_cache": True}
    assert isinstance(open_storage("s3://bucket", storage_options=s3), ObjectStorage)
    assert isinstance(open_storage("gcs://bucket", storage_options=gs), ObjectStorage)
    assert isinstance(open_storage("memory://x", storage_options={"anything": 1}), ObjectStorage)


@pytest.mark.parametrize(
    ("option", "advice"), [("key", "access_key_id"), ("profile", "credential_provider"), ("anon", "skip_signature")]
)
def test_an_option_that_obstore_does_not_have_is_named_at_once(option: str, advice: str) -> None:
    options: dict[str, Any] = {option: "hunter22"}
    with pytest.raises(ValueError, match=advice) as caught:
        open_storage("bucket/x", filesystem=FsspecStore("s3", region="us-east-1", **options))
    assert f"'{option}'" in str(caught.value)
    assert "hunter22" not in str(caught.value)


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The user's configuration of fsspec, which its files and FSSPEC_ variables fill."""
    conf: dict[str, Any] = {}
    for name in ("s3", "s3a", "gs", "gcs"):
        conf[name] = {}
        monkeypatch.setitem(fsspec.config.conf, name, conf[name])
    return conf


@pytest.mark.parametrize("name", ["s3", "s3a"])
def test_the_configuration_of_fsspec_is_kept(s3_server: S3Server, s3_bucket: str, config: Any, name: str) -> None:
    agents = set()

    def note(_kind: str, headers: Any) -> Instead | None:
        agents.add("team-a" in headers["user-agent"])
        return None

    s3_server.odd = note
    config[name] |= {"config_kwargs": {"user_agent_extra": "team-a"}, **s3_server.storage_options}
    storage = open_storage(f"s3://{s3_bucket}/x")
    storage.put("a", b"1")
    assert agents == {True}
    assert storage._client().filesystem.config_kwargs["max_pool_connections"] == 100  # type: ignore[attr-defined]


def test_time_limits_of_the_configuration_are_kept(config: Any) -> None:
    config["gcs"] |= {"requests_timeout": 7, "token": "anon"}
    storage = open_storage("gs://bucket/x")
    assert storage._client().filesystem.requests_timeout == 7  # type: ignore[attr-defined]
    given = open_storage("gs://bucket/x", storage_options={"requests_timeout": 8})
    assert given._client().filesystem.requests_timeout == 8  # type: ignore[attr-defined]


def test_a_root_is_the_same_whether_its_endpoint_is_configured_or_given(server: ObjectServer, config: Any) -> None:
    given = open_storage(server.url("bucket"), storage_options=server.storage_options)
    config[server.scheme] |= server.storage_options
    assert open_storage(server.url("bucket")).identity == given.identity


def test_secrets_of_the_configuration_are_not_shown(
    s3_server: S3Server, s3_bucket: str, config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "DEADLINE_SECONDS", 0.0)
    config["s3"] |= {**s3_server.storage_options, "secret": "hunter22"}
    s3_server.odd = lambda _kind, _headers: Instead(500, "application/xml", s3_server.refusal(500, "hunter22"))
    with pytest.raises(StorageError, match=r"\*\*\*") as caught:
        open_storage(f"s3://{s3_bucket}/x").list("")
    assert "hunter22" not in f"{caught.value} {caught.value.__cause__!r}"
