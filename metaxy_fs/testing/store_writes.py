"""Tests of a store: it takes all of what fits a feature, and refuses everything else."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest

from metaxy_fs.errors import MetadataSchemaError, SpecError, WriteConflictError
from metaxy_fs.metadata_store import MetadataStore
from metaxy_fs.spec import FeatureKey
from metaxy_fs.testing.store_cases import (
    SAMPLE_ID,
    VERSIONS,
    VIDEO,
    ArrowOnly,
    MakeStore,
    StoreCase,
    container,
    declare,
    ids_of,
    pipeline,
    processed_version,
    root,
    samples,
    videos,
)

ODD_COLUMNS = ["*", "^a$", "", "two words", "a.b", "a/b", "k=v", "ünï", "日本", "%41", "frames"]
IDS: dict[str, list[Any]] = {
    "text": ["", "a/b", "ünï", "日本", "🎈"],
    "date": [date(1969, 12, 31), date(2026, 11, 30)],
    "datetime": [datetime(1969, 12, 31, 23, 59, 59, 999_999), datetime(2026, 11, 30)],  # noqa: DTZ001  # a zone is the next case
    "zoned datetime": [datetime(2026, 3, 29, 0, 30, tzinfo=UTC), datetime(2026, 3, 29, 1, 30, tzinfo=UTC)],
    "binary": [b"", b"\x00\xff"],
    "integer": [-(2**63), 0, 2**63 - 1],
}
REFUSALS: dict[str, tuple[Callable[[], Any], str]] = {
    "no data_version": (lambda: videos([1]).drop("data_version"), "data_version"),
    "versions that are no struct": (lambda: videos([1]).with_columns(data_version=pl.lit("v")), "struct"),
    "a container too few": (lambda: with_versions({"frames": "f"}), "frames"),
    "a container too many": (lambda: with_versions({"frames": "f", "audio": "a", "text": "t"}), "text"),
    "a version that is a number": (lambda: with_versions({"frames": 1, "audio": "a"}), "'frames'"),
    "a version that is null": (lambda: with_versions({"frames": "f", "audio": None}), "'audio'"),
    "a version that is empty": (lambda: with_versions({"frames": "", "audio": "a"}), "'frames'"),
    "a version with a bar": (lambda: with_versions({"frames": "a|b", "audio": "a"}), r"'a\|b'"),
    "versions that are null": (lambda: videos([1]).with_columns(data_version=pl.lit(None, dtype=VERSIONS)), "null"),
    "no id column": (lambda: videos([1]).drop(SAMPLE_ID), "'sample_id'"),
    "an id that is null": (lambda: videos([1, None]), "null in 1 of 2"),
    "ids that repeat": (lambda: videos([1, 2, 2, 3, 3]), "2, 3"),
    "ids that are floats": (lambda: videos([1.0]), "Float64"),
    "ids that are booleans": (lambda: videos([True]), "Boolean"),
    "ids that are categories": (
        lambda: videos(["a"]).with_columns(pl.col(SAMPLE_ID).cast(pl.Categorical)),
        "Categorical",
    ),
    "ids that are lists": (lambda: videos([[1]]), "List"),
    "a reserved column": (lambda: videos([1], _metaxy_note=["x"]), "'_metaxy_note'"),
    "a column of objects": (
        lambda: videos([1]).with_columns(pl.Series("thing", [object()], dtype=pl.Object)),
        "'thing'",
    ),
    "no frame at all": (lambda: {SAMPLE_ID: [1]}, "dict"),
}


def with_versions(version: dict[str, Any]) -> pl.DataFrame:
    """Return one row with this version."""
    return pl.DataFrame({SAMPLE_ID: [1], "data_version": [version]}, strict=False)


class StoreWrites(StoreCase):
    """Tests of `write_metadata`."""

    def test_rows_are_read_back(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        rows = videos([1, 2, 3], path=["/data/1.mp4", None, "/data/3.mp4"])
        store.write_metadata(video, rows)

        assert store.read_metadata(video).to_dicts() == rows.to_dicts()

    def test_columns_keep_their_order_and_types(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        rows = videos([1], day=[date(2026, 1, 1)], tags=[["a"]], size=pl.Series([1], dtype=pl.UInt8), nothing=[None])
        store.write_metadata(video, rows)

        assert list(store.read_metadata(video).schema.items()) == list(rows.schema.items())

    def test_rows_of_one_write_come_in_the_order_of_their_ids(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([30, 10, 20], place=[0, 1, 2]))

        assert store.read_metadata(video)["place"].to_list() == [1, 2, 0]

    def test_writes_come_in_the_order_in_which_they_were_made(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        for ids in ([5, 6], [1], [3, 4]):
            store.write_metadata(video, videos(ids))

        assert ids_of(store.read_metadata(video)) == [5, 6, 1, 3, 4]

    def test_writing_a_sample_again_keeps_its_earlier_row(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1], label=["old"]))
        store.write_metadata(video, videos([1], label=["new"]))

        assert store.read_metadata(video)["label"].to_list() == ["old", "new"]

    def test_two_equal_writes_without_a_write_id_are_two(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1]))
        store.write_metadata(video, videos([1]))

        assert ids_of(store.read_metadata(video)) == [1, 1]

    def test_empty_frame_makes_the_feature_exist(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([]))

        assert store.has_feature(video)
        assert dict(store.read_metadata(video).schema) == dict(videos([]).schema)
        assert store.read_metadata(video, latest_only=True).height == 0

    def test_another_object_sees_what_was_written(self, reopen: MakeStore) -> None:
        video, _ = pipeline()
        reopen("a").write_metadata(video, videos([1]))

        assert ids_of(reopen("a").read_metadata(video)) == [1]

    def test_writes_of_two_objects_come_in_the_order_in_which_they_were_made(self, reopen: MakeStore) -> None:
        video, _ = pipeline()
        one, two = reopen("a"), reopen("a")
        for sample, store in enumerate([one, two, two, one]):
            store.write_metadata(video, videos([9 - sample]))
            store.read_metadata(video)

        assert ids_of(reopen("a").read_metadata(video)) == [9, 8, 7, 6]

    def test_stores_of_different_names_share_nothing(self, make_store: MakeStore) -> None:
        video, _ = pipeline()
        make_store("a").write_metadata(video, videos([1]))

        assert not make_store("b").has_feature(video)

    # What is taken.

    def test_lazy_frame_is_written(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1, 2]).lazy().filter(pl.col(SAMPLE_ID) > 1))

        assert ids_of(store.read_metadata(video)) == [2]

    def test_arrow_stream_is_written(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, ArrowOnly(videos([1, 2])))

        assert store.read_metadata(video).to_dicts() == videos([1, 2]).to_dicts()

    def test_containers_may_come_in_any_order(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, with_versions({"audio": "a", "frames": "f"}))
        store.write_metadata(video, with_versions({"frames": "f", "audio": "a"}))

        assert store.read_metadata(video)["data_version"].to_list() == [{"frames": "f", "audio": "a"}] * 2
        assert store.read_metadata(video).schema["data_version"] == VERSIONS

    @pytest.mark.parametrize("ids", IDS.values(), ids=IDS.keys())
    def test_ids_may_be(self, store: MetadataStore, ids: list[Any]) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos(ids[::-1]))
        store.write_metadata(video, videos(ids[:1], take="again"))

        assert ids_of(store.read_metadata(video)) == [*ids, ids[0]]
        assert ids_of(store.read_metadata(video, filters=pl.col(SAMPLE_ID) == ids[-1])) == ids[-1:]
        assert sorted(ids_of(store.read_metadata(video, latest_only=True))) == ids

    def test_several_columns_may_name_a_sample(self, store: MetadataStore) -> None:
        (clip,) = declare(root(FeatureKey(["clip"]), id_columns=["video", "second"]))
        rows = pl.DataFrame(
            {"second": [2, 1, 1], "video": ["a", "b", "a"], "data_version": [{"default": v} for v in "xyz"]}
        )
        store.write_metadata(clip, rows)
        store.write_metadata(clip, rows[:1].with_columns(data_version=pl.struct(default=pl.lit("new"))))

        found = store.read_metadata(clip, latest_only=True, columns=["video", "second", "data_version"])
        assert found.rows() == [
            ("a", 1, {"default": "z"}),
            ("b", 1, {"default": "y"}),
            ("a", 2, {"default": "new"}),
        ]

    def test_columns_may_have_odd_names(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        rows = videos([1], {name: [place] for place, name in enumerate(ODD_COLUMNS)})
        store.write_metadata(video, rows)

        assert store.read_metadata(video).to_dicts() == rows.to_dicts()
        assert store.read_metadata(video, columns=["^a$", "*"]).to_dicts() == [{"^a$": 1, "*": 0}]

    def test_key_that_the_active_graph_holds_is_taken_for_its_class(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        with video.graph.use():
            store.write_metadata(VIDEO, videos([1]))

        assert ids_of(store.read_metadata(video)) == [1]

    # Writes with a name.

    def test_write_of_a_write_id_is_done_once(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        rows = videos([1, 2], score=[float("nan"), None])
        for frame in (rows, rows, rows.reverse(), rows.lazy()):
            store.write_metadata(video, frame, write_id="job/1 ünï")

        assert ids_of(store.read_metadata(video)) == [1, 2]

    def test_write_of_a_write_id_is_done_once_by_all_objects(self, reopen: MakeStore) -> None:
        video, _ = pipeline()
        for _ in range(3):
            reopen("a").write_metadata(video, videos([1]), write_id="job")

        assert ids_of(reopen("a").read_metadata(video)) == [1]

    def test_write_of_a_write_id_is_done_once_in_whichever_order_its_columns_come(self, reopen: MakeStore) -> None:
        video, _ = pipeline()
        rows = videos([1, 2], x=[1, 2], nested=[{"a": 1, "b": "x"}, None])
        nested = pl.col("nested")
        reordered = pl.when(nested.is_not_null()).then(pl.struct(nested.struct["b"], nested.struct["a"]))
        other = rows.with_columns(reordered.alias("nested")).select("nested", "x", SAMPLE_ID, "data_version")
        reopen("a").write_metadata(video, rows, write_id="job")
        for frame in (rows.select(reversed(rows.columns)), other, other.lazy()):
            reopen("a").write_metadata(video, frame, write_id="job")

        assert reopen("a").read_metadata(video).to_dicts() == rows.to_dicts()
        with pytest.raises(WriteConflictError):
            reopen("a").write_metadata(video, other.with_columns(x=pl.col("x") + 1), write_id="job")

    @pytest.mark.parametrize(
        "other",
        [videos([1, 2]), videos([1], take="again"), videos([]), videos([1], extra=[None])],
        ids=["another row", "another version", "no row", "another column"],
    )
    def test_write_id_is_not_used_for_other_rows(self, store: MetadataStore, other: pl.DataFrame) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1]), write_id="job")

        with pytest.raises(WriteConflictError, match=r"'job'.*1 row "):
            store.write_metadata(video, other, write_id="job")
        assert store.read_metadata(video).to_dicts() == videos([1]).to_dicts()

    def test_write_id_is_not_used_for_equal_values_of_another_type(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1], size=pl.Series([1], dtype=pl.Int32)), write_id="job")

        with pytest.raises(WriteConflictError):
            store.write_metadata(video, videos([1], size=pl.Series([1], dtype=pl.Int64)), write_id="job")

    def test_write_id_is_not_used_for_other_rows_by_another_object(self, reopen: MakeStore) -> None:
        video, _ = pipeline()
        reopen("a").write_metadata(video, videos([1]), write_id="job")

        with pytest.raises(WriteConflictError):
            reopen("a").write_metadata(video, videos([2]), write_id="job")
        assert ids_of(reopen("a").read_metadata(video)) == [1]

    def test_write_id_names_a_write_of_one_data_version_of_one_feature(self, store: MetadataStore) -> None:
        (video, _), (bumped, _) = pipeline(), pipeline(frames=2)
        (other,) = declare(root(FeatureKey(["other"]), container("frames"), container("audio", 2)))
        for sample, feature in enumerate([video, bumped, other]):
            store.write_metadata(feature, videos([sample]), write_id="job")

        assert [ids_of(store.read_metadata(feature)) for feature in (video, bumped, other)] == [[0], [1], [2]]

    # What is refused.

    @pytest.mark.parametrize(("make", "named"), REFUSALS.values(), ids=REFUSALS.keys())
    def test_refused_with_nothing_stored(self, store: MetadataStore, make: Callable[[], Any], named: str) -> None:
        video, _ = pipeline()

        with pytest.raises(MetadataSchemaError, match=named) as caught:
            store.write_metadata(video, make())
        assert isinstance(caught.value, ValueError)
        assert (store.has_feature(video), store.list_features()) == (False, [])

    def test_refused_write_leaves_the_rows_as_they_were(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1]))

        with pytest.raises(MetadataSchemaError):
            store.write_metadata(video, videos([2, 2]))
        assert ids_of(store.read_metadata(video)) == [1]

    def test_key_that_the_active_graph_lacks_is_refused(self, store: MetadataStore) -> None:
        pipeline()

        with pytest.raises(SpecError, match="video"):
            store.write_metadata(VIDEO, videos([1]))
        assert store.list_features() == []

    def test_what_is_no_feature_is_refused(self, store: MetadataStore) -> None:
        with pytest.raises(TypeError, match="got int"):
            store.write_metadata(7, videos([1]))  # type: ignore[arg-type]

    def test_empty_write_id_is_refused(self, store: MetadataStore) -> None:
        video, _ = pipeline()

        with pytest.raises(ValueError, match="write_id"):
            store.write_metadata(video, videos([1]), write_id="")
        assert not store.has_feature(video)

    @pytest.mark.parametrize("descending", [False, True])
    def test_a_column_that_claims_to_be_sorted_is_not_believed(self, store: MetadataStore, *, descending: bool) -> None:
        video, _ = pipeline()
        rows = videos([3, 1, 2], length=[30, 10, 20], name=["c", "a", "b"])
        claims = pl.col(SAMPLE_ID, "length", "name").set_sorted(descending=descending)
        store.write_metadata(video, rows.with_columns(claims))
        assert ids_of(store.read_metadata(video)) == [1, 2, 3]
        for sample, length, name in ((1, 10, "a"), (2, 20, "b"), (3, 30, "c")):
            assert ids_of(store.read_metadata(video, filters=pl.col(SAMPLE_ID) == sample)) == [sample]
            assert ids_of(store.read_metadata(video, filters=pl.col("length") == length)) == [sample]
            assert ids_of(store.read_metadata(video, filters=pl.col("name") == name, latest_only=True)) == [sample]

    @pytest.mark.parametrize("lazy", [False, True])
    def test_ids_that_repeat_are_refused_although_they_claim_to_be_sorted(
        self, store: MetadataStore, *, lazy: bool
    ) -> None:
        video, _ = pipeline()
        rows = videos([2, 1, 2]).with_columns(pl.col(SAMPLE_ID).set_sorted())
        with pytest.raises(MetadataSchemaError, match="come more than once: 2"):
            store.write_metadata(video, rows.lazy() if lazy else rows)
        assert not store.has_feature(video)

    @pytest.mark.parametrize("lazy", [False, True])
    def test_samples_that_claim_to_be_sorted_get_their_own_versions(self, store: MetadataStore, *, lazy: bool) -> None:
        video, processed = pipeline()
        store.write_metadata(video, videos(range(10)))
        given = samples([7, 1, 4]).with_columns(pl.col(SAMPLE_ID).set_sorted())
        made = store.calculate_data_versions(processed, given.lazy() if lazy else given).lazy().collect()
        assert dict(made.select(SAMPLE_ID, "data_version").iter_rows()) == {
            sample: processed_version(sample) for sample in (7, 1, 4)
        }
        pending = store.resolve_update(processed, samples=given.lazy() if lazy else given)
        assert sorted(ids_of(pending.new)) == [1, 4, 7]
