"""Versions and increments of features of every relation, held against a model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs.errors import DependencyError, MetadataSchemaError
from metaxy_fs.metadata_store import InMemoryMetadataStore
from metaxy_fs.spec import FeatureKey
from tests.versioning.lineage_model import NoVersionError, Row
from tests.versioning.lineage_strategies import histories


def by_key(frame, columns):
    versions = [row["data_version"] for row in frame.select("data_version").to_dicts()]
    return dict(zip(frame.select(columns).rows(), versions, strict=True))


def missing_by_key(frame, columns):
    assert frame.columns == [*columns, "missing"]
    return dict(zip(frame.select(columns).rows(), frame["missing"].to_list(), strict=True))


def columns_of(model, feature, ids):
    return [model.nodes[feature].names[d] for d in ids]


def compare_increment(history, store, feature):
    model = history.model
    try:
        _, ids, _ = model.grain(feature)
        new, stale, orphaned, waiting = model.increment(feature)
    except NoVersionError:
        with pytest.raises((DependencyError, MetadataSchemaError)):
            store.resolve_update(FeatureKey(feature))
        return
    increment = store.resolve_update(FeatureKey(feature))
    columns = columns_of(model, feature, ids)
    assert by_key(increment.new, columns) == new
    assert by_key(increment.stale, columns) == stale
    assert set(increment.orphaned.select(columns_of(model, feature, model.nodes[feature].ids)).rows()) == orphaned
    assert increment.orphaned.height == len(orphaned)
    assert missing_by_key(increment.waiting, columns) == waiting
    for row in increment.stale.to_dicts():
        expected, stored = row["data_version"], row["stored_data_version"]
        assert row["changed_containers"] == [name for name in expected if stored[name] != expected[name]]


@given(histories())
def test_increments_are_those_of_the_model(history):
    store = InMemoryMetadataStore()
    history.replay(store)
    with history.model.graph.use():
        for feature in history.derived:
            compare_increment(history, store, feature)


@given(histories(), st.data())
def test_versions_of_given_samples_are_those_of_the_model(history, data):
    model, store = history.model, InMemoryMetadataStore()
    history.replay(store)
    for feature in history.derived:
        ids = columns_of(model, feature, model.nodes[feature].ids)
        rows = [Row(row.place, 0, {}) for row in model.rows[feature].values()]
        samples = model.frame(feature, data.draw(st.permutations(rows)), versions=False)
        with model.graph.use():
            try:
                new, stale, orphaned, waiting = model.increment_of(feature, [row.place for row in rows])
            except NoVersionError:
                with pytest.raises((DependencyError, MetadataSchemaError)):
                    store.calculate_data_versions(FeatureKey(feature), samples)
                with pytest.raises((DependencyError, MetadataSchemaError)):
                    store.resolve_update(FeatureKey(feature), samples=samples)
                continue
            increment = store.resolve_update(FeatureKey(feature), samples=samples)
            if waiting:
                with pytest.raises(DependencyError):
                    store.calculate_data_versions(FeatureKey(feature), samples)
                samples = samples.join(increment.waiting, on=ids, how="anti", maintain_order="left")
                rows = [row for row in rows if model.key(feature, row.place) not in waiting]
            found = store.calculate_data_versions(FeatureKey(feature), samples)
        assert found.drop("data_version").equals(samples)
        assert by_key(found, ids) == {model.key(feature, row.place): model.versions(feature, row.place) for row in rows}
        assert (by_key(increment.new, ids), by_key(increment.stale, ids)) == (new, stale)
        assert set(increment.orphaned.select(ids).rows()) == orphaned
        assert missing_by_key(increment.waiting, ids) == waiting
