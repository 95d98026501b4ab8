"""An answer that is no listing is an error: a page of a proxy, an error page, nothing."""

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from metaxy_fs import Feature, FeatureGraph, FeatureKey, FeatureSpec, FilesystemMetadataStore
from metaxy_fs.errors import FeatureNotFoundError, StorageError
from metaxy_fs.ids import driven_by
from metaxy_fs.log.layout import STORE_FILE
from metaxy_fs.storage import Storage, obstore, open_storage, retry
from tests.servers import Instead, Kind, ObjectServer
from tests.servers.s3 import S3Server, obstore_of
from tests.support.patience import Hurried

with FeatureGraph().use():

    class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]))):
        pass


ROWS = pl.DataFrame({"sample_id": [1], "data_version": [{"default": "a"}]})

NO_LISTINGS = {
    "login page": Instead(200, "text/html", b"<html><body>Please log in</body></html>"),
    "login page that is no XML": Instead(200, "text/html", b"<html><br><p>Please log in</html>"),
    "nothing": Instead(200, "application/xml", b""),
    "words": Instead(200, "text/plain", b"Welcome"),
    "error in XML": Instead(200, "application/xml", b"<Error><Code>InternalError</Code><Message>x</Message></Error>"),
    "list of buckets": Instead(200, "application/xml", b"<ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>"),
    "error in JSON": Instead(200, "application/json", b'{"error": {"code": 500, "message": "x"}}'),
    "empty JSON": Instead(200, "application/json", b"{}"),
    "JSON of another kind": Instead(200, "application/json", b"[]"),
}
Connect = Callable[[ObjectServer, str], Storage]


def through_url(server: ObjectServer, bucket: str) -> Storage:
    return open_storage(server.url(bucket, "root"), storage_options=server.storage_options)


def through_obstore(server: ObjectServer, bucket: str) -> Storage:
    return open_storage(f"{bucket}/root", filesystem=obstore_of(server))


@pytest.fixture(params=["s3fs", "gcsfs", "obstore"])
def place(request: pytest.FixtureRequest) -> tuple[ObjectServer, Storage]:
    """A server, and a root on it that one of the clients reaches."""
    kind = "gcs" if request.param == "gcsfs" else "s3"
    server, bucket = request.getfixturevalue(f"{kind}_server"), request.getfixturevalue(f"{kind}_bucket")
    return server, (through_obstore if request.param == "obstore" else through_url)(server, bucket)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(retry, "DEADLINE_SECONDS", 0.0)
    with driven_by(Hurried()):
        yield


def listings(answer: Instead) -> Callable[[Kind, Any], Instead | None]:
    return lambda kind, _headers: answer if kind == "LIST" else None


@pytest.mark.parametrize("answer", NO_LISTINGS)
def test_an_answer_that_is_no_listing_is_no_empty_root(place: tuple[ObjectServer, Storage], answer: str) -> None:
    server, storage = place
    store = FilesystemMetadataStore(storage)
    store.write_metadata(Video, ROWS)
    server.odd = listings(NO_LISTINGS[answer])
    for ask in (
        lambda: FilesystemMetadataStore(storage).read_metadata(Video),
        lambda: FilesystemMetadataStore(storage).has_feature(Video),
        lambda: FilesystemMetadataStore(storage).list_features(),
        lambda: storage.list(""),
        lambda: storage.list("", limit=1),
        lambda: storage.list_directories(""),
    ):
        with pytest.raises(StorageError):
            ask()
    server.allow()
    assert FilesystemMetadataStore(storage).read_metadata(Video).height == 1


def test_the_message_says_what_came(place: tuple[ObjectServer, Storage]) -> None:
    server, storage = place
    storage.put(STORE_FILE, b"{}")
    server.odd = listings(NO_LISTINGS["login page"])
    with pytest.raises(StorageError, match=r"text/html|<html>|empty one of a root that has"):
        storage.list("")


def test_what_is_empty_is_said_to_be(place: tuple[ObjectServer, Storage]) -> None:
    _, storage = place
    assert (storage.list(""), storage.list_directories("a")) == ([], [])
    with pytest.raises(FeatureNotFoundError):
        FilesystemMetadataStore(storage).read_metadata(Video)


@pytest.mark.parametrize(
    "body",
    [
        b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
        (
            b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>other/a</Key><Size>1</Size>"
            b"<LastModified>2026-01-01T00:00:00Z</LastModified></Contents></ListBucketResult>"
        ),
        (
            b"<ListBucketResult><IsTruncated>false</IsTruncated><CommonPrefixes><Prefix>other/</Prefix></CommonPrefixes>"
            b"</ListBucketResult>"
        ),
    ],
    ids=["without the rest", "of other objects", "of other directories"],
)
def test_a_listing_of_something_else_is_refused(s3_server: S3Server, s3_bucket: str, body: bytes) -> None:
    storage = through_url(s3_server, s3_bucket)
    s3_server.odd = listings(Instead(200, "application/xml", body))
    with pytest.raises(StorageError, match="no listing but"):
        _ = storage.list("a"), storage.list_directories("a")


def test_obstore_looks_for_what_the_log_writes_first() -> None:
    assert obstore.ALWAYS_THERE == STORE_FILE
