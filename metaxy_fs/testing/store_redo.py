"""Tests of a store: it computes again what a caller asks for, and nothing besides."""

from typing import Any

import polars as pl
import pytest

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.metadata_store import MetadataStore
from metaxy_fs.spec import Feature
from metaxy_fs.testing.store_cases import SAMPLE_ID, StoreCase, ids_of, pipeline, samples, videos

FAILED = pl.col("status") == "failed"


def processed_with_status(store: MetadataStore, **status: str | None) -> type[Feature]:
    """Write a video for each status, process all of them, and return the derived feature."""
    video, processed = pipeline()
    ids = list(range(1, len(status) + 1))
    store.write_metadata(video, videos(ids))
    store.calculate_and_write_data_versions(processed, samples(ids, status=list(status.values())))
    return processed


class StoreRedo(StoreCase):
    """Tests of `resolve_update(stale_if=...)`."""

    def test_samples_that_the_caller_asks_for_are_stale_though_no_container_changed(self, store: MetadataStore) -> None:
        processed = processed_with_status(store, a="done", b="failed", c=None)
        increment = store.resolve_update(processed, stale_if=FAILED)
        assert (ids_of(increment.new), ids_of(increment.stale), ids_of(increment.orphaned)) == ([], [2], [])
        assert increment.stale["changed_containers"].to_list() == [[]]
        assert increment.pending.columns == [SAMPLE_ID, "data_version"]

    def test_only_the_latest_row_of_a_sample_is_asked(self, store: MetadataStore) -> None:
        processed = processed_with_status(store, a="failed", b="failed")
        redone = store.resolve_update(processed, stale_if=FAILED).pending.filter(pl.col(SAMPLE_ID) == 1)
        store.write_metadata(processed, redone.with_columns(status=pl.lit("done")))
        assert ids_of(store.resolve_update(processed, stale_if=FAILED).stale) == [2]

    def test_changed_containers_are_named_beside_samples_that_were_asked_for(self, store: MetadataStore) -> None:
        processed = processed_with_status(store, a="failed", b="done")
        store.write_metadata(pipeline()[0], videos([2], take="again"))
        stale = store.resolve_update(processed, stale_if=FAILED).stale
        assert dict(zip(ids_of(stale), stale["changed_containers"].to_list(), strict=True)) == {1: [], 2: ["default"]}

    def test_predicate_on_a_column_that_is_not_stored_is_refused(self, store: MetadataStore) -> None:
        processed = processed_with_status(store, a="done")
        with pytest.raises(MetadataSchemaError, match="no column 'missing'"):
            store.resolve_update(processed, stale_if=pl.col("missing").is_null())

    @pytest.mark.parametrize("predicate", ["failed", pl.col(pl.String) == "failed"])
    def test_what_names_no_column_is_refused(self, store: MetadataStore, predicate: Any) -> None:
        processed = processed_with_status(store, a="done")
        with pytest.raises(TypeError, match="stale_if takes a Polars expression that names its columns"):
            store.resolve_update(processed, stale_if=predicate)

    def test_an_increment_shows_its_counts_in_a_notebook(self, store: MetadataStore) -> None:
        processed = processed_with_status(store, a="failed", b="done")
        html = store.resolve_update(processed, stale_if=FAILED)._repr_html_()  # as a notebook does
        assert all(text in html for text in ("new: 0", "stale: 1", "orphaned: 0", "stored_data_version"))

    def test_the_lazy_frames_of_an_increment_are_its_frames(self, store: MetadataStore) -> None:
        increment = store.resolve_update(processed_with_status(store, a="failed"), stale_if=FAILED)
        again = increment.lazy().collect()
        names = ("new", "stale", "orphaned", "waiting")
        assert all(getattr(again, name).equals(getattr(increment, name)) for name in names)
        assert again.counts == increment.counts
