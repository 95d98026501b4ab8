"""The order in which stores of several kinds are asked."""

import pytest

from metaxy_fs.errors import DependencyError, FeatureNotFoundError, StorageError
from metaxy_fs.metadata_store import FilesystemMetadataStore, InMemoryMetadataStore, open_store
from metaxy_fs.metadata_store.chain import chain
from metaxy_fs.testing.store_cases import ids_of, pipeline, processed_version, samples, videos


class NamedStore(InMemoryMetadataStore):
    """A store in memory that can be told from others."""

    def __init__(self, name, *fallback_stores):
        super().__init__(fallback_stores=fallback_stores)
        self.name = name

    @property
    def location(self):
        return self.name


def names(store, *, fallback=True):
    return "".join(each.location for each in chain(store, fallback=fallback))


def test_store_alone_is_its_own_chain():
    assert names(NamedStore("a")) == "a"


def test_without_fallback_only_the_store_itself_is_asked():
    assert names(NamedStore("a", NamedStore("b")), fallback=False) == "a"


def test_stores_are_asked_depth_first():
    store = NamedStore("a", NamedStore("b", NamedStore("c"), NamedStore("d")), NamedStore("e", NamedStore("f")))
    assert names(store) == "abcdef"


def test_shared_store_is_asked_once_where_it_is_met_first():
    shared = NamedStore("s", NamedStore("t"))
    assert names(NamedStore("a", NamedStore("b", shared), shared, NamedStore("c", shared))) == "abstc"


def test_many_diamonds_are_walked_once():
    store = NamedStore("z")
    for _ in range(40):
        store = NamedStore("x", NamedStore("l", store), NamedStore("r", store))
    assert len(list(chain(store, fallback=True))) == 1 + 40 * 3


def test_long_chain_needs_no_deep_recursion():
    store = NamedStore("end")
    for _ in range(3000):
        store = NamedStore("x", store)
    with pytest.raises(FeatureNotFoundError, match="end"):
        store.read_metadata(pipeline()[0])


def test_list_of_fallback_stores_is_copied():
    fallback_stores = [NamedStore("b")]
    store = InMemoryMetadataStore(fallback_stores=fallback_stores)
    fallback_stores.clear()
    assert names(store) == "memoryb"


# Kinds of stores in one chain.


@pytest.fixture
def mixed(tmp_path, s3_server, s3_bucket, gcs_server, gcs_bucket):
    """Stores on a disk, S3, GCS and in memory, each falling back to the next."""
    memory = InMemoryMetadataStore()
    gcs = FilesystemMetadataStore(
        gcs_server.url(gcs_bucket, "prod"), storage_options=gcs_server.storage_options, fallback_stores=[memory]
    )
    s3 = FilesystemMetadataStore(
        s3_server.url(s3_bucket, "staging"), storage_options=s3_server.storage_options, fallback_stores=[gcs]
    )
    return [FilesystemMetadataStore(tmp_path / "dev", fallback_stores=[s3]), s3, gcs, memory]


def test_first_store_of_a_mixed_chain_that_has_the_feature_answers(mixed):
    video, _ = pipeline()
    found = []
    for place in (3, 2, 1, 0):
        mixed[place].write_metadata(video, videos([place]))
        found += ids_of(mixed[0].read_metadata(video))
    assert found == [3, 2, 1, 0]


def test_upstream_of_one_kind_makes_versions_in_a_store_of_another(mixed):
    video, processed = pipeline()
    mixed[2].write_metadata(video, videos([1, 2]))
    mixed[0].calculate_and_write_data_versions(processed, samples([2, 1]))
    assert mixed[0].read_metadata(processed)["data_version"].to_list() == [processed_version(1), processed_version(2)]
    assert [store.has_feature(processed) for store in mixed] == [True, False, False, False]


def test_error_names_all_roots_of_a_mixed_chain(mixed):
    with pytest.raises(FeatureNotFoundError) as caught:
        mixed[0].read_metadata(pipeline()[0])
    assert f"searched {', '.join(store.location for store in mixed)}." in str(caught.value)
    assert [store.location.partition("://")[0] for store in mixed[1:]] == ["s3", "gs", "memory"]


@pytest.mark.parametrize("server", ["s3", "gcs"])
def test_denied_root_is_never_taken_for_an_empty_one(mixed, request, server):
    video, processed = pipeline()
    mixed[3].write_metadata(video, videos([1]))
    request.getfixturevalue(f"{server}_server").deny(request.getfixturevalue(f"{server}_bucket"))
    denied = mixed[1 if server == "s3" else 2].location
    for ask in (
        lambda: mixed[0].read_metadata(video),
        lambda: mixed[0].has_feature(video, check_fallback=True),
        lambda: mixed[0].list_features(include_fallback=True),
        lambda: mixed[0].calculate_data_versions(processed, samples([1])),
        lambda: mixed[0].resolve_update(video, samples=videos([1])),
    ):
        with pytest.raises(StorageError, match=denied) as caught:
            ask()
        assert not isinstance(caught.value, LookupError)


@pytest.mark.parametrize("server", ["s3", "gcs"])
def test_missing_bucket_is_never_taken_for_an_empty_root(request, server):
    running = request.getfixturevalue(f"{server}_server")
    gone = FilesystemMetadataStore(running.url("no-such-bucket", "prod"), storage_options=running.storage_options)
    store = InMemoryMetadataStore(fallback_stores=[gone])
    with pytest.raises(StorageError, match="no-such-bucket"):
        store.read_metadata(pipeline()[0])
    with pytest.raises(StorageError, match="no-such-bucket"):
        store.resolve_update(pipeline()[0], samples=videos([1]))


def test_unreadable_directory_is_never_taken_for_an_empty_root(tmp_path):
    (tmp_path / "prod").write_text("a file where a directory should be")
    store = open_store(tmp_path / "dev", tmp_path / "prod")
    with pytest.raises(StorageError, match="prod"):
        store.read_metadata(pipeline()[0])


def test_missing_upstream_says_where_it_was_looked_for(tmp_path):
    store = open_store(tmp_path / "dev", tmp_path / "prod")
    with pytest.raises(DependencyError) as caught:
        store.calculate_data_versions(pipeline()[1], samples([1]))
    assert str(tmp_path / "dev") in str(caught.value)
    assert str(tmp_path / "prod") in str(caught.value)
