"""A store compacts after some of its writes, at little cost and no risk to them."""

import itertools
import logging
import pickle
import threading
from collections.abc import Callable, Iterator

import polars as pl
import pytest

from metaxy_fs import FilesystemMetadataStore, compact, copy_metadata, open_store
from metaxy_fs.errors import StorageAccessError, StorageError
from metaxy_fs.ids import Source, driven_by
from metaxy_fs.storage.memory import MemoryStorage
from metaxy_fs.testing.store_cases import pipeline, videos
from tests.log.faulty import FaultyStorage

VIDEO, PROCESSED = pipeline()
NEVER, ALWAYS = 0.999_999, 0.0


class Dice(Source):
    """Gives the fractions that a test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.roll: Callable[[], float] = lambda: NEVER

    def fraction(self) -> float:
        return self.roll()


@pytest.fixture
def dice() -> Iterator[Dice]:
    source = Dice()
    with driven_by(source):
        yield source


@pytest.fixture
def root() -> FaultyStorage:
    return FaultyStorage(MemoryStorage())


def store_with(root: FaultyStorage, writes: int, *, compact_after: int = 10) -> FilesystemMetadataStore:
    store = FilesystemMetadataStore(root, compact_after=compact_after)
    for number in range(writes):
        store.write_metadata(VIDEO, videos([number]))
    root.requests.clear()
    return store


def uncovered(root: FaultyStorage) -> int:
    history = FilesystemMetadataStore(root.inner).history(VIDEO)
    return history.filter(~pl.col("compacted")).height


def mostly_looking() -> Callable[[], float]:
    """Dice by which every write looks, and no look is exact."""
    return itertools.cycle([ALWAYS, NEVER]).__next__


def verbs(root: FaultyStorage) -> list[str]:
    return [verb for verb, _ in root.requests]


def test_a_write_that_does_not_look_is_two_puts(dice, root):
    store = store_with(root, 20)
    store.write_metadata(VIDEO, videos([20]))
    assert verbs(root) == ["put", "put"]


def test_a_look_is_one_listing(dice, root):
    store = store_with(root, 9)
    dice.roll = lambda: ALWAYS
    store.write_metadata(VIDEO, videos([20]))
    assert verbs(root) == ["put", "put", "list"]


def test_one_look_in_ten_gets_the_compactions_that_are_new(dice, root):
    store = store_with(root, 20)
    compact(FilesystemMetadataStore(root.inner), full=True)
    dice.roll = lambda: ALWAYS
    store.write_metadata(VIDEO, videos([20]))
    assert verbs(root) == ["put", "put", "list", "get"]
    root.requests.clear()
    store.write_metadata(VIDEO, videos([21]))
    assert verbs(root) == ["put", "put", "list"]


def test_other_looks_count_what_came_after_the_last_compaction(dice, root):
    store = store_with(root, 20)
    compact(FilesystemMetadataStore(root.inner), full=True)
    dice.roll = mostly_looking()
    for number in range(10):
        store.write_metadata(VIDEO, videos([20 + number]))
    assert verbs(root) == ["put", "put", "list"] * 10
    store.write_metadata(VIDEO, videos([30]))
    assert uncovered(root) == 0


def test_older_writes_that_wait_are_found_by_an_exact_look(dice, root):
    store = store_with(root, 20)
    source = store_with(other := FaultyStorage(MemoryStorage()), 2)
    compact(FilesystemMetadataStore(other.inner), full=True)
    copy_metadata(VIDEO, source=source, target=store)
    dice.roll = mostly_looking()
    store.write_metadata(VIDEO, videos([20]))
    assert uncovered(root) == 21
    dice.roll = lambda: ALWAYS
    store.write_metadata(VIDEO, videos([21]))
    assert uncovered(root) == 0


def test_one_write_too_many_is_compacted(dice, root):
    store = store_with(root, 9)
    dice.roll = lambda: ALWAYS
    store.write_metadata(VIDEO, videos([9]))
    assert uncovered(root) == 10
    store.write_metadata(VIDEO, videos([10]))
    assert uncovered(root) == 0
    assert FilesystemMetadataStore(root.inner).read_metadata(VIDEO)["sample_id"].to_list() == list(range(11))


def test_one_write_does_one_step(dice, root, monkeypatch):
    monkeypatch.setattr("metaxy_fs.log.levels.MAX_MEMBERS", 15)
    store = store_with(root, 40)
    dice.roll = lambda: ALWAYS
    store.write_metadata(VIDEO, videos([40]))
    assert uncovered(root) == 26


@pytest.mark.parametrize("compact_after", [None, 10])
def test_it_is_off_by_default(dice, root, compact_after):
    store = store_with(root, 30)
    dice.roll = lambda: ALWAYS
    FilesystemMetadataStore(root, compact_after=compact_after).write_metadata(VIDEO, videos([30]))
    assert uncovered(root) == (31 if compact_after is None else 0)
    assert store.history(VIDEO).height == 31


@pytest.mark.parametrize("compact_after", [9, 10_001, 0, -1, True, 20.0, "20"])
def test_what_is_no_threshold_is_refused(tmp_path, compact_after):
    for opener in (FilesystemMetadataStore, open_store):
        with pytest.raises(ValueError, match=r"compact_after is how many writes .*, from 10 to 10000"):
            opener(tmp_path, compact_after=compact_after)


def test_a_compaction_that_fails_is_logged_and_the_write_stands(dice, root, caplog):
    store = store_with(root, 20)
    dice.roll = lambda: ALWAYS
    root.fault = lambda verb, path: "before" if verb == "list" or "compactions" in path else None
    with caplog.at_level(logging.WARNING, logger="metaxy_fs"):
        store.write_metadata(VIDEO, videos([20]))
    [record] = caplog.records
    assert record.name == "metaxy_fs"
    assert "is committed, but compacting it afterwards failed: cannot list" in record.getMessage()
    assert FilesystemMetadataStore(root.inner).read_metadata(VIDEO).height == 21


def test_an_interrupted_compaction_leaves_the_write(dice, root):
    store = store_with(root, 20)
    dice.roll = lambda: ALWAYS

    def interrupt(verb: str, _path: str) -> None:
        if verb == "list":
            raise KeyboardInterrupt

    root.fault = interrupt
    with pytest.raises(KeyboardInterrupt):
        store.write_metadata(VIDEO, videos([20]))
    assert FilesystemMetadataStore(root.inner).read_metadata(VIDEO).height == 21


def test_a_write_that_fails_does_not_look(dice, root):
    store = store_with(root, 20)
    dice.roll = lambda: ALWAYS
    root.fault = lambda verb, path: "before" if verb == "put" else None
    with pytest.raises(StorageError):
        store.write_metadata(VIDEO, videos([20]))
    assert "list" not in verbs(root)


def test_versions_that_are_calculated_and_written_are_writes(dice, root):
    store = store_with(root, 1)
    dice.roll = lambda: ALWAYS
    for sample in [0] * 11:
        store.calculate_and_write_data_versions(PROCESSED, pl.DataFrame({"sample_id": [sample]}))
    assert store.history(PROCESSED)["compacted"].to_list() == [True] * 11


def test_fallback_stores_are_left_alone(dice, root):
    behind = FaultyStorage(MemoryStorage())
    fallback = store_with(behind, 30)
    behind.fault = refuse_writes
    dice.roll = lambda: ALWAYS
    store = FilesystemMetadataStore(root, fallback_stores=[fallback], compact_after=10)
    for sample in [0] * 11:
        store.calculate_and_write_data_versions(PROCESSED, pl.DataFrame({"sample_id": [sample]}))
    assert store.history(PROCESSED)["compacted"].all()
    assert uncovered(behind) == 30


def refuse_writes(verb: str, path: str) -> None:
    if verb in ("put", "delete"):
        raise StorageAccessError(f"{path} may only be read")


def test_a_copy_is_compacted_by_the_next_write(dice, root):
    copy = FaultyStorage(MemoryStorage())
    target = FilesystemMetadataStore(copy, compact_after=10)
    dice.roll = lambda: ALWAYS
    with driven_by(Dice()):
        source = store_with(root, 30)
    copy_metadata(VIDEO, source=source, target=target)
    assert uncovered(copy) == 30
    target.write_metadata(VIDEO, videos([30]))
    assert uncovered(copy) == 0


@pytest.mark.parametrize("write_id", [None, "job"])
def test_a_buffer_compacts_in_the_threads_of_the_job(dice, root, write_id):
    """The buffer's own thread watches the clock."""
    store = store_with(root, 0)
    dice.roll = lambda: ALWAYS
    listed: list[threading.Thread] = []
    root.fault = lambda verb, _path: listed.append(threading.current_thread()) if verb == "list" else None
    with store.buffered(VIDEO, rows=1_000, seconds=0.001, write_id=write_id) as buffer:
        for number in range(12):
            buffer.write(videos([number]))
            buffer.flush()
    assert uncovered(root) <= 10
    assert set(listed) == {threading.main_thread()}


def test_what_a_buffer_commits_at_its_end_is_looked_at(dice, root):
    store = store_with(root, 10)
    dice.roll = lambda: ALWAYS
    with store.buffered(VIDEO) as buffer:
        buffer.write(videos([10]))
    assert uncovered(root) == 0


def test_a_store_that_is_pickled_still_compacts(dice, tmp_path):
    store = open_store(tmp_path, compact_after=10)
    for number in range(10):
        store.write_metadata(VIDEO, videos([number]))
    dice.roll = lambda: ALWAYS
    pickle.loads(pickle.dumps(store)).write_metadata(VIDEO, videos([10]))  # noqa: S301  # our own bytes
    assert store.history(VIDEO)["compacted"].all()


def test_a_full_buffer_looks_as_it_goes(dice, root):
    store = store_with(root, 0)
    dice.roll = lambda: ALWAYS
    with store.buffered(VIDEO, rows=5) as buffer:
        for number in range(11):
            buffer.write(videos(range(5 * number, 5 * number + 5)))
        assert uncovered(root) == 0
