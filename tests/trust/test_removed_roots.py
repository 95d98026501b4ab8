"""Stores that stay open while their root is removed, and perhaps made again."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from metaxy_fs import (
    Feature,
    FeatureDep,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    HashAlgorithmError,
    WriteConflictError,
    copy_metadata,
    verify,
)
from metaxy_fs.log import terms
from tests.servers import ObjectServer

VIDEO = FeatureKey(["video"])

with FeatureGraph().use():

    class Video(Feature, spec=FeatureSpec(key=VIDEO)):
        pass

    class Clip(Feature, spec=FeatureSpec(key=FeatureKey(["clip"]), deps=[FeatureDep(key=VIDEO)])):
        pass


Opener = Callable[..., FilesystemMetadataStore]


@pytest.fixture(params=["local", "s3", "gcs"])
def opened(request: pytest.FixtureRequest) -> Opener:
    """Opens stores of one root."""
    if request.param == "local":
        path = request.getfixturevalue("tmp_path") / "root"
        return lambda **options: FilesystemMetadataStore(path, **options)
    server: ObjectServer = request.getfixturevalue(f"{request.param}_server")
    url = server.url(request.getfixturevalue(f"{request.param}_bucket"), "root")
    return lambda **options: FilesystemMetadataStore(url, storage_options=server.storage_options, **options)


@pytest.fixture
def _suspicious(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a process believe what it has learnt of a root for no time at all, instead of a minute."""
    monkeypatch.setattr(terms, "_BELIEVED_SECONDS", -1.0)


def test_a_named_write_of_other_rows_is_read_as_it_is_now(opened: Opener) -> None:
    store = opened()
    store.write_metadata(Video, frame(1), write_id="job")
    assert ids(store) == [1]
    remove(store)
    opened().write_metadata(Video, frame(7), write_id="job")
    assert ids(store, filters=pl.col("sample_id") == 7) == [7]
    assert ids(store) == [7]
    with pytest.raises(WriteConflictError):
        store.write_metadata(Video, frame(1), write_id="job")


@pytest.mark.usefixtures("_suspicious")
def test_a_writer_describes_again_what_was_removed(opened: Opener) -> None:
    store = opened(hash_algorithm="blake3")
    store.write_metadata(Video, frame(1))
    remove(store)
    store.write_metadata(Video, frame(2))
    assert ids(opened()) == [2]
    assert opened().hash_algorithm == "blake3"
    assert verify(store).findings == ()


@pytest.mark.usefixtures("_suspicious")
def test_a_writer_describes_a_partition_again_that_was_removed(opened: Opener) -> None:
    store = opened()
    store.write_metadata(Video, frame(1))
    remove(store, "video")
    store.write_metadata(Video, frame(2), write_id="job")
    assert verify(store).findings == ()


@pytest.mark.usefixtures("_suspicious")
def test_versions_by_another_algorithm_than_that_of_the_root_made_since_are_not_written(opened: Opener) -> None:
    store = opened()
    store.write_metadata(Video, frame(1))
    store.calculate_and_write_data_versions(Clip, pl.DataFrame({"sample_id": [1]}))
    remove(store)
    other = opened(hash_algorithm="xxh3_128")
    other.write_metadata(Video, frame(1, 2))
    other.calculate_and_write_data_versions(Clip, pl.DataFrame({"sample_id": [1]}))
    for _ in range(2):
        with pytest.raises(HashAlgorithmError, match="made again"):
            store.calculate_and_write_data_versions(Clip, pl.DataFrame({"sample_id": [2]}))
    assert ids(other, Clip) == [1]


@pytest.mark.parametrize("is_source", [True, False])
def test_nothing_is_copied_between_roots_of_two_algorithms_one_of_which_was_made_since(
    opened: Opener, tmp_path: Path, *, is_source: bool
) -> None:
    other = FilesystemMetadataStore(tmp_path / "other")
    store = opened()
    for each in (store, other):
        each.write_metadata(Video, frame(1))
    remove(store)
    opened(hash_algorithm="xxh3_128").write_metadata(Video, frame(2))
    source, target = (store, other) if is_source else (other, store)
    with pytest.raises(HashAlgorithmError, match="xxh3_128"):
        copy_metadata(Video, source=source, target=target)


def test_a_writer_looks_again_at_a_root_it_agreed_to_a_minute_ago_while_it_puts_its_rows(
    server: ObjectServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FilesystemMetadataStore(server.url(bucket, "root"), storage_options=server.storage_options)
    store.write_metadata(Video, frame(1))
    now = terms.elapsed()
    monkeypatch.setattr(terms, "elapsed", lambda: now + 600)
    kinds = []
    for number in range(2):
        server.clear_requests()
        store.write_metadata(Video, frame(number))
        kinds.append(sorted(request.kind for request in server.requests()))
    assert kinds == [["GET", "GET", "PUT", "PUT"], ["PUT", "PUT"]]


def remove(store: FilesystemMetadataStore, directory: str = "") -> None:
    """Remove all objects, as one who knows nothing of stores would."""
    for info in store.storage.list(directory):
        store.storage.delete(info.path)


def frame(*numbers: int) -> pl.DataFrame:
    return pl.DataFrame({"sample_id": numbers, "data_version": [{"default": f"v{number}"} for number in numbers]})


def ids(store: FilesystemMetadataStore, feature: type[Feature] = Video, filters: pl.Expr | None = None) -> list[int]:
    return store.read_metadata(feature, filters=filters)["sample_id"].to_list()
