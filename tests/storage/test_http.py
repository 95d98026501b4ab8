"""A root that a web server publishes can be read, and foreign pages are refused."""

import functools
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import polars as pl
import pytest

from metaxy_fs import (
    Feature,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    compact,
    open_store,
    verify,
)
from metaxy_fs.errors import FeatureNotFoundError, StorageAccessError, StorageError
from metaxy_fs.storage import ObjectInfo, ObjectRange, open_storage

with FeatureGraph().use():

    class Clip(Feature, spec=FeatureSpec(key=FeatureKey(["clip"]))):
        pass

    class Other(Feature, spec=FeatureSpec(key=FeatureKey(["other"]))):
        pass


Serve = Callable[[Callable[..., BaseHTTPRequestHandler]], str]


class Quiet(SimpleHTTPRequestHandler):
    """`python -m http.server` without a line for each request."""

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers on loopback, and return their addresses."""
    running = []

    def start(handler: Callable[..., BaseHTTPRequestHandler]) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        running.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def rows(*ids: int) -> pl.DataFrame:
    return pl.DataFrame({"sample_id": ids, "data_version": [{"default": f"v{each}"} for each in ids]})


@pytest.fixture
def address(serve: Serve, tmp_path: Path) -> str:
    """The address of a root with a compaction, a write and a name that has to be escaped."""
    root = tmp_path / "a b%20#ü"
    store = FilesystemMetadataStore(root)
    for each in range(3):
        store.write_metadata(Clip, rows(each))
    compact(store, full=True)
    store.write_metadata(Clip, rows(3))
    return serve(functools.partial(Quiet, directory=str(root)))


def test_a_whole_root_is_read_over_http(address: str) -> None:
    for root in (address, f"{address}/"):
        store = open_store(root)
        assert sorted(store.read_metadata(Clip)["sample_id"]) == [0, 1, 2, 3]
        assert store.history(Clip).height == 4
        assert [key.dotted for key in store.list_features()] == ["clip"]
        assert verify(store).is_sound
    given = FilesystemMetadataStore(address, filesystem=fsspec.filesystem("http", skip_instance_cache=True))
    assert given.read_metadata(Clip).height == 4


def test_a_root_below_an_address_is_read(serve: Serve, tmp_path: Path) -> None:
    name = "a b%20#ü"
    open_store(tmp_path / name).write_metadata(Clip, rows(1))
    address = serve(functools.partial(Quiet, directory=str(tmp_path)))
    assert open_store(f"{address}/a%20b%2520%23%C3%BC").read_metadata(Clip).height == 1


def test_what_is_not_there_is_said_to_be_missing(address: str) -> None:
    with pytest.raises(FeatureNotFoundError):
        open_store(address).read_metadata(Other)


def test_it_can_be_a_fallback(address: str, tmp_path: Path) -> None:
    store = open_store(tmp_path / "mine", address)
    assert store.read_metadata(Clip).height == 4
    store.write_metadata(Clip, rows(9))
    assert store.read_metadata(Clip).height == 1


def test_writing_is_refused(address: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StorageError, match="read only"):
        open_store(address).write_metadata(Clip, rows(5))
    storage = open_storage(address)
    with pytest.raises(StorageError, match="read only"):
        storage.put("a", b"1")
    with pytest.raises(StorageError, match="read only"):
        storage.delete("_store.json")
    assert sorted(tmp_path.rglob("*")) == before


def test_ranges_are_right_where_the_server_does_not_know_them(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "a&b").mkdir()
    (tmp_path / "a&b" / "c d.json").write_bytes(b"0123456789")
    storage = open_storage(serve(functools.partial(Quiet, directory=str(tmp_path))))
    path = "a&b/c d.json"
    assert storage.list("") == [ObjectInfo(path, 10)]
    assert storage.list_directories("") == ["a&b"]
    parts = [ObjectRange(path, 2, 5), ObjectRange(path, 0, 10), ObjectRange(path, 9, 10)]
    assert storage.get_ranges(parts) == [b"234", b"0123456789", b"9"]
    assert storage.get_optional([path, "a&b/none"], max_bytes=10) == [b"0123456789", None]


def answering(status: int, body: bytes) -> type[BaseHTTPRequestHandler]:
    class Answer(Quiet):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Answer


INDEXES = {
    "Apache": b"<title>Index of /x</title><a href='?C=N;O=D'>N</a><a href='/'>Parent</a><a href='clip/'>clip/</a>",
    "nginx": b"<title>Index of /x/</title><a href='../'>../</a><a href='clip/'>clip/</a><a href='_store.json'>s</a>",
    "absolute": b"<a href='/x/clip/'>clip</a><a href='http://elsewhere/x/other/'>o</a><a href='/x/_store.json'>s</a>",
}


@pytest.mark.parametrize("index", INDEXES)
def test_the_pages_of_several_servers_are_understood(serve: Serve, index: str) -> None:
    storage = open_storage(f"{serve(answering(200, INDEXES[index]))}/x")
    assert storage.list_directories("") == ["clip"]


@pytest.mark.parametrize("name", ["a-0.parquet", "a.json", "a.table"])
def test_a_page_without_a_title_that_links_to_objects_of_a_root_is_an_index(serve: Serve, name: str) -> None:
    assert open_storage(serve(answering(200, f"<a href='{name}'>a</a>".encode()))).list_directories("_commits") == []


def test_an_empty_directory_is_empty(serve: Serve, tmp_path: Path) -> None:
    assert open_storage(serve(functools.partial(Quiet, directory=str(tmp_path)))).list("") == []


@pytest.mark.parametrize(
    "body",
    [b"<title>Log in</title><form></form><a href='login?next=x'>in</a><a href='help.html'>?</a>", b"", b"Welcome"],
)
def test_a_page_that_is_no_index_is_no_empty_root(serve: Serve, body: bytes) -> None:
    store = open_store(serve(answering(200, body)))
    for ask in (lambda: store.read_metadata(Clip), lambda: store.has_feature(Clip), store.list_features):
        with pytest.raises(StorageError, match="no listing"):
            ask()


@pytest.mark.parametrize(
    ("status", "kind"), [(404, StorageError), (401, StorageAccessError), (403, StorageAccessError), (410, StorageError)]
)
def test_an_address_that_shows_no_root_is_an_error(serve: Serve, status: int, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        open_store(serve(answering(status, b"no"))).list_features()


@pytest.mark.parametrize("root", ["http://host/x?token=hunter22", "https://host/x#top"])
def test_an_address_with_a_query_is_refused(root: str) -> None:
    with pytest.raises(ValueError, match="query or a fragment") as caught:
        open_storage(root)
    assert "hunter22" not in str(caught.value)
