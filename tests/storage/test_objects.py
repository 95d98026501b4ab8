"""The requests that an object store sees of a storage, and the errors that a caller sees."""

import gc
import os
import pickle
import socket
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import gcsfs
import pytest
import s3fs
from fsspec.implementations.memory import MemoryFileSystem

from metaxy_fs.errors import (
    CorruptObjectError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageAccessError,
    StorageError,
)
from metaxy_fs.storage import ObjectInfo, ObjectRange, open_storage, s3
from metaxy_fs.storage.client import Client
from metaxy_fs.storage.remote import ObjectStorage
from tests.servers.s3 import obstore_of
from tests.support.patience import PATIENCE

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYzEXAMPLEKEY"


@pytest.fixture
def storage(server, bucket):
    return open_storage(server.url(bucket, "root"), storage_options=server.storage_options)


@pytest.fixture
def closed_port():
    """A port of loopback that nobody listens on, and nobody else gets meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_put_is_one_request(server, storage):
    storage.put("a/b", b"1")

    assert len(server.kinds()) == 1
    assert server.kinds()[0] in {"PUT", "POST"}


PATIENT = {"s3fs": {"config_kwargs": {"read_timeout": 600}}, "gcsfs": {"requests_timeout": 600}}
"""The servers take their time to look at a large object on a busy machine."""
DIVIDED_ABOVE = {"s3fs": 100 * 2**20, "gcsfs": 50 * 2**20, "obstore": 5 * 2**20}
"""Up to which size a client sends an object in one request unless it is told to."""


@pytest.fixture(params=DIVIDED_ABOVE)
def reached(request):
    """A server, a root on it through each client, and an object that the client would send in parts."""
    data = bytes(DIVIDED_ABOVE[request.param] + 2**20)
    kind = "gcs" if request.param == "gcsfs" else "s3"
    server, bucket = request.getfixturevalue(f"{kind}_server"), request.getfixturevalue(f"{kind}_bucket")
    if request.param == "obstore":
        return server, open_storage(f"{bucket}/root", filesystem=obstore_of(server)), data
    options = {**server.storage_options, **PATIENT[request.param]}
    return server, open_storage(server.url(bucket, "root"), storage_options=options), data


# gcsfs hands an upload to aiohttp in one piece, which aiohttp dislikes above one megabyte.
@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
def test_put_of_an_object_that_clients_would_send_in_parts_is_one_request(reached):
    server, storage, data = reached
    server.clear_requests()

    storage.put("a", data)
    assert [request.method for request in server.requests()] == ["POST" if server.scheme == "gs" else "PUT"]
    assert "uploadId" not in server.requests()[0].query
    with pytest.raises(ObjectExistsError):
        storage.put("a", data)
    assert [info.size for info in storage.list("")] == [len(data)]
    assert storage.get_ranges([ObjectRange("a", len(data) - 3, len(data))]) == [bytes(3)]


def test_put_on_a_taken_name_is_one_request(server, storage):
    storage.put("a", b"1")
    server.clear_requests()

    with pytest.raises(ObjectExistsError):
        storage.put("a", b"1")
    assert len(server.kinds()) == 1


def test_get_is_one_request(server, storage):
    storage.put("a", b"1")
    server.clear_requests()

    assert storage.get("a") == b"1"
    assert server.kinds() == ["GET"]


def test_get_of_a_large_object_is_one_request(server, storage):
    storage.put("a", b"1" * 500_000)
    server.clear_requests()

    storage.get("a")
    assert server.kinds() == ["GET"]


def test_get_many_is_one_request_an_object(server, storage):
    infos = [ObjectInfo(f"{number}", number % 3) for number in range(20)]
    for info in infos:
        storage.put(info.path, b"x" * info.size)
    server.clear_requests()

    storage.get_many(infos)
    assert server.kinds() == ["GET"] * 20


def test_find_is_one_request_an_object_and_one_that_tells_whether_there_is_a_bucket(server, storage):
    wanted = ["a", "b", "c"]
    assert storage.get_optional(wanted, max_bytes=10) == [None] * 3
    # GCS answers 404 for a missing object and for a missing bucket.
    assert server.kinds() == ["GET"] * 3 + ["LIST"] * (server.scheme == "gs")
    server.clear_requests()

    assert storage.get_optional(wanted, max_bytes=10) == [None] * 3
    assert server.kinds() == ["GET"] * 3


def test_find_in_a_missing_bucket_is_an_error(server):
    storage = open_storage(server.url(f"missing-{uuid.uuid4().hex[:12]}"), storage_options=server.storage_options)

    with pytest.raises(StorageError, match="bucket does not exist"):
        storage.get_optional(["a"], max_bytes=10)


def test_find_fetches_no_more_than_one_byte_above_its_limit(storage, monkeypatch):
    asked = []
    get_ranges = Client.get_ranges
    monkeypatch.setattr(Client, "get_ranges", lambda self, parts: asked.extend(parts) or get_ranges(self, parts))
    storage.put("a", b"1" * 1000)

    with pytest.raises(CorruptObjectError, match=r"'a'.*more than the 10 bytes"):
        storage.get_optional(["a"], max_bytes=10)
    assert asked == [ObjectRange("a", 0, 11)]


def test_delete_is_one_request(server, storage):
    storage.put("a", b"1")
    server.clear_requests()

    storage.delete("a")
    assert server.kinds() == ["DELETE"]


@pytest.mark.parametrize("directory", ["", "a", "missing"])
def test_list_is_one_request(server, storage, directory):
    storage.put("a/b", b"1")
    storage.put("a/c/d", b"1")
    server.clear_requests()

    storage.list(directory)
    storage.list(directory, limit=1)
    storage.list_directories(directory)
    assert server.kinds() == ["LIST"] * 3


def test_list_asks_for_no_more_than_the_limit(server, storage):
    storage.list("a", limit=7)

    [request] = server.requests()
    assert (request.query.get("max-keys") or request.query.get("maxResults")) == "7"


def test_pages_of_s3_are_one_request_each(s3_server, s3_bucket, monkeypatch):
    monkeypatch.setattr(s3, "PAGE", 3)
    storage = open_storage(s3_server.url(s3_bucket, "root"), storage_options=s3_server.storage_options)
    for number in range(7):
        storage.put(f"a/{number}", b"")
    s3_server.clear_requests()

    assert len(storage.list("a")) == 7
    assert len(storage.list("a", limit=4)) == 4
    assert s3_server.kinds() == ["LIST"] * (3 + 2)


def test_pages_of_gcs_are_one_request_each(gcs_server, gcs_bucket):
    # The emulator has no pages, so its answers are cut here; the second is empty, as the protocol allows.
    storage = open_storage(gcs_server.url(gcs_bucket, "root"), storage_options=gcs_server.storage_options)
    items = [
        {"name": f"root/a/{number}", "size": "3", "timeCreated": "2026-01-02T03:04:05.678Z"} for number in range(4)
    ]
    pages = {None: {"items": items[:2], "nextPageToken": "1"}, "1": {"nextPageToken": "2"}, "2": {"items": items[2:]}}
    asked = []

    async def call(method, path, bucket, *, prefix, pageToken=None, **arguments):  # noqa: N803  # as the protocol has it
        asked.append(pageToken)
        assert (method, path, bucket, prefix) == ("GET", "b/{}/o", gcs_bucket, "root/a/")
        return pages[pageToken]

    storage._client().filesystem._call = call
    assert [info.path for info in storage.list("a")] == ["a/0", "a/1", "a/2", "a/3"]
    assert asked == [None, "1", "2"]
    assert storage.list("a", limit=1)[0].modified == datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
    assert asked == [None, "1", "2", None]


def test_pages_without_end_are_an_error(server, storage, monkeypatch):
    answers = {"IsTruncated": True, "NextContinuationToken": "1", "nextPageToken": "1"}

    async def answer(*_arguments, **_options):
        return answers

    filesystem = storage._client().filesystem
    monkeypatch.setattr(filesystem, "_call_s3" if server.scheme == "s3" else "_call", answer)
    for verb in (storage.list, storage.list_directories):
        with pytest.raises(StorageError, match="the same pages again"):
            verb("a")


def test_root_may_be_the_whole_bucket(server, bucket):
    storage = open_storage(server.url(bucket), storage_options=server.storage_options)
    storage.put("a/b", b"1")

    assert storage.get("a/b") == b"1"
    assert [info.path for info in storage.list("")] == ["a/b"]
    assert storage.list_directories("") == ["a"]


def test_root_is_no_prefix_of_its_neighbour(server, bucket, storage):
    neighbour = open_storage(server.url(bucket, "root-2"), storage_options=server.storage_options)
    neighbour.put("a", b"1")

    assert storage.list("") == []
    assert storage.list_directories("") == []


def test_directory_markers_of_consoles_are_no_objects(server, bucket, storage):
    storage.put("a/b", b"1")
    filesystem = storage._client().filesystem
    for marker in [f"{bucket}/root/", f"{bucket}/root/a/", f"{bucket}/root/empty/"]:
        if server.scheme == "s3":
            filesystem.call_s3("put_object", Bucket=bucket, Key=marker.removeprefix(f"{bucket}/"), Body=b"")
        else:
            filesystem.pipe_file(marker, b"")

    assert [info.path for info in storage.list("")] == ["a/b"]
    assert [info.path for info in storage.list("a")] == ["a/b"]
    assert [info.path for info in storage.list("", limit=1)] == ["a/b"]


def test_filesystem_without_times_has_no_now():
    class Timeless(MemoryFileSystem):
        cachable = False

        def ls(self, path, detail=True, **kwargs):  # noqa: FBT002  # the interface of fsspec
            return [{name: info[name] for name in ("name", "size", "type")} for info in super().ls(path, detail=True)]

    storage = open_storage(f"/{uuid.uuid4().hex}", filesystem=Timeless())

    with pytest.raises(StorageError, match="does not tell when objects were written"):
        storage.now(probe="clock/1")
    assert storage.list("") == []


def test_denied_bucket_is_an_access_error_for_every_verb(server, bucket, storage):
    server.deny(bucket)

    for verb in verbs(storage):
        with pytest.raises(StorageAccessError, match=f"{bucket}/root.*refused"):
            verb()


def test_missing_bucket_is_no_missing_object(server):
    storage = open_storage(server.url("no-such-bucket", "root"), storage_options=server.storage_options)

    for verb in verbs(storage):
        with pytest.raises(StorageError, match=r"no-such-bucket/root.*does not exist") as caught:
            verb()
        assert not isinstance(caught.value, ObjectNotFoundError | StorageAccessError)


def test_missing_object_of_a_bucket_is_named(storage):
    with pytest.raises(ObjectNotFoundError, match="'a/gone'"):
        storage.get("a/gone")


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_dead_endpoint_fails_in_seconds(scheme, closed_port):
    endpoint = f"http://127.0.0.1:{closed_port}"
    options = {"key": "k", "secret": SECRET} if scheme == "s3" else {"token": "anon", "project": "p"}
    storage = open_storage(f"{scheme}://bucket/root", storage_options={**options, "endpoint_url": endpoint})

    began = time.monotonic()
    with pytest.raises(StorageError, match="bucket/root") as caught:
        storage.get("a")
    assert not isinstance(caught.value, ObjectNotFoundError | StorageAccessError)
    assert time.monotonic() - began < 45  # less than the deadline of one that may be reached


def test_server_that_calls_a_duplicate_by_its_status_alone_is_understood(storage, monkeypatch, s3_server):
    error = OSError(22, "At least one of the pre-conditions you specified did not hold")
    error.__cause__ = client_error(code="412", status=412)

    with pytest.raises(ObjectExistsError):
        failing(error).put("a", b"")


def test_conflict_of_two_conditional_puts_leaves_the_outcome_unknown():
    error = OSError(5, "conflict")
    error.__cause__ = client_error(code="ConditionalRequestConflict", status=409)

    with pytest.raises(StorageError) as caught:
        failing(error).put("a", b"")
    assert not isinstance(caught.value, ObjectExistsError)


def test_lost_upload_leaves_the_outcome_unknown():
    error = FileNotFoundError("upload")
    error.__cause__ = client_error(code="NoSuchUpload", status=404)

    with pytest.raises(StorageError) as caught:
        failing(error).put("a", b"")
    assert not isinstance(caught.value, ObjectNotFoundError)
    assert "does not exist" not in str(caught.value)


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_refusals_of_other_status_are_access_errors(code):
    error = OSError(code)
    error.__cause__ = client_error(code=code, status=400)

    with pytest.raises(StorageAccessError):
        failing(error).get("a")


def test_missing_credentials_are_an_access_error(monkeypatch, s3_server, s3_bucket):
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    storage = open_storage(s3_server.url(s3_bucket), storage_options={"endpoint_url": s3_server.endpoint})

    with pytest.raises(StorageAccessError, match="credentials"):
        storage.get("a")


def test_unknown_profile_is_an_access_error(s3_server, s3_bucket):
    options = {"endpoint_url": s3_server.endpoint, "profile": "nobody"}
    storage = open_storage(s3_server.url(s3_bucket), storage_options=options)

    with pytest.raises(StorageAccessError, match="nobody"):
        storage.get("a")


@pytest.mark.parametrize(
    ("status", "expected"), [(401, StorageAccessError), (403, StorageAccessError), (418, StorageError)]
)
def test_gcs_status_is_translated(status, expected):
    error = gcsfs.retry.HttpError({"code": status, "message": "no"})

    with pytest.raises(StorageError) as caught:
        failing(error).get("a")
    assert type(caught.value) is expected


def test_secret_in_an_error_is_hidden_with_its_cause():
    storage = failing(OSError(f"cannot sign with {SECRET}"), storage_options={"secret": SECRET, "anon": False})

    with pytest.raises(StorageError) as caught:
        storage.get("a")
    assert "cannot sign with ***" in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_error_without_secrets_keeps_its_cause():
    error = OSError("out of reach")

    with pytest.raises(StorageError, match="out of reach") as caught:
        failing(error, storage_options={"secret": SECRET}).get("a")
    assert caught.value.__cause__ is error


def test_repr_holds_no_credential():
    storage = ObjectStorage(f"sftp://me:{SECRET.replace('/', '')}@host/data", storage_options={"password": SECRET})

    assert repr(storage) == "ObjectStorage('sftp://host/data')"


def test_forked_child_reads_and_writes(storage):
    storage.put("parent", b"1")

    assert in_child(lambda: (storage.get("parent"), storage.put("child", b"2"))) == 0
    assert storage.get("child") == b"2"
    storage.put("after", b"3")


def test_forked_child_uses_a_ready_filesystem_again(server, bucket):
    storage = open_storage(f"{bucket}/root", filesystem=ready_filesystem(server))
    storage.put("parent", b"1")

    assert in_child(lambda: (storage.get("parent"), storage.put("child", b"2"))) == 0
    assert storage.get("child") == b"2"


def test_child_forked_while_another_thread_connects_does_not_hang(storage):
    with storage._lock_of_this_process():
        assert in_child(lambda: storage.put("child", b"2")) == 0

    assert storage.get("child") == b"2"


def test_ready_filesystem_is_used_as_it_is(server, bucket):
    filesystem = ready_filesystem(server)
    storage = open_storage(server.url(bucket, "root"), filesystem=filesystem)
    storage.put("a", b"1")

    assert storage._client().filesystem is filesystem
    assert filesystem.cat_file(f"{bucket}/root/a") == b"1"
    assert storage.location.endswith(f"://{bucket}/root")


def test_ready_filesystem_with_a_directory_cache_sees_the_writes_of_others(server, bucket):
    storage = open_storage(f"{bucket}/root", filesystem=ready_filesystem(server))
    other = open_storage(server.url(bucket, "root"), storage_options=server.storage_options)
    assert storage.list("") == []

    other.put("a", b"1")
    assert [info.path for info in storage.list("")] == ["a"]


def test_ready_filesystem_travels_to_other_processes(server, bucket):
    storage = open_storage(f"{bucket}/root", filesystem=ready_filesystem(server))
    storage.put("a", b"1")

    copy = pickle.loads(pickle.dumps(storage))  # noqa: S301  # its own bytes
    assert copy.get("a") == b"1"


def test_asynchronous_filesystem_is_refused():
    with pytest.raises(ValueError, match="asynchronous=True"):
        open_storage("bucket", filesystem=s3fs.S3FileSystem(asynchronous=True, skip_instance_cache=True))


def test_nothing_keeps_what_was_fetched_or_put(server, storage):
    size = 2**19
    gc.collect()
    gc.disable()  # so that what is in a circle of references stays
    try:
        known = [bytes(size)]
        storage.put("a", known[0])
        known += storage.get_ranges([ObjectRange("a", 0, size), ObjectRange("a", 0, size - 1)])
        known += storage.get_many([ObjectInfo("a", size)] * 2)
        known += [storage.get("a")]
        assert not any(is_held(known.pop()) for _ in range(6))
    finally:
        gc.enable()


def test_threads_share_one_connection(storage, monkeypatch):
    made = []
    connect = type(storage)._connect
    monkeypatch.setattr(type(storage), "_connect", lambda self: made.append(time.sleep(0.05)) or connect(self))

    threads = [threading.Thread(target=storage._client) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_choices_of_the_user_for_s3_stay(s3_server, s3_bucket):
    mine = {"max_pool_connections": 7, "read_timeout": 3}
    options = {**s3_server.storage_options, "config_kwargs": mine}
    filesystem = open_storage(s3_server.url(s3_bucket), storage_options=options)._client().filesystem

    assert filesystem.config_kwargs["max_pool_connections"] == 7
    assert filesystem.config_kwargs["read_timeout"] == 3
    assert filesystem.config_kwargs["connect_timeout"] == 5
    assert mine == {"max_pool_connections": 7, "read_timeout": 3}


def test_choices_of_the_user_for_gcs_stay(gcs_server, gcs_bucket):
    options = {**gcs_server.storage_options, "requests_timeout": 3}
    filesystem = open_storage(gcs_server.url(gcs_bucket), storage_options=options)._client().filesystem

    assert filesystem.requests_timeout == 3


def test_requests_to_s3_have_the_time_limits_that_are_stated(s3_server, s3_bucket):
    storage = open_storage(s3_server.url(s3_bucket), storage_options=s3_server.storage_options)
    limits = storage._client().filesystem.config_kwargs

    assert (limits["connect_timeout"], limits["read_timeout"]) == (5, 20)


def test_requests_to_gcs_have_the_time_limits_that_are_stated(gcs_server, gcs_bucket):
    storage = open_storage(gcs_server.url(gcs_bucket), storage_options=gcs_server.storage_options)
    limits = storage._client().filesystem.requests_timeout

    assert (limits.sock_connect, limits.sock_read) == (5, 20)


def test_cache_of_whole_files_saves_the_second_read(server, bucket, tmp_path):
    options = {"simplecache": {"cache_storage": str(tmp_path)}, server.scheme: server.storage_options}
    storage = open_storage(f"simplecache::{server.url(bucket, 'root')}", storage_options=options)
    storage.put("a", b"1")
    assert storage.get("a") == b"1"
    server.clear_requests()

    assert storage.get("a") == b"1"
    assert server.kinds() == []


def test_threads_do_not_overwrite_where_the_filesystem_looks_and_then_writes():
    class Slow(MemoryFileSystem):
        cachable = False

        def pipe_file(self, path, value, mode="overwrite", **kwargs):
            if self.exists(path):
                raise FileExistsError(path)
            time.sleep(0.05)
            super().pipe_file(path, value)

    root = f"/{uuid.uuid4().hex}"

    assert sorted(racing_puts(open_storage(root, filesystem=Slow()) for _ in range(2))) == ["exists", "won"]


def test_directory_cache_of_any_filesystem_is_emptied_before_a_listing():
    class Caching(MemoryFileSystem):
        cachable = False

        def ls(self, path, detail=True, **kwargs):  # noqa: FBT002  # the interface of fsspec
            if path not in self.dircache:
                self.dircache[path] = super().ls(path, detail=True)
            return self.dircache[path]

        def invalidate_cache(self, path=None):
            self.dircache.clear()

    root = f"/{uuid.uuid4().hex}"
    storage, other = open_storage(root, filesystem=Caching()), open_storage(root, filesystem=Caching())
    for number in range(3):
        other.put(f"d{number}/x", b"1")
        assert len(storage.list("")) == 2 * number + 1
        other.put(f"e{number}/x", b"1")
        assert len(storage.list_directories("")) == 2 * number + 2


def test_existing_objects_are_safe_only_as_far_as_a_probe_tells(storage):
    assert not storage.put_is_conditional


def racing_puts(storages):
    def put(storage):
        try:
            storage.put("race", b"1")
        except ObjectExistsError:
            return "exists"
        return "won"

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(put, storages))


def verbs(storage):
    return [
        lambda: storage.put("a", b"1"),
        lambda: storage.get("a"),
        lambda: storage.get_many([ObjectInfo("a", 1)]),
        lambda: storage.list("a"),
        lambda: storage.list_directories(""),
        lambda: storage.delete("a"),
    ]


def ready_filesystem(server):
    kind = s3fs.S3FileSystem if server.scheme == "s3" else gcsfs.GCSFileSystem
    return kind(**server.storage_options, skip_instance_cache=True)


def is_held(data):
    """Whether anybody holds some bytes but who asks; the loop of a filesystem may take a moment to let go."""
    until = time.monotonic() + PATIENCE
    while sys.getrefcount(data) > NOBODY and time.monotonic() < until:
        time.sleep(0.01)
    return sys.getrefcount(data) > NOBODY


def references(data):
    """What `is_held` counts."""
    return sys.getrefcount(data)


NOBODY = references([bytes(2)].pop())
"""How many references there are to what a function is given, and nobody has."""


def client_error(*, code, status):
    """What botocore raises, as far as it matters."""
    error = Exception(code)
    error.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return error


def failing(error, storage_options=None):
    """A storage whose filesystem fails at every request."""

    def fail(*args, **kwargs):
        raise error

    storage = ObjectStorage(f"memory://{uuid.uuid4().hex}", storage_options=storage_options)
    filesystem = storage._client().filesystem
    filesystem.pipe_file = filesystem.cat_file = fail
    return storage


def in_child(work):
    """Run work in a forked child, return its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001  # the child must not go on as a second run of the tests
            os._exit(1)
        os._exit(0)
    for _ in range(60_000):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "hung"
