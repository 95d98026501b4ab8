"""How many requests each operation sends to an object store."""

from collections.abc import Callable

import polars as pl
import pytest

from metaxy_fs import ContainerSpec, Feature, FeatureGraph, FeatureKey, FeatureSpec, FilesystemMetadataStore
from metaxy_fs.versioning.definition import definition_version
from tests.servers import ObjectServer

Opener = Callable[[], FilesystemMetadataStore]


@pytest.fixture
def open_root(server: ObjectServer, bucket: str) -> Opener:
    """Opens a store object of its own on one fresh root."""
    return lambda: FilesystemMetadataStore(server.url(bucket, "root"), storage_options=server.storage_options)


@pytest.fixture
def video() -> type[Feature]:
    with FeatureGraph().use():

        class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]))):
            pass

    return Video


def frame(*ids: int) -> pl.DataFrame:
    versions = pl.struct(pl.format("v{}", "sample_id").alias("default")).alias("data_version")
    return pl.DataFrame({"sample_id": list(ids)}).with_columns(versions)


def sent(server: ObjectServer, action: Callable[[], object]) -> list[str]:
    """The kinds of the requests that an action sends."""
    server.clear_requests()
    action()
    return [request.kind for request in server.requests()]


def test_a_store_shows_itself_without_a_request(server: ObjectServer, open_root: Opener) -> None:
    store = open_root()
    assert sent(server, lambda: (repr(store), store._repr_html_())) == []


def test_a_write_to_a_warm_store_is_two_puts(server: ObjectServer, open_root: Opener, video: type[Feature]) -> None:
    store = open_root()
    store.write_metadata(video, frame(1))
    assert sent(server, lambda: store.write_metadata(video, frame(2))) == ["PUT", "PUT"]


def test_a_write_with_a_write_id_to_a_warm_store_looks_for_other_attempts_before_and_after_its_manifest(
    server: ObjectServer, open_root: Opener, video: type[Feature]
) -> None:
    store = open_root()
    store.write_metadata(video, frame(1), write_id="a")
    assert sent(server, lambda: store.write_metadata(video, frame(2), write_id="b")) == ["PUT", "GET", "PUT", "GET"]


def test_the_first_write_to_a_new_root_adds_its_two_descriptions(
    server: ObjectServer, open_root: Opener, video: type[Feature]
) -> None:
    kinds = sent(server, lambda: open_root().write_metadata(video, frame(1)))
    # GCS answers 404 for a missing object and for a missing bucket: a listing tells which.
    missing = ["GET", "GET", "LIST"] if server.scheme == "gs" else ["GET", "GET"]
    assert kinds == [*missing, "PUT", "PUT", "PUT", "PUT"]


def test_the_first_write_to_a_new_partition_adds_its_description(
    server: ObjectServer, open_root: Opener, video: type[Feature]
) -> None:
    with FeatureGraph().use():

        class Audio(Feature, spec=FeatureSpec(key=FeatureKey(["audio"]))):
            pass

    open_root().write_metadata(video, frame(1))
    kinds = sent(server, lambda: open_root().write_metadata(Audio, frame(1)))
    assert kinds == ["GET", "GET", "PUT", "PUT", "PUT"]


def test_the_first_write_of_a_process_to_a_known_partition_adds_two_requests(
    server: ObjectServer, open_root: Opener, video: type[Feature]
) -> None:
    open_root().write_metadata(video, frame(1))
    assert sent(server, lambda: open_root().write_metadata(video, frame(2))) == ["GET", "GET", "PUT", "PUT"]


@pytest.mark.parametrize("writes", [0, 3])
def test_has_feature_is_one_listing(server: ObjectServer, open_root: Opener, video: type[Feature], writes: int) -> None:
    for i in range(writes):
        open_root().write_metadata(video, frame(i))
    assert sent(server, lambda: open_root().has_feature(video)) == ["LIST"]


def test_a_read_of_one_file_is_a_listing_and_two_gets(
    server: ObjectServer, open_root: Opener, video: type[Feature]
) -> None:
    open_root().write_metadata(video, frame(1))
    assert sent(server, lambda: open_root().read_metadata(video)) == ["LIST", "GET", "GET"]


def test_a_second_read_gets_the_data_alone(server: ObjectServer, open_root: Opener, video: type[Feature]) -> None:
    open_root().write_metadata(video, frame(1))
    store = open_root()
    store.read_metadata(video)
    assert sent(server, lambda: store.read_metadata(video)) == ["LIST", "GET"]


def test_files_that_cannot_match_are_not_fetched(server: ObjectServer, open_root: Opener, video: type[Feature]) -> None:
    for i in range(5):
        open_root().write_metadata(video, frame(i))
    store = open_root()
    store.read_metadata(video, columns=["sample_id"])
    read = lambda: store.read_metadata(video, filters=pl.col("sample_id") == 3)  # noqa: E731  # reads best in place
    assert sent(server, read) == ["LIST", "GET"]
    version = pl.col("data_version").struct.field("default") == "v3"
    assert sent(server, lambda: store.read_metadata(video, filters=version)) == ["LIST", "GET"]
    assert sent(server, lambda: store.read_metadata(video, filters=pl.col("sample_id") == 7)) == ["LIST"]


def test_a_filter_on_a_scan_prunes_too(server: ObjectServer, open_root: Opener, video: type[Feature]) -> None:
    for i in range(5):
        open_root().write_metadata(video, frame(i))
    store = open_root()
    store.read_metadata(video)
    rows = store.scan_metadata(video).filter(pl.col("sample_id") > 3)
    assert sent(server, rows.collect) == ["GET"]


def test_a_chain_asks_each_root_once_for_a_feature_that_none_has(
    server: ObjectServer, open_root: Opener, video: type[Feature], request: pytest.FixtureRequest
) -> None:
    bucket = request.getfixturevalue("s3_bucket" if server.scheme == "s3" else "gcs_bucket")
    roots = [
        FilesystemMetadataStore(server.url(bucket, f"root-{n}"), storage_options=server.storage_options)
        for n in range(3)
    ]
    store = FilesystemMetadataStore(
        server.url(bucket, "dev"), fallback_stores=roots, storage_options=server.storage_options
    )
    assert sent(server, lambda: store.has_feature(video, check_fallback=True)) == ["LIST"] * 4


def test_other_partitions_are_asked_for_only_where_a_sample_is_not_in_the_current_one(
    server: ObjectServer, open_root: Opener, video: type[Feature]
) -> None:
    with FeatureGraph().use():

        class Later(Feature, spec=FeatureSpec(key=FeatureKey(["video"]), containers=[ContainerSpec(code_version=2)])):
            pass

    open_root().write_metadata(Later, frame(1, 2, 3))
    assert open_root().resolve_update(video, samples=frame(1, 2)).stale.height == 2
    open_root().write_metadata(video, frame(1, 2))
    later = definition_version(Later.graph, FeatureKey(["video"])).partition
    server.clear_requests()
    increment = open_root().resolve_update(video, samples=frame(1, 2))
    assert (bool(increment), increment.orphaned.height) == (False, 0)
    assert [request for request in server.requests() if later in f"{request.path} {request.query}"] == []
    assert open_root().resolve_update(video, samples=frame(1, 2, 3)).stale["sample_id"].to_list() == [3]
