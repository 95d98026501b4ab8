"""Does a root open the storage that its user meant, and does a mistake say what to do?"""

import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from metaxy_fs.storage import LocalStorage, MemoryStorage, open_storage
from metaxy_fs.storage.objects import ObjectStorage


@pytest.mark.parametrize("root", ["/data/x", Path("/data/x"), "file:///data/x", "local:///data/x"])
def test_paths_are_local(root):
    storage = open_storage(root)

    assert isinstance(storage, LocalStorage)
    assert storage.location == "/data/x"


@pytest.mark.parametrize("root", ["C:/data", "C:\\data", "C://data", "data::v1/x", "a:b"])
def test_names_that_resemble_urls_are_local(root):
    assert isinstance(open_storage(root), LocalStorage)


@pytest.mark.parametrize(
    "root",
    ["s3://bucket/x", "s3a://bucket", "gs://bucket/x", "gcs://bucket/x", "memory://x", "simplecache::s3://bucket/x"],
)
def test_urls_are_object_storages(root):
    storage = open_storage(root)

    assert isinstance(storage, ObjectStorage)
    assert storage.location == root


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

    assert storage.location == "memory:///some/root"


def test_options_beside_a_ready_filesystem_are_refused():
    with pytest.raises(ValueError, match="constructor"):
        open_storage("x", filesystem=fsspec.filesystem("memory"), storage_options={"a": 1})


def test_local_storage_needs_no_fsspec():
    code = "import sys, metaxy_fs.storage as s; s.open_storage('/data').list('none'); print('fsspec' in sys.modules)"

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"
