"""Stores in memory: many threads write to one, and two have nothing in common."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from metaxy_fs.errors import FeatureNotFoundError, WriteConflictError
from metaxy_fs.ids import shared_clock, wall_clock
from metaxy_fs.metadata_store import InMemoryMetadataStore
from metaxy_fs.testing.store_cases import ids_of, pipeline, videos

THREADS, WRITES = 8, 25


def at_once(work):
    """Run the work on many threads that start together."""
    gate = threading.Barrier(THREADS)

    def run(worker):
        gate.wait()
        return work(worker)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


def test_stores_share_nothing():
    video, _ = pipeline()
    InMemoryMetadataStore().write_metadata(video, videos([1]))
    with pytest.raises(FeatureNotFoundError):
        InMemoryMetadataStore().read_metadata(video)


def test_stores_share_no_clock():
    video, _ = pipeline()
    ahead, behind = InMemoryMetadataStore(), InMemoryMetadataStore()
    shared_clock(ahead.storage.identity).observe(wall_clock() + 3_600_000_000)
    for store in (ahead, behind):
        store.write_metadata(video, videos([1]))
    first, second = (store.history(video)["time"].item() for store in (ahead, behind))
    assert first - second > timedelta(minutes=30)


def test_every_write_of_many_threads_is_kept_once():
    video, _ = pipeline()
    store = InMemoryMetadataStore()

    def work(worker):
        for at in range(WRITES):
            store.write_metadata(video, videos([worker * WRITES + at]))
            store.read_metadata(video)

    at_once(work)
    assert sorted(ids_of(store.read_metadata(video))) == list(range(THREADS * WRITES))


def test_writes_of_one_thread_stay_in_their_order():
    video, _ = pipeline()
    store = InMemoryMetadataStore()
    at_once(lambda worker: [store.write_metadata(video, videos([worker * WRITES + at])) for at in range(WRITES)])
    found = ids_of(store.read_metadata(video))
    assert all(
        [i for i in found if i // WRITES == worker] == sorted(i for i in found if i // WRITES == worker)
        for worker in range(THREADS)
    )


def test_write_of_a_write_id_is_done_by_one_of_many_threads():
    video, _ = pipeline()
    store = InMemoryMetadataStore()
    at_once(lambda _worker: store.write_metadata(video, videos([1]), write_id="job"))
    assert ids_of(store.read_metadata(video)) == [1]


def test_write_id_of_many_threads_with_other_rows_is_won_by_one():
    video, _ = pipeline()
    store = InMemoryMetadataStore()

    def work(worker):
        try:
            store.write_metadata(video, videos([worker]), write_id="job")
        except WriteConflictError:
            return None
        return worker

    winners = [worker for worker in at_once(work) if worker is not None]
    assert ids_of(store.read_metadata(video)) == winners
