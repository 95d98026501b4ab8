"""A chain that falls back by sample is read as its rule says."""

import pickle

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.metadata_store import FilesystemMetadataStore, InMemoryMetadataStore, open_store
from metaxy_fs.testing.store_cases import pipeline, videos
from tests.support.examples import examples

VERSIONS = st.dictionaries(st.integers(0, 5), st.sampled_from("uvw"), max_size=5)
WRITES = st.dictionaries(st.integers(0, 5), st.sampled_from(["u", "v", "w", None]), max_size=5)
"""Versions by sample; None retires it."""


def rows(versions):
    ids = sorted(versions)
    structs = [{"frames": versions[i], "audio": "a"} for i in ids]
    version = pl.Struct({"frames": pl.String, "audio": pl.String})
    return pl.DataFrame(
        {"sample_id": ids, "data_version": structs}, schema={"sample_id": pl.Int64, "data_version": version}
    )


def chain_of(layers, feature):
    """Stores with the layers, the nearest first; each layer is a list of writes."""
    store = None
    for writes in reversed(layers):
        store = InMemoryMetadataStore(fallback_stores=[] if store is None else [store], fallback_mode="sample")
        for versions in writes:
            store.write_metadata(feature, rows({i: text for i, text in versions.items() if text is not None}))
            store.retire(feature, ids([i for i, text in versions.items() if text is None]))
    return store


def ids(samples):
    return pl.DataFrame({"sample_id": samples}, schema={"sample_id": pl.Int64})


def frames_of(frame):
    return {row["sample_id"]: row["data_version"]["frames"] for row in frame.to_dicts()}


@given(st.lists(st.lists(WRITES, min_size=1, max_size=2), min_size=1, max_size=3), VERSIONS)
@examples(40)
def test_the_nearest_row_counts_and_what_any_store_holds_is_done(layers, expected):
    video, _ = pipeline()
    store = chain_of(layers, video)
    held = [{i: text for versions in writes for i, text in versions.items()} for writes in layers]
    last = {i: text for layer in reversed(held) for i, text in layer.items()}
    nearest = {i: text for i, text in last.items() if text is not None}
    read = store.read_metadata(video, latest_only=True)
    assert frames_of(read) == nearest
    assert read.height == len(nearest)
    written = [text for writes in layers for versions in writes for text in versions.values()]
    assert store.read_metadata(video).height == len([text for text in written if text is not None])

    increment = store.resolve_update(video, samples=rows(expected))
    assert frames_of(increment.new) == {i: text for i, text in expected.items() if i not in last}
    assert increment.counts.retired == len([i for i in expected if i in last and i not in nearest])
    done = {i for i, text in expected.items() if any(layer.get(i) == text for layer in held)}
    stale = {i: text for i, text in expected.items() if i in nearest and i not in done}
    assert frames_of(increment.stale) == stale
    stored = {row["sample_id"]: row["stored_data_version"]["frames"] for row in increment.stale.to_dicts()}
    assert stored == {i: nearest[i] for i in stale}
    assert set(increment.orphaned["sample_id"]) == set(nearest) - set(expected)


def test_a_branch_of_ten_samples_sees_the_rest_of_production(tmp_path):
    video, processed = pipeline()
    production = FilesystemMetadataStore(tmp_path / "production")
    production.write_metadata(video, videos(range(30)))
    production.calculate_and_write_data_versions(processed, videos(range(30)).drop("data_version"))
    branch = open_store(tmp_path / "branch", tmp_path / "production", fallback_mode="sample")
    branch.write_metadata(processed, production.read_metadata(processed).head(10))

    assert branch.read_metadata(processed, latest_only=True).height == 30
    assert not branch.resolve_update(processed)
    assert open_store(tmp_path / "branch", tmp_path / "production").resolve_update(processed).new.height == 20
    assert pickle.loads(pickle.dumps(branch)).fallback_mode == "sample"  # noqa: S301  # its own bytes
    assert "fallback_mode='sample'" in repr(branch)


def test_another_mode_is_refused():
    with pytest.raises(ValueError, match='"feature" or "sample", got \'row\''):
        InMemoryMetadataStore(fallback_mode="row")


@pytest.mark.parametrize("kind", ["memory", "files"])
def test_whole_numbers_of_one_store_stand_beside_floats_of_another(tmp_path, kind):
    video, _ = pipeline()
    make = {
        "memory": lambda _name, below: InMemoryMetadataStore(fallback_stores=below, fallback_mode="sample"),
        "files": lambda name, below: FilesystemMetadataStore(
            tmp_path / name, fallback_stores=below, fallback_mode="sample"
        ),
    }[kind]
    far = make("far", [])
    near = make("near", [far])
    far.write_metadata(video, videos([1, 2], size=[1, 2]))
    near.write_metadata(video, videos([2, 3], size=[0.5, 3.0]))
    assert near.read_metadata(video, latest_only=True).sort("sample_id")["size"].to_list() == [1.0, 0.5, 3.0]
    far.write_metadata(video, videos([1], size=[2**60]))
    with pytest.raises(MetadataSchemaError, match="'size'"):
        near.read_metadata(video)


def test_a_chain_by_sample_is_restored_in_its_first_store(tmp_path):
    video, _ = pipeline()
    prod = FilesystemMetadataStore(tmp_path / "prod")
    dev = open_store(tmp_path / "dev", tmp_path / "prod", fallback_mode="sample")
    prod.write_metadata(video, videos([1, 2], label=["a", "b"]))
    before = dev.read_metadata(video, latest_only=True)
    dev.create_snapshot("good")
    prod.write_metadata(video, videos([2, 3], take="bad"))
    dev.retire(video, ids([1]))
    dev.write_metadata(video, videos([4]))
    for _ in range(2):
        dev.restore(video, at="good")
    now = dev.read_metadata(video, latest_only=True).sort("sample_id")
    assert now.select(before.columns).equals(before)
    assert dev.history(video).select("rows", "retired").rows() == [(0, 1), (1, 0), (2, 2)]
    assert prod.history(video).height == 2


@given(st.lists(st.tuples(VERSIONS, VERSIONS), min_size=1, max_size=3), VERSIONS)
@examples(40)
def test_samples_are_compared_layer_by_layer_with_the_current_partition_or_else_with_others(layers, expected):
    (video, _), (other, _) = pipeline(), pipeline(frames=2)
    store = None
    for current, others in reversed(layers):
        store = InMemoryMetadataStore(fallback_stores=[] if store is None else [store], fallback_mode="sample")
        store.write_metadata(video, rows(current))
        store.write_metadata(other, rows(others))
    increment = store.resolve_update(video, samples=rows(expected))

    # What a layer that is looked at holds of each sample, and whether that is in the current partition.
    held = [
        {
            **({i: (text, False) for i, text in others.items()} if not current.keys() >= expected.keys() else {}),
            **{i: (text, True) for i, text in current.items()},
        }
        for current, others in layers
    ]
    undone = {i for i, text in expected.items() if all(layer.get(i) != (text, True) for layer in held)}
    nearest = {i: text for layer in reversed(held) for i, (text, _) in layer.items()}
    assert set(increment.new["sample_id"]) == undone - nearest.keys()
    stored = increment.stale.with_columns(data_version="stored_data_version")
    assert frames_of(stored) == {i: nearest[i] for i in undone & nearest.keys()}
    assert set(increment.orphaned["sample_id"]) == nearest.keys() - expected.keys()


@pytest.mark.parametrize("with_commits", [False, True, "tags"])
@pytest.mark.parametrize("latest_only", [False, True])
def test_stores_without_any_of_the_columns_give_their_rows(make_store, latest_only, with_commits):
    video, _ = pipeline()
    far = make_store("far")
    far.write_metadata(video, videos([1, 2, 3]).select("sample_id", "data_version"))
    near = make_store("near", fallback_stores=[far], fallback_mode="sample")
    near.write_metadata(video, videos([4]).select("sample_id", "data_version", note=pl.lit("x")))

    def notes(store):
        return store.read_metadata(video, columns=["note"], latest_only=latest_only, with_commits=with_commits)["note"]

    assert notes(near).to_list() == [None, None, None, "x"]
    near.retire(video, ids([4, 1]))
    assert notes(near).to_list() == ([None, None] if latest_only else [None, None, None, "x"])
