"""What is counted of a chain is what a read of it reads, whatever its stores hold."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs import ContainerSpec, FeatureGraph, FeatureSpec, InMemoryMetadataStore
from metaxy_fs.cli.questions import status
from metaxy_fs.cli.targets import Target
from metaxy_fs.metadata_store.overview import commits_in, counted, definitions_in, files_in
from tests.support.examples import examples

GRAPHS = [
    FeatureGraph.from_specs([FeatureSpec(key="video", containers=[ContainerSpec(code_version=version)])])
    for version in (1, 2)
]
WRITES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(1, 3)), min_size=1, max_size=8)


@given(WRITES, st.sampled_from(["feature", "sample"]))
@examples(15)
def test_all_counts_are_those_of_a_read(writes, mode):
    stores = []
    for _ in range(3):
        stores.append(InMemoryMetadataStore(fallback_stores=stores[-1:], fallback_mode=mode))
    nearest = stores[-1]
    for number, version, height in writes:
        rows = pl.DataFrame({"sample_id": range(height), "data_version": [{"default": "v"}] * height})
        with GRAPHS[version].use():
            stores[number].write_metadata("video", rows)
    with FeatureGraph().use():
        [key] = nearest.list_features(include_fallback=True)
        height = nearest.read_metadata(key, versions="all").height
    counts = [function(nearest, key) for function in (commits_in, definitions_in, files_in)]
    counts += [counted(nearest, [key]), status(Target(nearest)).rows]
    assert [frame["rows"].sum() for frame in counts] == [height] * 5
