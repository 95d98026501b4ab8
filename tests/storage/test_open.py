"""A root opens the storage that its user meant, and a mistake says what to do."""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import fsspec
import pytest
import s3fs
from obstore.fsspec import FsspecStore

from metaxy_fs.storage import LocalStorage, MemoryStorage, open_storage
from metaxy_fs.storage.remote import ObjectStorage
from tests.servers.s3 import obstore_of


@pytest.mark.parametrize("root", ["/data/x", Path("/data/x"), "file:///data/x", "local:///data/x"])
def test_paths_are_local(root):
    storage = open_storage(root)

    assert isinstance(storage, LocalStorage)
    assert storage.location == "/data/x"


@pytest.mark.parametrize("root", ["C:/data", "C:\\data", "C://data", "data::v1/x", "a:b", "s3/x", "./s3//x", "data//x"])
def test_names_that_resemble_urls_are_local(root):
    assert isinstance(open_storage(root), LocalStorage)


@pytest.mark.parametrize("root", ["s3://bucket/x", "gs://bucket/x", "memory://x", "simplecache::s3://bucket/x"])
def test_urls_are_object_storages(root):
    storage = open_storage(root)

    assert isinstance(storage, ObjectStorage)
    assert storage.location == root


SPELLINGS = {
    "s3://bucket/a/b": ["s3://bucket//a/b", "s3://bucket/a//b//", "s3a://bucket/a/b/", "S3://bucket/a/b"],
    "s3://bucket": ["s3://bucket/", "s3a://bucket//"],
    "gs://bucket/a/b": ["gs://bucket//a/b/", "gcs://bucket/a//b"],
    "memory://a/b": ["memory:///a/b", "memory://a//b/", "memory:////a/b"],
    "simplecache::s3://bucket/a": ["simplecache::s3://bucket//a/", "simplecache::s3a://bucket/a"],
    "/data/a b": [
        "/data/a b/",
        "//data//a b",
        "file:///data/a%20b",
        "FILE:///data/a b",
        "file://localhost/data/a%20b/",
    ],
    "/data/ü%": ["file:///data/%C3%BC%25", "file:/data/ü%25", Path("/data/ü%"), Path("file:///data/ü%25")],
    "/data/x#y?z": [Path("/data/x#y?z").as_uri(), "file:///data/x#y?z", "local:///data/x#y?z"],
}


@pytest.mark.parametrize(("root", "spelling"), [(root, each) for root, some in SPELLINGS.items() for each in some])
def test_spellings_of_one_root_are_one_root(root, spelling):
    expected, found = open_storage(root), open_storage(spelling)

    assert (found.location, found.identity) == (expected.location, expected.identity)
    assert found.location == root


@pytest.mark.parametrize("make", [s3fs.S3FileSystem, partial(FsspecStore, "s3"), partial(FsspecStore, "s3a")])
@pytest.mark.parametrize("path", ["bucket/a/b", "/bucket//a/b/", "bucket/a//b"])
def test_spellings_on_a_ready_filesystem_are_one_root(make, path):
    found = open_storage(path, filesystem=make())

    assert (found.location, found.identity) == ("s3://bucket/a/b",) * 2


def test_every_client_reads_what_another_wrote_below_doubled_slashes(s3_server, s3_bucket):
    roots = [f"s3://{s3_bucket}//team//x/", f"s3a://{s3_bucket}/team/x"]
    storages = [open_storage(root, storage_options=s3_server.storage_options) for root in roots]
    storages.append(open_storage(f"{s3_bucket}//team/x", filesystem=obstore_of(s3_server)))
    for number, storage in enumerate(storages):
        storage.put(f"d/{number}", b"1")
    for storage in storages:
        assert [info.path for info in storage.list("d")] == ["d/0", "d/1", "d/2"]
        assert storage.list_directories("") == ["d"]
        assert storage.get("d/0") == b"1"


def test_a_link_to_a_root_shares_its_clock(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "current").symlink_to(tmp_path / "root")

    assert open_storage(tmp_path / "current").identity == open_storage(tmp_path / "root").identity
    assert open_storage(tmp_path / "current").location == str(tmp_path / "current")


@pytest.mark.parametrize("name", ["a b", "a%20b", "a+b", "a#b", "a?b", "ü", "u\u0308", "~", "a&b", "a*b", "{x}", "[x]"])
def test_a_name_is_what_its_characters_say_for_each_client(server, bucket, name):
    root = f"{server.url(bucket)}/{name}"
    open_storage(root, storage_options=server.storage_options).put("d/o", name.encode())
    readers = [open_storage(root, storage_options=server.storage_options)]
    if server.scheme == "s3":
        readers.append(open_storage(f"{bucket}/{name}", filesystem=obstore_of(server)))
    assert [reader.get("d/o") for reader in readers] == [name.encode()] * len(readers)
    assert [info.path for reader in readers for info in reader.list("d")] == ["d/o"] * len(readers)


REFUSED = {
    "file://host/data": "path where it is mounted",
    "file://data/x": "relative path without 'file:'",
    "file://~/x": "relative path without 'file:'",
    "file:x": "relative path without 'file:'",
    "file:///a%00b": "null character",
    "s3:bucket/x": "pathlib",
    "gs:bucket": "pathlib",
    "s3//bucket/x": "did you mean 's3://bucket/x'?",
    "S3:/bucket/x": "did you mean 'S3://bucket/x'?",
    "gs//bucket/x": "did you mean 'gs://bucket/x'?",
    "https//host/x": "did you mean 'https://host/x'?",
    "/home/me/s3:/bucket/x": "made absolute",
    "runs/gs:/bucket": "made absolute",
    " s3://bucket/x": "white space",
    "s3://bucket/x\n": "white space",
    "/data/x\n": "white space",
    "s3://bucket/a\nb": "cannot be printed",
    "s3:///bucket/x": "names no bucket",
    "s3://localhost:9000/bucket/x": "endpoint_url",
    "s3://bucket/a/../b": "'..'",
    "gs://bucket/./b": "'.'",
    "s3://bucket/x?region=eu-west-1": "storage_options",
    "s3://${BUCKET}/x": "expandvars",
    "$HOME/x": "expandvars",
    "/data/${USER}": "expandvars",
    "~nobody-of-that-name/x": "'./~nobody-of-that-name/x'",
}


@pytest.mark.parametrize(("root", "advice"), REFUSED.items())
def test_a_root_that_would_be_another_than_is_meant_is_refused(root, advice, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape(advice)):
        open_storage(root)
    assert list(tmp_path.iterdir()) == []


class OfAnotherService:
    """A path as universal_pathlib has them: it says its URL, and that it is no path of this machine."""

    def __str__(self):
        return "s3://key:hunter22@bucket/x"


class FetchedPath(OfAnotherService):
    """A path as cloudpathlib has them: asked for its place here, it fetches what is there."""

    def __fspath__(self):
        raise AssertionError("asked for a local copy")


@pytest.mark.parametrize("root", [OfAnotherService(), FetchedPath()])
def test_a_path_of_another_library_that_is_not_local_is_refused(root):
    with pytest.raises(TypeError, match="give the URL as a string") as caught:
        open_storage(root)
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize("root", ["s3://AKIAX:hunter22@bucket/x", "s3://AKIAX:hunter/22@bucket/x"])
@pytest.mark.parametrize("spelled", [str, Path, os.path.abspath, lambda root: root.replace(":", "", 1)])
def test_credentials_in_the_url_of_a_bucket_are_refused_and_not_repeated(root, spelled):
    with pytest.raises(ValueError, match="s3") as caught:
        open_storage(spelled(root))
    assert "hunter" not in str(caught.value)
    assert "AKIAX" not in str(caught.value)


def test_a_storage_is_used_as_it_is():
    storage = MemoryStorage()

    assert open_storage(storage) is storage
    with pytest.raises(ValueError, match="takes neither storage_options nor a filesystem"):
        open_storage(storage, storage_options={"key": "secret"})


def test_location_has_no_trailing_slash():
    assert open_storage("s3://bucket/x/").location == "s3://bucket/x"


@pytest.mark.parametrize("root", ["s3://", "gs:///", "simplecache::s3://"])
def test_url_without_a_bucket_is_refused(root):
    with pytest.raises(ValueError, match="names no bucket"):
        open_storage(root)


def test_url_that_went_through_pathlib_is_refused():
    with pytest.raises(ValueError, match="pathlib"):
        open_storage(Path("s3://bucket/x"))


def test_empty_path_is_refused():
    with pytest.raises(ValueError, match="empty"):
        open_storage("")


def test_options_for_a_local_path_are_refused():
    with pytest.raises(ValueError, match="local path and takes none") as caught:
        open_storage("/data", storage_options={"secret": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_empty_options_for_a_local_path_are_fine():
    assert isinstance(open_storage("/data", storage_options={}), LocalStorage)


def test_unknown_protocol_is_named_without_credentials():
    with pytest.raises(ValueError, match="'nosuch', which fsspec does not know") as caught:
        open_storage("nosuch://me:hunter2@host/x")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("url", "package", "extra"), [("s3://b", "s3fs", "s3"), ("gs://b", "gcsfs", "gcs")])
def test_missing_package_is_named_with_its_extra(url, package, extra):
    code = f"import sys; sys.modules['{package}'] = None; import metaxy_fs.storage as s; s.open_storage('{url}')"

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("ImportError: ")
    assert f'pip install "metaxy_fs[{extra}]"' in ended.stderr


def test_ready_local_filesystem_is_a_local_storage(tmp_path):
    storage = open_storage(tmp_path, filesystem=fsspec.filesystem("file"))

    assert isinstance(storage, LocalStorage)
    assert storage.location == str(tmp_path)


@pytest.mark.parametrize("root", ["memory://some/root", "/some/root", "some/root"])
def test_protocol_of_a_ready_filesystem_is_optional(root):
    storage = open_storage(root, filesystem=fsspec.filesystem("memory"))

    assert storage.location == "memory://some/root"


def test_options_beside_a_ready_filesystem_are_refused():
    with pytest.raises(ValueError, match="constructor"):
        open_storage("x", filesystem=fsspec.filesystem("memory"), storage_options={"a": 1})


def test_local_storage_needs_no_fsspec():
    code = "import sys, metaxy_fs.storage as s; s.open_storage('/data').list('none'); print('fsspec' in sys.modules)"

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"
