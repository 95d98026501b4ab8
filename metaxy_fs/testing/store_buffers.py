"""Tests of a store: a buffer commits every row that it was given, and those of a retried job once."""

import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager

import polars as pl
import pytest

from metaxy_fs.errors import MetadataSchemaError, WriteConflictError
from metaxy_fs.metadata_store import MetadataStore, WriteBuffer
from metaxy_fs.spec import FeatureKey
from metaxy_fs.testing.store_cases import StoreCase, declare, ids_of, pipeline, root, videos


class StoreBuffers(StoreCase):
    """Tests of `buffered`."""

    def test_rows_are_committed_at_the_end(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        with store.buffered(video) as buffer:
            for sample in (3, 1, 2):
                buffer.write(videos([sample]))
            assert not store.has_feature(video)

        assert ids_of(store.read_metadata(video)) == [1, 2, 3]

    def test_rows_are_committed_as_soon_as_there_are_enough(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        with store.buffered(video, rows=4) as buffer:
            for sample in range(5):
                buffer.write(videos([2 * sample, 2 * sample + 1]))
            assert store.history(video)["rows"].to_list() == [4, 4]

        assert store.history(video)["rows"].to_list() == [4, 4, 2]

    def test_rows_are_committed_on_demand(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        with store.buffered(video) as buffer:
            buffer.write(videos([1]))
            buffer.flush()
            buffer.flush()
            assert store.history(video)["rows"].to_list() == [1]

        assert store.history(video)["rows"].to_list() == [1]

    def test_rows_are_committed_when_they_are_old(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        waited = threading.Event()
        with store.buffered(video, seconds=0.05) as buffer:
            for sample in range(2):
                buffer.write(videos([sample]))
                for _ in range(12_000):
                    if store.has_feature(video) and store.history(video).height > sample:
                        break
                    waited.wait(0.05)

            assert store.history(video)["rows"].to_list() == [1, 1]

    def test_rows_are_committed_after_an_exception(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        with pytest.raises(KeyError, match="lost"):
            _run(store.buffered(video), [videos([1])], failure=KeyError("lost"))

        assert ids_of(store.read_metadata(video)) == [1]

    def test_rows_come_from_many_threads(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        with store.buffered(video, rows=7) as buffer:

            def work(first: int) -> None:
                for sample in range(first, first + 10):
                    buffer.write(videos([sample]))

            threads = [threading.Thread(target=work, args=(10 * number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        assert sorted(ids_of(store.read_metadata(video))) == list(range(40))

    def test_frame_that_does_not_fit_is_refused_when_it_is_given(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        with store.buffered(video) as buffer:
            buffer.write(videos([1], label=["a"]))
            for frame in (videos([2, 2]), videos([2]).drop("data_version"), videos([2], label=[2])):
                with pytest.raises(MetadataSchemaError):
                    buffer.write(frame)

        assert ids_of(store.read_metadata(video)) == [1]

    def test_frames_of_several_types_are_committed_together(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        with store.buffered(video) as buffer:
            buffer.write(videos([1], size=pl.Series([1], dtype=pl.Int8)))
            buffer.write(videos([2]))
            buffer.write(videos([3], size=pl.Series([2**40]), label=["x"]))

        rows = store.read_metadata(video)
        assert (rows["size"].to_list(), rows["label"].to_list()) == ([1, None, 2**40], [None, None, "x"])

    def test_nothing_is_committed_where_no_row_was_given(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        with store.buffered(video, write_id="job") as buffer:
            buffer.write(videos([]))

        assert not store.has_feature(video)

    def test_of_two_rows_of_a_sample_the_later_counts(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        for rows in (1, 10):
            with store.buffered(video, rows=rows) as buffer:
                for take in "abc":
                    buffer.write(videos([1], label=[f"{take}{rows}"]))

        assert store.read_metadata(video)["label"].to_list() == ["a1", "b1", "c1", "c10"]

    def test_buffer_is_closed_by_its_end(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        with store.buffered(video) as buffer:
            pass

        with pytest.raises(ValueError, match="closed"):
            buffer.write(videos([1]))

    def test_limits_without_a_meaning_are_refused(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        for options in ({"rows": 0}, {"seconds": 0}, {"seconds": float("nan")}, {"write_id": ""}):
            with pytest.raises(ValueError, match=next(iter(options))), store.buffered(video, **options):
                pass

    # Jobs with a name.

    @pytest.mark.parametrize("rows", [1, 2, 3, 7, 100])
    def test_job_that_is_run_again_commits_nothing_twice(self, store: MetadataStore, rows: int) -> None:
        video, _ = pipeline()
        pieces = [videos([sample], score=[float("nan")]) for sample in range(12)]
        with pytest.raises(KeyError):
            _run(store.buffered(video, rows=3, write_id="job"), pieces[:7], failure=KeyError())
        for _ in range(2):
            _run(store.buffered(video, rows=rows, write_id="job"), reversed(pieces))

        assert sorted(ids_of(store.read_metadata(video))) == list(range(12))

    def test_job_that_is_run_again_for_what_is_left_commits_it(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        for ids in ([1, 2], [3], [4, 5, 6]):
            _run(store.buffered(video, rows=2, write_id="job"), [videos([sample]) for sample in ids])

        assert sorted(ids_of(store.read_metadata(video))) == [1, 2, 3, 4, 5, 6]

    def test_jobs_of_other_names_and_versions_know_nothing_of_each_other(self, store: MetadataStore) -> None:
        (video, _), (bumped, _) = pipeline(), pipeline(frames=2)
        store.write_metadata(video, videos([1]))
        for feature, name in ((video, "job"), (video, "job/flush-0"), (video, "other"), (bumped, "job")):
            _run(store.buffered(feature, write_id=name), [videos([1])])

        assert ids_of(store.read_metadata(video)) == [1] * 4
        assert ids_of(store.read_metadata(bumped)) == [1]

    def test_other_row_of_a_sample_is_refused_under_the_name(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        _run(store.buffered(video, rows=2, write_id="job"), [videos([1, 2]), videos([2, 3])])

        for rows in (1, 10):
            with pytest.raises(WriteConflictError, match=r"1 samples.*'job'.*: 3\. "):
                _run(store.buffered(video, rows=rows, write_id="job"), [videos([2]), videos([3], take="again")])
        assert ids_of(store.read_metadata(video)) == [1, 2, 3]

    def test_sample_that_comes_again_under_the_name_has_the_same_row(self, store: MetadataStore) -> None:
        video, _ = pipeline()
        _run(store.buffered(video, write_id="job"), [videos([sample]) for sample in (1, 2, 1)])
        with pytest.raises(WriteConflictError, match="'again'"):
            _run(store.buffered(video, write_id="again"), [videos([3]), videos([3], take="again")])

        assert ids_of(store.read_metadata(video)) == [1, 2]

    def test_several_columns_may_name_a_sample_of_a_job(self, store: MetadataStore) -> None:
        (clip,) = declare(root(FeatureKey(["clip"]), id_columns=["video", "second"]))
        clips = pl.DataFrame(
            {
                "video": ["a", "b", "a", "b"],
                "second": [2, 1, 1, 2],
                "data_version": [{"default": version} for version in "wxyz"],
            }
        )
        for rows in (1, 3):
            with store.buffered(clip, write_id="job", rows=rows) as buffer:
                for piece in clips.iter_slices(rows):
                    buffer.write(piece)
                    buffer.write(piece.with_columns(pl.col("second").cast(pl.Int8)))

        assert store.read_metadata(clip).sort("video", "second").to_dicts() == clips.sort("video", "second").to_dicts()


def _run(
    opened: AbstractContextManager[WriteBuffer], pieces: Iterable[pl.DataFrame], *, failure: Exception | None = None
) -> None:
    """Give all pieces to a buffer, and end as a job does that is done or has failed."""
    with opened as buffer:
        for piece in pieces:
            buffer.write(piece)
        if failure is not None:
            raise failure
