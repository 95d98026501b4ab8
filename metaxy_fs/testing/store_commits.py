"""Tests of a store: it knows which commits it holds, and to which of them a row belongs."""

import polars as pl
import pytest

from metaxy_fs.errors import FeatureNotFoundError, MetadataSchemaError
from metaxy_fs.metadata_store import MetadataStore
from metaxy_fs.testing.store_cases import SAMPLE_ID, VIDEO, MakeStore, StoreCase, ids_of, pipeline, videos

_COLUMNS = {
    "time": pl.Datetime("us", "UTC"),
    "commit": pl.String(),
    "rows": pl.Int64(),
    "retired": pl.Int64(),
    "bytes": pl.Int64(),
    "partition": pl.String(),
    "write_id": pl.String(),
    "writer": pl.String(),
    "compacted": pl.Boolean(),
    "tags": pl.String(),
}


class StoreCommits(StoreCase):
    """Tests of `history` and of reads with commits."""

    def test_history_has_one_row_a_commit_in_commit_order(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([5, 6, 7]))
        store.write_metadata(video, videos([]))
        store.write_metadata(video, videos([1]), write_id="job")
        commits = store.history(video)

        assert list(commits.schema.items()) == list(_COLUMNS.items())
        assert commits["rows"].to_list() == [3, 0, 1]
        assert commits["write_id"].to_list() == [None, None, "job"]
        assert commits["commit"].n_unique() == 3
        assert commits["time"].is_sorted()
        assert commits["time"].n_unique() == 3

    def test_history_says_what_is_known_of_a_commit(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1]))
        commits = store.history(video)

        assert commits["partition"].to_list() == store.stored_versions(VIDEO)
        assert commits["bytes"].min() >= 0  # type: ignore[operator]  # of a column of integers it is one
        assert all(commits["writer"])
        assert not commits["compacted"].any()

    def test_history_holds_all_data_versions(self, store: MetadataStore) -> None:
        (video, _), (bumped, _) = pipeline(), pipeline(frames=2)
        for sample, feature in enumerate([video, bumped, video]):
            store.write_metadata(feature, videos([sample]))

        for commits in (store.history(video), store.history(bumped), store.history(VIDEO)):
            assert commits["partition"].n_unique() == 2
            assert commits["partition"][0] == commits["partition"][2]

    def test_history_of_a_retried_write_has_it_once(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        for _ in range(3):
            store.write_metadata(video, videos([1]), write_id="job")

        assert store.history(video)["write_id"].to_list() == ["job"]

    def test_history_is_that_of_one_store_and_one_feature(self, make_store: MakeStore) -> None:
        video, processed = pipeline()
        prod = make_store("prod")
        prod.write_metadata(video, videos([1]))
        dev = make_store("dev", fallback_stores=[prod])

        for feature in (video, processed, VIDEO):
            with pytest.raises(FeatureNotFoundError, match="not searched"):
                dev.history(feature)

    # Reads with commits.

    def test_rows_are_read_with_their_commits(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        for ids in ([5, 6], [], [1], [2, 3, 4]):
            store.write_metadata(video, videos(ids))
        rows = store.read_metadata(video, with_commits=True)
        commits = store.history(video)

        assert rows.drop("commit", "committed_at").equals(store.read_metadata(video))
        assert rows.columns[-2:] == ["commit", "committed_at"]
        expected = [commits.row(index, named=True) for index in (0, 0, 2, 3, 3, 3)]
        assert rows["commit"].to_list() == [commit["commit"] for commit in expected]
        assert rows["committed_at"].to_list() == [commit["time"] for commit in expected]

    def test_commits_are_read_across_data_versions_and_types(self, store: MetadataStore) -> None:
        (video, _), (bumped, _) = pipeline(), pipeline(frames=2)
        writes = [(video, [1, 2], pl.Int32()), (bumped, [1], pl.Int64()), (video, [3], pl.Int64())]
        for feature, ids, dtype in writes:
            store.write_metadata(feature, videos(ids, size=pl.Series(ids, dtype=dtype)))
        rows = store.read_metadata(video, with_commits=True, versions="all")

        assert rows["size"].to_list() == ids_of(rows) == [1, 2, 1, 3]
        assert rows["commit"].to_list() == [store.history(video)["commit"][index] for index in (0, 0, 1, 2)]

    def test_commits_of_latest_rows_are_theirs(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        for ids in ([1, 2], [2, 3], [3]):
            store.write_metadata(video, videos(ids))
        rows = store.read_metadata(video, with_commits=True, latest_only=True)

        found = dict(zip(ids_of(rows), rows["commit"].to_list(), strict=True))
        assert found == dict(enumerate(store.history(video)["commit"], start=1))

    def test_commits_come_with_selected_columns(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1]))

        selected = store.read_metadata(video, with_commits=True, columns=[SAMPLE_ID])
        assert selected.columns == [SAMPLE_ID, "commit", "committed_at"]
        ordered = store.read_metadata(video, with_commits=True, columns=["committed_at", SAMPLE_ID])
        assert ordered.columns == ["committed_at", SAMPLE_ID, "commit"]

    def test_rows_are_chosen_by_their_commits(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        for sample in range(4):
            store.write_metadata(video, videos([sample, sample + 10]))
        commits = store.history(video)
        late = pl.col("committed_at") > commits["time"][1]
        one = pl.col("commit") == commits["commit"][3]

        for filters, expected in ((late, [2, 12, 3, 13]), (one, [3, 13]), ([late, pl.col(SAMPLE_ID) < 10], [2, 3])):
            assert ids_of(store.read_metadata(video, with_commits=True, filters=filters)) == expected
        assert ids_of(store.scan_metadata(video, with_commits=True).filter(one).collect()) == [3, 13]

    def test_column_of_the_feature_is_not_hidden_by_its_commits(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1], commit=["mine"]))

        assert store.read_metadata(video)["commit"].to_list() == ["mine"]
        with pytest.raises(MetadataSchemaError, match=r"'commit'.*with_commits"):
            store.read_metadata(video, with_commits=True)
        without = store.read_metadata(video, with_commits=True, columns=[SAMPLE_ID])
        assert without["commit"].to_list() == store.history(video)["commit"].to_list()

    def test_commits_that_were_not_asked_for_are_no_columns(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1]))

        with pytest.raises(MetadataSchemaError, match="'committed_at'"):
            store.read_metadata(video, columns=[SAMPLE_ID, "committed_at"])
