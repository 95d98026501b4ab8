"""What a change of code makes stale, and what its revert brings back."""

import polars as pl
import pytest

from metaxy_fs.errors import DependencyError, MetadataSchemaError
from metaxy_fs.metadata_store import MetadataStore
from metaxy_fs.spec import Feature
from metaxy_fs.testing.store_cases import (
    PROCESSED,
    VIDEO,
    StoreCase,
    container,
    declare,
    derived,
    ids_of,
    pipeline,
    processed_version,
    root,
    samples,
    videos,
)
from metaxy_fs.testing.store_increments import changes, processed_pipeline, versioned


class StoreCodeChanges(StoreCase):
    """Increments after code versions were changed and changed back."""

    def test_changed_code_makes_every_sample_stale(self, store: MetadataStore) -> None:
        processed_pipeline(store, [1, 2])

        increment = store.resolve_update(pipeline(processed=2)[1])
        assert changes(increment) == {1: ["default"], 2: ["default"]}
        assert increment.stale["data_version"].to_list() == [processed_version(sample, code=2) for sample in (1, 2)]

    def test_changed_code_of_a_root_feature_makes_equal_versions_stale(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1]))
        bumped, _ = pipeline(audio=3)

        assert changes(store.resolve_update(bumped, samples=videos([1]))) == {1: ["audio"]}
        store.write_metadata(bumped, store.resolve_update(bumped, samples=videos([1])).pending)
        assert not store.resolve_update(bumped, samples=videos([1]))
        assert ids_of(store.read_metadata(bumped)) == [1]

    def test_changed_code_upstream_needs_the_upstream_first(self, store: MetadataStore) -> None:
        processed_pipeline(store, [1])

        with pytest.raises(DependencyError, match=r"'video/processing'.*other data versions"):
            store.resolve_update(pipeline(audio=3)[1])

    def test_changed_code_upstream_makes_equal_versions_stale(self, store: MetadataStore) -> None:
        processed_pipeline(store, [1])
        video, processed = pipeline(audio=3)
        store.write_metadata(video, videos([1]))
        increment = store.resolve_update(processed)

        assert changes(increment) == {1: ["default"]}
        assert increment.stale["data_version"].to_list() == increment.stale["stored_data_version"].to_list()

    def test_change_that_a_container_is_not_made_from_leaves_it_as_it_was(self, store: MetadataStore) -> None:
        def features(text: int) -> list[type[Feature]]:
            return declare(
                root(VIDEO, container("frames"), container("audio")),
                derived(PROCESSED, [VIDEO], container("image"), container("text", text)),
            )

        video, processed = features(1)
        store.write_metadata(video, versioned([1], frames="f", audio="a"))
        store.calculate_and_write_data_versions(processed, samples([1]))

        assert changes(store.resolve_update(features(2)[1])) == {1: ["text"]}

    def test_added_and_removed_containers_have_changed(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, versioned([1], frames="f", audio="a"))
        (titled,) = declare(root(VIDEO, container("title"), container("frames")))
        increment = store.resolve_update(titled, samples=versioned([1], title="t", frames="f"))

        assert changes(increment) == {1: ["title", "audio"]}
        store.write_metadata(titled, increment.pending)
        assert not store.resolve_update(titled, samples=versioned([1], title="t", frames="f"))

    def test_reverted_code_finds_what_was_computed_with_it(self, store: MetadataStore) -> None:
        (video, _), (bumped, _) = pipeline(), pipeline(frames=2)
        store.write_metadata(video, videos(range(1_000)))
        store.write_metadata(bumped, store.resolve_update(bumped, samples=videos(range(1_000))).pending)
        increment = store.resolve_update(video, samples=videos(range(1_000)))

        assert increment.counts == (0, 0, 0, 0, 0)
        assert not store.resolve_update(bumped, samples=videos(range(1_000)))

    def test_sample_that_only_later_code_has_computed_is_stale(self, store: MetadataStore) -> None:
        (video, _), (bumped, _) = pipeline(), pipeline(frames=2)
        store.write_metadata(video, videos([1, 2]))
        store.write_metadata(bumped, videos([2, 3], take="again"))
        increment = store.resolve_update(video, samples=videos([1, 2, 3, 4]))

        assert (ids_of(increment.new), changes(increment)) == ([4], {3: ["frames", "audio"]})
        assert increment.stale["stored_data_version"].to_list() == [{"frames": "f3again", "audio": "a3again"}]
        store.write_metadata(video, increment.pending)
        assert not store.resolve_update(video, samples=videos([1, 2, 3, 4]))

    def test_row_of_the_current_code_is_compared_although_later_code_wrote_the_expected_version(
        self, store: MetadataStore
    ) -> None:
        (video, _), (bumped, _) = pipeline(), pipeline(frames=2)
        store.write_metadata(video, videos([1], take="old"))
        store.write_metadata(bumped, videos([1]))
        increment = store.resolve_update(video, samples=videos([1]))

        assert increment.stale["stored_data_version"].to_list() == [{"frames": "f1old", "audio": "a1old"}]
        assert changes(increment) == {1: ["frames", "audio"]}

    def test_two_releases_that_take_turns_come_to_rest_after_a_round_each(self, store: MetadataStore) -> None:
        releases = [pipeline(), pipeline(frames=2, processed=2)]
        found = []
        for video, processed in releases * 3:
            counts = []
            for feature, given in ((video, videos([1, 2])), (processed, None)):
                increment = store.resolve_update(feature, samples=given)
                store.write_metadata(feature, increment.pending)
                counts.append(increment.pending.height)
            found.append(counts)

        assert found == [[2, 2], [2, 2], *[[0, 0]] * 4]

    def test_orphans_of_other_code_are_named_while_a_sample_is_not_in_the_current_partition(
        self, store: MetadataStore
    ) -> None:
        (video, _), (bumped, _) = pipeline(), pipeline(frames=2)
        store.write_metadata(video, videos([1, 2, 3]))
        store.write_metadata(bumped, videos([1, 4]))

        assert ids_of(store.resolve_update(bumped, samples=videos([1, 2])).orphaned) == [3, 4]
        assert ids_of(store.resolve_update(bumped, samples=videos([1])).orphaned) == [4]

    def test_columns_of_stale_if_may_be_in_other_partitions_alone(self, store: MetadataStore) -> None:
        (video, _), (bumped, _) = pipeline(), pipeline(frames=2)
        store.write_metadata(video, videos([1, 2], status=["failed", "done"]))
        store.write_metadata(bumped, videos([1]))
        failed = pl.col("status") == "failed"

        assert not store.resolve_update(bumped, samples=videos([1]), stale_if=failed)
        assert changes(store.resolve_update(bumped, samples=videos([1, 2]), stale_if=failed)) == {2: ["frames"]}
        with pytest.raises(MetadataSchemaError, match="'state'"):
            store.resolve_update(bumped, samples=videos([1]), stale_if=pl.col("state") == "failed")
