"""Do samples get the data versions of the formula, whatever the graph?"""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs.metadata_store import InMemoryMetadataStore
from metaxy_fs.spec import FeatureKey
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
