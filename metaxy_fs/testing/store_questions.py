"""Cases of features that are named by text, and of questions about what is stored."""

from typing import Any

import polars as pl
import pytest

from metaxy_fs.errors import FeatureNotFoundError, SpecError
from metaxy_fs.metadata_store import Fingerprint, MetadataStore
from metaxy_fs.spec import FeatureGraph
from metaxy_fs.testing.store_cases import SAMPLE_ID, MakeStore, StoreCase, ids_of, pipeline, samples, videos


class StoreQuestions(StoreCase):
    """Tests of the names of features, and of what a store tells of them."""

    def test_feature_is_named_by_text_wherever_its_class_may_stand(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        with video.graph.use():
            store.write_metadata("video/processing", videos([1, 2]))
            store.calculate_and_write_data_versions("processed/video", samples([1]))
            store.retire("processed/video", samples([1]))
            with store.buffered("video/processing") as buffer:
                buffer.write(videos([3]))

            for call in (
                lambda feature: store.read_metadata(feature)["data_version"].to_list(),
                lambda feature: store.scan_metadata(feature, latest_only=True).collect().rows(),
                lambda feature: store.history(feature).rows(),
                store.has_feature,
            ):
                assert call("video/processing") == call(video)
            assert repr(store.resolve_update("processed/video")) == repr(store.resolve_update(processed))
            assert list(store.read_upstream_metadata("processed/video")) == ["video_processing"]
            assert store.explain("processed/video", 2).status == store.explain(processed, 2).status
            impact = store.what_if("video/processing", code_versions={"audio": 3})
            assert impact["feature"].to_list() == ["video/processing", "processed/video"]

    def test_feature_that_nobody_declared_is_read_by_its_text(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1]))
        with FeatureGraph().use():
            assert ids_of(store.read_metadata("video/processing")) == [1]
            assert store.list_features() == [video.spec.key]
            assert not store.has_feature("video")

    @pytest.mark.parametrize("text", ["video_processing", "video/procesing", "Video/Processing"])
    def test_text_that_names_no_feature_is_refused_with_the_nearest_names(
        self, store: MetadataStore, text: str
    ) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1]))
        with FeatureGraph().use(), pytest.raises(FeatureNotFoundError, match="Did you mean 'video/processing'"):
            store.read_metadata(text)
        with video.graph.use(), pytest.raises(SpecError, match="Did you mean 'video/processing'"):
            store.write_metadata(text, videos([2]))

    def test_graph_is_read_from_what_is_stored(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1]))
        store.calculate_and_write_data_versions(processed, samples([1]))
        if not store.stored_specs(video.spec.key, store.stored_versions(video.spec.key)):
            pytest.skip("needs a store that keeps declarations")

        read = FeatureGraph.from_store(store)
        assert read.specs == video.graph.specs
        assert not read.notes

    def test_fingerprint_depends_on_ids_and_versions_alone(self, make_store: MakeStore) -> None:
        video, _ = pipeline()
        one, other = make_store("one"), make_store("other")
        one.write_metadata(video, videos([1, 2, 3]))
        for ids in ([3], [2, 1]):
            other.write_metadata(video, videos(ids, take="old", note=["x"] * len(ids)))
        other.write_metadata(video, videos([2]))
        other.write_metadata(video, videos([4]))
        taken = one.fingerprint([video])
        assert other.fingerprint([video]) != taken
        assert set(ids_of(other.check(taken).samples(video))) == {1, 3, 4}

        other.retire(video, samples([4]))
        other.write_metadata(video, videos([3, 1]))
        assert other.fingerprint([video]) == taken
        assert other.check(Fingerprint.from_json(taken.to_json()))

    def test_diff_names_what_samples_differ_by(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1, 2, 3]))
        store.calculate_and_write_data_versions(processed, samples([1, 2]))
        before: Any = store.history(processed)["time"].max()
        changed = videos([1, 4]).with_columns(pl.col("data_version").struct.with_fields(audio=pl.lit("other")))
        store.write_metadata(video, changed)
        store.calculate_and_write_data_versions(processed, samples([1, 4]))
        store.retire(video, samples([3]))

        with video.graph.use():
            found = store.diff(before)
        assert found.samples(video).select(SAMPLE_ID, "change", "containers", "causes").rows() == [
            (1, "changed", ["audio"], ["video/processing/audio"]),
            (3, "removed", ["audio", "frames"], ["video/processing removed"]),
            (4, "added", ["audio", "frames"], ["video/processing added"]),
        ]
        assert found.samples(processed).select(SAMPLE_ID, "change", "causes").rows() == [
            (1, "changed", ["video/processing/audio"]),
            (4, "added", ["video/processing added"]),
        ]
        assert found.causes["samples"].sum() == 5
        assert not store.diff(store)

    @pytest.mark.parametrize("text", ["", "video//processing", "video processing", "/"])
    def test_text_that_can_be_no_name_is_refused(self, store: MetadataStore, text: Any) -> None:
        with pytest.raises(SpecError, match="feature key"):
            store.read_metadata(text)
