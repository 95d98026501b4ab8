"""A root keeps to one hash algorithm, and never mixes two."""

import hashlib
import json
import pickle

import polars as pl
import pytest

from metaxy_fs import (
    ContainerDep,
    ContainerKey,
    ContainerSpec,
    CorruptObjectError,
    Feature,
    FeatureDep,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    HashAlgorithmError,
    InMemoryMetadataStore,
    open_store,
)
from metaxy_fs.hashing import ALGORITHMS

# What `crop` and `summary` of the sample below have, by hashlib or by the packages blake3 1.0.11 and xxhash 4.1.0.
GOLDEN = {
    "blake3": (
        "281dfe965a1a1b7919e6ffbef1b9e956936d1d25943d12c6accdc9c78b954a03",
        "ac1ec8946e058dc54eaa2aef3a4702f809d48f07478b92e90060a47847801a18",
    ),
    "xxh3_128": ("dff51202b4234b82a5c156abd380dc43", "6cf940de290bbadba103d23cb044312b"),
}
VIDEO = FeatureKey(["video", "processing"])

with FeatureGraph().use():

    class Video(
        Feature,
        spec=FeatureSpec(
            key=VIDEO, containers=[ContainerSpec(key=ContainerKey([name])) for name in ("frames", "audio")]
        ),
    ):
        pass

    class Crop(Feature, spec=FeatureSpec(key=FeatureKey(["crop"]), deps=[FeatureDep(key=VIDEO)])):
        pass

    class Summary(
        Feature,
        spec=FeatureSpec(
            key=FeatureKey(["summary"]),
            deps=[FeatureDep(key=Crop.spec.key), FeatureDep(key=VIDEO)],
            containers=[
                ContainerSpec(
                    key=ContainerKey(["summary"]),
                    code_version="v2",
                    deps=[
                        ContainerDep(feature_key=Crop.spec.key),
                        ContainerDep(feature_key=VIDEO, containers=[ContainerKey(["audio"])]),
                    ],
                )
            ],
        ),
    ):
        pass


SAMPLES = pl.DataFrame({"sample_id": [1]})
ROWS = SAMPLES.with_columns(data_version=pl.lit({"frames": "abc123", "audio": "def456"}))


@pytest.fixture(params=["files", "memory"])
def make_store(request, tmp_path):
    """Makes a store for an algorithm."""
    if request.param == "memory":
        return lambda algorithm: InMemoryMetadataStore(hash_algorithm=algorithm)
    return lambda algorithm: FilesystemMetadataStore(tmp_path / "root", hash_algorithm=algorithm)


@pytest.fixture
def opened(tmp_path):
    """Opens roots below one directory."""

    def open_root(name="root", **options):
        return FilesystemMetadataStore(tmp_path / name, **options)

    return open_root


def golden(algorithm):
    if algorithm in GOLDEN:
        return GOLDEN[algorithm]
    crop = hashlib.new(algorithm, b"default|1|video_processing/audio|def456|video_processing/frames|abc123").hexdigest()
    text = f"summary|v2|crop/default|{crop}|video_processing/audio|def456"
    return crop, hashlib.new(algorithm, text.encode()).hexdigest()


def recorded(tmp_path, name="root"):
    return json.loads((tmp_path / name / "_store.json").read_bytes())["hash_algorithm"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_versions_are_the_golden_ones_of_the_algorithm(make_store, algorithm):
    store = make_store(algorithm)
    store.write_metadata(Video, ROWS)
    crop = store.calculate_and_write_data_versions(Crop, SAMPLES)
    summary = store.calculate_data_versions(Summary, SAMPLES)
    found = (crop["data_version"][0]["default"], summary["data_version"][0]["summary"])
    assert found == golden(algorithm)
    assert store.resolve_update(Summary).new.equals(summary)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_was_calculated_is_up_to_date(make_store, algorithm):
    store = make_store(algorithm)
    store.write_metadata(Video, ROWS)
    store.calculate_and_write_data_versions(Crop, SAMPLES)
    assert not store.resolve_update(Crop)
    assert store.explain(Crop, 1).status == "up to date"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_explanations_find_what_a_digest_was_made_from(make_store, algorithm):
    store = make_store(algorithm)
    store.write_metadata(Video, ROWS)
    store.calculate_and_write_data_versions(Crop, SAMPLES)
    store.write_metadata(Video, SAMPLES.with_columns(data_version=pl.lit({"frames": "abc123", "audio": "new"})))
    why = store.explain(Crop, 1)
    assert [str(cause) for cause in why.causes] == ["video/processing/audio"]
    assert "upstream video/processing/audio changed" in why.to_text()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_definitions_are_hashed_alike_whatever_the_algorithm(make_store, algorithm):
    store = make_store(algorithm)
    store.write_metadata(Video, ROWS)
    definition = "frames|" + hashlib.sha256(b"video_processing/frames|1").hexdigest()
    definition = "audio|" + hashlib.sha256(b"video_processing/audio|1").hexdigest() + "|" + definition
    assert store.stored_versions(VIDEO) == [hashlib.sha256(definition.encode()).hexdigest()[:16]]


def test_a_root_is_made_for_sha256_unless_asked_otherwise(opened, tmp_path):
    opened().write_metadata(Video, ROWS)
    assert recorded(tmp_path) == "sha256"
    opened("other", hash_algorithm="blake3").write_metadata(Video, ROWS)
    assert recorded(tmp_path, "other") == "blake3"


def test_a_root_has_the_algorithm_that_it_was_made_with(opened):
    opened(hash_algorithm="blake3").write_metadata(Video, ROWS)
    again = opened()
    assert again.hash_algorithm == "blake3"
    assert again.calculate_data_versions(Crop, SAMPLES)["data_version"][0]["default"] == GOLDEN["blake3"][0]
    again.write_metadata(Video, ROWS)


@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.write_metadata(Video, ROWS),
        lambda store: store.calculate_data_versions(Crop, SAMPLES),
        lambda store: store.resolve_update(Crop),
        lambda store: store.resolve_update(Video, samples=ROWS),
        lambda store: store.explain(Crop, 1),
    ],
)
def test_a_root_is_not_used_with_another_algorithm(opened, use):
    opened(hash_algorithm="blake3").write_metadata(Video, ROWS)
    with pytest.raises(
        HashAlgorithmError, match=r"root hashes versions with blake3.*opened for sha256.*Open it without"
    ):
        use(opened(hash_algorithm="sha256"))


def test_a_root_is_read_whatever_the_algorithm(opened):
    opened(hash_algorithm="blake3").write_metadata(Video, ROWS)
    other = opened(hash_algorithm="sha256")
    assert other.read_metadata(Video).equals(ROWS)
    assert other.has_feature(Video)
    assert other.list_features() == [VIDEO]


def test_reads_do_not_ask_for_the_algorithm(opened, tmp_path):
    opened().write_metadata(Video, ROWS)
    (tmp_path / "root" / "_store.json").write_bytes(b"broken")
    store = opened()
    assert store.read_metadata(Video).height == 1
    with pytest.raises(CorruptObjectError, match=r"_store\.json cannot be decoded"):
        store.resolve_update(Crop)


def test_the_algorithm_is_asked_for_once(opened, tmp_path):
    opened().write_metadata(Video, ROWS)
    store = opened()
    store.resolve_update(Crop)
    (tmp_path / "root" / "_store.json").unlink()
    store.resolve_update(Crop)
    store.calculate_and_write_data_versions(Crop, SAMPLES)
    assert not (tmp_path / "root" / "_store.json").exists()


@pytest.mark.parametrize("name", ["sha256 ", "md5", "sha1", "no\\u0000ne", ""])
def test_a_forged_algorithm_is_not_believed(opened, tmp_path, name):
    opened().write_metadata(Video, ROWS)
    (tmp_path / "root" / "_store.json").write_text(f'{{"format_version":1,"hash_algorithm":"{name}"}}')
    for use in (
        lambda store: store.calculate_data_versions(Crop, SAMPLES),
        lambda store: store.write_metadata(Video, ROWS),
    ):
        with pytest.raises(CorruptObjectError, match=r"does not know; it knows format version 1 and the algorithms"):
            use(opened())


def test_a_root_that_is_made_meanwhile_has_to_be_what_versions_were_calculated_for(opened):
    opened("source").write_metadata(Video, ROWS)
    store = opened(fallback_stores=[opened("source")])
    versions = store.calculate_data_versions(Crop, SAMPLES)
    opened(hash_algorithm="blake3").write_metadata(Video, ROWS)
    with pytest.raises(HashAlgorithmError, match="opened for sha256"):
        store.write_metadata(Crop, versions)
    with pytest.raises(HashAlgorithmError, match="opened for sha256"):
        store.calculate_data_versions(Crop, SAMPLES)


def test_a_pickled_store_keeps_its_algorithm(opened):
    store = pickle.loads(pickle.dumps(opened(hash_algorithm="blake3")))  # noqa: S301  # the bytes are this test's own
    assert store.hash_algorithm == "blake3"


@pytest.mark.parametrize("made", [FilesystemMetadataStore, open_store])
def test_an_algorithm_that_is_not_offered_makes_no_store(made, tmp_path):
    with pytest.raises(ValueError, match="got 'md5'"):
        made(tmp_path, hash_algorithm="md5")


def test_an_algorithm_that_is_not_offered_makes_no_store_in_memory():
    with pytest.raises(ValueError, match="got None"):
        InMemoryMetadataStore(hash_algorithm=None)


@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.calculate_data_versions(Crop, SAMPLES),
        lambda store: store.resolve_update(Crop),
        lambda store: store.resolve_update(Video, samples=ROWS),
        lambda store: store.explain(Crop, 1),
    ],
)
def test_a_chain_of_two_algorithms_is_refused(opened, use):
    opened("prod", hash_algorithm="blake3").write_metadata(Video, ROWS)
    chain = opened("dev", fallback_stores=[InMemoryMetadataStore(), opened("prod")])
    with pytest.raises(HashAlgorithmError, match=r"sha256 in \S+/dev, and with blake3 in its fallback store \S+/prod"):
        use(chain)
    assert chain.read_metadata(Video).equals(ROWS)


def test_versions_from_one_store_of_a_mixed_chain_are_calculated(opened):
    mixed = opened("dev", fallback_stores=[InMemoryMetadataStore(hash_algorithm="blake3")])
    mixed.write_metadata(Video, ROWS)
    found = mixed.calculate_data_versions(Crop, SAMPLES, allow_upstream_fallback=False)
    assert found["data_version"][0]["default"] == golden("sha256")[0]


def test_a_chain_is_opened_for_one_algorithm(opened, tmp_path):
    opened("prod", hash_algorithm="blake3").write_metadata(Video, ROWS)
    chain = open_store(tmp_path / "dev", tmp_path / "staging", tmp_path / "prod", hash_algorithm="blake3")
    chain.calculate_and_write_data_versions(Crop, SAMPLES)
    assert recorded(tmp_path, "dev") == "blake3"
    assert not open_store(tmp_path / "dev", tmp_path / "prod").resolve_update(Crop)
