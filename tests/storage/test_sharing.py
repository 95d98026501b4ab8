"""Do roots that are reached one after the other share a filesystem, and no others?"""

import json
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import s3fs
from fsspec import AbstractFileSystem

from metaxy_fs.storage import open_storage, sharing
from metaxy_fs.storage.remote import ObjectStorage
from metaxy_fs.storage.sharing import shared

OPTIONS = {"key": "mine", "secret": "secret", "client_kwargs": {"endpoint_url": "http://127.0.0.1:1"}}


class Filesystem(AbstractFileSystem):
    """Made for this test, and for nothing else."""

    cachable = False


def made(options: dict[str, Any], *, protocol: str = "s3") -> AbstractFileSystem:
    return shared(protocol, options, lambda _: Filesystem())


def filesystem_of(root: str, options: dict[str, Any]) -> AbstractFileSystem:
    storage = open_storage(root, storage_options=options)
    assert isinstance(storage, ObjectStorage)
    return storage._client().filesystem


@pytest.fixture
def lender() -> Iterator[tuple[str, list[str]]]:
    """A service that lends credentials to whoever asks, as those of clouds do: its URL, and what was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            until = datetime.now(UTC) + timedelta(hours=1)
            lent = {"AccessKeyId": "test", "SecretAccessKey": "test", "Token": "test", "Expiration": f"{until:%FT%TZ}"}
            body = json.dumps(lent).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}/credentials", asked
        server.shutdown()
        serving.join()


def test_roots_of_a_chain_ask_for_credentials_once(s3_server, s3_bucket, lender, monkeypatch):
    url, asked = lender
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
    options = {"endpoint_url": s3_server.endpoint}
    chain = [open_storage(s3_server.url(s3_bucket, name), storage_options=options) for name in ("a", "b", "c")]

    for storage in chain:
        storage.put("name", storage.location.encode())
    assert [storage.get("name").decode()[-1] for storage in chain] == ["a", "b", "c"]
    assert asked == ["/credentials"]


def test_roots_of_the_same_options_share_a_filesystem(server, bucket):
    one, two = (open_storage(server.url(bucket, name), storage_options=server.storage_options) for name in "ab")

    assert one._client().filesystem is two._client().filesystem
    one.put("x", b"1")
    assert [info.path for info in two.list("")] == []


def test_a_filesystem_of_somebody_else_is_not_shared():
    options = {**OPTIONS, "use_listings_cache": False}
    theirs = s3fs.S3FileSystem(**options)

    assert filesystem_of("s3://bucket/a", OPTIONS) is not theirs
    assert filesystem_of("s3://bucket/a", options) is not theirs
    theirs.clear_instance_cache()


@pytest.mark.parametrize(
    "other",
    [
        {**OPTIONS, "secret": "another"},
        {**OPTIONS, "client_kwargs": {"endpoint_url": "http://127.0.0.1:2"}},
        {**OPTIONS, "client_kwargs": {}},
        {"secret": "mine", "key": "secret"},
        {},
    ],
)
def test_other_options_mean_another_filesystem(other):
    mine = made(OPTIONS)

    assert made(dict(reversed(OPTIONS.items()))) is mine
    assert made(other) is not mine
    assert made(OPTIONS) is mine


def test_options_that_were_changed_in_place_mean_another_filesystem():
    inner = {"endpoint_url": "http://127.0.0.1:1"}
    mine = made({"client_kwargs": inner})
    inner["endpoint_url"] = "http://127.0.0.1:2"

    assert made({"client_kwargs": inner}) is not mine


def test_another_service_means_another_filesystem():
    mine = made(OPTIONS, protocol="s3")

    assert made(OPTIONS, protocol="gs") is not mine


def test_another_environment_means_another_filesystem(monkeypatch):
    mine = made(OPTIONS)
    monkeypatch.setenv("AWS_PROFILE", "another")

    assert made(OPTIONS) is not mine


@pytest.mark.parametrize("odd", [object(), {1, "a"}, 2**70, "half of a pair: \ud800"])
def test_options_that_cannot_be_compared_are_not_shared(odd):
    options = {**OPTIONS, "session": odd}

    mine = made(options)
    assert made(options) is not mine


def test_a_root_that_is_reached_later_has_a_filesystem_of_its_own(monkeypatch):
    mine = made(OPTIONS)
    assert made(OPTIONS) is mine

    now = sharing.elapsed()
    monkeypatch.setattr(sharing, "elapsed", lambda: now + sharing.SECONDS + 1)
    assert made(OPTIONS) is not mine


def test_a_filesystem_that_nobody_uses_is_let_go():
    mine = made(OPTIONS)
    gone = sharing.ref(mine)
    del mine

    assert gone() is None
    assert made(OPTIONS) is not None


def test_nothing_is_kept_of_filesystems_that_cannot_be_shared_any_more():
    mine = made(OPTIONS)
    held = [made({**OPTIONS, "key": str(number)}) for number in range(20)]
    count = len(sharing._made)
    del held

    again = made({**OPTIONS, "key": "last"})
    assert len(sharing._made) == count - 19
    assert made(OPTIONS) is mine
    assert again is not mine


def test_a_forked_process_has_a_filesystem_of_its_own():
    mine = made(OPTIONS)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if made(OPTIONS) is not mine else 1)

    assert os.waitpid(pid, 0)[1] == 0
