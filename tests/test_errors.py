"""Errors carry what they are about as attributes: each kind is provoked as users meet it."""

import copy
import pickle
from pathlib import Path

import polars as pl
import pytest

from metaxy_fs import (
    CommitStateUnknownError,
    ContainerKey,
    ContainerSpec,
    CorruptObjectError,
    DependencyError,
    Feature,
    FeatureDep,
    FeatureGraph,
    FeatureKey,
    FeatureNotFoundError,
    FeatureSpec,
    FilesystemMetadataStore,
    HashAlgorithmError,
    InMemoryMetadataStore,
    MetadataSchemaError,
    ObjectExistsError,
    ObjectNotFoundError,
    SnapshotError,
    StorageAccessError,
    StorageError,
    UnsupportedFormatError,
    WriteConflictError,
    compact,
    errors,
)
from metaxy_fs.errors import MetaxyError, about
from metaxy_fs.storage.local import LocalStorage
from metaxy_fs.storage.memory import MemoryStorage
from metaxy_fs.testing.faults import Fault
from metaxy_fs.testing.faulty_storage import FaultyStorage

NAMES = ("feature", "root", "path", "commit", "column", "write_id", "roots", "name", "upstream")

with FeatureGraph().use():

    class Frames(Feature, spec=FeatureSpec(key=FeatureKey(["video", "frames"]))):
        pass

    class Faces(
        Feature, spec=FeatureSpec(key=FeatureKey(["faces"]), deps=[FeatureDep(key=FeatureKey(["video", "frames"]))])
    ):
        pass


ROWS = pl.DataFrame({"sample_id": [1, 2], "data_version": [{"default": "a"}, {"default": "b"}]})


@pytest.fixture
def root(tmp_path):
    return str(tmp_path / "root")


@pytest.fixture
def store(root):
    store = FilesystemMetadataStore(root)
    store.write_metadata(Frames, ROWS)
    return store


def provoked(kind, function, *args, **kwargs):
    """The facts of the error that a call raises; they survive pickles and copies, and no text repeats them."""
    with pytest.raises(kind) as caught:
        function(*args, **kwargs)
    error = caught.value
    assert type(error) is kind
    facts = facts_of(error)
    for same in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301  # our own
        assert (type(same), str(same), facts_of(same)) == (kind, str(error), facts)
    assert repr(error) == f"{kind.__name__}({error.args[0]!r})"
    return facts


def facts_of(error):
    found = {name: getattr(error, name, None) for name in NAMES}
    return {name: value for name, value in found.items() if value not in (None, ())}


def path_of(root, pattern):
    [found] = Path(root).glob(pattern)
    return found, found.relative_to(root).as_posix()


def test_metadata_schema_error(store):
    wrong = ROWS.with_columns(pl.lit("x").alias("_metaxy_kind"))
    assert provoked(MetadataSchemaError, store.write_metadata, Frames, wrong) == {
        "feature": "video/frames",
        "column": "_metaxy_kind",
    }
    assert provoked(MetadataSchemaError, store.write_metadata, Frames, ROWS.drop("data_version")) == {
        "feature": "video/frames",
        "column": "data_version",
    }
    other = FilesystemMetadataStore(store.location)
    texts = ROWS.with_columns(pl.col("sample_id").cast(pl.String))
    assert provoked(MetadataSchemaError, other.write_metadata, Frames, texts)["column"] == "sample_id"
    assert provoked(MetadataSchemaError, store.read_metadata, Frames, columns=["no"])["column"] == "no"


def test_feature_not_found_error(store, tmp_path):
    chain = FilesystemMetadataStore(tmp_path / "empty", fallback_stores=[store])
    roots = (chain.location, store.location)
    expected = {"feature": "faces", "root": chain.location, "roots": roots}
    assert provoked(FeatureNotFoundError, chain.read_metadata, Faces) == expected
    expected = {"feature": "faces", "root": store.location, "roots": (store.location,)}
    assert provoked(FeatureNotFoundError, store.history, Faces) == expected
    assert provoked(FeatureNotFoundError, compact, store, Faces) == expected


def test_snapshot_error(store):
    assert provoked(SnapshotError, store.at, "monday") == {"name": "monday", "root": store.location}


def test_dependency_error(store, tmp_path):
    empty = FilesystemMetadataStore(tmp_path / "empty")
    expected = {"feature": "faces", "upstream": "video/frames", "root": empty.location}
    assert provoked(DependencyError, empty.resolve_update, Faces) == expected
    samples = pl.DataFrame({"sample_id": [1, 9]})
    expected = {"feature": "faces", "upstream": "video/frames"}
    assert provoked(DependencyError, store.calculate_data_versions, Faces, samples) == expected
    assert provoked(DependencyError, store.resolve_update, Frames) == {"feature": "video/frames"}


def test_hash_algorithm_error(store):
    other = FilesystemMetadataStore(store.location, hash_algorithm="blake3")
    expected = {"feature": "video/frames", "root": store.location, "path": "_store.json"}
    assert provoked(HashAlgorithmError, other.write_metadata, Frames, ROWS) == expected


@pytest.mark.parametrize("kind", [FilesystemMetadataStore, InMemoryMetadataStore])
def test_write_conflict_error(kind, tmp_path):
    store = kind(tmp_path) if kind is FilesystemMetadataStore else kind()
    store.write_metadata(Frames, ROWS.head(1), write_id="job-7")
    facts = provoked(WriteConflictError, store.write_metadata, Frames, ROWS, write_id="job-7")
    assert (facts["feature"], facts["root"], facts["write_id"]) == ("video/frames", store.location, "job-7")
    if kind is FilesystemMetadataStore:
        assert facts["commit"] == store.history(Frames)["commit"].item()


def test_corrupt_manifest(store):
    file, path = path_of(store.location, "*/*/_manifests/appends/*.json")
    file.write_bytes(file.read_bytes()[:100])
    facts = provoked(CorruptObjectError, FilesystemMetadataStore(store.location).read_metadata, Frames)
    assert facts == {"feature": "video/frames", "root": store.location, "path": path, "commit": file.stem}


def test_newer_manifest(store):
    file, path = path_of(store.location, "*/*/_manifests/appends/*.json")
    body = file.read_bytes().rpartition(b',"sha256"')[0]
    file.write_bytes(body.replace(b'"format_version":1', b'"format_version":2') + b"}")
    facts = provoked(UnsupportedFormatError, FilesystemMetadataStore(store.location).read_metadata, Frames)
    assert (facts["feature"], facts["root"], facts["path"]) == ("video/frames", store.location, path)


@pytest.mark.parametrize("is_lazy", [False, True])
@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"x" + data[1:]])
def test_corrupt_data_file(store, damage, is_lazy):
    file, path = path_of(store.location, "*/*/*.parquet")
    file.write_bytes(damage(file.read_bytes()))
    fresh = FilesystemMetadataStore(store.location)
    read = (lambda: fresh.scan_metadata(Frames).collect()) if is_lazy else (lambda: fresh.read_metadata(Frames))
    facts = provoked(CorruptObjectError, read)
    assert facts == {"feature": "video/frames", "root": store.location, "path": path}


def test_a_data_file_that_is_gone(store):
    file, path = path_of(store.location, "*/*/*.parquet")
    file.unlink()
    facts = provoked(CorruptObjectError, FilesystemMetadataStore(store.location).read_metadata, Frames)
    assert facts == {"feature": "video/frames", "root": store.location, "path": path}


def test_a_large_data_file_of_which_a_column_is_damaged(tmp_path):
    store = FilesystemMetadataStore(tmp_path)
    count = 300_000
    ids = pl.int_range(count, eager=True).shuffle(seed=1).alias("sample_id")
    versions = pl.select(pl.struct(pl.lit("a").alias("default")).repeat_by(count).explode()).to_series()
    store.write_metadata(Frames, pl.DataFrame([ids, versions.alias("data_version")]))
    file, path = path_of(tmp_path, "*/*/*.parquet")
    data = bytearray(file.read_bytes())
    data[len(data) // 8] ^= 1
    file.write_bytes(data)
    facts = provoked(CorruptObjectError, FilesystemMetadataStore(tmp_path).read_metadata, Frames, columns=["sample_id"])
    assert facts == {"feature": "video/frames", "root": store.location, "path": path}


def test_corrupt_data_file_of_an_object_store():
    storage = MemoryStorage()
    FilesystemMetadataStore(storage).write_metadata(Frames, ROWS)
    [info] = [each for each in storage.list("") if each.path.endswith(".parquet")]
    data = storage.get(info.path)
    storage.delete(info.path)
    storage.put(info.path, b"x" + data[1:])
    facts = provoked(CorruptObjectError, FilesystemMetadataStore(storage).read_metadata, Frames)
    assert facts == {"feature": "video/frames", "root": "memory", "path": info.path}


def test_commit_state_unknown_error():
    inner = MemoryStorage()
    FilesystemMetadataStore(inner).write_metadata(Frames, ROWS)
    storage = FaultyStorage(inner, lambda _verb, path: Fault.RESET_AFTER if "_manifests/appends/" in path else None)
    facts = provoked(CommitStateUnknownError, FilesystemMetadataStore(storage).write_metadata, Frames, ROWS)
    assert facts["commit"] in FilesystemMetadataStore(inner).history(Frames)["commit"].to_list()
    assert facts["path"].endswith(f"_manifests/appends/{facts['commit']}.json")
    assert (facts["feature"], facts["root"]) == ("video/frames", "memory")


def test_storage_error(tmp_path):
    (tmp_path / "file").write_text("no directory")
    store = FilesystemMetadataStore(tmp_path / "file")
    facts = provoked(StorageError, store.read_metadata, Frames)
    assert (facts["feature"], facts["root"]) == ("video/frames", store.location)


def test_storage_access_error(store):
    store.create_snapshot("monday")
    facts = provoked(StorageAccessError, store.at("monday").write_metadata, Frames, ROWS)
    assert facts == {"feature": "video/frames", "root": store.location}


@pytest.mark.parametrize("kind", [LocalStorage, MemoryStorage])
def test_errors_of_objects(kind, tmp_path):
    storage = LocalStorage(tmp_path) if kind is LocalStorage else MemoryStorage()
    storage.put("a/b", b"1")
    at = {"root": storage.location}
    assert provoked(ObjectExistsError, storage.put, "a/b", b"2") == at | {"path": "a/b"}
    assert provoked(ObjectNotFoundError, storage.get, "a/c") == at | {"path": "a/c"}
    assert provoked(StorageError, storage.get, "../c") == at | {"path": "../c"}


def test_errors_of_a_remote_root():
    storage = pytest.importorskip("metaxy_fs.storage.open").open_storage("memory://errors-of-objects")
    facts = provoked(ObjectNotFoundError, storage.get, "a/c")
    assert facts == {"root": "memory://errors-of-objects", "path": "a/c"}


def test_the_first_to_know_is_believed():
    with pytest.raises(StorageError) as caught, about(root="outer", feature="outer"):
        raise StorageError("failed", root="inner")
    assert facts_of(caught.value) == {"root": "inner", "feature": "outer"}


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "MetaxyError"])
def test_every_kind_takes_facts_by_keyword_and_needs_none(name):
    kind = getattr(errors, name)
    assert issubclass(kind, MetaxyError)
    assert facts_of(kind("failed")) == {}
    assert str(kind("failed")) == "failed"
    assert kind("failed", feature="faces").feature == "faces"
    with pytest.raises(TypeError, match="color"):
        kind("failed", color="red")


def test_container_versions_are_blamed_on_their_column(tmp_path):
    with FeatureGraph().use():

        class Two(
            Feature,
            spec=FeatureSpec(
                key=FeatureKey(["two"]),
                containers=[ContainerSpec(key=ContainerKey(["a"])), ContainerSpec(key=ContainerKey(["b"]))],
            ),
        ):
            pass

        store = FilesystemMetadataStore(tmp_path)
        facts = provoked(MetadataSchemaError, store.write_metadata, Two, ROWS)
    assert facts == {"feature": "two", "column": "data_version"}
