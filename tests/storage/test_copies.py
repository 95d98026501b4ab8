"""Object stores copy within themselves, and never over an existing object."""

import uuid
from collections.abc import Iterator

import pytest

from metaxy_fs.errors import ObjectExistsError, StorageError
from metaxy_fs.storage import LocalStorage, MemoryStorage, Storage, open_storage
from tests.servers import ObjectServer
from tests.servers.gcs import GCSServer
from tests.servers.s3 import S3Server

PROBE = "probe"
ODD = "a dir/ünï+%41?#.parquet"


@pytest.fixture(scope="module")
def careful_s3() -> Iterator[S3Server]:
    with S3Server(copies_if_absent=True) as server:
        yield server


@pytest.fixture(params=["s3", "gcs"])
def server(request: pytest.FixtureRequest, careful_s3: S3Server, gcs_server: GCSServer) -> ObjectServer:
    return careful_s3 if request.param == "s3" else gcs_server


def root(server: ObjectServer, prefix: str = "root", **options: str) -> Storage:
    bucket = f"copies-{uuid.uuid4().hex[:12]}"
    server.create_bucket(bucket)
    storage = open_storage(server.url(bucket, prefix), storage_options={**server.storage_options, **options})
    storage.put(PROBE, b"probe")
    return storage


@pytest.mark.parametrize("prefixes", [("root", "root"), ("", "a/b")], ids=str)
def test_an_object_is_copied_without_its_bytes(server: ObjectServer, prefixes: tuple[str, str]) -> None:
    source, target = (root(server, prefix) for prefix in prefixes)
    for path in ("x", "a/b", ODD):
        source.put(path, path.encode())
    server.clear_requests()
    assert all(target.copy_from(source, path, probe=PROBE) for path in ("x", "a/b", ODD))
    assert not [request for request in server.requests() if request.kind == "GET"]
    assert len(server.requests()) == 3 + (server.scheme == "s3"), "one request each, and the question"
    assert [target.get(path) for path in ("x", "a/b", ODD)] == [b"x", b"a/b", ODD.encode()]


def test_a_name_that_is_taken_is_left_as_it_is(server: ObjectServer) -> None:
    source, target = root(server), root(server)
    source.put("x", b"other")
    target.put("x", b"mine")
    with pytest.raises(ObjectExistsError, match="'x'"):
        target.copy_from(source, "x", probe=PROBE)
    assert target.get("x") == b"mine"
    assert target.get(PROBE) == b"probe"


def test_what_the_source_lacks_is_not_copied(server: ObjectServer) -> None:
    source, target = root(server), root(server)
    with pytest.raises(StorageError):
        target.copy_from(source, "x", probe=PROBE)
    assert [info.path for info in target.list("")] == [PROBE]


def test_a_server_that_would_overwrite_is_not_asked_to(s3_server: S3Server) -> None:
    source, target = root(s3_server), root(s3_server)
    source.put("x", b"other")
    target.put("x", b"mine")
    assert not target.copy_from(source, "x", probe=PROBE)
    s3_server.clear_requests()
    assert not target.copy_from(source, "x", probe=PROBE)
    assert s3_server.requests() == []
    assert (target.get("x"), target.get(PROBE)) == (b"mine", b"probe")


def test_roots_that_one_client_does_not_reach_are_not_copied_between(
    careful_s3: S3Server, gcs_server: GCSServer, tmp_path
) -> None:
    target = root(careful_s3)
    others = [
        root(careful_s3, key="somebody", secret="else"),
        root(gcs_server),
        open_storage(f"memory://{uuid.uuid4().hex}"),
        LocalStorage(tmp_path),
        MemoryStorage(),
    ]
    for other in others:
        if other.list("") == []:
            other.put(PROBE, b"probe")
        assert not target.copy_from(other, PROBE, probe=PROBE)
        assert not other.copy_from(target, PROBE, probe=PROBE)
