"""A promotion gives the target what was asked for."""

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metaxy_fs import (
    ContainerSpec,
    Feature,
    FeatureGraph,
    FeatureKey,
    FeatureNotFoundError,
    FeatureSpec,
    FilesystemMetadataStore,
    HashAlgorithmError,
    InMemoryMetadataStore,
    MetadataSchemaError,
    SnapshotError,
    StorageError,
    copy_metadata,
)
from metaxy_fs.ids import shared_clock, wall_clock
from metaxy_fs.testing.store_cases import UnreachableStore, pipeline, videos
from tests.servers.gcs import GCSServer
from tests.servers.s3 import S3Server
from tests.support.storages import Overwriting

KEY = FeatureKey(["video"])

with FeatureGraph().use():

    class Video(Feature, spec=FeatureSpec(key=KEY)):
        """A feature."""


with FeatureGraph().use():

    class Edited(Feature, spec=FeatureSpec(key=KEY, containers=[ContainerSpec(code_version=2)])):
        """The same one, changed."""


def rows(*ids: int, take: str = "") -> pl.DataFrame:
    return pl.DataFrame({"sample_id": ids, "data_version": [{"default": f"v{sample}{take}"} for sample in ids]})


@pytest.fixture
def staging(tmp_path: Path) -> FilesystemMetadataStore:
    return FilesystemMetadataStore(tmp_path / "staging")


@pytest.fixture
def production(tmp_path: Path) -> FilesystemMetadataStore:
    return FilesystemMetadataStore(tmp_path / "production")


def test_all_commits_keep_their_ids_times_and_names(
    staging: FilesystemMetadataStore, production: FilesystemMetadataStore
) -> None:
    staging.write_metadata(Video, rows(1, 2), write_id="job")
    staging.write_metadata(Video, rows(2, take="again"))
    told: list[tuple[int, int]] = []
    found = copy_metadata(
        Video, source=staging, target=production, progress=lambda done, known: told.append((done, known))
    )
    assert (found.commits, found.added, found.files) == (2, 2, 2)
    assert told[-1] == (found.bytes, found.bytes)
    assert_frame_equal(production.history(Video), staging.history(Video))
    assert_frame_equal(
        production.read_metadata(Video, with_commits=True), staging.read_metadata(Video, with_commits=True)
    )
    assert copy_metadata(Video, source=staging, target=production).added == 0
    production.write_metadata(Video, rows(1, 2), write_id="job")
    assert production.history(Video).height == 2


def test_writes_after_a_copy_come_after_it(
    staging: FilesystemMetadataStore, production: FilesystemMetadataStore
) -> None:
    shared_clock(staging.storage.identity).observe(wall_clock() + 86_400_000_000)
    staging.write_metadata(Video, rows(1))
    copy_metadata(Video, source=staging, target=production)
    production.write_metadata(Video, rows(1, take="later"))
    latest = production.read_metadata(Video, latest_only=True)
    assert latest["data_version"].to_list() == [{"default": "v1later"}]


def test_commits_without_a_latest_row_are_left_behind(
    staging: FilesystemMetadataStore, production: FilesystemMetadataStore
) -> None:
    for ids in ([1, 2], [3], [1, 2], [2]):
        staging.write_metadata(Video, rows(*ids))
    assert copy_metadata(Video, source=staging, target=production, which="latest").added == 3
    assert_frame_equal(
        production.read_metadata(Video, latest_only=True), staging.read_metadata(Video, latest_only=True)
    )
    assert production.history(Video)["rows"].to_list() == [1, 2, 1]


def test_a_feature_without_rows_is_copied_as_it_is(
    staging: FilesystemMetadataStore, production: FilesystemMetadataStore
) -> None:
    staging.write_metadata(Video, rows(1).clear())
    copy_metadata(Video, source=staging, target=production, which="latest")
    assert production.read_metadata(Video).is_empty()


@pytest.mark.parametrize("which", ["all", "latest"])
def test_what_a_snapshot_sees_is_copied(
    staging: FilesystemMetadataStore, production: FilesystemMetadataStore, which: str
) -> None:
    staging.write_metadata(Video, rows(1))
    staging.write_metadata(Video, rows(2))
    staging.write_metadata(Video, rows(2, take="again"))
    staging.create_snapshot("s")
    staging.write_metadata(Video, rows(1, 2, 3, take="later"))
    copy_metadata(Video, source=staging, target=production, snapshot="s", which=which)  # type: ignore[arg-type]
    then = staging.at("s").read_metadata(Video, latest_only=True)
    assert_frame_equal(production.read_metadata(Video, latest_only=True), then)
    assert production.read_metadata(Video).height == (3 if which == "all" else 2)
    with pytest.raises(SnapshotError):
        copy_metadata(Video, source=staging, target=production, snapshot="none")


def test_data_versions_are_copied_as_they_are_read(
    staging: FilesystemMetadataStore, production: FilesystemMetadataStore
) -> None:
    staging.write_metadata(Video, rows(1))
    staging.write_metadata(Edited, rows(2))
    copy_metadata(Edited, source=staging, target=production)
    assert production.read_metadata(Video, versions="all")["sample_id"].to_list() == [2]
    copy_metadata(KEY, source=staging, target=production)
    assert production.read_metadata(Video, versions="all")["sample_id"].to_list() == [1, 2]
    assert copy_metadata(Edited, source=staging, target=production, versions="all").commits == 2


def test_a_feature_that_the_source_lacks_is_an_error(
    staging: FilesystemMetadataStore, production: FilesystemMetadataStore
) -> None:
    behind = FilesystemMetadataStore(production.location)
    behind.write_metadata(Video, rows(1))
    source = FilesystemMetadataStore(staging.location, fallback_stores=[behind])
    for feature in (Video, KEY):
        with pytest.raises(FeatureNotFoundError, match="video"):
            copy_metadata(feature, source=source, target=production)


def test_roots_of_two_hash_algorithms_are_not_mixed(tmp_path: Path, staging: FilesystemMetadataStore) -> None:
    staging.write_metadata(Video, rows(1))
    other = FilesystemMetadataStore(tmp_path / "other", hash_algorithm="blake3")
    with pytest.raises(HashAlgorithmError, match="hash_algorithm='sha256'"):
        copy_metadata(Video, source=staging, target=other)
    assert not (tmp_path / "other").exists()


def test_what_is_no_store_is_refused(staging: FilesystemMetadataStore, tmp_path: Path) -> None:
    for source, target in ((staging, tmp_path), (tmp_path, staging)):
        with pytest.raises(TypeError, match="FilesystemMetadataStore"):
            copy_metadata(Video, source=source, target=target)  # type: ignore[arg-type]


def test_a_store_of_another_kind_that_does_not_answer_gets_nothing(staging: FilesystemMetadataStore) -> None:
    staging.write_metadata(Video, rows(1))
    for source, target in ((staging, UnreachableStore()), (UnreachableStore(), staging)):
        with pytest.raises(StorageError, match="does not answer"):
            copy_metadata(Video, source=source, target=target)
    with pytest.raises(TypeError, match="FilesystemMetadataStore"):
        copy_metadata(Video, source=staging, target=UnreachableStore(), exclude=rows(1).select("sample_id"))


def test_a_store_in_memory_is_promoted_as_any_other(staging: FilesystemMetadataStore) -> None:
    staging.write_metadata(Video, rows(*range(5)))
    first, second = InMemoryMetadataStore(), InMemoryMetadataStore()
    copy_metadata(Video, source=staging, target=first)
    copy_metadata(Video, source=first, target=second)
    assert_frame_equal(second.read_metadata(Video), staging.read_metadata(Video))


def test_choices_without_a_meaning_are_refused(staging: FilesystemMetadataStore) -> None:
    for option in ("which", "versions"):
        with pytest.raises(ValueError, match=option):
            copy_metadata(Video, source=staging, target=staging, **{option: "some"})  # type: ignore[arg-type]


def test_a_local_root_is_promoted_to_a_bucket_and_back(
    tmp_path: Path, staging: FilesystemMetadataStore, s3_server: S3Server, s3_bucket: str
) -> None:
    for sample in range(5):
        staging.write_metadata(Video, rows(sample))
    bucket = FilesystemMetadataStore(s3_server.url(s3_bucket, "root"), storage_options=s3_server.storage_options)
    back = FilesystemMetadataStore(tmp_path / "back")
    copy_metadata(Video, source=staging, target=bucket)
    copy_metadata(Video, source=bucket, target=back)
    for each in (bucket, back):
        assert_frame_equal(
            each.read_metadata(Video, with_commits=True), staging.read_metadata(Video, with_commits=True)
        )


def test_a_bucket_is_promoted_within_its_service(gcs_server: GCSServer, gcs_bucket: str) -> None:
    source, target = (
        FilesystemMetadataStore(gcs_server.url(gcs_bucket, name), storage_options=gcs_server.storage_options)
        for name in ("staging", "production")
    )
    for sample in range(3):
        source.write_metadata(Video, rows(sample))
    gcs_server.clear_requests()
    assert copy_metadata(Video, source=source, target=target).files == 3
    assert not [one for one in gcs_server.requests() if one.kind == "GET" and one.path.endswith(".parquet")]
    assert_frame_equal(target.read_metadata(Video, with_commits=True), source.read_metadata(Video, with_commits=True))
    assert copy_metadata(Video, source=source, target=target).added == 0


def test_nothing_is_copied_to_a_root_that_overwrites(staging: FilesystemMetadataStore) -> None:
    staging.write_metadata(Video, rows(1))
    target = FilesystemMetadataStore(Overwriting())
    with pytest.raises(StorageError, match="a copy could replace what is there"):
        copy_metadata(Video, source=staging, target=target)
    assert target.list_features() == []


def test_types_that_the_target_has_agreed_on_bind_a_copy(tmp_path: Path) -> None:
    video, _ = pipeline()
    source, target = (FilesystemMetadataStore(tmp_path / name) for name in ("source", "target"))
    target.write_metadata(video, videos([1], size=[1]))
    source.write_metadata(video, videos([2], size=["large"]))
    before = {path: path.read_bytes() for path in (tmp_path / "target").rglob("*") if path.is_file()}
    with pytest.raises(MetadataSchemaError, match=r"nothing was copied.*'size'.*String.*Int64"):
        copy_metadata(video, source=source, target=target)
    assert {path: path.read_bytes() for path in (tmp_path / "target").rglob("*") if path.is_file()} == before


def test_types_that_a_copy_brings_bind_writers_to_the_target(tmp_path: Path) -> None:
    video, _ = pipeline()
    source, target = (FilesystemMetadataStore(tmp_path / name) for name in ("source", "target"))
    target.write_metadata(video, videos([1]))
    source.write_metadata(video, videos([2]))
    source.write_metadata(video, videos([3], note=["a"], size=[2**60]))
    copy_metadata(video, source=source, target=target)
    for wrong in ({"note": [1]}, {"size": [0.5]}):
        with pytest.raises(MetadataSchemaError, match=next(iter(wrong))):
            FilesystemMetadataStore(target.location).write_metadata(video, videos([4], wrong))
    assert FilesystemMetadataStore(target.location).read_metadata(video).height == 3
