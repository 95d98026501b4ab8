"""Which samples a store tells to be new, stale, orphaned and waiting."""

from typing import Any

import polars as pl
import pytest

from metaxy_fs.errors import DependencyError, MetadataSchemaError
from metaxy_fs.metadata_store import Increment, MetadataStore
from metaxy_fs.spec import Feature, FeatureKey
from metaxy_fs.testing.store_cases import (
    PROCESSED,
    SAMPLE_ID,
    VIDEO,
    ArrowOnly,
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

SOUND = FeatureKey(["sound"])


def changes(increment: Increment) -> dict[Any, list[str]]:
    """Return the names of the changed containers by the id of the stale sample."""
    return dict(zip(ids_of(increment.stale), increment.stale["changed_containers"].to_list(), strict=True))


def processed_pipeline(store: MetadataStore, ids: list[int]) -> list[type[Feature]]:
    """Write videos, process all of them, and return both features."""
    video, processed = pipeline()
    store.write_metadata(video, videos(ids))
    store.calculate_and_write_data_versions(processed, samples(ids))
    return [video, processed]


def versioned(ids: list[int], **versions: str) -> pl.DataFrame:
    """Return samples that all have the same versions."""
    return samples(ids, data_version=[versions] * len(ids))


class StoreIncrements(StoreCase):
    """Tests of `resolve_update`."""

    def test_samples_of_a_root_feature_are_new_stale_or_orphaned(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1, 2, 3]))
        now = pl.concat([videos([4, 1]), videos([2], take="again")])

        increment = store.resolve_update(video, samples=now)
        assert (ids_of(increment.new), ids_of(increment.stale), ids_of(increment.orphaned)) == ([4], [2], [3])

    def test_increment_shows_expected_and_stored_versions(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1, 2]))
        increment = store.resolve_update(video, samples=pl.concat([videos([3]), videos([1], take="again")]))

        assert increment.new.to_dicts() == [{SAMPLE_ID: 3, "data_version": {"frames": "f3", "audio": "a3"}}]
        assert increment.stale.to_dicts() == [
            {
                SAMPLE_ID: 1,
                "data_version": {"frames": "f1again", "audio": "a1again"},
                "stored_data_version": {"frames": "f1", "audio": "a1"},
                "changed_containers": ["frames", "audio"],
            }
        ]
        assert increment.orphaned.to_dicts() == [{SAMPLE_ID: 2, "stored_data_version": {"frames": "f2", "audio": "a2"}}]

    def test_only_changed_containers_are_named(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, versioned([1], frames="f", audio="a"))

        assert changes(store.resolve_update(video, samples=versioned([1], frames="f", audio="A"))) == {1: ["audio"]}

    def test_containers_of_samples_may_come_in_any_order(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, versioned([1], frames="f", audio="a"))

        assert not store.resolve_update(video, samples=versioned([1], audio="a", frames="f"))

    def test_root_feature_needs_samples(self, store: MetadataStore) -> None:
        with pytest.raises(DependencyError, match="samples="):
            store.resolve_update(pipeline()[0])

    def test_all_samples_are_new_where_nothing_is_stored(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([2, 1]))
        increment = store.resolve_update(processed)

        assert (ids_of(increment.new), increment.stale.height, increment.orphaned.height) == ([1, 2], 0, 0)
        assert increment.new["data_version"].to_list() == [processed_version(1), processed_version(2)]

    def test_frames_have_the_same_columns_whether_or_not_anything_is_stored(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        before = store.resolve_update(video, samples=videos([1], path=["a"]))
        store.write_metadata(video, videos([1], path=["a"]))
        after = store.resolve_update(video, samples=videos([1], path=["a"]))

        assert [before.new.schema, before.stale.schema, before.orphaned.schema] == [
            after.new.schema,
            after.stale.schema,
            after.orphaned.schema,
        ]

    def test_nothing_is_pending_once_all_is_written(self, store: MetadataStore) -> None:
        _, processed = processed_pipeline(store, [1, 2])
        increment = store.resolve_update(processed)

        assert not increment
        assert repr(increment) == "Increment(new=0, stale=0, orphaned=0, waiting=0)"

    def test_resolving_writes_nothing(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1]))
        store.resolve_update(processed)

        assert store.list_features() == [VIDEO]

    def test_new_upstream_samples_are_new(self, store: MetadataStore) -> None:
        video, processed = processed_pipeline(store, [1])
        store.write_metadata(video, videos([2]))
        increment = store.resolve_update(processed)

        assert bool(increment)
        assert (ids_of(increment.new), changes(increment)) == ([2], {})

    def test_samples_whose_upstream_was_rewritten_are_stale(self, store: MetadataStore) -> None:
        video, processed = processed_pipeline(store, [1, 2])
        store.write_metadata(video, videos([2], take="again"))
        increment = store.resolve_update(processed)

        assert (increment.new.height, changes(increment)) == (0, {2: ["default"]})
        assert increment.stale["data_version"].to_list() == [processed_version(2, take="again")]
        assert increment.stale["stored_data_version"].to_list() == [processed_version(2)]

    def test_upstream_that_was_rewritten_with_equal_versions_changes_nothing(self, store: MetadataStore) -> None:
        video, processed = processed_pipeline(store, [1])
        store.write_metadata(video, videos([1], path=["elsewhere"]))

        assert not store.resolve_update(processed)

    def test_stored_samples_that_are_not_given_are_orphaned(self, store: MetadataStore) -> None:
        _, processed = processed_pipeline(store, [1, 2, 3])
        increment = store.resolve_update(processed, samples=samples([2]))

        assert (bool(increment), ids_of(increment.orphaned)) == (False, [1, 3])

    def test_latest_stored_row_is_compared(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1], take="old"))
        store.write_metadata(video, videos([1], take="new"))

        assert not store.resolve_update(video, samples=videos([1], take="new"))
        assert ids_of(store.resolve_update(video, samples=videos([1], take="old")).stale) == [1]

    def test_pending_samples_are_ready_to_be_written(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1, 2], path=["a", "b"]))
        now = pl.concat([videos([3, 2], path=["c", "b"]), videos([1], take="again", path=["a2"])])
        pending = store.resolve_update(video, samples=now).pending
        store.write_metadata(video, pending)

        assert (ids_of(pending), pending.columns) == ([3, 1], now.columns)
        assert not store.resolve_update(video, samples=now)

    # Changes of the declaration.

    # Samples that wait for an upstream row.

    def test_sample_without_its_upstream_row_waits_and_the_others_are_computed(self, store: MetadataStore) -> None:
        video, sound, film = declare(root(VIDEO), root(SOUND), derived(PROCESSED, [VIDEO, SOUND], container("default")))
        store.write_metadata(video, versioned(list(range(1_000)), default="v"))
        store.write_metadata(sound, versioned(list(range(999)), default="s"))
        increment = store.resolve_update(film)

        assert increment.counts == (999, 0, 0, 1, 0)
        assert increment.waiting.schema == {SAMPLE_ID: pl.Int64(), "missing": pl.List(pl.String())}
        assert increment.waiting.rows() == [(999, ["sound"])]
        assert repr(increment) == "Increment(new=999, stale=0, orphaned=0, waiting=1)"
        assert "waiting: 1" in increment._repr_html_()
        store.write_metadata(film, increment.pending)
        assert not store.resolve_update(film)
        store.write_metadata(sound, versioned([999], default="s"))
        assert ids_of(store.resolve_update(film).new) == [999]

    def test_waiting_sample_is_neither_stale_nor_orphaned(self, store: MetadataStore) -> None:
        video, processed = processed_pipeline(store, [1, 2])
        (bumped, _), given = pipeline(frames=2), samples([3, 2, 1], note=["c", "b", "a"])
        store.write_metadata(bumped, videos([1]))
        increment = store.resolve_update(pipeline(frames=2)[1], samples=given)

        assert increment.counts == (0, 1, 0, 2, 0)
        assert increment.waiting.rows() == [(3, [str(VIDEO)]), (2, [str(VIDEO)])]
        assert store.resolve_update(processed, samples=given).waiting.rows() == [(3, [str(VIDEO)])]
        assert store.resolve_update(video, samples=videos([1, 2])).waiting.is_empty()

    def test_lazy_increment_tells_what_waits(self, store: MetadataStore) -> None:
        _, processed = processed_pipeline(store, [1, 2])
        increment = store.resolve_update(processed, samples=samples([9, 2, 7, 1]).lazy(), lazy=True)

        assert increment.counts == (0, 0, 0, 2, 0)
        assert increment.waiting.collect().rows() == [(7, [str(VIDEO)]), (9, [str(VIDEO)])]
        assert repr(increment) == "LazyIncrement(new=0, stale=0, orphaned=0, waiting=2)"

    def test_samples_that_wait_are_left_out_as_the_error_says(self, store: MetadataStore) -> None:
        _, feature = processed_pipeline(store, [1, 2])
        given = samples([1, 9, 2])
        with pytest.raises(DependencyError) as caught:
            store.calculate_data_versions(feature, given)
        advice = str(caught.value).split("leave these samples out: ")[1].removesuffix(".")
        left = eval(advice, {"samples": given, "store": store, "feature": feature})  # noqa: S307  # what a user would type

        assert ids_of(store.calculate_data_versions(feature, left)) == [1, 2]
        with pytest.raises(DependencyError) as caught:
            store.calculate_data_versions(feature, given, allow_upstream_fallback=False)
        advice = str(caught.value).split("leave these samples out: ")[1].removesuffix(".")
        left = eval(advice, {"samples": given, "store": store, "feature": feature})  # noqa: S307
        assert ids_of(store.calculate_data_versions(feature, left, allow_upstream_fallback=False)) == [1, 2]

    def test_columns_whose_type_changed_with_the_code_do_no_harm(self, store: MetadataStore) -> None:
        (video, _), (bumped, _) = pipeline(), pipeline(frames=2)
        store.write_metadata(video, videos([1], label=["a"]))
        store.write_metadata(bumped, videos([1], label=[1]))

        assert not store.resolve_update(bumped, samples=videos([1]))

    # Samples.

    def test_given_samples_keep_their_columns(self, store: MetadataStore) -> None:
        _, processed = processed_pipeline(store, [1, 2])
        given = pl.DataFrame({"*": ["x"], "^note$": [1], SAMPLE_ID: [1]})

        pending = store.resolve_update(pipeline(processed=2)[1], samples=given).pending
        assert pending.drop("data_version").equals(given)
        assert not store.resolve_update(processed, samples=given)

    def test_versions_of_given_samples_are_not_used(self, store: MetadataStore) -> None:
        _, processed = processed_pipeline(store, [1])

        assert not store.resolve_update(processed, samples=versioned([1], default="nonsense"))

    @pytest.mark.parametrize("kind", [pl.DataFrame.lazy, ArrowOnly])
    def test_samples_may_be_any_frame(self, store: MetadataStore, kind: type[ArrowOnly]) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1]))

        assert ids_of(store.resolve_update(video, samples=kind(videos([1, 2]))).new) == [2]

    def test_integer_ids_of_different_widths_match(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1, 2]))
        given = videos([2, 3]).with_columns(pl.col(SAMPLE_ID).cast(pl.Int32))
        increment = store.resolve_update(video, samples=given)

        assert (ids_of(increment.new), ids_of(increment.stale), ids_of(increment.orphaned)) == ([3], [], [1])

    def test_ids_of_types_that_never_match_are_refused(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1]))

        with pytest.raises(MetadataSchemaError, match=r"'sample_id'.*String.*Int64"):
            store.resolve_update(video, samples=videos(["1"]))

    def test_given_sample_without_upstream_row_waits(self, store: MetadataStore) -> None:
        _, processed = processed_pipeline(store, [1])

        assert store.resolve_update(processed, samples=samples([1, 9])).waiting.rows() == [(9, [str(VIDEO)])]

    @pytest.mark.parametrize("column", ["stored_data_version", "changed_containers", "_metaxy_partition"])
    def test_samples_with_a_column_of_the_increment_are_refused(self, store: MetadataStore, column: str) -> None:
        video, processed = processed_pipeline(store, [1])

        with pytest.raises(MetadataSchemaError, match=f"'{column}'"):
            store.resolve_update(video, samples=videos([1], {column: ["x"]}))
        with pytest.raises(MetadataSchemaError, match=f"'{column}'"):
            store.resolve_update(processed, samples=samples([1], {column: ["x"]}))

    @pytest.mark.parametrize(
        "given", [videos([1, 1]), samples([1]), videos([None])], ids=["repeated", "no version", "null"]
    )
    def test_samples_that_do_not_fit_the_feature_are_refused(self, store: MetadataStore, given: pl.DataFrame) -> None:
        with pytest.raises(MetadataSchemaError):
            store.resolve_update(pipeline()[0], samples=given)

    def test_rows_that_are_named_by_other_columns_are_refused(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        (renamed,) = declare(root(VIDEO, container("frames"), container("audio", 2), id_columns=["video"]))
        store.write_metadata(video, videos([1]))

        with pytest.raises(MetadataSchemaError, match=r"'video'.*\['sample_id'\]"):
            store.resolve_update(renamed, samples=videos([1]).rename({SAMPLE_ID: "video"}))
