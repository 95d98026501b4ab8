"""Files are listed wherever fsspec reaches, and no message shows a credential."""

import os
import signal
import subprocess
import sys
import time
import traceback

import fsspec
import pytest

from metaxy_fs import Feature, FeatureGraph, FeatureKey, FeatureSpec, StorageError, open_store
from metaxy_fs.sources import list_files, update_files
from metaxy_fs.storage import open_storage
from tests.support.patience import PATIENCE

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYzEXAMPLEKEY"


def test_a_filesystem_that_nobody_knows_is_listed_by_directories():
    filesystem = fsspec.filesystem("memory")
    for path in ("/places/a.mp4", "/places/x/b.mp4", "/places/x/c.txt", "/placesX/d.mp4"):
        filesystem.pipe_file(path, b"1")
    found = list_files("memory://places/**/*.mp4", by="content").collect()
    assert sorted(found["path"]) == ["memory://places/a.mp4", "memory://places/x/b.mp4"]
    assert sorted(list_files("memory://places/x").collect()["path"]) == [
        "memory://places/x/b.mp4",
        "memory://places/x/c.txt",
    ]
    assert list_files("memory://places/*").collect()["path"].to_list() == ["memory://places/a.mp4"]


def test_a_bucket_behind_a_cache_is_listed_past_it(s3_server, s3_bucket, tmp_path):
    options = s3_server.storage_options
    open_storage(s3_server.url(s3_bucket), storage_options=options).put("v/a", b"1")
    chained = {"s3": options, "cache_storage": str(tmp_path)}
    found = list_files(f"simplecache::s3://{s3_bucket}/v/*", by="content", storage_options=chained).collect()
    assert found["bytes"].to_list() == [1]


@pytest.mark.parametrize("pattern", [f"s3://key:{SECRET}@bucket/*", f"s3://key:{SECRET}@/a*"])
def test_credentials_in_a_pattern_are_refused_and_not_shown(pattern):
    with pytest.raises(ValueError, match=r"storage_options|names no bucket") as raised:
        list_files(pattern)
    assert SECRET not in "".join(traceback.format_exception(raised.value))


def test_credentials_in_options_are_not_shown(s3_server, s3_bucket):
    s3_server.deny(s3_bucket)
    options = {**s3_server.storage_options, "secret": SECRET}
    with pytest.raises(StorageError) as raised:
        list_files(s3_server.url(s3_bucket, "*"), storage_options=options).collect()
    assert SECRET not in "".join(traceback.format_exception(raised.value))
    assert SECRET not in repr(list_files(s3_server.url(s3_bucket, "*"), storage_options=options))


def test_a_listing_is_compared_as_any_samples_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with FeatureGraph().use():

        class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]), id_columns=["path"])):
            """Files."""

    store = open_store(tmp_path / "metadata")
    for name in "ab":
        (tmp_path / f"{name}.mp4").touch()
    store.write_metadata(Video, list_files("*.mp4"))
    (tmp_path / "a.mp4").write_bytes(b"1")
    (tmp_path / "c.mp4").touch()
    increment = store.resolve_update(Video, samples=list_files("*.mp4"))
    assert (increment.new["path"].to_list(), increment.stale["path"].to_list()) == (["c.mp4"], ["a.mp4"])


_JOB = """
import sys
from metaxy_fs import Feature, FeatureKey, FeatureSpec, listing, open_store
from metaxy_fs.sources import update_files
class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]), id_columns=["path"])):
    pass
listing.ROWS_TO_HASH = 5
print("begun", flush=True)
update_files(open_store("metadata"), Video, "v", by="content")
"""


def test_a_job_that_is_killed_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v").mkdir()
    for number in range(300):
        (tmp_path / "v" / f"{number}").write_text(str(number))
    with FeatureGraph().use():

        class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]), id_columns=["path"])):
            """Files."""

    store = open_store(tmp_path / "metadata")
    kept = []
    for wait in (0.05, 0.1, 0.2):
        with subprocess.Popen([sys.executable, "-c", _JOB], stdout=subprocess.PIPE, cwd=tmp_path) as job:
            job.stdout.readline()
            time.sleep(wait)
            os.kill(job.pid, signal.SIGKILL)
            job.wait(timeout=PATIENCE)
        kept.append(store.read_metadata(Video, latest_only=True).height if store.has_feature(Video) else 0)
        assert kept[-1] % 5 == 0
    assert kept == sorted(kept)
    update = update_files(store, Video, "v", by="content")
    assert update.new.height == 300 - kept[-1]
    assert store.read_metadata(Video, latest_only=True)["path"].n_unique() == 300
