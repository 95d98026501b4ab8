"""A compaction whose input others compact and vacuum, between any two of its requests."""

from collections.abc import Iterator
from datetime import timedelta

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metaxy_fs.errors import ObjectNotFoundError
from metaxy_fs.ids import LamportClock
from metaxy_fs.log.compact import compact_partition
from metaxy_fs.log.compactor import Compaction, Options
from metaxy_fs.log.descriptions import open_for_writing
from metaxy_fs.log.unreferenced import Policy
from metaxy_fs.log.vacuum import vacuum
from metaxy_fs.log.verify import verify
from metaxy_fs.log.view import ATTEMPTS, ViewLoader
from metaxy_fs.storage.base import Storage
from tests.log.commits import PARTITION, write
from tests.log.compactions import read
from tests.support.simulation import Host, Simulation

EAGER = Policy(grace=timedelta(0), retention=timedelta(0), is_safe=False)
"""Nobody may use this beside others; here it stands for days in which the compactor under test was not scheduled."""


@pytest.fixture
def simulation() -> Iterator[Simulation]:
    with Simulation() as simulation:
        open_for_writing(simulation.storage("writer"))
        for number in range(12):
            write(simulation.storage("writer"), number % 5, 10 + number)
        yield simulation


def compact(storage: Storage) -> list[Compaction]:
    clock = LamportClock()
    loader, options = ViewLoader(storage, clock=clock), Options(writer="a test", full=True)
    return list(compact_partition(storage, loader, PARTITION, clock=clock, options=options))


def overtake(storage: Storage) -> None:
    """Do what a compactor and a vacuum do, which leaves none of the objects that there were, and then write."""
    compact(storage)
    for _ in range(2):
        assert not vacuum(storage, policy=EAGER, dry_run=False).skipped
    write(storage, 100)


def step_until(host: Host, verb: str, suffix: str) -> bool:
    """Let a process go on until it stands before such a request; False if it ended before."""
    process = host.process
    assert process is not None
    while process.pending is not None:
        if process.pending.verb == verb and process.pending.path.endswith(suffix):
            return True
        host.step()
    return False


def expected_after(simulation: Simulation) -> pl.DataFrame:
    return read(simulation.storage("reader"))


@pytest.mark.parametrize("requests", range(30))
def test_it_plans_again_wherever_it_is_overtaken(simulation: Simulation, requests: int) -> None:
    host = simulation.host("compactor")
    process = host.start(lambda: compact(host.storage))
    for _ in range(requests):
        if not process.is_done:
            host.step()
    is_overtaken = not process.is_done
    overtake(simulation.storage("another"))
    expected = expected_after(simulation)
    if is_overtaken:
        host.finish()
    assert process.error is None
    assert_frame_equal(expected_after(simulation), expected)
    assert {finding.severity for finding in verify(simulation.storage("verifier")).findings} <= {"note", "warning"}


def test_it_plans_again_more_than_once(simulation: Simulation) -> None:
    host = simulation.host("compactor")
    process = host.start(lambda: compact(host.storage))
    for _ in range(ATTEMPTS - 1):
        assert step_until(host, "get", ".parquet")
        overtake(simulation.storage("another"))
        host.step()
    expected = expected_after(simulation)
    if not process.is_done:
        host.finish()
    assert process.error is None
    assert_frame_equal(expected_after(simulation), expected)


def test_it_does_not_plan_for_ever(simulation: Simulation) -> None:
    host = simulation.host("compactor")
    process = host.start(lambda: compact(host.storage))
    for _ in range(ATTEMPTS):
        assert step_until(host, "get", ".parquet")
        overtake(simulation.storage("another"))
        host.step()
    expected = expected_after(simulation)
    if not process.is_done:
        host.finish()
    assert isinstance(process.error, ObjectNotFoundError)
    assert_frame_equal(expected_after(simulation), expected)


def test_two_compactors_of_which_one_is_vacuumed_away_leave_every_row(simulation: Simulation) -> None:
    """Both have put all but their manifests; then one wins, and what it replaced goes."""
    expected = expected_after(simulation)
    hosts = [simulation.host("first"), simulation.host("second")]
    for host in hosts:
        host.start(lambda host=host: compact(host.storage))
        assert step_until(host, "put", ".json")
    first, second = hosts
    first.finish()
    for _ in range(2):
        vacuum(simulation.storage("vacuum"), policy=Policy(grace=timedelta(0), is_safe=False), dry_run=False)
    second.finish()
    assert [host.process.error for host in hosts if host.process is not None] == [None, None]
    assert_frame_equal(expected_after(simulation), expected)
    assert {finding.severity for finding in verify(simulation.storage("verifier")).findings} <= {"note", "warning"}
