"""Buffered rows where processes are killed, and commits fail."""

import errno
import multiprocessing
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs import (
    CommitStateUnknownError,
    Feature,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    InMemoryMetadataStore,
    StorageError,
)
from metaxy_fs.metadata_store import Append
from metaxy_fs.metadata_store import pending as flushes
from metaxy_fs.storage import local
from tests.support.examples import examples
from tests.support.patience import PATIENCE, wait_until

SAMPLES, CUT = 60, 5
PIECES = st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=5, unique=True), max_size=6)

with FeatureGraph().use():

    class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]))):
        """Declared where processes that are spawned find it."""


def rows(*ids: int) -> pl.DataFrame:
    return pl.DataFrame({"sample_id": ids, "data_version": [{"default": f"v{sample}"} for sample in ids]})


def ids(store: FilesystemMetadataStore | InMemoryMetadataStore) -> list[int]:
    return list(store.read_metadata(Video)["sample_id"]) if store.has_feature(Video) else []


class FailingStore(InMemoryMetadataStore):
    """Fails as often as a test says, before or after it has taken the rows."""

    failures: list[tuple[str, Exception]]

    def append_rows(self, append: Append) -> None:
        when, error = self.failures.pop(0) if self.failures else ("never", None)
        if when != "before":
            super().append_rows(append)
        if error is not None:
            raise error


@pytest.fixture
def failing() -> FailingStore:
    store = FailingStore()
    store.failures = []
    return store


# Retried jobs.


@examples(25)
@given(attempts=st.lists(st.tuples(PIECES, st.integers(1, 6)), max_size=4), data=st.data())
def test_attempts_at_once_commit_every_sample_once(
    attempts: list[tuple[list[list[int]], int]], data: st.DataObject
) -> None:
    store = InMemoryMetadataStore()
    opened = [store.buffered(Video, rows=limit, seconds=None, write_id="job") for _, limit in attempts]
    buffers = [context.__enter__() for context in opened]
    left = [list(pieces) for pieces, _ in attempts]
    while any(left):
        turn = data.draw(st.sampled_from([number for number, pieces in enumerate(left) if pieces]))
        buffers[turn].write(rows(*left[turn].pop(0)))
    for context in reversed(opened):
        context.__exit__(None, None, None)
    assert Counter(ids(store)) == Counter({sample for pieces, _ in attempts for piece in pieces for sample in piece})


def job(root: str, attempt: int, stop_after: int = SAMPLES) -> None:
    """One attempt: the samples in an order of its own, from two threads, cut wherever the clock has it.

    It stands still after some of them, so that it is killed before it has done all.
    """
    samples = sorted(range(SAMPLES), key=lambda sample: (sample * (7 + 6 * attempt)) % 61)
    store = FilesystemMetadataStore(root)
    with (
        store.buffered(Video, rows=CUT, seconds=0.03, write_id="job") as buffer,
        ThreadPoolExecutor(2) as pool,
    ):

        def work(sample: int) -> None:
            time.sleep(0.01)
            buffer.write(rows(sample))

        list(pool.map(work, samples[:stop_after]))
        time.sleep(0 if stop_after == SAMPLES else PATIENCE)


def spawn(target: Any, *arguments: Any) -> SpawnProcess:
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    return process


def test_a_job_that_is_killed_and_tried_again_commits_every_sample_once(tmp_path: Path) -> None:
    store, root = FilesystemMetadataStore(tmp_path / "root"), str(tmp_path / "root")
    for attempt, stop_after in enumerate([20, 35]):
        before = len(ids(store))
        process = spawn(job, root, attempt, stop_after)
        wait_until(lambda before=before, process=process: len(ids(store)) > before or not process.is_alive())
        process.kill()
        process.join()
        assert len(ids(store)) == len(set(ids(store)))
    assert 0 < len(ids(store)) < SAMPLES, "the attempts were killed too late to prove anything"
    last = [spawn(job, root, attempt) for attempt in (3, 4)]
    for process in last:
        process.join()
    assert [process.exitcode for process in last] == [0, 0]
    assert sorted(ids(store)) == list(range(SAMPLES))


# Commits that fail.


def test_a_failed_flush_is_raised_and_its_rows_are_committed_by_the_next(failing: FailingStore) -> None:
    failing.failures = [("before", StorageError("no connection"))]
    with failing.buffered(Video, rows=2, seconds=None) as buffer:
        buffer.write(rows(1))
        with pytest.raises(StorageError, match="no connection"):
            buffer.write(rows(2))
        assert ids(failing) == []
        buffer.write(rows(3))
        assert ids(failing) == [1, 2, 3]


def test_rows_whose_commit_has_failed_stay_before_those_that_were_given_meanwhile(
    failing: FailingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = failing.append_rows

    def fail_slowly(_rows: Append) -> None:
        monkeypatch.setattr(failing, "append_rows", append)
        buffer.write(rows(1).with_columns(take=pl.lit("second")))
        raise StorageError("full")

    with failing.buffered(Video, seconds=None) as buffer:
        buffer.write(rows(1).with_columns(take=pl.lit("first")))
        monkeypatch.setattr(failing, "append_rows", fail_slowly)
        with pytest.raises(StorageError):
            buffer.flush()
    assert failing.read_metadata(Video)["take"].to_list() == ["second"]


def test_rows_stay_in_the_buffer_while_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(path: str, data: bytes) -> None:
        if "/_manifests/" in path:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_synced(path, data)

    write_synced, store = local.write_synced, FilesystemMetadataStore(tmp_path)
    with store.buffered(Video, seconds=None) as buffer:
        buffer.write(rows(1))
        monkeypatch.setattr(local, "write_synced", fill)
        with pytest.raises(StorageError, match="No space left"):
            buffer.flush()
        monkeypatch.setattr(local, "write_synced", write_synced)
        buffer.write(rows(2))
    assert ids(store) == [1, 2]


def test_a_failure_in_the_background_is_raised_by_the_next_write_which_takes_nothing(failing: FailingStore) -> None:
    failing.failures = [("before", StorageError("no connection"))] * 100_000
    with failing.buffered(Video, seconds=0.05) as buffer:
        buffer.write(rows(1))
        wait_until(lambda: buffer._pending._failure is not None)
        with pytest.raises(StorageError, match="no connection"):
            buffer.write(rows(2))
        wait_until(lambda: buffer._pending._failure is not None)
        failing.failures = []
        wait_until(lambda: buffer._pending._failure is None)
        buffer.write(rows(3))
    assert ids(failing) == [1, 3]


def test_a_failure_in_the_background_that_was_mended_is_not_raised(failing: FailingStore) -> None:
    failing.failures = [("before", StorageError("no connection"))]
    with failing.buffered(Video, seconds=0.05) as buffer:
        buffer.write(rows(1))
        wait_until(lambda: ids(failing) == [1] and buffer._pending._failure is None)
        buffer.write(rows(2))
    assert ids(failing) == [1, 2]


@pytest.mark.parametrize("seconds", [None, 0.05])
def test_a_failure_that_lasts_is_raised_at_the_end(failing: FailingStore, seconds: float | None) -> None:
    failing.failures = [("before", StorageError("no connection"))] * 1000
    opened = failing.buffered(Video, seconds=seconds)
    buffer = opened.__enter__()
    buffer.write(rows(1))
    time.sleep(seconds or 0)
    with pytest.raises(StorageError, match="no connection"):
        opened.__exit__(None, None, None)


def test_the_error_of_the_job_is_raised_and_tells_what_was_not_committed(failing: FailingStore) -> None:
    failing.failures = [("before", StorageError("no connection"))]
    opened = failing.buffered(Video)
    opened.__enter__().write(rows(1, 2))
    error = KeyError("lost")
    assert not opened.__exit__(KeyError, error, None)
    assert len(error.__notes__) == 1
    assert "2 rows of feature 'video' were not committed" in error.__notes__[0]
    assert "no connection" in error.__notes__[0]


def test_rows_that_are_not_committed_before_the_job_exits_are_logged(
    failing: FailingStore, caplog: pytest.LogCaptureFixture
) -> None:
    failing.failures = [("before", StorageError("no connection"))]
    opened = failing.buffered(Video)
    opened.__enter__().write(rows(1, 2))
    assert not opened.__exit__(SystemExit, SystemExit(143), None)
    assert "2 rows of feature 'video' were not committed" in caplog.text


@pytest.mark.parametrize("write_id", [None, "job"])
@pytest.mark.parametrize("landed", ["before", "after"])
def test_rows_of_an_unknown_commit_are_tried_again_only_under_a_name(
    failing: FailingStore, write_id: str | None, landed: str
) -> None:
    failing.failures = [(landed, CommitStateUnknownError("it may be there"))]
    with failing.buffered(Video, write_id=write_id) as buffer:
        buffer.write(rows(1))
        with pytest.raises(CommitStateUnknownError):
            buffer.flush()
        buffer.write(rows(2))
    assert ids(failing) == ([2] if (write_id, landed) == (None, "before") else [1, 2])


def test_an_unknown_commit_in_the_background_is_raised_even_if_later_ones_succeed() -> None:
    inside, go_on = threading.Event(), threading.Event()

    class UnsureStore(InMemoryMetadataStore):
        def append_rows(self, append: Append) -> None:
            if not inside.is_set():
                inside.set()
                assert go_on.wait(PATIENCE)
                raise CommitStateUnknownError("it may be there")
            super().append_rows(append)

    store = UnsureStore()
    opened = store.buffered(Video, seconds=0.05)
    buffer = opened.__enter__()
    buffer.write(rows(1))
    assert inside.wait(PATIENCE)
    buffer.write(rows(2))
    go_on.set()
    wait_until(lambda: ids(store) == [2])
    with pytest.raises(CommitStateUnknownError):
        opened.__exit__(None, None, None)


def test_a_full_buffer_makes_its_writers_wait() -> None:
    inside, go_on = threading.Event(), threading.Event()
    taken: list[int] = []

    class SlowStore(InMemoryMetadataStore):
        def append_rows(self, append: Append) -> None:
            inside.set()
            assert go_on.wait(PATIENCE)
            super().append_rows(append)

    store = SlowStore()
    with store.buffered(Video, rows=2, seconds=None) as buffer, ThreadPoolExecutor(2) as pool:

        def work(start: int) -> None:
            for sample in range(start, start + 10):
                buffer.write(rows(sample))
                taken.append(sample)

        running = [pool.submit(work, 0), pool.submit(work, 10)]
        assert inside.wait(PATIENCE)
        time.sleep(0.1)
        assert len(taken) <= 4, "writers went on although the buffer was full"
        go_on.set()
        for future in running:
            future.result()
    assert sorted(ids(store)) == list(range(20))


@pytest.mark.parametrize("moment", range(1, 7))
def test_ctrl_c_at_any_step_of_a_flush_commits_no_sample_of_a_named_job_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    store, steps = FilesystemMetadataStore(tmp_path), iter(range(1, 1_000))

    def interrupted(function: Any) -> Any:
        def step(*arguments: Any, **options: Any) -> Any:
            if next(steps) == moment:
                raise KeyboardInterrupt
            result = function(*arguments, **options)
            if next(steps) == moment:
                raise KeyboardInterrupt
            return result

        return step

    for name in ("commit", "_of_one_schema"):
        monkeypatch.setattr(flushes, name, interrupted(getattr(flushes, name)))

    def job() -> None:
        with store.buffered(Video, write_id="job") as buffer:
            buffer.write(rows(1, 2))
            buffer.flush()
            buffer.write(rows(3))

    with pytest.raises(KeyboardInterrupt):
        job()
    assert sorted(ids(store)) == [1, 2]
