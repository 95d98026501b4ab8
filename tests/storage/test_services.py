"""Requests to services that are like S3 or GCS, and not the same."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from metaxy_fs import Feature, FeatureGraph, FeatureKey, FeatureSpec, FilesystemMetadataStore, open_store
from metaxy_fs.errors import ObjectExistsError, StorageAccessError, StorageError
from metaxy_fs.ids import driven_by
from metaxy_fs.storage import ObjectRange, Storage, open_storage, retry, s3
from tests.servers import Instead, ObjectServer
from tests.servers.s3 import S3Server, obstore_of
from tests.support.patience import Hurried

with FeatureGraph().use():

    class Clip(Feature, spec=FeatureSpec(key=FeatureKey(["clip"]))):
        pass


ROWS = pl.DataFrame({"sample_id": [1], "data_version": [{"default": "a"}]})


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(retry, "DEADLINE_SECONDS", 0.0)
    with driven_by(Hurried()):
        yield


def error(status: int, code: str) -> Instead:
    return Instead(status, "application/xml", f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())


def at(server: ObjectServer, bucket: str) -> str:
    return server.url(bucket, "root")


# Conditional puts.


def test_a_service_without_conditional_puts_is_named_with_the_way_out(
    s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    store = open_store(at(s3_server, s3_bucket), storage_options=s3_server.storage_options)
    store.write_metadata(Clip, ROWS)
    s3_server.odd = lambda _kind, headers: error(501, "NotImplemented") if "if-none-match" in headers else None
    with pytest.raises(StorageError, match="conditional puts") as caught:
        store.write_metadata(Clip, ROWS)
    assert "local directory" in str(caught.value)
    assert "fallback_roots" in str(caught.value)
    local = open_store(tmp_path, at(s3_server, s3_bucket), storage_options=s3_server.storage_options)
    assert local.read_metadata(Clip).height == 1
    local.write_metadata(Clip, pl.concat([ROWS, ROWS.with_columns(sample_id=pl.lit(2, pl.Int64))]))
    assert local.read_metadata(Clip).height == 2


@pytest.mark.parametrize(
    "answer", [Instead(304, "text/plain", b""), Instead(412, "text/plain", b""), error(409, "Conflict")]
)
def test_a_name_that_is_taken_is_understood_however_it_is_said(
    s3_server: S3Server, s3_bucket: str, answer: Instead
) -> None:
    storage = open_storage(at(s3_server, s3_bucket), storage_options=s3_server.storage_options)
    storage.put("a", b"1")
    storage.put("empty", b"")
    s3_server.odd = lambda kind, _headers: answer if kind == "PUT" else None
    for name in ("a", "empty"):
        s3_server.clear_requests()
        with pytest.raises(ObjectExistsError):
            storage.put(name, b"2")
        assert s3_server.kinds().count("PUT") == 1
    assert storage.get("a") == b"1"


def test_a_conflict_over_a_free_name_is_tried_again(server: ObjectServer, bucket: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(retry, "DEADLINE_SECONDS", 60.0)
    storage = open_storage(at(server, bucket), storage_options=server.storage_options)
    answers = iter([Instead(409, "application/json", server.refusal(409, "conditionNotMet"))])
    server.odd = lambda kind, _headers: next(answers, None) if kind == "PUT" else None
    storage.put("a", b"1")
    assert storage.get("a") == b"1"


# Checksums.


@pytest.mark.parametrize("answer", [error(411, "MissingContentLength"), error(400, "x-amz-sdk-checksum-algorithm")])
def test_a_service_that_does_not_know_checksums_is_named_with_the_option(
    s3_server: S3Server, s3_bucket: str, answer: Instead
) -> None:
    s3_server.odd = lambda _kind, headers: answer if "x-amz-sdk-checksum-algorithm" in headers else None
    with pytest.raises(StorageError) as caught:
        open_storage(at(s3_server, s3_bucket), storage_options=s3_server.storage_options).put("a", b"1")
    _, _, advice = str(caught.value).partition("storage_options=")
    options = ast.literal_eval(advice)
    storage = open_storage(at(s3_server, s3_bucket), storage_options={**s3_server.storage_options, **options})
    storage.put("a", b"1")
    assert storage.get("a") == b"1"


# Credentials that are out of date.


@pytest.mark.parametrize("code", ["ExpiredToken", "ExpiredTokenException", "InvalidToken", "RequestExpired"])
@pytest.mark.parametrize("client", ["s3fs", "obstore"])
def test_an_expired_token_of_s3_is_an_access_error(s3_server: S3Server, s3_bucket: str, client: str, code: str) -> None:
    storage = (
        open_storage(at(s3_server, s3_bucket), storage_options=s3_server.storage_options)
        if client == "s3fs"
        else open_storage(f"{s3_bucket}/root", filesystem=obstore_of(s3_server))
    )
    s3_server.odd = lambda _kind, _headers: error(400, code)
    refused(storage)


def test_an_expired_token_of_gcs_is_an_access_error(gcs_server: Any, gcs_bucket: str) -> None:
    storage = open_storage(at(gcs_server, gcs_bucket), storage_options=gcs_server.storage_options)
    body = gcs_server.refusal(401, "authError")
    gcs_server.odd = lambda _kind, _headers: Instead(401, "application/json", body)
    refused(storage)


def refused(storage: Storage) -> None:
    for ask in (
        lambda: storage.put("a", b"1"),
        lambda: storage.get("a"),
        lambda: storage.get_optional(["a"], max_bytes=10),
        lambda: storage.get_ranges([ObjectRange("a", 0, 1)]),
        lambda: storage.list(""),
        lambda: storage.list_directories(""),
        lambda: storage.delete("a"),
    ):
        with pytest.raises(StorageAccessError, match="credentials"):
            ask()


class Guard:
    """A service that takes one key alone, which a file of credentials has."""

    def __init__(self, server: S3Server, file: Path) -> None:
        self.file = file
        self.asked = 0
        self.renew("AKIAOLD")
        server.odd = self

    def renew(self, key: str, *, valid: str | None = None) -> None:
        self.valid = valid or key
        self.file.write_text(f"[default]\naws_access_key_id={key}\naws_secret_access_key=s\naws_session_token=t\n")

    def __call__(self, _kind: str, headers: Any) -> Instead | None:
        self.asked += 1
        return None if f"Credential={self.valid}/" in headers["authorization"] else error(400, "ExpiredToken")


@pytest.fixture
def guard(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guard:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return Guard(s3_server, tmp_path / "credentials")


@pytest.fixture
def guarded(guard: Guard, s3_server: S3Server, s3_bucket: str) -> Storage:
    storage = open_storage(at(s3_server, s3_bucket), storage_options={"endpoint_url": s3_server.endpoint})
    storage.put("a", b"1")
    return storage


@pytest.mark.parametrize("verb", ["put", "get", "get_ranges", "list"])
def test_renewed_files_of_credentials_are_read_again(guard: Guard, guarded: Storage, verb: str) -> None:
    guard.renew("AKIANEW")
    match verb:
        case "put":
            guarded.put("b", b"1")
        case "get":
            assert guarded.get("a") == b"1"
        case "get_ranges":
            assert guarded.get_ranges([ObjectRange("a", 0, 1)] * 3) == [b"1"] * 3
        case _:
            assert [info.path for info in guarded.list("")] == ["a"]


def test_a_store_that_is_open_goes_on_with_renewed_credentials(guard: Guard, guarded: Storage) -> None:
    store = FilesystemMetadataStore(guarded)
    store.write_metadata(Clip, ROWS)
    guard.renew("AKIANEW")
    store.write_metadata(Clip, ROWS)
    assert store.history(Clip).height == 2


def test_credentials_that_stay_expired_are_looked_for_once_in_a_while(guard: Guard, guarded: Storage) -> None:
    guard.renew("AKIAOLD", valid="AKIAOTHER")
    guard.asked = 0
    for _ in range(3):
        with pytest.raises(StorageAccessError):
            guarded.get("a")
    assert guard.asked == 3 + 1


def test_credentials_that_were_given_are_not_replaced(guard: Guard, s3_server: S3Server, s3_bucket: str) -> None:
    storage = open_storage(at(s3_server, s3_bucket), storage_options={**s3_server.storage_options, "key": "AKIAOLD"})
    storage.put("a", b"1")
    guard.renew("AKIANEW")
    with pytest.raises(StorageAccessError):
        storage.get("a")


def test_renewed_clients_send_each_request_once(guard: Guard, guarded: Storage) -> None:
    guard.renew("AKIANEW")
    guarded.get("a")
    client = guarded._client()  # type: ignore[attr-defined]
    assert isinstance(client, s3.S3Client)
    assert client.filesystem.retries == 1
