"""A filesystem that wraps another one, or that is unknown, never overwrites objects."""

import uuid

import fsspec
import pytest
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.implementations.reference import ReferenceFileSystem
from fsspec.spec import AbstractFileSystem

from metaxy_fs.errors import ObjectExistsError, StorageError
from metaxy_fs.storage import LocalStorage, open_storage
from tests.servers.s3 import obstore_of


def memory():
    return MemoryFileSystem(skip_instance_cache=True)


@pytest.fixture
def root():
    """A directory in memory that no other test uses."""
    return f"/{uuid.uuid4().hex}"


class Delegating:
    """A filesystem of somebody's own, which hands on what it does not change."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def pipe_file(self, path, value, **_options):
        return self.inner.pipe_file(path, value)


class Careless(AbstractFileSystem):
    """A filesystem that overwrites, whatever it was told."""

    protocol = "careless"
    cachable = False

    def __init__(self):
        super().__init__()
        self.inner = memory()

    def ls(self, path, detail=True, **kwargs):  # noqa: FBT002  # the interface of fsspec
        return self.inner.ls(path, detail=detail)

    def cat_file(self, path, start=None, end=None, **kwargs):
        return self.inner.cat_file(path, start, end)

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        self.inner.pipe_file(path, value)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_directory_of_obstore_does_not_overwrite(s3_server, s3_bucket, depth):
    filesystem, path = obstore_of(s3_server), f"{s3_bucket}/pre/fix"
    for _ in range(depth):
        filesystem, path = DirFileSystem(path, fs=filesystem), "deep"
    storage = open_storage("root", filesystem=filesystem)
    storage.put("a", b"1")

    with pytest.raises(ObjectExistsError):
        storage.put("a", b"2")
    assert storage.get("a") == b"1"
    whole = f"{s3_bucket}/pre/fix/{'deep/' * (depth - 1)}root"
    assert open_storage(whole, filesystem=obstore_of(s3_server)).get("a") == b"1"


@pytest.mark.parametrize("outer", ["simplecache", "filecache"])
def test_a_cache_of_a_directory_of_obstore_does_not_overwrite(s3_server, s3_bucket, tmp_path, outer):
    inner = DirFileSystem(f"{s3_bucket}/pre", fs=obstore_of(s3_server))
    storage = open_storage("root", filesystem=fsspec.filesystem(outer, fs=inner, cache_storage=str(tmp_path)))
    storage.put("a", b"1")

    with pytest.raises(ObjectExistsError):
        storage.put("a", b"2")
    assert storage.get("a") == b"1"


def test_a_directory_of_a_service_is_that_root(s3_server, s3_bucket):
    filesystem = fsspec.filesystem("s3", **s3_server.storage_options, skip_instance_cache=True)
    storage = open_storage("root", filesystem=DirFileSystem(f"{s3_bucket}/pre", fs=filesystem))

    assert storage.location == f"s3://{s3_bucket}/pre/root"
    assert storage.identity == open_storage(f"{s3_bucket}/pre/root", filesystem=filesystem).identity


def test_a_directory_of_the_local_file_system_is_a_local_root(tmp_path):
    storage = open_storage("deep/root", filesystem=DirFileSystem(str(tmp_path), fs=LocalFileSystem()))

    assert isinstance(storage, LocalStorage)
    assert storage.location == str(tmp_path / "deep/root")


def test_a_root_that_leaves_the_directory_is_refused(tmp_path):
    with pytest.raises(ValueError, match="escapes"):
        open_storage("../root", filesystem=DirFileSystem(str(tmp_path), fs=LocalFileSystem()))


@pytest.mark.parametrize(
    "make",
    [
        Careless,
        lambda: DirFileSystem("below", fs=Careless()),
        lambda: fsspec.filesystem("simplecache", fs=Careless()),
        lambda: AsyncFileSystemWrapper(memory(), asynchronous=False),
        lambda: ReferenceFileSystem({}, fs=memory()),
    ],
)
def test_a_filesystem_that_is_not_known_to_create_is_not_written_to(make, root):
    storage = open_storage(root, filesystem=make())

    with pytest.raises(StorageError, match=r"cannot write 'a' in .* not known to refuse a name that is taken"):
        storage.put("a", b"1")


def test_what_hands_on_to_s3fs_is_not_taken_for_it(s3_server, s3_bucket):
    filesystem = Delegating(fsspec.filesystem("s3", **s3_server.storage_options, skip_instance_cache=True))
    storage = open_storage(f"{s3_bucket}/root", filesystem=filesystem)

    with pytest.raises(StorageError, match="Delegating is not known to refuse"):
        storage.put("a", b"1")


def test_a_filesystem_that_is_not_known_to_create_is_read(root):
    filesystem = Careless()
    filesystem.inner.pipe_file(f"{root}/a/b", b"123")
    storage = open_storage(root, filesystem=filesystem)

    assert storage.get("a/b") == b"123"
    assert [info.path for info in storage.list("")] == ["a/b"]
    assert storage.get_optional(["a/b", "c"], max_bytes=3) == [b"123", None]
