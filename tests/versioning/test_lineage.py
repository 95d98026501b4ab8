"""Versions and increments of features of every relation, held against a model."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs.errors import DependencyError, MetadataSchemaError
from metaxy_fs.metadata_store import InMemoryMetadataStore
from metaxy_fs.spec import FeatureKey
from tests.support.examples import examples
from tests.versioning.lineage_model import NoVersionError, Row
from tests.versioning.lineage_strategies import histories, predicates


def by_key(frame, columns, node):
    """Return the versions by formula; where the writer has to give one, there is none yet."""
    assert ("provenance" in frame.columns) is bool(node.content)
    versions = frame["provenance" if node.content else "data_version"].to_list()
    blank = [{name: None if name in node.content else each[name] for name in each} for each in versions]
    assert frame["data_version"].to_list() == blank
    return dict(zip(frame.select(columns).rows(), versions, strict=True))


def missing_by_key(frame, columns):
    assert frame.columns == [*columns, "missing"]
    return dict(zip(frame.select(columns).rows(), frame["missing"].to_list(), strict=True))


def columns_of(model, feature, ids):
    return [model.nodes[feature].names[d] for d in ids]


def check_carried(model, feature, increment, ids, places, *, given=()):
    """Each new and stale sample comes with what its upstream rows hold, before its version."""
    carried = list(model.carried_names(feature))
    for frame in (increment.new, increment.stale):
        first = [*(given or ids), *carried, "data_version"]
        assert frame.columns[: len(first)] == first
        for row in frame.to_dicts():
            place = places[tuple(row[name] for name in ids)]
            assert {name: row[name] for name in carried} == model.carried(feature, place)


def assert_equal(increment, other):
    for name in ("new", "stale", "orphaned", "waiting"):
        assert getattr(increment, name).equals(getattr(other, name))
    assert increment.counts == other.counts


def check_selected(model, feature, ids, increment, expected):
    new, stale, orphaned, waiting = expected
    columns, whole = columns_of(model, feature, ids), columns_of(model, feature, model.nodes[feature].ids)
    assert by_key(increment.new, columns, model.nodes[feature]) == new
    assert by_key(increment.stale, columns, model.nodes[feature]) == stale
    assert set(increment.orphaned.select(whole).rows()) == orphaned
    assert missing_by_key(increment.waiting, columns) == waiting


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
    node = model.nodes[feature]
    assert by_key(increment.new, columns, node) == new
    assert by_key(increment.stale, columns, node) == stale
    assert set(increment.orphaned.select(columns_of(model, feature, model.nodes[feature].ids)).rows()) == orphaned
    assert increment.orphaned.height == len(orphaned)
    assert missing_by_key(increment.waiting, columns) == waiting
    check_carried(model, feature, increment, columns, model.samples(feature))
    last = {tuple(row.place[d] for d in ids): row for row in model.rows[feature].values()}
    for key, row in zip(increment.stale.select(columns).rows(), increment.stale.to_dicts(), strict=True):
        assert row["stored_data_version"] == last[key].versions
        expected, stored = stale[key], last[key].compared
        assert row["changed_containers"] == [name for name in expected if stored[name] != expected[name]]


@given(histories(carry=True))
@examples(40)
def test_increments_are_those_of_the_model(history):
    store = InMemoryMetadataStore()
    history.replay(store)
    with history.model.graph.use():
        for feature in history.derived:
            compare_increment(history, store, feature)


@given(histories(carry=True), st.data())
@examples(30)
def test_selected_increments_are_those_of_the_model(history, data):
    model, store = history.model, InMemoryMetadataStore()
    history.replay(store)
    for feature in history.derived:
        with contextlib.suppress(NoVersionError):
            _, ids, _ = model.grain(feature)
            found = model.increment(feature)
            where, holds = data.draw(predicates(history, feature, ids))
            expected = model.selected(feature, ids, list(model.samples(feature).values()), found, holds)
            with model.graph.use():
                increment = store.resolve_update(FeatureKey(feature), where=where)
                lazy = store.resolve_update(FeatureKey(feature), where=where, lazy=True)
            check_carried(model, feature, increment, columns_of(model, feature, ids), model.samples(feature))
            check_selected(model, feature, ids, increment, expected)
            assert_equal(lazy.collect(), increment)


@given(histories(carry=True), st.data())
@examples(30)
def test_versions_of_given_samples_are_those_of_the_model(history, data):
    model, store = history.model, InMemoryMetadataStore()
    history.replay(store)
    for feature in history.derived:
        node = model.nodes[feature]
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
            carried = [name for name in model.carried_names(feature) if name in samples.columns]
            if carried:
                with pytest.raises(MetadataSchemaError, match="carries from the upstream rows"):
                    store.resolve_update(FeatureKey(feature), samples=samples)
            given = samples.drop(carried)
            increment = store.resolve_update(FeatureKey(feature), samples=given)
            where, holds = data.draw(predicates(history, feature, model.nodes[feature].ids))
            selected = store.resolve_update(FeatureKey(feature), samples=given, where=where)
            if waiting:
                with pytest.raises(DependencyError):
                    store.calculate_data_versions(FeatureKey(feature), samples)
                samples = samples.join(increment.waiting, on=ids, how="anti", maintain_order="left")
                rows = [row for row in rows if model.key(feature, row.place) not in waiting]
            found = store.calculate_data_versions(FeatureKey(feature), samples)
        assert found.drop("data_version", "provenance", strict=False).equals(samples)
        assert by_key(found, ids, node) == {
            model.key(feature, row.place): model.versions(feature, row.place) for row in rows
        }
        assert (by_key(increment.new, ids, node), by_key(increment.stale, ids, node)) == (new, stale)
        assert set(increment.orphaned.select(ids).rows()) == orphaned
        assert missing_by_key(increment.waiting, ids) == waiting
        places = {key: row.place for key, row in model.rows[feature].items()}
        for each in (increment, selected):
            check_carried(model, feature, each, ids, places, given=given.columns)
        dimensions, all_found = model.nodes[feature].ids, (new, stale, orphaned, waiting)
        expected = model.selected(feature, dimensions, list(places.values()), all_found, holds)
        check_selected(model, feature, dimensions, selected, expected)
