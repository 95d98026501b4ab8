"""A feature is kept up to date with files, and nothing is written or read twice."""

import os
import time
from pathlib import Path

import polars as pl
import pytest

from metaxy_fs import (
    ContainerKey,
    ContainerSpec,
    Feature,
    FeatureDep,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    InMemoryMetadataStore,
    MetadataSchemaError,
    StorageAccessError,
    StorageError,
    listing,
    open_store,
)
from metaxy_fs.sources import update_files
from metaxy_fs.storage import open_storage, tree
from tests.sources.test_list_files import LONG_AGO, write


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A working directory with three files."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "x/c"):
        write(f"v/{name}", name.encode())


def declare(**options):
    with FeatureGraph().use():

        class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]), **{"id_columns": ["path"], **options})):
            """Files."""

    return Video


@pytest.fixture
def video():
    return declare()


@pytest.fixture
def store():
    return InMemoryMetadataStore()


@pytest.fixture
def opened(monkeypatch):
    seen = []
    was = tree._opened
    monkeypatch.setattr(tree, "_opened", lambda path: [seen.append(path), was(path)][1])
    return seen


def counts(update):
    return {
        name: value if isinstance(value := getattr(update, name), int) else sorted(value["path"])
        for name in ("new", "changed", "touched", "missing", "failed", "retired", "unchanged")
        if (isinstance(value := getattr(update, name), int) and value) or (not isinstance(value, int) and value.height)
    }


def rows(store, feature):
    return store.history(feature)["rows"].to_list()


@pytest.mark.parametrize("by", ["etag", "modified", "content"])
def test_the_second_run_writes_nothing(store, video, by):
    assert counts(update_files(store, video, "v", by=by)) == {"new": ["v/a", "v/b", "v/x/c"]}
    assert counts(update_files(store, video, "v", by=by)) == {"unchanged": 3}
    assert rows(store, video) == [3]
    assert store.read_metadata(video).sort("path")["bytes"].to_list() == [1, 1, 3]


def test_a_changed_file_alone_is_read_and_written(store, video, opened):
    update_files(store, video, "v", by="content")
    opened.clear()
    write("v/b", b"other")
    assert counts(update_files(store, video, "v", by="content")) == {"changed": ["v/b"], "unchanged": 2}
    assert opened == ["v/b"]
    assert rows(store, video) == [3, 1]


def test_a_touched_file_is_read_once_and_keeps_its_version(store, video, opened):
    update_files(store, video, "v", by="content")
    before = store.read_metadata(video, latest_only=True).sort("path")["data_version"].to_list()
    os.utime("v/b", (LONG_AGO + 1, LONG_AGO + 1))
    update = update_files(store, video, "v", by="content")
    assert counts(update) == {"touched": ["v/b"], "unchanged": 2}
    assert not update
    opened.clear()
    assert counts(update_files(store, video, "v", by="content")) == {"unchanged": 3}
    assert opened == []
    assert store.read_metadata(video, latest_only=True).sort("path")["data_version"].to_list() == before


def test_a_touched_file_makes_nothing_stale_downstream(store):
    with FeatureGraph().use():
        ids = {"id_columns": ["path"]}

        class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]), **ids)):
            """Files."""

        class Crop(
            Feature, spec=FeatureSpec(key=FeatureKey(["crop"]), deps=[FeatureDep(key=FeatureKey(["video"]))], **ids)
        ):
            """Made from them."""

        update_files(store, Video, "v", by="content")
        store.write_metadata(Crop, store.resolve_update(Crop).pending)
        os.utime("v/b", (LONG_AGO + 1, LONG_AGO + 1))
        update_files(store, Video, "v", by="content")
        assert not store.resolve_update(Crop)


def test_missing_files_are_retired_when_asked(store, video):
    update_files(store, video, "v")
    Path("v/b").unlink()
    assert counts(update_files(store, video, "v")) == {"missing": ["v/b"], "unchanged": 2}
    assert store.read_metadata(video, latest_only=True).height == 3
    update_files(store, video, "v", retire_missing=True)
    assert sorted(store.read_metadata(video, latest_only=True)["path"]) == ["v/a", "v/x/c"]
    assert counts(update_files(store, video, "v", retire_missing=True)) == {"unchanged": 2}
    write("v/b", b"b")
    assert counts(update_files(store, video, "v")) == {"new": ["v/b"], "unchanged": 2}


def test_a_file_that_is_back_is_new_unless_somebody_retired_it(store):
    deps = [FeatureDep(key="video")]
    graph = FeatureGraph.from_specs(
        [FeatureSpec(key="video", id_columns=["path"]), FeatureSpec(key="faces", id_columns=["path"], deps=deps)]
    )

    def night():
        with graph.use():
            files = update_files(store, "video", "v", retire_missing=True)
            done = store.materialize("faces", lambda batch: batch, retire_orphaned=True)
        return counts(files), done.counts.new, done.counts.retired

    assert night() == ({"new": ["v/a", "v/b", "v/x/c"]}, 3, 0)
    with graph.use():
        store.retire("video", pl.DataFrame({"path": ["v/b"]}), "not ours")
    Path("v/a").rename("a")
    assert night() == ({"missing": ["v/a"], "retired": ["v/b"], "unchanged": 1}, 0, 2)
    Path("a").rename("v/a")
    write("v/b", b"another")
    assert night() == ({"new": ["v/a"], "retired": ["v/b"], "unchanged": 1}, 1, 0)
    with graph.use():
        store.restore("video", at=store.history("video")["time"][0])
    assert night() == ({"changed": ["v/b"], "unchanged": 2}, 1, 0)


def test_files_of_another_pattern_are_not_missing(store, video):
    write("w/d")
    update_files(store, video, "v/**")
    assert counts(update_files(store, video, "w/**", retire_missing=True)) == {"new": ["w/d"]}
    assert counts(update_files(store, video, "v/*")) == {"unchanged": 2}


def test_relative_files_are_missing_by_the_whole_path(store, video):
    update_files(store, video, "v", relative_to="v")
    Path("v/b").unlink()
    assert counts(update_files(store, video, "v", relative_to="v"))["missing"] == ["b"]


def test_nothing_is_retired_where_no_file_is_left(store, video):
    update_files(store, video, "v/*")
    Path("v/a").unlink(), Path("v/b").unlink()
    with pytest.raises(StorageError, match="no file is left below 'v', and 2 have rows"):
        update_files(store, video, "v/*", retire_missing=True)
    assert store.read_metadata(video, latest_only=True).height == 2


def refuse(monkeypatch, refused):
    scandir = os.scandir

    def listing(path):
        if path == refused.encode():
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", listing)


def test_a_directory_that_cannot_be_listed_ends_the_call(store, video, monkeypatch):
    refuse(monkeypatch, "v/x")
    with pytest.raises(StorageAccessError, match="'v/x'"):
        update_files(store, video, "v")


@pytest.mark.parametrize("relative_to", [None, "v"])
def test_what_cannot_be_looked_at_is_named_and_not_retired(store, video, monkeypatch, relative_to):
    write("v/xy")
    update_files(store, video, "v", relative_to=relative_to)
    Path("v/xy").unlink()
    refuse(monkeypatch, "v/x")
    update = update_files(store, video, "v", relative_to=relative_to, on_error="skip", retire_missing=True)
    assert [path.removeprefix("v/") for path in update.missing["path"]] == ["xy"]
    assert update.failed["path"].to_list() == ["v/x" if relative_to is None else "x"]
    assert "Permission denied" in update.failed["error"].item()


def test_a_file_that_cannot_be_read_keeps_its_row(store, video, monkeypatch):
    update_files(store, video, "v", by="content")
    write("v/b", b"other")

    def deny(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(tree, "_opened", deny)
    update = update_files(store, video, "v", by="content", on_error="skip", retire_missing=True)
    assert counts(update) == {"failed": ["v/b"], "unchanged": 2}


def test_a_call_that_ends_early_goes_on_where_it_ended(store, video, monkeypatch, opened):
    monkeypatch.setattr(listing, "ROWS_TO_HASH", 1)
    write_metadata, left = InMemoryMetadataStore.write_metadata, iter(range(2))

    def failing(self, *arguments, **options):
        if next(left, None) is None:
            raise StorageError("the disk is gone")
        write_metadata(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(InMemoryMetadataStore, "write_metadata", failing)
        with pytest.raises(StorageError, match="the disk is gone"):
            update_files(store, video, "v", by="content")
    assert rows(store, video) == [1, 1]
    opened.clear()
    update = update_files(store, video, "v", by="content")
    assert (update.new.height, update.unchanged, len(opened)) == (1, 2, 1)


def test_no_file_gives_a_feature_without_rows(store, video):
    assert counts(update_files(store, video, "v/*.mp4")) == {}
    assert rows(store, video) == [0]
    update_files(store, video, "v/*.mp4")
    assert rows(store, video) == [0]


def test_a_container_of_another_name_has_the_version(store):
    video = declare(containers=[ContainerSpec(key=ContainerKey(["bytes"]))])
    update_files(store, video, "v")
    assert store.read_metadata(video)["data_version"].struct.fields == ["bytes"]


@pytest.mark.parametrize(
    "options",
    [
        {"id_columns": ["sample_id"]},
        {"containers": [ContainerSpec(key=ContainerKey(["a"])), ContainerSpec(key=ContainerKey(["b"]))]},
    ],
)
def test_a_feature_of_another_form_is_refused(store, options):
    with pytest.raises(MetadataSchemaError, match="id_columns=\\['path'\\]"):
        update_files(store, declare(**options), "v")


def test_commits_are_tagged(store, video):
    update_files(store, video, "v", tags={"run": "1"})
    assert store.history(video)["tags"].to_list() == ['{"run":"1"}']


def test_rows_in_a_fallback_store_are_written_once_more_where_they_would_be_hidden(tmp_path, video):
    update_files(open_store(tmp_path / "prod"), video, "v")
    chain = open_store(tmp_path / "dev", tmp_path / "prod")
    write("v/d")
    update_files(chain, video, "v")
    assert chain.read_metadata(video).height == 4


def test_each_sample_of_a_fallback_store_counts_where_they_are_read_by_sample(tmp_path, video):
    update_files(open_store(tmp_path / "prod"), video, "v")
    chain = open_store(tmp_path / "dev", tmp_path / "prod", fallback_mode="sample")
    write("v/d")
    assert counts(update_files(chain, video, "v")) == {"new": ["v/d"], "unchanged": 3}


def test_another_way_to_make_versions_changes_all(store, video):
    update_files(store, video, "v")
    assert counts(update_files(store, video, "v", by="content")) == {"changed": ["v/a", "v/b", "v/x/c"]}


def test_objects_of_a_bucket_are_written_once(server, bucket, store, video):
    storage = open_storage(server.url(bucket), storage_options=server.storage_options)
    storage.put("v/a", b"1"), storage.put("v/b", b"1")
    pattern, options = server.url(bucket, "v/**"), {"storage_options": server.storage_options, "by": "content"}
    assert update_files(store, video, pattern, **options).new.height == 2
    storage.delete("v/a"), storage.put("v/c", b"2")
    server.clear_requests()
    update = update_files(store, video, pattern, retire_missing=True, **options)
    assert sorted(server.kinds()) == ["GET", "LIST"]
    assert (update.new.height, update.missing.height, update.unchanged) == (1, 1, 1)
    assert store.read_metadata(video, latest_only=True).height == 2


def test_it_says_what_it_did(store, video):
    update = update_files(store, video, "v")
    assert repr(update) == "FileUpdate(new=3, changed=0, touched=0, missing=0, failed=0, retired=0, unchanged=0)"
    assert update
    assert 0 <= update.seconds < time.monotonic() + 1
    assert isinstance(update.new, pl.DataFrame)


def test_all_files_are_read_again_when_asked(store, video, opened):
    update_files(store, video, "v", by="content")
    write("v/b", b"B")
    assert counts(update_files(store, video, "v", by="content")) == {"unchanged": 3}
    opened.clear()
    assert counts(update_files(store, video, "v", by="content", rehash=True))["changed"] == ["v/b"]
    assert len(opened) == 3
