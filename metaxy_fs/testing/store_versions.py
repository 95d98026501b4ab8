"""Tests of a store: every sample gets the data version that its upstream rows make."""

from collections.abc import Callable

import polars as pl
import pytest

from metaxy_fs.errors import DependencyError, MetadataSchemaError, WriteConflictError
from metaxy_fs.metadata_store import MetadataStore
from metaxy_fs.spec import FeatureKey
from metaxy_fs.testing.store_cases import (
    SAMPLE_ID,
    VIDEO,
    ArrowOnly,
    MakeStore,
    StoreCase,
    container,
    declare,
    derived,
    ids_of,
    pipeline,
    processed_version,
    root,
    samples,
    sha256,
    videos,
)


class StoreVersions(StoreCase):
    """Tests of `read_upstream_metadata`, `calculate_data_versions` and `calculate_and_write_data_versions`."""

    def test_upstream_rows_come_by_the_name_of_their_feature(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        rows = videos([1, 2], path=["a", "b"])
        store.write_metadata(video, rows)

        upstream = store.read_upstream_metadata(processed)
        assert list(upstream) == ["video_processing"]
        assert upstream["video_processing"].to_dicts() == rows.to_dicts()

    def test_upstream_rows_are_the_latest(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1, 2]))
        store.write_metadata(video, videos([1], take="again"))

        upstream = store.read_upstream_metadata(processed)["video_processing"]
        assert upstream.sort(SAMPLE_ID)["data_version"].to_list() == [
            {"frames": "f1again", "audio": "a1again"},
            {"frames": "f2", "audio": "a2"},
        ]

    def test_root_feature_has_no_upstream_rows(self, store: MetadataStore) -> None:
        assert store.read_upstream_metadata(pipeline()[0]) == {}

    def test_versions_are_digests_of_the_upstream_versions(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1, 2, 3]))

        result = store.calculate_data_versions(processed, samples([1, 2, 3]))
        assert result["data_version"].to_list() == [processed_version(sample) for sample in (1, 2, 3)]

    def test_versions_depend_on_the_code_version(self, store: MetadataStore) -> None:
        video, processed = pipeline(processed=7)
        store.write_metadata(video, videos([1]))

        result = store.calculate_data_versions(processed, samples([1]))
        assert result["data_version"].to_list() == [processed_version(1, code=7)]

    def test_samples_keep_their_order_and_columns(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1, 2, 3]))
        given = pl.DataFrame({"note": ["c", "a"], SAMPLE_ID: [3, 1], "*": [None, 1.5]})

        result = store.calculate_data_versions(processed, given)
        assert result.drop("data_version").equals(given)
        assert result.columns == ["note", SAMPLE_ID, "*", "data_version"]
        assert result["data_version"].to_list() == [processed_version(3), processed_version(1)]

    def test_latest_upstream_row_counts(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1], take="old"))
        store.write_metadata(video, videos([1], take="new"))

        result = store.calculate_data_versions(processed, samples([1]))
        assert result["data_version"].to_list() == [processed_version(1, take="new")]

    def test_calculating_writes_nothing(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1]))
        store.calculate_data_versions(processed, samples([1]))

        assert store.list_features() == [VIDEO]

    def test_calculating_and_writing_stores_what_it_returns(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1, 2]))
        result = store.calculate_and_write_data_versions(feature=processed, sample_df=samples([2, 1], path=["b", "a"]))

        assert store.read_metadata(processed).equals(result.sort(SAMPLE_ID))

    def test_only_samples_that_are_not_stored_need_be_processed(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos(range(5)))
        store.calculate_and_write_data_versions(processed, samples([0, 1]))
        done = set(store.read_metadata(processed, columns=[SAMPLE_ID])[SAMPLE_ID])
        store.calculate_and_write_data_versions(processed, samples(range(5)).filter(~pl.col(SAMPLE_ID).is_in(done)))

        assert store.read_metadata(processed)["data_version"].to_list() == [
            processed_version(sample) for sample in range(5)
        ]

    @pytest.mark.parametrize("kind", [lambda frame: frame, pl.DataFrame.lazy], ids=["held", "lazy"])
    def test_calculated_rows_of_a_write_id_are_written_once(
        self, reopen: MakeStore, kind: Callable[[pl.DataFrame], pl.DataFrame]
    ) -> None:
        video, processed = pipeline()
        reopen("a").write_metadata(video, videos([1, 2]))
        given = samples([2, 1], path=["b", "a"])
        for frame in (given, given, given.select("path", SAMPLE_ID)):
            result = reopen("a").calculate_and_write_data_versions(processed, kind(frame), write_id="night-17")
            assert result.lazy().collect().height == 2
        assert ids_of(reopen("a").read_metadata(processed)) == [1, 2]
        assert reopen("a").history(processed)["write_id"].to_list() == ["night-17"]

        with pytest.raises(WriteConflictError, match="night-17"):
            reopen("a").calculate_and_write_data_versions(processed, kind(given.head(1)), write_id="night-17")
        reopen("a").write_metadata(video, videos([1], take="again"))
        with pytest.raises(WriteConflictError, match="night-17"):
            reopen("a").calculate_and_write_data_versions(processed, kind(given), write_id="night-17")

    @pytest.mark.parametrize("write_id", ["", 7])
    def test_write_id_that_names_nothing_is_refused(self, store: MetadataStore, write_id: str) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1]))
        with pytest.raises(ValueError, match="write_id"):
            store.calculate_and_write_data_versions(processed, samples([1]), write_id=write_id)
        assert not store.has_feature(processed)

    def test_types_of_a_write_that_failed_bind_nobody(self, reopen: MakeStore) -> None:
        video, processed = pipeline()
        reopen("a").write_metadata(video, videos([1]))
        with pytest.raises(DependencyError):
            reopen("a").calculate_and_write_data_versions(processed, samples([1, 2], note=[1, 2]))
        reopen("a").calculate_and_write_data_versions(processed, samples([1], note=["a"]))
        assert reopen("a").read_metadata(processed)["note"].to_list() == ["a"]

    @pytest.mark.parametrize("kind", [pl.DataFrame.lazy, ArrowOnly])
    def test_samples_may_be_any_frame(self, store: MetadataStore, kind: type[ArrowOnly]) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1]))

        result = store.calculate_data_versions(processed, kind(samples([1]))).lazy().collect()
        assert result["data_version"].to_list() == [processed_version(1)]

    def test_versions_of_a_lazy_frame_are_lazy_and_sorted_by_id(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1, 2, 3]))

        result = store.calculate_and_write_data_versions(processed, samples([3, 1, 2]).lazy())
        assert isinstance(result, pl.LazyFrame)
        assert result.select(SAMPLE_ID).collect()[SAMPLE_ID].to_list() == [1, 2, 3]
        assert result.collect().equals(store.read_metadata(processed))

    def test_a_lazy_frame_that_names_a_sample_twice_is_refused(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1, 2]))
        with pytest.raises(MetadataSchemaError, match="more than once"):
            store.calculate_and_write_data_versions(processed, samples([1, 2, 1]).lazy())
        assert not store.has_feature(processed)

    def test_no_samples_give_no_versions(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1]))

        result = store.calculate_and_write_data_versions(processed, samples([1]).clear())
        assert result.schema["data_version"] == pl.Struct({"default": pl.String})
        assert store.has_feature(processed)

    # Several upstream features, containers and id columns.

    def test_containers_are_made_from_those_that_they_name(self, store: MetadataStore) -> None:
        keys = {name: FeatureKey([name]) for name in ("b", "a", "leaf")}
        leaf = derived(
            keys["leaf"],
            [keys["b"], keys["a"]],
            container("all"),
            container("some", "v2", b=["y", "x"]),
            container("both", a=["z"], b=["x"]),
        )
        b, a, made = declare(root(keys["b"], container("y"), container("x")), root(keys["a"], container("z")), leaf)
        store.write_metadata(b, pl.DataFrame({SAMPLE_ID: [1], "data_version": [{"x": "X", "y": "Y"}]}))
        store.write_metadata(a, pl.DataFrame({SAMPLE_ID: [1], "data_version": [{"z": "Z"}]}))

        assert store.calculate_data_versions(made, samples([1]))["data_version"].to_list() == [
            {
                "all": sha256("all|1|a/z|Z|b/x|X|b/y|Y"),
                "some": sha256("some|v2|b/x|X|b/y|Y"),
                "both": sha256("both|1|a/z|Z|b/x|X"),
            }
        ]

    def test_versions_of_versions_are_calculated(self, store: MetadataStore) -> None:
        keys = [FeatureKey([name]) for name in ("first", "second", "third")]
        first, second, third = declare(root(keys[0]), derived(keys[1], keys[:1]), derived(keys[2], keys[:2]))
        store.write_metadata(first, pl.DataFrame({SAMPLE_ID: [1], "data_version": [{"default": "v"}]}))
        for feature in (second, third):
            store.calculate_and_write_data_versions(feature, samples([1]))

        above = sha256("default|1|first/default|v")
        expected = sha256(f"default|1|first/default|v|second/default|{above}")
        assert store.read_metadata(third)["data_version"].to_list() == [{"default": expected}]

    def test_samples_are_matched_by_all_id_columns(self, store: MetadataStore) -> None:
        ids = ["video", "second"]
        clip, scored = declare(
            root(FeatureKey(["clip"]), id_columns=ids),
            derived(FeatureKey(["scored"]), [FeatureKey(["clip"])], id_columns=ids[::-1]),
        )
        rows = pl.DataFrame({"video": ["a", "a", "b"], "second": [1, 2, 1]})
        versions = [{"default": f"{video}{second}"} for video, second in rows.rows()]
        store.write_metadata(clip, rows.with_columns(data_version=pl.Series(versions)))

        result = store.calculate_data_versions(scored, rows.reverse())
        expected = [{"default": sha256(f"default|1|clip/default|{name}")} for name in ("b1", "a2", "a1")]
        assert result["data_version"].to_list() == expected

    def test_integer_ids_of_different_widths_match(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1, 2]))

        result = store.calculate_data_versions(processed, samples([2]).cast(pl.Int32))
        assert result.schema[SAMPLE_ID] == pl.Int32
        assert result["data_version"].to_list() == [processed_version(2)]

    # What is refused.

    def test_ids_of_types_that_never_match_are_refused(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1]))

        with pytest.raises(MetadataSchemaError, match=r"'sample_id'.*String.*Int64"):
            store.calculate_and_write_data_versions(processed, samples(["1"]))
        assert not store.has_feature(processed)

    def test_missing_upstream_feature_is_named(self, store: MetadataStore) -> None:
        _, processed = pipeline()

        with pytest.raises(DependencyError, match=r"'processed/video'.*'video/processing'") as caught:
            store.calculate_data_versions(processed, samples([1]))
        assert isinstance(caught.value, LookupError)
        assert store.location in str(caught.value)
        with pytest.raises(DependencyError, match="'video/processing'"):
            store.read_upstream_metadata(processed)

    def test_upstream_of_another_data_version_is_missing(self, store: MetadataStore) -> None:
        store.write_metadata(pipeline()[0], videos([1]))

        with pytest.raises(DependencyError, match="other data versions"):
            store.calculate_data_versions(pipeline(audio=3)[1], samples([1]))

    def test_samples_without_upstream_row_are_counted_and_named(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1, 2]))

        with pytest.raises(DependencyError, match=r"7 of 8 samples.*'video/processing': 10, 11, 12, 13, 14, \.\.\."):
            store.calculate_and_write_data_versions(processed, samples([1, *range(10, 17)]))
        assert not store.has_feature(processed)

    def test_single_sample_without_upstream_row_is_named(self, store: MetadataStore) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos(["a"]))

        with pytest.raises(DependencyError, match=r"1 of 2 samples.*: 'b'\. "):
            store.calculate_data_versions(processed, samples(["a", "b"]))

    def test_versions_of_a_root_feature_are_not_calculated(self, store: MetadataStore) -> None:
        with pytest.raises(DependencyError, match=r"'video/processing'.*write_metadata"):
            store.calculate_data_versions(pipeline()[0], samples([1]))

    @pytest.mark.parametrize(
        ("given", "named"),
        [
            (videos([1]), "'data_version'"),
            (samples([1, 1]), "more than once: 1"),
            (samples([1, None]), "null in 1 of 2"),
            (samples([1.5]), "Float64"),
            (samples([1]).rename({SAMPLE_ID: "id"}), "'sample_id'"),
        ],
        ids=["versions", "repeated ids", "null ids", "float ids", "no ids"],
    )
    def test_samples_are_refused_for(self, store: MetadataStore, given: pl.DataFrame, named: str) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos([1]))

        with pytest.raises(MetadataSchemaError, match=named):
            store.calculate_and_write_data_versions(processed, given)
        assert ids_of(store.read_metadata(video)) == [1]
        assert not store.has_feature(processed)
