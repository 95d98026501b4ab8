"""Tests of a store: fallback stores answer, in order, where it lacks a feature and only there."""

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from metaxy_fs.errors import DependencyError, FeatureNotFoundError, StorageError
from metaxy_fs.metadata_store import MetadataStore
from metaxy_fs.testing.store_cases import (
    PROCESSED,
    VIDEO,
    MakeStore,
    StoreCase,
    UnreachableStore,
    ids_of,
    pipeline,
    processed_version,
    samples,
    videos,
)

QUESTIONS: dict[str, Callable[[MetadataStore], Any]] = {
    "read_metadata": lambda store: store.read_metadata(pipeline()[0]),
    "scan_metadata": lambda store: store.scan_metadata(pipeline()[0]),
    "read_metadata of a key": lambda store: store.read_metadata(VIDEO),
    "has_feature": lambda store: store.has_feature(pipeline()[0], check_fallback=True),
    "has_feature of a key": lambda store: store.has_feature(VIDEO, check_fallback=True),
    "list_features": lambda store: store.list_features(include_fallback=True),
    "read_upstream_metadata": lambda store: store.read_upstream_metadata(pipeline()[1]),
    "calculate_data_versions": lambda store: store.calculate_data_versions(pipeline()[1], samples([1])),
    "resolve_update": lambda store: store.resolve_update(pipeline()[0], samples=videos([1])),
}


def three_tiers(make_store: MakeStore) -> tuple[MetadataStore, MetadataStore, MetadataStore]:
    """Return development, staging and production, each falling back to the next."""
    prod = make_store("prod")
    staging = make_store("staging", fallback_stores=[prod])
    return make_store("dev", fallback_stores=[staging]), staging, prod


class StoreChains(StoreCase):
    """Tests of `fallback_stores`."""

    def test_nearest_store_that_has_the_feature_answers(self, make_store: MakeStore) -> None:
        video, _ = pipeline()
        found = []
        dev, staging, prod = three_tiers(make_store)
        for sample, store in enumerate([prod, staging, dev]):
            store.write_metadata(video, videos([sample]))
            found.append(ids_of(dev.read_metadata(video)))

        assert found == [[0], [1], [2]]

    def test_stores_of_one_list_are_asked_in_its_order_each_with_its_own(self, make_store: MakeStore) -> None:
        video, _ = pipeline()
        behind = make_store("behind")
        first, second = make_store("first", fallback_stores=[behind]), make_store("second")
        store = make_store("dev", fallback_stores=[first, second])
        second.write_metadata(video, videos([2]))
        before = ids_of(store.read_metadata(video))
        behind.write_metadata(video, videos([1]))

        assert (before, ids_of(store.read_metadata(video))) == ([2], [1])

    def test_empty_write_is_an_answer(self, make_store: MakeStore) -> None:
        video, _ = pipeline()
        dev, staging, prod = three_tiers(make_store)
        prod.write_metadata(video, videos([1]))
        staging.write_metadata(video, videos([]))

        assert ids_of(dev.read_metadata(video)) == []

    def test_store_with_rows_of_another_data_version_lacks_the_feature(self, make_store: MakeStore) -> None:
        (video, _), (bumped, _) = pipeline(), pipeline(frames=2)
        dev, _, prod = three_tiers(make_store)
        dev.write_metadata(bumped, videos([1]))
        prod.write_metadata(video, videos([2]))

        assert ids_of(dev.read_metadata(video)) == [2]
        assert ids_of(dev.read_metadata(video, versions="all")) == [1]

    def test_fallback_can_be_left_out(self, make_store: MakeStore) -> None:
        video, _ = pipeline()
        dev, _, prod = three_tiers(make_store)
        prod.write_metadata(video, videos([1]))

        with pytest.raises(FeatureNotFoundError, match=r"Fallback stores were not searched") as caught:
            dev.read_metadata(video, allow_fallback=False)
        assert prod.location == dev.location or prod.location not in str(caught.value)

    def test_error_names_all_places_that_were_searched(self, make_store: MakeStore) -> None:
        stores = three_tiers(make_store)

        with pytest.raises(FeatureNotFoundError) as caught:
            stores[0].read_metadata(pipeline()[0])
        assert ", ".join(store.location for store in stores) in str(caught.value)

    def test_error_says_which_store_has_other_versions(self, make_store: MakeStore) -> None:
        dev, _, prod = three_tiers(make_store)
        prod.write_metadata(pipeline()[0], videos([1]))

        with pytest.raises(FeatureNotFoundError) as caught:
            dev.read_metadata(pipeline(frames=2)[0])
        assert f"{prod.stored_versions(VIDEO)[0]} in {prod.location}" in str(caught.value)

    def test_store_that_is_reached_twice_is_searched_once(self, make_store: MakeStore) -> None:
        shared = make_store("shared")
        sides = [make_store(name, fallback_stores=[shared]) for name in ("left", "right")]
        store = make_store("dev", fallback_stores=sides)

        with pytest.raises(FeatureNotFoundError) as caught:
            store.read_metadata(pipeline()[0])
        searched = [store.location, sides[0].location, shared.location, sides[1].location]
        assert f"searched {', '.join(searched)}. No feature has rows there" in str(caught.value)

    def test_error_says_only_of_stores_without_rows_that_they_have_none(self, make_store: MakeStore) -> None:
        video, processed = pipeline()
        store = make_store("prod")
        store.write_metadata(video, videos([1]))

        with pytest.raises(FeatureNotFoundError) as caught:
            store.read_metadata(processed)
        assert "No feature has rows" not in str(caught.value)

    def test_existence_is_asked_of_fallback_stores_on_demand(self, make_store: MakeStore) -> None:
        video, _ = pipeline()
        dev, _, prod = three_tiers(make_store)
        prod.write_metadata(video, videos([1]))

        assert (dev.has_feature(video), dev.has_feature(video, check_fallback=True)) == (False, True)

    def test_features_of_fallback_stores_are_listed_on_demand(self, make_store: MakeStore) -> None:
        video, processed = pipeline()
        dev, staging, prod = three_tiers(make_store)
        prod.write_metadata(video, videos([1]))
        staging.write_metadata(video, videos([1]))
        dev.calculate_and_write_data_versions(processed, samples([1]))

        assert dev.list_features() == [PROCESSED]
        assert dev.list_features(include_fallback=True) == [PROCESSED, VIDEO]

    def test_writes_go_to_the_first_store_only(self, make_store: MakeStore) -> None:
        video, _ = pipeline()
        dev, staging, prod = three_tiers(make_store)
        dev.write_metadata(video, videos([1]))

        assert [store.has_feature(video) for store in (dev, staging, prod)] == [True, False, False]

    # Development against production.

    def test_upstream_is_read_from_a_fallback_store(self, make_store: MakeStore) -> None:
        video, processed = pipeline()
        dev, _, prod = three_tiers(make_store)
        prod.write_metadata(video, videos([1, 2, 3]))
        result = dev.calculate_and_write_data_versions(processed, samples([3, 1], custom=["c", "a"]))

        assert result["data_version"].to_list() == [processed_version(3), processed_version(1)]
        assert ids_of(dev.read_metadata(processed, allow_fallback=False)) == [1, 3]
        assert not prod.has_feature(processed)

    def test_upstream_in_a_fallback_store_can_be_left_out(self, make_store: MakeStore) -> None:
        video, processed = pipeline()
        dev, _, prod = three_tiers(make_store)
        prod.write_metadata(video, videos([1]))

        for ask in (dev.calculate_data_versions, dev.calculate_and_write_data_versions):
            with pytest.raises(DependencyError, match=r"'video/processing'.*not searched"):
                ask(processed, samples([1]), allow_upstream_fallback=False)
        with pytest.raises(DependencyError, match="'video/processing'"):
            dev.read_upstream_metadata(processed, allow_upstream_fallback=False)
        assert not dev.has_feature(processed)

    def test_promotion_is_a_read_and_a_write(self, make_store: MakeStore) -> None:
        video, _ = pipeline()
        dev, staging, prod = three_tiers(make_store)
        dev.write_metadata(video, videos([1, 2], label=["a", "b"]))
        staging.write_metadata(video, dev.read_metadata(video, allow_fallback=False))

        assert staging.read_metadata(video).equals(dev.read_metadata(video))
        assert not prod.has_feature(video)

    def test_increment_compares_with_the_nearest_store_that_has_rows(self, make_store: MakeStore) -> None:
        video, _ = pipeline()
        dev, staging, prod = three_tiers(make_store)
        prod.write_metadata(video, videos([1, 2]))
        far = dev.resolve_update(video, samples=videos([1, 2, 3]))
        staging.write_metadata(video, videos([3]))
        near = dev.resolve_update(video, samples=videos([1, 2, 3]))

        assert (ids_of(far.new), ids_of(near.new)) == ([3], [1, 2])

    def test_increment_compares_with_the_store_that_has_the_current_data_version(self, make_store: MakeStore) -> None:
        (video, _), (former, _) = pipeline(), pipeline(frames=9)
        dev, _, prod = three_tiers(make_store)
        dev.write_metadata(former, videos([7]))
        prod.write_metadata(video, videos([1]))
        increment = dev.resolve_update(video, samples=videos([1, 2]))

        assert (ids_of(increment.new), ids_of(increment.stale), ids_of(increment.orphaned)) == ([2], [], [])

    # Stores that do not answer.

    @pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS.keys())
    def test_store_that_does_not_answer_is_never_taken_for_an_empty_one(
        self, make_store: MakeStore, ask: Callable[[MetadataStore], Any]
    ) -> None:
        last = make_store("last")
        last.write_metadata(pipeline()[0], videos([1]))
        store = make_store("dev", fallback_stores=[UnreachableStore(), last])

        with pytest.raises(StorageError, match="unreachable://store"):
            ask(store)

    def test_store_that_is_not_needed_is_not_asked(self, make_store: MakeStore) -> None:
        video, processed = pipeline()
        store = make_store("dev", fallback_stores=[UnreachableStore()])
        store.write_metadata(video, videos([1]))

        assert store.has_feature(video, check_fallback=True)
        assert ids_of(store.read_metadata(video, filters=pl.col("sample_id") > 0)) == [1]
        assert store.calculate_data_versions(processed, samples([1])).height == 1
        assert not store.has_feature(processed)

    # The chain itself.

    def test_chain_is_shown(self, make_store: MakeStore) -> None:
        dev, staging, _ = three_tiers(make_store)

        assert dev.fallback_stores == (staging,)
        assert repr(staging) in repr(dev)
        assert repr(dev.location) in repr(dev)

    def test_path_in_place_of_a_store_is_refused(self, make_store: MakeStore) -> None:
        with pytest.raises(TypeError, match=r"'\./prod'.*open_store"):
            make_store("dev", fallback_stores=["./prod"])  # type: ignore[list-item]
