"""Samples get the data versions of the formula, whatever the graph."""

from itertools import islice

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs.metadata_store import InMemoryMetadataStore
from metaxy_fs.spec import FeatureKey
from metaxy_fs.versioning.preimages import data_versions, version_column
from tests.versioning.reference import feature_graph, row_version, upstream_of
from tests.versioning.strategies import graphs, versions


@given(graphs(), st.data())
def test_versions_are_those_of_the_formula(drawn, data):
    graph, implicit = drawn
    ids = data.draw(st.lists(st.integers(-5, 5), min_size=1, max_size=4, unique=True))
    store, expected = InMemoryMetadataStore(), {}
    with feature_graph(graph, implicit=implicit).use():
        for feature, containers in graph.items():
            if upstream_of(containers):
                samples = pl.DataFrame({"sample_id": data.draw(st.permutations(ids))})
                result = store.calculate_and_write_data_versions(FeatureKey(feature), samples)
                expected[feature] = {i: row_version(containers, {up: expected[up][i] for up in expected}) for i in ids}
                found = dict(zip(result["sample_id"], result["data_version"], strict=True))
                assert list(found) == samples["sample_id"].to_list()
                assert found == expected[feature]
            else:
                expected[feature] = {i: {name: data.draw(versions) for name in containers} for i in ids}
                rows = {"sample_id": list(expected[feature]), "data_version": list(expected[feature].values())}
                store.write_metadata(FeatureKey(feature), pl.DataFrame(rows))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=4), st.lists(st.integers(0, 3), min_size=1, max_size=4))
def test_versions_do_not_depend_on_how_columns_lie_in_memory(some, others):
    graph = {("up",): {"x": (1, []), "y": (1, [])}, ("down",): {"z": ("{0}", [(("up",), "x"), (("up",), "y")])}}
    rows = min(sum(some), sum(others))
    frame = pl.DataFrame([in_chunks("x", some).head(rows), in_chunks("y", others).head(rows)])
    declared = feature_graph(graph)
    spec = declared.specs[FeatureKey(["down"])]
    result = data_versions(frame, declared, spec, algorithm="sha256")
    above = [{("up",): {"x": f"x{row}", "y": f"y{row}"}} for row in range(rows)]
    assert result.to_list() == [row_version(graph["down",], each) for each in above]


def in_chunks(name, lengths):
    """A column of versions `name0`, `name1`, ... whose chunks have these lengths, empty ones included."""
    texts = iter(f"{name}{row}" for row in range(sum(lengths)))
    parts = [pl.DataFrame({"text": ["", *islice(texts, length)]}) for length in lengths]
    # Concatenation leaves empty frames out; a filter keeps the chunks that it empties.
    column = pl.concat(parts, rechunk=False).lazy().filter(pl.col("text") != "").collect().to_series()
    return column.alias(version_column(FeatureKey(["up"]), name))
