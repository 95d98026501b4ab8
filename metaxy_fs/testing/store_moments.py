"""Tests of a store: it answers as of a snapshot or a time, whatever is written later."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from metaxy_fs.errors import (
    FeatureNotFoundError,
    ObjectExistsError,
    SnapshotError,
    StorageAccessError,
    StorageError,
)
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
from metaxy_fs.testing.store_chains import three_tiers

_BAD_NAMES: list[Any] = ["", ".hidden", "../up", "a/b", "two words", "x" * 101, "ünï", "a\n", None, 1]


def _buffered(store: MetadataStore) -> None:
    with store.buffered(pipeline()[0]) as buffer:
        buffer.write(videos([9]))


_WRITES: dict[str, Callable[[MetadataStore], Any]] = {
    "write_metadata": lambda store: store.write_metadata(pipeline()[0], videos([9])),
    "calculate_and_write": lambda store: store.calculate_and_write_data_versions(pipeline()[1], samples([1])),
    "buffered": _buffered,
}


class StoreMoments(StoreCase):
    """Tests of `at`, `create_snapshot`, `list_snapshots` and `drop_snapshot`."""

    def test_snapshot_sees_what_was_written_before_and_nothing_later(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([3, 1], label=["c", "a"]))
        store.write_metadata(video, videos([1], take="again"))
        before = store.read_metadata(video)
        store.create_snapshot("train-2026-11", features=[video])
        store.write_metadata(video, videos([2, 3], later=["x", "y"]))
        then = store.at("train-2026-11")

        assert then.read_metadata(video).equals(before)
        assert then.read_metadata(video).schema == before.schema
        assert ids_of(then.read_metadata(video, latest_only=True)) == [3, 1]
        assert then.history(video).equals(store.history(video)[:2])
        assert ids_of(store.read_metadata(video)) == [1, 3, 1, 2, 3]

    def test_snapshot_is_read_by_filters_columns_and_commits(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1, 2], label=["a", "b"]))
        before = store.read_metadata(video, with_commits=True, columns=["label"])
        store.create_snapshot("s")
        store.write_metadata(video, videos([2], label=["c"]))

        assert store.at("s").read_metadata(video, with_commits=True, columns=["label"]).equals(before)
        found = store.at("s").scan_metadata(video, latest_only=True).collect()
        assert found["label"].to_list() == ["a", "b"]

    def test_snapshot_has_the_features_that_it_was_made_of(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1]))
        store.calculate_and_write_data_versions(processed, samples([1]))
        store.create_snapshot("one", features=[VIDEO])
        store.create_snapshot("all")

        assert store.at("one").list_features() == [VIDEO]
        assert store.at("all").list_features() == [PROCESSED, VIDEO]
        assert (store.at("one").has_feature(video), store.at("one").has_feature(processed)) == (True, False)
        with pytest.raises(FeatureNotFoundError, match="snapshot 'one'"):
            store.at("one").read_metadata(processed)

    def test_snapshot_has_all_data_versions(self, store: MetadataStore) -> None:
        (video, _), (bumped, _) = pipeline(), pipeline(frames=2)
        store.write_metadata(video, videos([1]))
        store.create_snapshot("s", features=[bumped])
        store.write_metadata(bumped, videos([2]))
        then = store.at("s")

        assert ids_of(then.read_metadata(video)) == ids_of(then.read_metadata(video, versions="all")) == [1]
        assert then.stored_versions(VIDEO) == then.history(video)["partition"].to_list()
        assert not then.has_feature(bumped)

    def test_commits_of_one_name_in_two_data_versions_are_two(self, store: MetadataStore) -> None:
        (video, _), (bumped, _) = pipeline(), pipeline(frames=2)
        store.write_metadata(video, videos([1]), write_id="job")
        store.write_metadata(bumped, videos([2]))
        store.create_snapshot("s")
        store.write_metadata(bumped, videos([1]), write_id="job")

        assert ids_of(store.at("s").read_metadata(bumped)) == [2]
        assert store.at("s").history(video).height == 2

    def test_increment_at_a_snapshot_compares_what_there_was(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1, 2]))
        store.calculate_and_write_data_versions(processed, samples([1]))
        store.create_snapshot("s")
        store.write_metadata(video, videos([1, 3], take="again"))
        store.calculate_and_write_data_versions(processed, samples([2, 3]))
        increment = store.at("s").resolve_update(processed)

        assert ids_of(increment.new) == [2]
        assert increment.new["data_version"].to_list() == [processed_version(2)]
        assert increment.stale.is_empty()

    def test_snapshot_sees_the_chain_as_it_was(self, make_store: MakeStore) -> None:
        video, processed = pipeline()
        dev, _, prod = three_tiers(make_store)
        prod.write_metadata(video, videos([1]))
        dev.calculate_and_write_data_versions(processed, samples([1]))
        dev.create_snapshot("s")
        prod.write_metadata(video, videos([2]))
        dev.write_metadata(video, videos([3]))
        then = dev.at("s")

        assert ids_of(then.read_metadata(video)) == [1]
        assert not then.has_feature(video)
        assert then.has_feature(video, check_fallback=True)
        dev.create_snapshot("later")
        prod.write_metadata(video, videos([4]))
        assert ids_of(dev.at("later").read_metadata(video)) == [3]
        assert then.list_features(include_fallback=True) == [PROCESSED, VIDEO]
        assert ids_of(dev.read_metadata(video)) == [3]

    def test_snapshot_is_kept_by_the_store_that_made_it(self, make_store: MakeStore) -> None:
        video, _ = pipeline()
        dev, _, prod = three_tiers(make_store)
        prod.write_metadata(video, videos([1]))
        dev.create_snapshot("s")

        assert dev.list_snapshots()["name"].to_list() == ["s"]
        assert prod.list_snapshots().is_empty()
        with pytest.raises(SnapshotError, match=r"no snapshot 's'"):
            prod.at("s")

    def test_snapshot_asks_for_the_stores_that_it_saw(self, reopen: MakeStore) -> None:
        video, _ = pipeline()
        prod, other = reopen("prod"), reopen("other")
        prod.write_metadata(video, videos([1]))
        reopen("dev", fallback_stores=[other, prod]).create_snapshot("s")

        with pytest.raises(SnapshotError) as caught:
            reopen("dev", fallback_stores=[other]).at("s")
        assert prod.location in str(caught.value)
        for stores in ([prod], [prod, other]):
            assert ids_of(reopen("dev", fallback_stores=stores).at("s").read_metadata(video)) == [1]

    def test_snapshots_outlive_the_object_that_made_them(self, reopen: MakeStore) -> None:
        video, _ = pipeline()
        reopen("a").write_metadata(video, videos([1]))
        reopen("a").create_snapshot("s")
        reopen("a").write_metadata(video, videos([2]))

        assert ids_of(reopen("a").at("s").read_metadata(video)) == [1]

    def test_snapshots_are_listed_by_name(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1]))
        store.write_metadata(video, videos([2]))
        store.create_snapshot("b", features=[video])
        store.calculate_and_write_data_versions(processed, samples([1]))
        store.create_snapshot("a")
        found = store.list_snapshots()

        assert found["name"].to_list() == ["a", "b"]
        assert found["features"].to_list() == [["processed/video", "video/processing"], ["video/processing"]]
        assert found["commits"].to_list() == [3, 2]
        assert found["stores"].to_list() == [[store.location]] * 2
        assert store.list_features() == [PROCESSED, VIDEO]

    def test_snapshot_of_a_name_that_is_taken_is_refused(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1]))
        store.create_snapshot("s")
        store.write_metadata(video, videos([2]))

        with pytest.raises(ObjectExistsError, match=r"a snapshot 's' already"):
            store.create_snapshot("s")
        assert ids_of(store.at("s").read_metadata(video)) == [1]

    def test_snapshot_that_was_dropped_is_gone_and_its_name_free(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1]))
        store.create_snapshot("s")
        store.drop_snapshot("s")

        for ask in (store.at, store.drop_snapshot):
            with pytest.raises(SnapshotError, match=r"no snapshot 's'"):
                ask("s")
        assert ids_of(store.read_metadata(video)) == [1]
        store.create_snapshot("s")

    def test_snapshot_of_a_feature_that_nobody_has_is_refused(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1]))

        with pytest.raises(FeatureNotFoundError, match="processed/video"):
            store.create_snapshot("s", features=[video, processed])
        assert store.list_snapshots().is_empty()

    def test_snapshot_through_a_store_that_does_not_answer_is_not_made(self, make_store: MakeStore) -> None:
        video, _ = pipeline()
        store = make_store("dev", fallback_stores=[UnreachableStore()])
        store.write_metadata(video, videos([1]))

        with pytest.raises(StorageError, match="unreachable"):
            store.create_snapshot("s", features=[video])
        assert store.list_snapshots().is_empty()

    @pytest.mark.parametrize("name", _BAD_NAMES, ids=repr)
    def test_name_that_is_none_is_refused(self, store: MetadataStore, name: Any) -> None:
        for ask in (store.create_snapshot, store.drop_snapshot, store.at):
            with pytest.raises(ValueError, match="name of a snapshot"):
                ask(name)

    @pytest.mark.parametrize("write", _WRITES.values(), ids=_WRITES.keys())
    def test_writes_are_refused(self, store: MetadataStore, write: Callable[[MetadataStore], Any]) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1]))
        store.create_snapshot("s")

        for then in (store.at("s"), store.at(datetime(2100, 1, 1, tzinfo=UTC))):
            with pytest.raises(StorageAccessError, match="read-only"):
                write(then)
        assert ids_of(store.read_metadata(video)) == [1]

    # Times.

    def test_store_at_a_time_sees_the_commits_up_to_it(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        for sample in range(3):
            store.write_metadata(video, videos([sample], {f"column {sample}": [sample]}))
        times = store.history(video)["time"].to_list()

        for count, moment in enumerate(times, start=1):
            then = store.at(moment)
            assert ids_of(then.read_metadata(video)) == list(range(count))
            assert len(then.read_metadata(video).columns) == 2 + count
            assert then.history(video).equals(store.history(video)[:count])
        elsewhere = times[0].astimezone(timezone(timedelta(hours=5)))
        assert ids_of(store.at(elsewhere).read_metadata(video)) == [0]

    def test_store_at_a_time_before_all_commits_has_no_feature(self, make_store: MakeStore) -> None:
        video, _ = pipeline()
        dev, _, prod = three_tiers(make_store)
        prod.write_metadata(video, videos([1]))
        dev.write_metadata(video, videos([2]))
        then = dev.at(datetime(2001, 1, 1, tzinfo=UTC))

        assert (then.has_feature(video, check_fallback=True), then.list_features(include_fallback=True)) == (False, [])
        for ask in (then.read_metadata, then.history):
            with pytest.raises(FeatureNotFoundError, match="2001"):
                ask(video)

    def test_store_at_a_time_goes_on_to_stores_that_had_the_feature_then(self, make_store: MakeStore) -> None:
        video, _ = pipeline()
        prod = make_store("prod")
        dev = make_store("dev", fallback_stores=[prod])
        prod.write_metadata(video, videos([1]))
        dev.write_metadata(video, videos([2]))
        first, last = sorted([prod.history(video)["time"].item(), dev.history(video)["time"].item()])

        assert ids_of(dev.at(last).read_metadata(video)) == [2]
        if first == prod.history(video)["time"].item() != last:
            assert ids_of(dev.at(first).read_metadata(video)) == [1]

    def test_snapshot_is_seen_at_a_time(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        for sample in range(3):
            store.write_metadata(video, videos([sample]))
            if sample == 1:
                store.create_snapshot("s")
        times = store.history(video)["time"].to_list()

        assert [ids_of(store.at("s").at(moment).read_metadata(video)) for moment in times] == [[0], [0, 1], [0, 1]]

    def test_time_without_a_zone_is_refused(self, store: MetadataStore) -> None:
        with pytest.raises(ValueError, match="time zone"):
            store.at(datetime(2026, 11, 1))  # noqa: DTZ001  # that is the mistake

    @pytest.mark.parametrize("moment", ["2026-11-01T00:00:00Z", date(2026, 11, 1), None])
    def test_what_is_no_moment_is_refused_with_what_would_be(self, store: MetadataStore, moment: Any) -> None:
        with pytest.raises(ValueError, match="name of a snapshot, or a time with a time zone"):
            store.at(moment)
