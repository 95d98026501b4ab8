"""What differs in a root that is reached through obstore."""

import multiprocessing
import os
import subprocess
import sys

import fsspec
import pytest
from obstore.fsspec import FsspecStore

from metaxy_fs.errors import ObjectNotFoundError, StorageAccessError, StorageError
from metaxy_fs.storage import Storage, open_storage
from metaxy_fs.storage.obstore import ObstoreClient
from tests.servers.s3 import S3Server, obstore_of
from tests.support.patience import PATIENCE


@pytest.fixture
def storage(s3_server: S3Server, s3_bucket: str) -> Storage:
    return open_storage(f"{s3_bucket}/root", filesystem=obstore_of(s3_server))


def test_each_verb_is_one_request(s3_server: S3Server, storage: Storage) -> None:
    storage.put("a/b", b"1")
    storage.get("a/b")
    storage.get_many([*storage.list("a"), *storage.list("", limit=1)])
    storage.list_directories("")
    storage.delete("a/b")
    assert s3_server.kinds() == ["PUT", "GET", "LIST", "LIST", "GET", "GET", "LIST", "DELETE"]


def test_what_it_writes_is_read_through_s3fs(s3_server: S3Server, storage: Storage) -> None:
    storage.put("a/b", b"1")
    other = open_storage(storage.location, storage_options=s3_server.storage_options)
    assert other.get("a/b") == b"1"
    assert [info.path for info in other.list("")] == [info.path for info in storage.list("")]


def test_a_missing_bucket_is_no_missing_object(s3_server: S3Server) -> None:
    storage = open_storage("no-such-bucket/root", filesystem=obstore_of(s3_server))
    for verb in (lambda: storage.get("a"), lambda: storage.put("a", b""), lambda: storage.list("")):
        with pytest.raises(StorageError, match="bucket does not exist") as caught:
            verb()
        assert not isinstance(caught.value, ObjectNotFoundError)


def test_a_refusal_is_told(s3_server: S3Server, s3_bucket: str, storage: Storage) -> None:
    s3_server.deny(s3_bucket)
    for verb in (
        lambda: storage.get("a"),
        lambda: storage.put("a", b""),
        lambda: storage.list(""),
        lambda: storage.list_directories(""),
        lambda: storage.delete("a"),
    ):
        with pytest.raises(StorageAccessError, match="refused"):
            verb()


def test_no_message_shows_a_credential() -> None:
    filesystem = FsspecStore(
        "s3",
        endpoint="http://127.0.0.1:9",
        access_key_id="AKIA-NOBODY",
        secret_access_key="hunter2-hunter2",
        region="us-east-1",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    storage = open_storage("bucket/root", filesystem=filesystem)
    with pytest.raises(StorageError) as caught:
        storage.get("a")
    shown = f"{caught.value} {caught.value.__cause__!r} {storage!r}"
    assert "AKIA-NOBODY" not in shown
    assert "hunter2" not in shown


def test_a_fork_of_a_process_that_has_used_it_is_told_so(storage: Storage) -> None:
    storage.list("")
    receiver, sender = multiprocessing.Pipe(duplex=False)
    pid = os.fork()
    if not pid:
        try:
            storage.list("")
        except StorageError as error:
            sender.send(str(error))
        finally:
            os._exit(0)
    assert receiver.poll(timeout=PATIENCE)
    assert "spawn" in receiver.recv()
    os.waitpid(pid, 0)


def test_a_process_that_ends_after_its_last_request_ends_well() -> None:
    """obstore's coroutines abort one in five of those."""
    script = (
        "from obstore.fsspec import FsspecStore; from metaxy_fs.storage import ObjectInfo, open_storage;"
        "storage = open_storage('bucket/root', filesystem=FsspecStore('memory'));"
        "storage.put('a', b'1'); storage.get_many([ObjectInfo('a', 1)] * 50)"
    )
    codes = [subprocess.run([sys.executable, "-c", script], check=False).returncode for _ in range(3)]
    assert codes == [0] * 3


def test_behind_a_cache_of_fsspec_it_still_refuses_to_overwrite(s3_server: S3Server, s3_bucket: str) -> None:
    cached = fsspec.filesystem("simplecache", fs=obstore_of(s3_server))
    storage = open_storage(f"{s3_bucket}/root", filesystem=cached)
    storage.put("a", b"1")
    with pytest.raises(FileExistsError):
        storage.put("a", b"2")


def test_a_root_that_begins_between_two_requests_is_believed(
    s3_server: S3Server, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ObstoreClient._exists

    def begin(client: ObstoreClient, path: str) -> bool:
        client.put(path, b"{}")
        return asked(client, path)

    monkeypatch.setattr(ObstoreClient, "_exists", begin)
    assert storage.list("a") == []
    assert s3_server.kinds() == ["LIST", "LIST", "PUT", "HEAD", "LIST"]
