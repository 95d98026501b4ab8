"""A job against a model in plain Python: what it hands out, what it stores, and what a cut leaves to the next one."""

import multiprocessing
import os
import threading
from collections import Counter
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import count
from pathlib import Path

import pandas as pd
import polars as pl
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from metaxy_fs import (
    ContainerKey,
    ContainerSpec,
    FeatureDep,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    ForkedProcessError,
    InMemoryMetadataStore,
    MetadataSchemaError,
    StorageAccessError,
    StorageError,
)
from metaxy_fs.metadata_store import materialize
from metaxy_fs.testing.store_cases import declare
from tests.support.examples import examples
from tests.support.patience import PATIENCE, wait_until

VIDEO, FACES, SHELF, FRAME = (FeatureKey([name]) for name in ("video", "faces", "shelf", "frame"))
SHELVES = 3
IDS = st.integers(0, 11)


def features(*, code=1):
    container = [ContainerSpec(key=ContainerKey(["default"]), code_version=code)]

    def made(key, ids, relation):
        return FeatureSpec(
            key=key, id_columns=ids, deps=[FeatureDep(key=VIDEO, relation=relation)], containers=container
        )

    return declare(
        FeatureSpec(key=VIDEO, id_columns=["video"]),
        made(FACES, ["video"], "one_to_one"),
        made(SHELF, ["shelf"], "aggregation"),
        made(FRAME, ["video", "number"], "expansion"),
    )


def video_rows(versions):
    """Rows of videos, by id, each with its version, on a shelf that follows from the id."""
    return pl.DataFrame(
        {
            "video": list(versions),
            "shelf": [video % SHELVES for video in versions],
            "data_version": [{"default": version} for version in versions.values()],
        },
        schema_overrides={"video": pl.Int64, "shelf": pl.Int64, "data_version": pl.Struct({"default": pl.String})},
    )


class Cut(BaseException):
    """The end of a job in the middle, as Ctrl-C is one."""


class BrokenSampleError(Exception):
    """What a function raises for a sample that it cannot compute."""


class Jobs(RuleBasedStateMachine):
    """Videos come, change and go; jobs compute what is made from them, fail, and are cut short."""

    @initialize()
    def begin(self):
        self.store = InMemoryMetadataStore()
        self.video, self.faces, self.shelf, self.frame = features()
        self.videos = {}
        self.done = {FACES: {}, SHELF: {}, FRAME: {}}
        self.store.write_metadata(self.video, video_rows({}))

    @rule(ids=st.sets(IDS, min_size=1, max_size=6), take=st.integers(1, 3))
    def write(self, ids, take):
        versions = dict.fromkeys(sorted(ids), f"take {take}")
        self.store.write_metadata(self.video, video_rows(versions))
        self.videos |= versions

    @rule(ids=st.sets(IDS, min_size=1, max_size=3))
    def retire(self, ids):
        self.store.retire(self.video, pl.DataFrame({"video": sorted(ids)}))
        for video in ids:
            self.videos.pop(video, None)

    @rule(
        which=st.sampled_from([FACES, SHELF, FRAME]),
        batch_rows=st.integers(1, 5),
        bad=st.sets(IDS, max_size=2),
        skips=st.booleans(),
        cut_at=st.none() | st.integers(0, 4),
        in_threads=st.booleans(),
    )
    def job(self, *, which, batch_rows, bad, skips, cut_at, in_threads):
        inputs, done = self.inputs(which), self.done[which]
        pending = {key for key, made_from in inputs.items() if done.get(key) != made_from}
        given = []

        def compute(batch):
            keys = batch[batch.columns[0]].to_list()
            given.append(keys)
            if cut_at == len(given) - 1:
                raise Cut
            if bad & set(keys):
                raise BrokenSampleError(sorted(bad & set(keys)))
            return self.made(which, batch)

        raised, outcome = None, None
        executor = ThreadPoolExecutor(2) if in_threads else None
        try:
            outcome = self.store.materialize(
                {FACES: self.faces, SHELF: self.shelf, FRAME: self.frame}[which],
                compute,
                batch_rows=batch_rows,
                on_error="skip" if skips else "raise",
                executor=executor,
            )
        except (Cut, BrokenSampleError) as error:
            raised = error
        finally:
            if executor is not None:
                executor.shutdown()

        stored = self.stored(which)
        now_done = {key for key in pending if stored.get(key) == self.token(which, key)}
        assert set().union(*given) <= pending
        assert not now_done & bad
        assert {key: value for key, value in stored.items() if key not in pending} == {
            key: value for key, value in self.tokens[which].items() if key not in pending
        }
        if raised is None:
            assert now_done == pending - bad
            assert set(outcome.failed[outcome.failed.columns[0]]) == pending & bad
            assert outcome.counts.new + outcome.counts.stale == len(pending)
            whole = Counter(key for keys in given if not bad & set(keys) or len(keys) > 1 for key in keys)
            assert all(count == 1 for key, count in whole.items() if not skips)
        elif not in_threads:
            # All batches before the one that was cut are done.
            assert now_done >= {key for keys in given[:-1] for key in keys if not bad & set(keys)}
        done.update({key: inputs[key] for key in now_done})
        self.tokens[which].update({key: stored[key] for key in now_done})

    @rule()
    def look(self):
        """An increment says what the model says."""
        for which, feature in ((FACES, self.faces), (SHELF, self.shelf), (FRAME, self.frame)):
            inputs, done = self.inputs(which), self.done[which]
            pending = {key for key, made_from in inputs.items() if done.get(key) != made_from}
            found = self.store.resolve_update(feature).pending
            assert set(found[found.columns[0]]) == pending

    def inputs(self, which):
        """What each sample, or parent, is made from."""
        if which != SHELF:
            return dict(self.videos)
        shelves = {video % SHELVES for video in self.videos}
        return {
            shelf: tuple(sorted(item for item in self.videos.items() if item[0] % SHELVES == shelf))
            for shelf in shelves
        }

    def token(self, which, key):
        """What the function writes into a row: what it was made from."""
        return repr(self.inputs(which)[key])

    def made(self, which, batch):
        keys = batch[batch.columns[0]].to_list()
        rows = pl.DataFrame({batch.columns[0]: keys, "token": [self.token(which, key) for key in keys]})
        if which != FRAME:
            return rows
        numbers = [list(range(int(self.videos[video][-1]))) for video in keys]
        return rows.with_columns(number=pl.Series(numbers, dtype=pl.List(pl.Int64))).explode("number")

    @property
    def tokens(self):
        self._tokens = getattr(self, "_tokens", {FACES: {}, SHELF: {}, FRAME: {}})
        return self._tokens

    def stored(self, which):
        """The token of each sample; of each parent that of all the frames that were made last, which are all there."""
        feature = {FACES: self.faces, SHELF: self.shelf, FRAME: self.frame}[which]
        if not self.store.has_feature(feature):
            return {}
        rows = self.store.read_metadata(feature, with_commits=True)
        if rows.is_empty():
            return {}
        if which != FRAME:
            rows = rows.unique(rows.columns[0], keep="last", maintain_order=True)
            return dict(rows.select(rows.columns[0], "token").iter_rows())
        last = rows.filter(pl.col("commit") == pl.col("commit").last().over("video"))
        for (_video,), frames in last.group_by("video"):
            # Whatever was cut: a parent's frames come in one commit, and none is lacking.
            token = frames["token"][0]
            assert sorted(frames["number"]) == list(range(int(token[-2])))
        return dict(last.select("video", "token").unique().iter_rows())


TestJobs = Jobs.TestCase
TestJobs.settings = examples(25, stateful_step_count=12)


# Executors.


def squared(batch):
    return batch.select("video", square=pl.col("video") ** 2, worker=pl.lit(os.getpid()))


def dying(batch):
    if 70 in batch["video"]:
        os._exit(3)
    return squared(batch)


def raising(batch):
    if 70 in batch["video"]:
        raise BrokenSampleError("no 70")
    return squared(batch)


@pytest.fixture
def store(tmp_path):
    return FilesystemMetadataStore(tmp_path / "root")


@pytest.fixture
def faces(store):
    video, faces, *_ = features()
    store.write_metadata(video, video_rows(dict.fromkeys(range(100), "take 1")))
    return faces


@pytest.fixture(scope="module")
def processes():
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield executor


def test_processes_compute_and_this_one_writes(store, faces, processes):
    done = store.materialize(faces, squared, batch_rows=7, executor=processes)

    rows = store.read_metadata(faces)
    assert done.counts.written == rows.height == 100
    assert rows["square"].to_list() == [video**2 for video in rows["video"]]
    assert os.getpid() not in rows["worker"]
    assert not store.resolve_update(faces)


def test_an_error_in_a_process_is_raised_here_with_its_samples(store, faces, processes):
    with pytest.raises(BrokenSampleError, match="no 70") as caught:
        store.materialize(faces, raising, batch_rows=10, executor=processes)

    assert "10 samples of feature 'faces': 70, 71, 72, 73, 74, ..." in caught.value.__notes__[-1]
    done = store.materialize(faces, raising, batch_rows=10, executor=processes, on_error="skip")
    assert done.failed.rows() == [(70, "BrokenSampleError: no 70")]
    assert sorted(store.read_metadata(faces)["video"]) == [video for video in range(100) if video != 70]


def test_a_function_that_cannot_be_pickled_is_an_error(store, faces, processes):
    with pytest.raises(Exception, match="pickle"):
        store.materialize(faces, lambda batch: batch, executor=processes)
    assert not store.has_feature(faces)


def test_a_worker_that_dies_ends_the_job_after_what_is_done_was_committed(store, faces):
    with (
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor,
        pytest.raises(BrokenProcessPool),
    ):
        store.materialize(faces, dying, batch_rows=1, executor=executor)

    kept = store.read_metadata(faces)["video"].to_list()
    assert sorted(kept) == list(range(len(kept)))
    assert len(kept) >= 5  # with one worker at least what it had returned before the last 64 were handed out
    assert store.materialize(faces, squared).counts.written == 100 - len(kept)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs a system that shows the names of threads")
def test_a_forked_worker_says_so(store, faces):
    with (
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as executor,
        pytest.raises(ForkedProcessError),
    ):
        store.materialize(faces, squared, executor=executor)


class Counting(ThreadPoolExecutor):
    """An executor that knows how many batches it was ever given and had not returned."""

    def __init__(self):
        super().__init__(2)
        self.lock, self.under_way, self.most = threading.Lock(), 0, 0

    def submit(self, fn, /, *args, **kwargs) -> Future:
        with self.lock:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(lambda _: self._end())
        return future

    def _end(self):
        with self.lock:
            self.under_way -= 1


def test_batches_under_way_are_bounded(store, faces):
    with Counting() as executor:
        store.materialize(faces, squared, batch_rows=1, executor=executor)
    assert 2 <= executor.most <= 64


class AtOnce(Executor):
    """An executor that has done everything before anybody asks."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  # as executors do
            future.set_exception(error)
        return future


def test_what_is_done_when_a_batch_fails_is_kept(store, faces):
    with pytest.raises(BrokenSampleError):
        store.materialize(faces, raising, batch_rows=2, executor=AtOnce())
    assert store.read_metadata(faces)["video"].to_list() == [video for video in range(100) if video not in (70, 71)]


def test_ctrl_c_keeps_what_is_done_and_waits_for_nothing(store, faces):
    """The function that blocks stands for an hour of work; Ctrl-C comes once ten batches were done."""
    blocked, computed, numbers = threading.Event(), [], count(1)

    def compute(batch):
        if next(numbers) > 10:
            blocked.wait(PATIENCE)
        computed.append(batch["video"][0])
        return squared(batch)

    def press():
        wait_until(lambda: len(computed) == 10)
        os.kill(os.getpid(), 2)

    interrupt = threading.Thread(target=press)
    executor = ThreadPoolExecutor(2)
    try:
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            store.materialize(faces, compute, batch_rows=1, executor=executor)
        assert not blocked.is_set()
        assert store.read_metadata(faces).height >= 8
    finally:
        blocked.set()
        interrupt.join()
        executor.shutdown()
    assert len(computed) <= 12  # what was under way, and nothing that had not begun


def test_the_shutdown_of_an_executor_ends_the_job(store, faces):
    executor = ThreadPoolExecutor(1)

    def compute(batch):
        if batch["video"][0] == 4:
            wait_until(lambda: executor._work_queue.qsize() >= 20)  # what is handed out later would fail at `submit`
            executor.shutdown(wait=False, cancel_futures=True)
        return squared(batch)

    with pytest.raises(CancelledError):
        store.materialize(faces, compute, batch_rows=4, executor=executor)
    kept = store.read_metadata(faces)["video"].to_list()
    assert kept in (list(range(4)), list(range(8)))  # the batch that did it may have ended by then


def test_rows_that_do_not_fit_cost_no_other_batch_that_is_done(store, faces):
    def compute(batch):
        fits = batch["video"][0] not in (20, 40)
        return squared(batch).with_columns(note=pl.lit("seen") if fits else pl.lit(1))

    with pytest.raises(MetadataSchemaError, match="'note'") as caught:
        store.materialize(faces, compute, batch_rows=10, executor=AtOnce())
    assert "20, 21" in caught.value.__notes__[0]
    assert sum("'note'" in note for note in caught.value.__notes__) == 1, "each batch is taken once"
    assert store.materialize(faces, squared).counts.written == 20


# What else may go wrong.


class Failing(InMemoryMetadataStore):
    """A store that does not take rows for as long as its disk is full."""

    is_full = False

    def append_rows(self, append):
        if self.is_full:
            raise StorageError("disk full")
        super().append_rows(append)


def test_a_store_that_cannot_be_written_is_an_error_and_the_next_job_does_it_all():
    store = Failing()
    video, faces, *_ = features()
    store.write_metadata(video, video_rows({1: "a", 2: "b"}))
    store.is_full = True
    with pytest.raises(StorageError, match="disk full"):
        store.materialize(faces, squared)

    store.is_full = False
    assert store.materialize(faces, squared).counts.written == 2


def test_a_read_only_store_is_refused_at_the_first_batch(store, faces):
    store.create_snapshot("monday")
    given = []

    def compute(batch):
        given.append(batch)
        return squared(batch)

    with pytest.raises(StorageAccessError, match="read-only"):
        store.at("monday").materialize(faces, compute, batch_rows=10)
    assert len(given) == 1


def test_what_is_wrong_with_a_frame_is_said(store, faces):
    def compute(batch):
        return pd.DataFrame({"video": batch["video"], 0: 1})

    with pytest.raises(MetadataSchemaError, match=r"returned pandas.DataFrame for 100 samples .*columns.* 0"):
        store.materialize(faces, compute)


class SpeechlessError(Exception):
    """An error that fails when it is asked what it says."""

    def __str__(self):
        raise ValueError("no words")


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (ValueError("caf\udce9.mp4"), "ValueError: caf\\udce9.mp4"),
        (SpeechlessError(), "SpeechlessError: <exception str() failed>"),
    ],
    ids=["half a surrogate pair", "speechless"],
)
def test_an_error_that_no_column_can_hold_is_listed(store, faces, error, shown):
    def compute(batch):
        raise error

    done = store.materialize(faces, compute, where=pl.col("video") < 2, on_error="skip")
    assert done.failed["error"].to_list() == [shown, shown]


def test_failed_samples_need_a_column_of_their_own(store):
    root, made = declare(
        FeatureSpec(key=VIDEO, id_columns=["error"]),
        FeatureSpec(key=FACES, id_columns=["error"], deps=[FeatureDep(key=VIDEO)]),
    )
    store.write_metadata(root, pl.DataFrame({"error": [1], "data_version": [{"default": "x"}]}))
    with pytest.raises(MetadataSchemaError, match="'error'"):
        store.materialize(made, lambda batch: batch, on_error="skip")
    assert store.materialize(made, lambda batch: batch).counts.written == 1


def test_what_changes_meanwhile_is_stale_afterwards(store, faces):
    def compute(batch):
        store.write_metadata(features()[0], video_rows({3: "meanwhile"}))
        return squared(batch)

    store.materialize(faces, compute)

    assert store.resolve_update(faces).stale["video"].to_list() == [3]


def test_a_batch_may_be_larger_than_any_frame(store, faces):
    heights = []
    store.materialize(faces, lambda batch: (heights.append(batch.height), squared(batch))[1], batch_rows=10**30)
    assert heights == [100]


def test_large_increments_wait_in_files(store, faces, monkeypatch):
    monkeypatch.setattr(materialize, "_HELD", 0)
    heights = []

    def compute(batch):
        heights.append(batch.height)
        return squared(batch)

    assert store.materialize(faces, compute, batch_rows=30).counts.written == 100
    assert heights == [30, 30, 30, 10]


def test_a_job_says_what_it_found_and_did(store, faces, caplog):
    caplog.set_level("INFO", logger="metaxy_fs")
    store.materialize(faces, squared)

    lines = [record.getMessage() for record in caplog.records if "computing feature faces: " in record.getMessage()]
    assert lines[0].endswith("100 new and 0 stale samples to compute, 0 waiting, 0 orphaned")
    assert "100 rows written, 0 samples failed, 0 retired, " in lines[1]


def test_the_outcome_compares_by_what_was_done(store, faces):
    first = store.materialize(faces, squared)
    assert repr(first) == "Materialization(new=100, stale=0, waiting=0, orphaned=0, retired=0, failed=0, written=100)"
    assert first.seconds > 0
    assert first.failed.schema == {"video": pl.Int64, materialize.ERROR: pl.String}
