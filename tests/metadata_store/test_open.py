"""A chain of roots is opened in the order given, and options go only where they belong."""

import pytest

from metaxy_fs.errors import FeatureNotFoundError
from metaxy_fs.metadata_store import FilesystemMetadataStore, InMemoryMetadataStore, open_store
from metaxy_fs.testing.store_cases import ids_of, pipeline, videos


def test_first_root_is_written_and_the_rest_are_read(tmp_path):
    video, _ = pipeline()
    store = open_store(tmp_path / "dev", tmp_path / "staging", tmp_path / "prod")
    open_store(tmp_path / "prod").write_metadata(video, videos([1]))
    read = ids_of(store.read_metadata(video))
    store.write_metadata(video, videos([2]))
    assert (read, ids_of(open_store(tmp_path / "dev").read_metadata(video))) == ([1], [2])
    assert not (tmp_path / "staging").exists()


def test_roots_are_kept_in_their_order(tmp_path):
    store = open_store(tmp_path / "a", str(tmp_path / "b"), (tmp_path / "c").as_uri())
    assert [each.location for each in store.fallback_stores] == [str(tmp_path / "b"), str(tmp_path / "c")]
    assert all(each.fallback_stores == () for each in store.fallback_stores)


def test_open_stores_may_stand_between_roots(tmp_path):
    memory = InMemoryMetadataStore()
    store = open_store(tmp_path / "a", memory, tmp_path / "b")
    assert store.fallback_stores[0] is memory
    assert store.fallback_stores[1].location == str(tmp_path / "b")


def test_nothing_is_made_before_the_first_write(tmp_path):
    store = open_store(tmp_path / "dev", tmp_path / "prod")
    with pytest.raises(FeatureNotFoundError):
        store.read_metadata(pipeline()[0])
    assert list(tmp_path.iterdir()) == []


def test_options_are_for_remote_roots_alone(tmp_path, s3_server, s3_bucket):
    video, _ = pipeline()
    remote = s3_server.url(s3_bucket, "prod")
    FilesystemMetadataStore(remote, storage_options=s3_server.storage_options).write_metadata(video, videos([1]))
    store = open_store(tmp_path, remote, storage_options=s3_server.storage_options)
    assert ids_of(store.read_metadata(video)) == [1]


def test_options_are_shared_by_the_roots_of_one_protocol(s3_server, s3_bucket):
    video, _ = pipeline()
    roots = [s3_server.url(s3_bucket, name) for name in ("dev", "prod")]
    open_store(*roots, storage_options=s3_server.storage_options).write_metadata(video, videos([1]))
    assert ids_of(open_store(*roots, storage_options=s3_server.storage_options).read_metadata(video)) == [1]


@pytest.mark.parametrize(
    "roots",
    [["s3://a/x", "gs://b/y"], ["./a", "s3://a/x", "gs://b/y"], ["memory://a", "s3://b/x"]],
    ids=["S3 and GCS", "and a path", "memory and S3"],
)
def test_options_for_several_protocols_are_refused(roots):
    with pytest.raises(ValueError, match="one protocol") as caught:
        open_store(*roots, storage_options={"key": "hidden-key", "secret": "hidden-secret"})
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("roots", [["./a"], ["./a", "./b"], ["file:///a"], ["local:///a", "./b"]])
def test_options_for_local_roots_are_refused(roots):
    with pytest.raises(ValueError, match="only local paths"):
        open_store(*roots, storage_options={"key": "k"})


def test_options_are_not_for_stores_that_are_open(tmp_path):
    with pytest.raises(ValueError, match="only local paths"):
        open_store(tmp_path, InMemoryMetadataStore(), storage_options={"key": "k"})


def test_no_options_are_no_options(tmp_path):
    assert open_store(tmp_path, storage_options={}).location == str(tmp_path)


def test_options_are_never_shown(s3_server, s3_bucket):
    options = {**s3_server.storage_options, "secret": "hidden-secret"}
    store = open_store(s3_server.url(s3_bucket), s3_server.url(s3_bucket, "prod"), storage_options=options)
    with pytest.raises(FeatureNotFoundError) as caught:
        store.read_metadata(pipeline()[0])
    assert "hidden" not in repr(store) + str(caught.value) + store.location


@pytest.mark.parametrize("root", [None, 1, InMemoryMetadataStore()])
def test_root_that_is_no_path_is_refused(root):
    with pytest.raises(TypeError):
        open_store(root)
