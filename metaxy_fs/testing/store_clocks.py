"""Keep writing, and keep the order of rows, beside a writer whose clock is years ahead."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from metaxy_fs.ids import MAX_TIME, Source, driven_by, wall_clock
from metaxy_fs.metadata_store import MetadataStore
from metaxy_fs.testing.store_cases import SAMPLE_ID, MakeStore, StoreCase, pipeline, samples, videos

IN_2099 = 4_070_908_800_000_000
HOUR = 3_600_000_000
AHEAD = pytest.mark.parametrize("time", [IN_2099, MAX_TIME], ids=["2099", "the last moment"])


class _Machine(Source):
    """A process of its own, on a machine whose clock stands at a time."""

    def __init__(self, time: int) -> None:
        super().__init__()
        self._time = time

    def microseconds(self) -> int:
        return self._time


@contextmanager
def machine_at(time: int) -> Iterator[None]:
    """Let what is done in a block be done by a process on a machine whose clock stands at a time."""
    with driven_by(_Machine(time)):
        yield


class StoreClocks(StoreCase):
    """Tests of what becomes of commits that claim to be of a time far ahead."""

    @AHEAD
    def test_clock_far_ahead_stops_no_writer(self, store: MetadataStore, reopen: MakeStore, time: int) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1]))
        with machine_at(time):
            reopen().write_metadata(video, videos([2]))

        assert store.read_metadata(video).height == 2
        store.write_metadata(video, videos([3]))
        store.write_metadata(video, videos([4]), write_id="job")
        assert sorted(reopen().read_metadata(video)[SAMPLE_ID]) == [1, 2, 3, 4]

    @AHEAD
    def test_row_that_is_written_later_is_the_latest(self, store: MetadataStore, reopen: MakeStore, time: int) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1], by="before"))
        with machine_at(time):
            reopen().write_metadata(video, videos([1], by="ahead"))
        store.write_metadata(video, videos([1], by="after"))  # without a look at what the other has written

        [row] = reopen().read_metadata(video, latest_only=True).to_dicts()
        assert row["by"] == "after"
        assert reopen().history(video)["time"].is_sorted()

    @AHEAD
    def test_named_write_of_a_clock_far_ahead_is_made_once(
        self, store: MetadataStore, reopen: MakeStore, time: int
    ) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1]))
        with machine_at(time):
            reopen().write_metadata(video, videos([2]), write_id="job")
        store.write_metadata(video, videos([2]), write_id="job")

        store.write_metadata(video, videos([2], by="after"))
        rows = reopen().read_metadata(video, latest_only=True)
        assert rows.sort(SAMPLE_ID)["by"].to_list() == [None, "after"]
        assert reopen().history(video).height == 3

    @AHEAD
    def test_buffer_of_a_clock_far_ahead_is_read(self, store: MetadataStore, reopen: MakeStore, time: int) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1]))
        with machine_at(time), reopen().buffered(video, write_id="job") as buffer:
            buffer.write(videos([2], by="ahead"))
        with store.buffered(video, rows=1) as buffer:
            buffer.write(videos([2], by="after"))

        rows = reopen().read_metadata(video, latest_only=True)
        assert rows.sort(SAMPLE_ID)["by"].to_list() == [None, "after"]

    @AHEAD
    def test_moment_after_a_commit_of_a_clock_far_ahead_sees_it(
        self, store: MetadataStore, reopen: MakeStore, time: int
    ) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1]))
        with machine_at(time):
            reopen().write_metadata(video, videos([2]))
        store.write_metadata(video, videos([3]))
        moment = reopen().history(video)["time"].max()

        seen = reopen().at(moment).read_metadata(video)  # type: ignore[arg-type]  # a column of times
        assert sorted(seen[SAMPLE_ID]) == [1, 2, 3]
        assert reopen().history(video)["time"].dt.year().max() < 2099  # type: ignore[operator]

    def test_snapshot_holds_what_a_clock_far_ahead_had_written(self, store: MetadataStore, reopen: MakeStore) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1]))
        with machine_at(IN_2099):
            reopen().write_metadata(video, videos([1], by="ahead"))
        reopen().create_snapshot("seen")
        before = reopen().read_metadata(video, latest_only=True)
        store.write_metadata(video, videos([1], by="after"))

        assert reopen().at("seen").read_metadata(video, latest_only=True).equals(before)

    def test_retirement_comes_after_rows_of_a_clock_that_is_ahead(
        self, store: MetadataStore, reopen: MakeStore
    ) -> None:
        video, _ = pipeline()
        store.write_metadata(video, videos([1, 2]))
        with machine_at(wall_clock() - HOUR):
            reopen().retire(video, samples([1]))

        assert reopen().read_metadata(video, latest_only=True)[SAMPLE_ID].to_list() == [2]
