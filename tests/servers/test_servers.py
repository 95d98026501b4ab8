"""The servers that the other tests trust keep their promises."""

import http.client
import json
import multiprocessing
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

from metaxy_fs.storage import ObjectRange, open_storage
from tests.servers import ObjectServer
from tests.servers.filesystems import open_filesystem
from tests.servers.gcs import GCSServer
from tests.servers.quick import QuickServer
from tests.servers.s3 import S3Server
from tests.support.patience import PATIENCE

RACERS = 16
PROCESSES = 3


@pytest.fixture
def filesystem(server: ObjectServer, opened: dict[str, Any]) -> Any:
    if server.scheme not in opened:
        opened[server.scheme] = open_filesystem(server.scheme, server.storage_options)
    return opened[server.scheme]


@pytest.fixture(scope="module")
def opened() -> dict[str, Any]:
    """Filesystems by scheme, for a client of S3 takes 0.4 s to make."""
    return {}


def create(filesystem: Any, path: str, data: bytes) -> bool:
    """Return whether this exclusive create won."""
    try:
        filesystem.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    return True


def test_exclusive_create_has_one_winner_of_16_threads(server: ObjectServer, bucket: str, filesystem: Any) -> None:
    gate = threading.Barrier(RACERS)

    def race(racer: int) -> bool:
        gate.wait()
        return create(filesystem, f"{bucket}/key", b"%d" % racer)

    with ThreadPoolExecutor(RACERS) as pool:
        won = list(pool.map(race, range(RACERS)))
    assert Counter(won) == {True: 1, False: RACERS - 1}
    assert filesystem.cat_file(f"{bucket}/key") == b"%d" % won.index(True)


def test_exclusive_creates_answer_412_to_all_but_the_first(server: ObjectServer, bucket: str, filesystem: Any) -> None:
    outcomes = [create(filesystem, f"{bucket}/key", data) for data in (b"first", b"second")]
    assert outcomes == [True, False]
    assert [(request.kind, request.status) for request in server.requests()] == [("PUT", 200), ("PUT", 412)]


def test_plain_put_overwrites_after_an_exclusive_create(bucket: str, filesystem: Any) -> None:
    create(filesystem, f"{bucket}/key", b"first")
    filesystem.pipe_file(f"{bucket}/key", b"second")
    assert filesystem.cat_file(f"{bucket}/key") == b"second"


@pytest.mark.parametrize(
    ("operation", "kinds"),
    [
        (lambda fs, root: fs.pipe_file(f"{root}/new", b"data"), ["PUT"]),
        (lambda fs, root: [fs.pipe_file(f"{root}/{name}", b"") for name in "ab"], ["PUT", "PUT"]),
        (lambda fs, root: fs.cat_ranges([f"{root}/dir/key"], [0], [4]), ["GET"]),
        (lambda fs, root: fs.ls(f"{root}/dir"), ["LIST"]),
        (lambda fs, root: fs.ls(root), ["LIST"]),
        (lambda fs, root: fs.info(root), ["HEAD"]),
        (lambda fs, root: fs.rm_file(f"{root}/dir/key"), ["DELETE"]),
        (lambda fs, root: fs.rm(f"{root}/dir/key"), ["DELETE"]),
    ],
    ids=["put", "put-twice", "get", "list-directory", "list-bucket", "bucket", "delete", "delete-many"],
)
def test_requests_are_recorded_by_kind(
    server: ObjectServer, bucket: str, filesystem: Any, operation: Any, kinds: list[str]
) -> None:
    filesystem.pipe_file(f"{bucket}/dir/key", b"data")
    server.clear_requests()
    operation(filesystem, bucket)
    assert server.kinds() == kinds


def test_properties_of_an_object_named_like_a_listing_are_no_listing(gcs_server: GCSServer, gcs_bucket: str) -> None:
    connection = http.client.HTTPConnection(*gcs_server.address, timeout=PATIENCE)
    connection.request("GET", f"/storage/v1/b/{gcs_bucket}/o/o")
    connection.getresponse().read()
    connection.close()
    assert gcs_server.kinds() == ["HEAD"]


def test_resumable_upload_is_a_post_and_a_put(gcs_server: GCSServer, gcs_bucket: str) -> None:
    with open_filesystem("gs", gcs_server.storage_options).open(f"{gcs_bucket}/key", "wb") as file:
        file.write(b"data")
    assert gcs_server.kinds() == ["POST", "PUT"]


def test_s3_records_method_decoded_path_and_query(s3_server: S3Server, s3_bucket: str) -> None:
    filesystem = open_filesystem("s3", s3_server.storage_options)
    filesystem.pipe_file(f"{s3_bucket}/a dir/é/key", b"data")
    filesystem.ls(f"{s3_bucket}/a dir/é")
    put, listing = s3_server.requests()
    assert (put.method, put.path, put.status) == ("PUT", f"/{s3_bucket}/a dir/é/key", 200)
    assert (listing.method, listing.path, listing.query["prefix"]) == ("GET", f"/{s3_bucket}", "a dir/é/")


def test_gcs_download_records_its_decoded_path(gcs_server: GCSServer, gcs_bucket: str) -> None:
    filesystem = open_filesystem("gs", gcs_server.storage_options)
    filesystem.pipe_file(f"{gcs_bucket}/a dir/é", b"data")
    filesystem.cat_file(f"{gcs_bucket}/a dir/é")
    request = gcs_server.requests()[-1]
    assert (request.method, request.status) == ("GET", 200)
    assert request.path.endswith(f"/b/{gcs_bucket}/o/a dir/é")


@pytest.mark.parametrize("verb", ["pipe_file", "cat_file", "ls", "rm_file"])
def test_denied_bucket_answers_403(server: ObjectServer, bucket: str, filesystem: Any, verb: str) -> None:
    filesystem.pipe_file(f"{bucket}/key", b"data")
    server.clear_requests()
    server.deny(bucket)
    arguments = (f"{bucket}/key", b"data")[: 2 if verb == "pipe_file" else 1]
    # gcsfs has no PermissionError for a 403.
    expected, message = (PermissionError, "Denied|Forbidden") if server.scheme == "s3" else (OSError, "Forbidden")
    with pytest.raises(expected, match=message):
        getattr(filesystem, verb)(*arguments)
    assert {request.status for request in server.requests()} == {403}


def test_allow_ends_a_denial_that_stored_nothing(server: ObjectServer, bucket: str, filesystem: Any) -> None:
    server.deny(bucket)
    with pytest.raises(OSError, match=r"Denied|Forbidden"):
        filesystem.pipe_file(f"{bucket}/key", b"denied")
    server.allow()
    assert filesystem.ls(bucket) == []


def test_denial_leaves_other_buckets_alone(server: ObjectServer, bucket: str, filesystem: Any) -> None:
    server.deny(f"{bucket}-other")
    filesystem.pipe_file(f"{bucket}/key", b"data")
    assert filesystem.cat_file(f"{bucket}/key") == b"data"


def race_from_another_process(
    server: tuple[str, dict[str, str]], bucket: str, number: int, gate: Any, won: Any
) -> None:
    filesystem = open_filesystem(*server)
    filesystem.ls(bucket)  # the connection stands before the race begins
    gate.wait(PATIENCE)
    won.put(create(filesystem, f"{bucket}/shared", b"%d" % number))
    for index in range(5):
        filesystem.pipe_file(f"{bucket}/own/{number}-{index}", b"data")


def test_overlapping_processes_race_for_one_object_and_lose_none_of_their_own(
    server: ObjectServer, bucket: str, filesystem: Any
) -> None:
    spawn = multiprocessing.get_context("spawn")
    gate, won = spawn.Barrier(PROCESSES), spawn.Queue()
    address = (server.scheme, server.storage_options)
    racers = [
        spawn.Process(target=race_from_another_process, args=(address, bucket, number, gate, won))
        for number in range(PROCESSES)
    ]
    for racer in racers:
        racer.start()
    outcomes = [won.get(timeout=PATIENCE) for _ in racers]
    for racer in racers:
        racer.join(PATIENCE)
    assert [racer.exitcode for racer in racers] == [0] * PROCESSES
    assert Counter(outcomes) == {True: 1, False: PROCESSES - 1}
    assert len(filesystem.ls(f"{bucket}/own")) == PROCESSES * 5


def test_no_header_is_sent_twice(server: ObjectServer, bucket: str, filesystem: Any) -> None:
    filesystem.pipe_file(f"{bucket}/key", b"data")
    listing = f"/{bucket}?list-type=2" if server.scheme == "s3" else f"/storage/v1/b/{bucket}/o"
    connection = http.client.HTTPConnection(*server.address, timeout=PATIENCE)
    connection.request("GET", listing)
    names = Counter(name.lower() for name, _ in connection.getresponse().getheaders())
    connection.close()
    assert set(names.values()) == {1}


def test_url_is_one_that_fsspec_resolves(server: ObjectServer, bucket: str) -> None:
    filesystem, path = fsspec.url_to_fs(server.url(bucket, "some/prefix"), **server.storage_options)
    assert (path, server.scheme in filesystem.protocol) == (f"{bucket}/some/prefix", True)


def test_bucket_of_a_taken_name_is_refused_by_gcs(gcs_server: GCSServer, gcs_bucket: str) -> None:
    with pytest.raises(ValueError, match=gcs_bucket):
        gcs_server.create_bucket(gcs_bucket)


def test_bucket_of_an_impossible_name_is_refused_by_s3(s3_server: S3Server) -> None:
    with pytest.raises(ValueError, match="'x'"):
        s3_server.create_bucket("x")


UPLOADS = {
    "s3": "PUT /{bucket}/key",
    "gs": "POST /upload/storage/v1/b/{bucket}/o?uploadType=media&name=key",
}


def test_upload_cut_short_stores_nothing(server: ObjectServer, bucket: str, filesystem: Any) -> None:
    line = UPLOADS[server.scheme].format(bucket=bucket)
    head = f"{line} HTTP/1.1\r\nHost: {server.endpoint.removeprefix('http://')}\r\nContent-Length: 1000\r\n\r\n"
    with socket.create_connection(server.address, timeout=PATIENCE) as connection:
        connection.sendall(head.encode() + b"only a part")
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)  # an answer, or the end: the server is done with it
    assert filesystem.ls(bucket) == []


def test_upload_that_stalls_holds_up_nobody(server: ObjectServer, bucket: str, filesystem: Any) -> None:
    line = UPLOADS[server.scheme].format(bucket=bucket)
    head = f"{line} HTTP/1.1\r\nHost: {server.endpoint.removeprefix('http://')}\r\nContent-Length: 1000\r\n\r\n"
    with socket.create_connection(server.address, timeout=PATIENCE) as connection:
        connection.sendall(head.encode() + b"only a part")
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(filesystem.ls, bucket).result(timeout=PATIENCE) == []


def test_requests_are_applied_one_at_a_time(server: ObjectServer, bucket: str, filesystem: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        with server._applying:
            listing = pool.submit(filesystem.ls, bucket)
            with pytest.raises(TimeoutError):
                listing.result(timeout=0.2)
        assert listing.result(timeout=PATIENCE) == []


def test_denied_upload_leaves_the_connection_usable(gcs_server: GCSServer, gcs_bucket: str) -> None:
    connection = http.client.HTTPConnection(*gcs_server.address, timeout=PATIENCE)
    gcs_server.deny(gcs_bucket)
    statuses = []
    for _ in range(2):
        connection.request("POST", f"/upload/storage/v1/b/{gcs_bucket}/o?uploadType=media&name=key", body=b"x" * 1_000)
        response = connection.getresponse()
        statuses.append((response.status, json.loads(response.read())["error"]["code"]))
    connection.close()
    assert statuses == [(403, 403), (403, 403)]


@pytest.mark.parametrize("kind", [S3Server, GCSServer])
def test_server_starts_and_stops_fast(kind: type[ObjectServer]) -> None:
    assert min(seconds_to_start_and_stop(kind) for _ in range(3)) < 5


def seconds_to_start_and_stop(kind: type[ObjectServer]) -> float:
    server = kind()
    began = time.perf_counter()
    server.start()
    socket.create_connection(server.address, timeout=PATIENCE).close()
    started = time.perf_counter()
    time.sleep(0.1)  # until the server waits for the next connection
    stopping = time.perf_counter()
    server.stop()
    return started - began + time.perf_counter() - stopping


@pytest.mark.parametrize("kind", [S3Server, GCSServer])
def test_stopped_server_leaves_no_thread(kind: type[ObjectServer]) -> None:
    before = set(threading.enumerate())
    with kind() as server:
        kept_alive = http.client.HTTPConnection(*server.address, timeout=PATIENCE)
        kept_alive.request("GET", "/")
        kept_alive.getresponse().read()
    # A thread has some steps to go when its connection is closed.
    deadline = time.monotonic() + PATIENCE
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    left = set(threading.enumerate()) - before
    kept_alive.close()
    assert left == set()


@pytest.mark.parametrize("kind", [S3Server, GCSServer])
def test_stopped_server_refuses_connections(kind: type[ObjectServer]) -> None:
    with kind() as server:
        address = server.address
        socket.create_connection(address, timeout=PATIENCE).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=PATIENCE)


@pytest.mark.parametrize("module_and_class", ["s3.S3Server", "gcs.GCSServer"])
def test_interpreter_exits_under_a_running_server_with_an_open_connection(module_and_class: str) -> None:
    module, name = module_and_class.split(".")
    program = f"""
import socket
from tests.servers.{module} import {name}
server = {name}().start()
connection = socket.create_connection(server.address)
connection.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
connection.recv(1)
"""
    top = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=top, check=False, timeout=PATIENCE)
    assert done.returncode == 0


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_quick_server_keeps_the_conditions_that_a_root_needs(scheme: str) -> None:
    with QuickServer(delay=0.0) as server:
        options = {"key": "test", "secret": "test"} if scheme == "s3" else {"token": "anon", "project": "test"}
        options["endpoint_url"] = server.endpoint
        storage = open_storage(f"{scheme}://bucket/root", storage_options=options)
        for number in range(3):
            storage.put(f"a/{number}", bytes(number))
        with pytest.raises(FileExistsError):
            storage.put("a/1", b"other")
        assert [(info.path, info.size) for info in storage.list("")] == [("a/0", 0), ("a/1", 1), ("a/2", 2)]
        assert storage.list_directories("") == ["a"]
        assert storage.get_ranges([ObjectRange("a/2", 1, 2)]) == [b"\0"]
        with pytest.raises(FileNotFoundError):
            storage.get("a/3")
        storage.delete("a/0")
        assert [info.path for info in storage.list("", limit=1)] == ["a/1"]
        counted = server.counts()
        assert (counted["PUT" if scheme == "s3" else "POST"], counted["at_once"]) == (4, 1)
        assert server.counts() == {"at_once": 0}
