"""Cases of traces, for which every kind of store gives all rows that it ever took."""

import polars as pl

from metaxy_fs.metadata_store import MetadataStore
from metaxy_fs.testing.store_cases import PROCESSED, VIDEO, MakeStore, StoreCase, ids_of, pipeline, samples, videos


class StoreTrace(StoreCase):
    """Tests of `trace`."""

    def test_a_trace_leads_down_and_up(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1, 2, 3]))
        store.calculate_and_write_data_versions(processed, samples([1, 2]))

        down = store.trace(video, [2, 3])
        assert ids_of(down.rows[str(VIDEO)]) == [2, 3]
        assert ids_of(down.rows[str(PROCESSED)]) == [2]
        assert ids_of(store.trace(processed, [1], direction="up").rows[str(VIDEO)]) == [1]

    def test_rows_of_earlier_code_and_of_retired_samples_are_found(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1, 2]))
        store.calculate_and_write_data_versions(processed, samples([1, 2]))
        store.retire(processed, samples([1]))
        video, processed = pipeline(processed=2)

        found = store.trace(video, samples([1, 2])).rows[str(PROCESSED)]
        assert ids_of(found) == [1, 2]
        assert found["retired"].to_list() == [True, False]
        assert found["data_version"].is_null().to_list() == [True, False]

    def test_no_samples_lead_to_nothing(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1]))
        store.calculate_and_write_data_versions(processed, samples([1]))
        some: list[pl.DataFrame | list[int]] = [[], samples([]), samples([1]).clear()]
        for ids in some:
            assert store.trace(video, ids).features["samples"].to_list() == [0, 0]

    def test_rows_of_all_stores_of_a_chain_are_found(self, make_store: MakeStore) -> None:
        video, _ = pipeline()
        far = make_store("far")
        far.write_metadata(video, videos([1, 2]))
        near = make_store("near", fallback_stores=[far])
        near.write_metadata(video, videos([2, 3]))

        found = near.trace(video, [1, 2, 3])
        assert sorted(set(ids_of(found.rows[str(VIDEO)]))) == [1, 2, 3]
        assert found.features["samples"].to_list()[0] == 3
