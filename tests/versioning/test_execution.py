"""Answers are the same in whatever pieces they are computed, eagerly or lazily."""

import tempfile

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs.errors import MetaxyError
from metaxy_fs.metadata_store import FilesystemMetadataStore, InMemoryMetadataStore, pieces
from metaxy_fs.spec import FeatureDep, FeatureGraph, FeatureKey, FeatureSpec
from metaxy_fs.storage.memory import MemoryStorage
from tests.support.examples import examples
from tests.versioning.lineage_model import Row
from tests.versioning.lineage_strategies import histories
from tests.versioning.pieces import tiny_pieces
from tests.versioning.test_lineage import columns_of, compare_increment


@examples(20)
@given(histories(), st.booleans())
def test_increments_in_tiny_pieces_are_those_of_the_model(history, is_remote):
    with tempfile.TemporaryDirectory() as root, tiny_pieces():
        store = FilesystemMetadataStore(MemoryStorage() if is_remote else root)
        history.replay(store)
        with history.model.graph.use():
            for feature in history.derived:
                compare_increment(history, store, feature)


@examples(8)
@given(histories(), st.data())
def test_every_way_of_execution_gives_the_same(history, data):
    model, whole = history.model, InMemoryMetadataStore()
    history.replay(whole)
    with tempfile.TemporaryDirectory() as root, model.graph.use():
        with tiny_pieces():
            divided = FilesystemMetadataStore(root)
            history.replay(divided)
        for feature in history.derived:
            rows = [Row(row.place, 0, {}) for row in model.rows[feature].values()]
            given_samples = model.frame(feature, data.draw(st.permutations(rows)), versions=False)
            ids = columns_of(model, feature, model.nodes[feature].ids)
            expected = answers(whole, feature, given_samples, ids)
            with tiny_pieces():
                assert answers(divided, feature, given_samples, ids) == expected


def answers(store, feature, frame, ids):
    """What a store says in all ways, as values; errors by their text, in which the order of samples is left open."""
    key = FeatureKey(feature)
    try:
        increment = store.resolve_update(key, samples=frame)
        lazy = store.resolve_update(key, samples=frame.lazy(), lazy=True)
        assert lazy.counts == increment.counts
        kinds = frames_of(increment)
        for eager, spooled in zip(kinds, frames_of(lazy.collect()), strict=True):
            assert sorted_rows(spooled, ids) == sorted_rows(eager, ids)
        frame = frame.join(increment.waiting, on=ids, how="anti", maintain_order="left")
        versions = store.calculate_data_versions(key, frame)
        lazy_versions = store.calculate_data_versions(key, frame.lazy()).collect()
    except MetaxyError as error:
        return type(error), str(error).split("; searched")[0].split(":")[0]
    assert versions.drop("data_version", "provenance", strict=False).equals(frame)
    assert sorted_rows(lazy_versions, ids) == sorted_rows(versions, ids)
    return [sorted_rows(kind, ids) for kind in (*kinds, versions)]


def frames_of(increment):
    return [increment.new, increment.stale, increment.orphaned, increment.waiting]


def sorted_rows(frame, ids):
    return frame.sort(ids).rows()


def test_a_large_feature_is_computed_in_pieces(monkeypatch):
    """Millions of rows are not needed to see that ranges are cut: what is planned is."""
    planned = []
    plan = pieces.plan_ranges

    def remember(spans, *, rows):
        planned.append(plan(spans, rows=rows))
        return planned[-1]

    monkeypatch.setattr(pieces, "plan_ranges", remember)
    with tempfile.TemporaryDirectory() as root, tiny_pieces():
        store = FilesystemMetadataStore(root)
        graph = FeatureGraph.from_specs(
            [
                FeatureSpec(key=FeatureKey(["up"])),
                FeatureSpec(key=FeatureKey(["down"]), deps=[FeatureDep(key=FeatureKey(["up"]))]),
            ]
        )
        with graph.use():
            rows = pl.DataFrame({"sample_id": range(20), "data_version": [{"default": f"v{i}"} for i in range(20)]})
            store.write_metadata(FeatureKey(["up"]), rows)
            assert store.resolve_update(FeatureKey(["down"])).new["sample_id"].to_list() == list(range(20))
    assert len(planned[-1]) > 5


def test_a_data_file_of_a_remote_root_is_got_once_however_many_pieces_need_it():
    class Counting(MemoryStorage):
        def get_many(self, objects):
            got.extend(info.path for info in objects if info.path.endswith(".parquet"))
            return super().get_many(objects)

    got = []
    graph = FeatureGraph.from_specs(
        [
            FeatureSpec(key=FeatureKey(["up"])),
            FeatureSpec(key=FeatureKey(["down"]), deps=[FeatureDep(key=FeatureKey(["up"]))]),
        ]
    )
    with graph.use(), tiny_pieces():
        store = FilesystemMetadataStore(Counting())
        for _ in range(3):  # the samples of each file lie in all pieces
            rows = pl.DataFrame({"sample_id": range(20), "data_version": [{"default": f"v{i}"} for i in range(20)]})
            store.write_metadata(FeatureKey(["up"]), rows)
        assert store.resolve_update(FeatureKey(["down"])).new["sample_id"].to_list() == list(range(20))
    assert len(set(got)) == 30
    assert len(got) == 30
