"""The storage that tests step through does what they decide, and nothing else."""

import random

import pytest

from metaxy_fs.errors import StorageError
from metaxy_fs.ids import random_token, shared_clock, wall_clock
from metaxy_fs.storage.base import Storage
from metaxy_fs.testing import StorageSuite
from tests.storage.bypasses import Shared
from tests.support.simulation import START, KilledError, Simulation
from tests.support.stepped_storage import Bucket, Ending, SteppedStorage


class TestOrderedStorage(StorageSuite):
    pickles = False
    page = 50

    @pytest.fixture
    def storage(self) -> Storage:
        return SteppedStorage(Bucket(), page=self.page)

    @pytest.fixture
    def bypass(self, storage: SteppedStorage) -> Shared:
        return Shared(storage._bucket)


class TestUnorderedStorage(StorageSuite):
    pickles = False
    page = 50

    @pytest.fixture
    def storage(self) -> Storage:
        return SteppedStorage(Bucket(), page=self.page, dice=random.Random(1))  # noqa: S311  # nothing secret

    @pytest.fixture
    def bypass(self, storage: SteppedStorage) -> Shared:
        return Shared(storage._bucket)


@pytest.fixture(params=[True, False], ids=["ordered", "unordered"])
def simulation(request):
    with Simulation(page=2, ordered=request.param) as simulation:
        yield simulation


def paths(storage: Storage) -> list[str]:
    return [info.path for info in storage.list("")]


def test_a_request_is_made_when_the_test_says_so(simulation):
    host = simulation.host("a")
    process = host.start(lambda: host.storage.put("x", b"1"))
    assert process.pending == ("put", "x")
    assert not simulation.bucket.objects
    host.step()
    assert simulation.bucket.objects.keys() == {"x"}
    assert process.is_done


@pytest.mark.parametrize(
    ("ending", "at_once", "later"),
    [(Ending.LOST, False, False), (Ending.UNHEARD, True, True), (Ending.LATE, False, True)],
)
def test_a_put_that_fails_ends_as_the_test_says(simulation, ending, at_once, later):
    host = simulation.host("a")
    process = host.start(lambda: host.storage.put("x", b"1"))
    host.step(ending)
    assert isinstance(process.error, StorageError)
    assert ("x" in simulation.bucket.objects) is at_once
    while simulation.bucket.late:
        simulation.bucket.land(0)
    assert ("x" in simulation.bucket.objects) is later


def test_a_get_that_fails_returns_nothing(simulation):
    host = simulation.host("a")
    simulation.bucket.put("x", b"1")
    for ending in (Ending.LOST, Ending.UNHEARD, Ending.LATE):
        process = host.start(lambda: host.storage.get("x"))
        host.step(ending)
        assert isinstance(process.error, StorageError)
    assert not simulation.bucket.late


def test_a_process_that_is_killed_makes_no_further_request(simulation):
    host = simulation.host("a")

    def puts() -> None:
        try:
            host.storage.put("x", b"1")
            host.storage.put("y", b"1")
        finally:
            host.storage.put("z", b"1")

    process = host.start(puts)
    host.step()
    host.finish(None)
    assert isinstance(process.error, KilledError)
    assert simulation.bucket.objects.keys() == {"x"}


def test_what_is_written_behind_the_last_page_is_seen_in_an_ordered_listing():
    with Simulation(page=2) as simulation:
        for name in "ace":
            simulation.bucket.put(name, b"")
        host = simulation.host("a")
        process = host.start(lambda: paths(host.storage))
        host.step()
        for name in "bd":
            simulation.bucket.put(name, b"")
        simulation.bucket.delete("a")
        assert host.finish().result == ["a", "c", "d", "e"]
        assert process.requests == 2


def test_an_unordered_listing_misses_at_times_what_has_come_since_it_began():
    seen = set()
    for seed in range(20):
        with Simulation(seed=seed, page=2, ordered=False) as simulation:
            for name in "abcd":
                simulation.bucket.put(name, b"")
            host = simulation.host("a")
            host.start(lambda host=host: paths(host.storage))
            host.step()
            simulation.bucket.put("new", b"")
            simulation.bucket.delete("a")
            seen.add("".join(host.finish().result))
    assert seen == {"bcd", "bcdnew"}


def test_every_host_has_a_clock_of_its_own(simulation):
    early, late = simulation.host("early", skew=-5_000_000), simulation.host("late", skew=7_000_000)
    times = [host.start(wall_clock).result - simulation.now for host in (early, late)]
    assert times == [-5_000_000, 7_000_000]
    assert wall_clock() == simulation.now > START


def test_the_same_seed_gives_the_same_names():
    def names(seed: int) -> list[str]:
        with Simulation(seed=seed):
            return [random_token() for _ in range(3)]

    assert names(1) == names(1) != names(2)


def test_outside_of_the_block_the_system_is_asked_again():
    with Simulation():
        clock = shared_clock("here")
    assert shared_clock("here") is not clock


def test_no_process_outlives_the_block(simulation):
    with Simulation() as inner:
        host = inner.host("a")
        process = host.start(lambda: host.storage.put("x", b"1"))
    assert process.is_done
    assert not inner.bucket.objects


def test_a_host_runs_one_process_at_a_time(simulation):
    host = simulation.host("a")
    host.start(lambda: host.storage.get("x"))
    with pytest.raises(RuntimeError, match="busy"):
        host.start(lambda: None)


def test_a_storage_is_used_by_processes_alone(simulation):
    with pytest.raises(RuntimeError, match="not made by a process"):
        simulation.host("a").storage.get("x")
