"""Cases of retired samples, which every kind of store must leave out of latest rows and nowhere else."""

from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from metaxy_fs.errors import (
    DependencyError,
    FeatureNotFoundError,
    MetadataSchemaError,
    SnapshotError,
    StorageAccessError,
)
from metaxy_fs.metadata_store import MetadataStore
from metaxy_fs.testing.store_cases import (
    SAMPLE_ID,
    VIDEO,
    ArrowOnly,
    MakeStore,
    StoreCase,
    ids_of,
    pipeline,
    samples,
    videos,
)
from metaxy_fs.testing.store_tags import tags_of


def latest(store: MetadataStore, feature: Any, **options: Any) -> list[int]:
    """Return the ids of the latest rows, sorted."""
    return sorted(ids_of(store.read_metadata(feature, latest_only=True, **options)))


class StoreRetired(StoreCase):
    """Tests of `retire` and `restore`."""

    def test_latest_rows_are_without_retired_samples(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1, 2, 3], label=["a", "b", "c"]))
        store.retire(video, samples([2]))
        rows = store.read_metadata(video, latest_only=True)

        assert ids_of(rows) == [1, 3]
        assert rows.columns == [SAMPLE_ID, "label", "data_version"]
        assert latest(store, video, versions="all") == latest(store, VIDEO) == [1, 3]
        assert store.scan_metadata(video, latest_only=True).head(5).collect().height == 2

    def test_every_row_that_there_was_is_read(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        written = videos([1, 2, 3], label=["a", "b", "c"])
        store.write_metadata(video, written)
        before = store.read_metadata(video, with_commits=True)
        store.retire(video, samples([2, 9]))

        assert store.read_metadata(video).equals(written)
        assert store.read_metadata(video, with_commits=True).equals(before)
        assert store.scan_metadata(video).select(pl.len()).collect().item() == 3
        assert store.scan_metadata(video).tail(1).collect()[SAMPLE_ID].to_list() == [3]
        assert ids_of(store.read_metadata(video, versions="all")) == [1, 2, 3]

    def test_a_later_row_brings_a_sample_back(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1, 2]))
        store.retire(video, samples([1, 2]))
        store.write_metadata(video, videos([2], take="again"))

        rows = store.read_metadata(video, latest_only=True)
        assert ids_of(rows) == [2]
        assert rows["data_version"].to_list() == videos([2], take="again")["data_version"].to_list()
        store.retire(video, samples([2]))
        assert latest(store, video) == []

    @pytest.mark.parametrize(
        "filters",
        [pl.col("label") == "b", pl.col(SAMPLE_ID) >= 2, pl.col("label").is_null(), pl.col("data_version").is_null()],
        ids=str,
    )
    def test_filters_never_bring_an_older_row_to_light(self, store: MetadataStore, filters: pl.Expr) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1, 2, 3], label=["a", "b", None]))
        store.retire(video, samples([2, 3]))

        for options in ({}, {"columns": [SAMPLE_ID]}, {"with_commits": True}):
            assert store.read_metadata(video, latest_only=True, filters=filters, **options).height == 0
        shown = store.read_metadata(video)
        assert store.read_metadata(video, filters=filters).equals(shown.filter(filters))

    def test_the_column_that_says_so_is_no_column(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1]))
        store.retire(video, samples([1]))

        for latest_only in (False, True):
            with pytest.raises(MetadataSchemaError, match=r"no column '_metaxy_retired'; it has \['sample_id'"):
                store.read_metadata(video, columns=["_metaxy_retired"], latest_only=latest_only)
            with pytest.raises(MetadataSchemaError):
                store.read_metadata(video, filters=pl.col("_metaxy_retired"), latest_only=latest_only)
        with pytest.raises(MetadataSchemaError, match="keeps for itself"):
            store.write_metadata(video, videos([1], _metaxy_retired=True))

    def test_history_tells_how_many_were_retired_and_why(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1, 2, 3]))
        store.retire(video, samples([1, 2]), "bad camera", tags={"by": "me"})
        store.retire(video, samples([3]))
        commits = store.history(video)

        assert commits["rows"].to_list() == [3, 0, 0]
        assert commits["retired"].to_list() == [0, 2, 1]
        assert tags_of(store, video) == [None, {"by": "me", "reason": "bad camera"}, None]

    def test_ids_are_named_as_those_of_a_write(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1]))
        problems: dict[str, pl.DataFrame] = {
            "no column 'sample_id'": pl.DataFrame({"id": [1]}),
            "is null in 1": samples([1, None]),
            "more than once": samples([1, 1]),
            "has the type Float64": samples([1.5]),
        }
        for message, ids in problems.items():
            with pytest.raises(MetadataSchemaError, match=message):
                store.retire(video, ids)
        with pytest.raises(ValueError, match="'reason'"):
            store.retire(video, samples([1]), "x" * 1_001)
        store.retire(video, samples([]).cast(pl.Int64))
        assert store.history(video).height == 1

    def test_ids_come_in_any_frame_with_any_other_columns(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1, 2, 3, 4]))
        store.retire(video, samples([1], data_version="x", label="y"))
        store.retire(video, samples([2]).lazy())
        store.retire(video, ArrowOnly(samples([3])))
        assert latest(store, video) == [4]
        store.calculate_and_write_data_versions(processed, samples([4]))
        store.retire(video, samples([4]))
        store.retire(processed, store.resolve_update(processed).orphaned)
        assert latest(store, processed) == []

    def test_a_retired_upstream_sample_is_not_joined(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1, 2]))
        store.calculate_and_write_data_versions(processed, samples([1, 2]))
        store.retire(video, samples([2]))

        assert ids_of(store.read_upstream_metadata(processed)[VIDEO.string]) == [1]
        with pytest.raises(DependencyError):
            store.calculate_data_versions(processed, samples([1, 2]))
        increment = store.resolve_update(processed)
        assert (increment.new.height, increment.stale.height) == (0, 0)
        assert ids_of(increment.orphaned) == [2]

    def test_a_snapshot_from_before_sees_the_sample(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1, 2]))
        store.create_snapshot("before")
        store.retire(video, samples([2]))
        store.create_snapshot("after")
        store.write_metadata(video, videos([2, 3]))
        between = store.history(video)["time"][1]

        assert latest(store.at("before"), video) == [1, 2]
        assert latest(store.at("after"), video) == latest(store.at(between), video) == [1]
        assert latest(store, video) == [1, 2, 3]
        assert ids_of(store.at("after").read_metadata(video)) == [1, 2]
        assert store.at("after").calculate_data_versions(processed, samples([1])).height == 1
        with pytest.raises(StorageAccessError, match="read-only"):
            store.at("after").retire(video, samples([1]))

    def test_retiring_where_only_a_fallback_has_rows_is_refused(self, make_store: MakeStore) -> None:
        video, _ = pipeline()
        prod = make_store("prod")
        prod.write_metadata(video, videos([1, 2]))
        prod.create_snapshot("s")
        dev = make_store("dev", fallback_stores=[prod])

        with pytest.raises(FeatureNotFoundError, match=r'would hide all of those.*fallback_mode="sample"'):
            dev.retire(video, samples([1]))
        with pytest.raises(FeatureNotFoundError, match="would hide all of those"):
            dev.restore(video, at=prod.history(video)["time"].item())
        prod.retire(video, samples([1]))
        assert latest(dev, video) == [2]
        dev.write_metadata(video, videos([1, 2, 3]))
        dev.retire(video, samples([3]))
        assert latest(dev, video) == [1, 2]

    def test_ids_are_cast_to_the_type_of_those_that_are_stored(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1, 2]))
        store.retire(video, samples([1]).cast(pl.Int8))

        rows = store.read_metadata(video, latest_only=True)
        assert (rows.schema[SAMPLE_ID], ids_of(rows)) == (pl.Int64(), [2])
        with pytest.raises(MetadataSchemaError, match="'sample_id'"):
            store.retire(video, samples(["2"]))

    def test_a_job_that_is_tried_again_leaves_a_sample_retired(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        for _ in range(2):
            with store.buffered(video, rows=2, write_id="job") as buffer:
                for sample in (1, 2, 3):
                    buffer.write(videos([sample], label=["x"]))
            store.retire(video, samples([2]))

        assert latest(store, video) == [1, 3]
        assert store.history(video)["rows"].to_list() == [2, 1, 0, 0]

    # Increments.

    @pytest.mark.parametrize("lazy", [False, True])
    def test_a_retired_sample_is_not_computed_again(self, store: MetadataStore, *, lazy: bool) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1, 2, 3]))
        store.calculate_and_write_data_versions(processed, samples([1, 2]))
        store.retire(processed, samples([2, 3, 9]))
        found = store.resolve_update(processed, lazy=True).collect() if lazy else store.resolve_update(processed)

        assert not found
        assert found.counts == (0, 0, 0, 0, 2)
        assert repr(found) == "Increment(new=0, stale=0, orphaned=0, waiting=0, retired=2)"
        store.write_metadata(video, videos([2, 3], take="again"))
        assert store.resolve_update(processed).counts == (0, 0, 0, 0, 2)
        asked = store.resolve_update(processed, stale_if=pl.col(SAMPLE_ID) > 0)
        assert (ids_of(asked.stale), asked.counts.retired) == ([1], 2)

    def test_a_row_written_later_takes_part_in_increments_again(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1, 2]))
        store.retire(processed, samples([1, 2]))
        store.calculate_and_write_data_versions(processed, samples([1]))
        store.write_metadata(video, videos([1, 2], take="again"))
        increment = store.resolve_update(processed)

        assert (ids_of(increment.stale), increment.counts.retired) == ([1], 1)

    def test_a_sample_stays_retired_after_a_change_of_code(self, store: MetadataStore) -> None:
        (video, processed), (_, changed) = pipeline(), pipeline(processed=2)
        store.write_metadata(video, videos([1, 2]))
        store.calculate_and_write_data_versions(processed, samples([1, 2]))
        store.retire(processed, samples([2]))
        increment = store.resolve_update(changed)
        assert (ids_of(increment.stale), increment.new.height, increment.counts.retired) == ([1], 0, 1)
        store.write_metadata(changed, increment.pending)
        assert store.resolve_update(changed).counts == (0, 0, 0, 0, 1)
        store.calculate_and_write_data_versions(changed, samples([2]))

        assert store.resolve_update(changed).counts == (0, 0, 0, 0, 0)
        assert store.resolve_update(processed).counts == (0, 0, 0, 0, 1)

    def test_a_retired_sample_does_not_wait(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1]))
        store.retire(processed, samples([1, 2]))
        increment = store.resolve_update(processed, samples=samples([1, 2, 3]))

        assert (ids_of(increment.waiting), increment.counts.retired) == ([3], 2)

    def test_retired_samples_that_there_should_not_be_are_not_counted(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1, 2, 3]))
        store.retire(video, samples([3]))
        increment = store.resolve_update(video, samples=videos([1, 2]))

        assert increment.counts == (0, 0, 0, 0, 0)

    def test_what_if_leaves_out_retired_samples(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1, 2]))
        store.calculate_and_write_data_versions(processed, samples([1, 2]))
        store.retire(processed, samples([2]))
        counted = store.what_if(video, code_versions={"frames": 2}).select("feature", "stale", "samples").rows()

        assert counted == [("video/processing", 2, 2), ("processed/video", 1, 1)]

    # Restoring.

    def test_restoring_undoes_what_was_done_since(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1, 2, 3, 4], label=["a", "b", "c", "d"]))
        store.retire(video, samples([4]))
        before = store.read_metadata(video, latest_only=True)
        store.create_snapshot("good")
        store.write_metadata(video, videos([1, 5], take="bad", label=["x", "y"], size=[1, 2]))
        store.retire(video, samples([2]))
        store.write_metadata(video, videos([4]))
        store.restore(video, at="good", reason="a bad job")
        after = store.read_metadata(video, latest_only=True)

        assert after.select(before.columns).sort(SAMPLE_ID).equals(before.sort(SAMPLE_ID))
        assert after["size"].null_count() == after.height
        last = store.history(video).row(-1, named=True)
        assert (last["rows"], last["retired"]) == (2, 2)
        assert tags_of(store, video)[-1] == {"reason": "a bad job"}

    def test_restoring_what_is_there_commits_nothing(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1, 2]))
        time = store.history(video)["time"].item()
        store.restore(video, at=time)
        assert store.history(video).height == 1
        store.write_metadata(video, videos([1, 2]))
        store.restore(video, at=time)
        assert store.history(video).height == 2
        store.write_metadata(video, videos([2, 3], take="bad"))
        for _ in range(2):
            store.restore(video, at=time)
        assert store.history(video).height == 4

    def test_restoring_can_be_undone(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1, 2]))
        store.create_snapshot("one")
        store.write_metadata(video, videos([2, 3], take="again"))
        later = store.read_metadata(video, latest_only=True).sort(SAMPLE_ID)
        store.create_snapshot("two")
        store.restore(video, at="one")
        assert latest(store, video) == [1, 2]
        store.restore(video, at="two")

        assert store.read_metadata(video, latest_only=True).sort(SAMPLE_ID).equals(later)

    def test_rows_that_are_restored_keep_values_of_every_kind(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        kinds: dict[str, Any] = {
            "list": [[1, None], [], None],
            "struct": [{"x": 1.5, "y": None}, None, {"x": None, "y": "b"}],
            "number": [float("nan"), None, -0.0],
            "binary": [b"\x00", b"", None],
            "time": [datetime(2026, 1, 1, tzinfo=UTC), None, None],
            "nothing": [None, None, None],
            "array": pl.Series([[1, 2], None, [3, 4]], dtype=pl.Array(pl.Int16, 2)),
            "kind": pl.Series(["a", None, "b"], dtype=pl.Enum(["a", "b"])),
            "group": pl.Series(["a", None, "b"], dtype=pl.Categorical),
            "price": pl.Series(["1.5", None, "2"]).cast(pl.Decimal(9, 2)),
        }
        store.write_metadata(video, videos([1, 2, 3], kinds))
        written = store.read_metadata(video)
        time = store.history(video)["time"].item()
        store.write_metadata(video, videos([1, 2, 3], kinds))
        store.restore(video, at=time)
        assert store.history(video).height == 2
        store.write_metadata(video, videos([1, 2, 3]))
        store.restore(video, at=time)

        assert store.read_metadata(video, latest_only=True).equals(written)
        assert store.history(video)["rows"].to_list() == [3, 3, 3, 3]

    def test_a_moment_without_rows_is_refused(self, store: MetadataStore) -> None:
        (video, processed), (bumped, _) = pipeline(), pipeline(frames=2)
        store.write_metadata(video, videos([1]))
        store.create_snapshot("s")
        store.calculate_and_write_data_versions(processed, samples([1]))
        store.write_metadata(bumped, videos([1]))

        for feature, moment in ((processed, "s"), (bumped, "s"), (video, datetime(2000, 1, 1, tzinfo=UTC))):
            with pytest.raises(FeatureNotFoundError):
                store.restore(feature, at=moment)
        with pytest.raises(SnapshotError, match="no snapshot 'other'"):
            store.restore(video, at="other")
        assert latest(store, video) == latest(store, processed) == [1]

    def test_restoring_looks_through_the_chain(self, make_store: MakeStore) -> None:
        video, _ = pipeline()
        prod = make_store("prod")
        prod.write_metadata(video, videos([1, 2], label=["a", "b"]))
        dev = make_store("dev", fallback_stores=[prod])
        dev.create_snapshot("before")
        dev.write_metadata(video, videos([2, 3], take="bad"))
        dev.restore(video, at="before")

        rows = dev.read_metadata(video, latest_only=True).sort(SAMPLE_ID)
        assert rows.select("sample_id", "label", "data_version").equals(prod.read_metadata(video))
        assert prod.history(video).height == 1

    # Explanations.

    def test_an_explanation_says_that_a_sample_is_retired(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1, 2]))
        store.calculate_and_write_data_versions(processed, samples([1, 2]))
        store.retire(processed, samples([1]))
        store.retire(video, samples([2]))

        assert store.explain(processed, 1).status == "retired"
        assert store.explain(video, 1).status == "up to date"
        assert store.explain(processed, 2).status == "excluded"
        assert "video/processing/audio: code 2; retired" in store.explain(processed, 2).to_text()
        assert store.explain(video, 2).status == "retired"
        store.calculate_and_write_data_versions(processed, samples([1]))
        assert store.explain(processed, 1).status == "up to date"
