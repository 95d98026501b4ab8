"""A copy beside a write of the same name leaves both with what they were told, wherever each stands still."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from metaxy_fs.errors import MetaxyError, StorageError, WriteConflictError
from metaxy_fs.ids import LamportClock
from metaxy_fs.log.commit import commit
from metaxy_fs.log.copy import Copied, copy_partition
from metaxy_fs.log.descriptions import PartitionInfo, open_for_writing
from metaxy_fs.log.manifest import Manifest
from metaxy_fs.log.verify import verify
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.commits import PARTITION, request, rows
from tests.log.compactions import put_compaction, read
from tests.log.roots import contents, describe
from tests.support.simulation import Host, Simulation

DAY = 25 * 60 * 60 * 1_000_000
THEIRS, OURS = (1, 2, 3), (1, 2, 3, 4)
"""What the name stands for in the source, and what the job in the target writes under it."""


def described(storage: Storage) -> Storage:
    """Make a root."""
    open_for_writing(storage)
    made = request(rows(), partition=PARTITION)
    info = PartitionInfo(feature=made.feature, definition=made.definition, id_columns=made.id_columns, spec=b"{}")  # type: ignore[arg-type]
    describe(storage, PARTITION, info)
    return storage


def write(storage: Storage, *ids: int, name: str | None = "job 7") -> Manifest:
    return commit(storage, request(rows(*ids), write_id=name), clock=LamportClock())


def source(*, compacted: bool) -> tuple[Storage, frozenset[str]]:
    """Return a root with a write under the name and one without, and their commits."""
    storage = described(MemoryStorage())
    writes = [write(storage, *THEIRS), write(storage, 10, name=None)]
    if compacted:
        put_compaction(storage, writes)
    return storage, frozenset(each.commit for each in writes)


def copy(source: Storage, target: Storage, commits: frozenset[str]) -> Copied:
    return copy_partition(source, target, PARTITION, commits=commits, advance=lambda _done, _total: None)


class Target:
    """A root to which a job writes and a promotion copies at once."""

    def __init__(self, simulation: Simulation, *, compacted: bool, ours: tuple[int, ...]) -> None:
        self.simulation = simulation
        self.source, self.commits = source(compacted=compacted)
        self.ours = ours
        described(simulation.storage("setup"))
        write(simulation.storage("setup"), 20, name=None)
        self.copier, self.writer = simulation.host("copier"), simulation.host("writer")

    def copying(self, host: Host) -> Callable[[], Any]:
        """Return a call that copies all of the source."""
        return partial(copy, self.source, host.storage, self.commits)

    def shown(self) -> set[int]:
        """Return the ids that a reader sees, without those that were there before."""
        return set(read(self.simulation.storage("reader"))["sample_id"]) - {20}

    def check(self, copied: object, written: object) -> None:
        """Compare what the two were told with what is there."""
        shown = self.shown()
        if isinstance(copied, Copied):
            assert shown == {*THEIRS, 10}
        if isinstance(written, Manifest):
            assert shown >= set(self.ours)
        if isinstance(written, WriteConflictError) and self.ours != THEIRS:
            assert 4 not in shown
        for told in (copied, written):
            assert not isinstance(told, BaseException) or isinstance(told, StorageError | WriteConflictError), told


def outcome(call: Callable[[], Any]) -> Any:
    """Return what a call returns or raises."""
    try:
        return call()
    except MetaxyError as error:
        return error


def run(
    target: Target, first: Host, second: Host, calls: dict[Host, Callable[[], Any]], stops: tuple[int, int]
) -> bool:
    """Let the first go so far, the second so far, then each to its end; False if one ended before."""
    went = True
    for host, stop in zip((first, second), stops, strict=True):
        process = host.start(partial(outcome, calls[host]))
        for _ in range(stop):
            if not process.is_done:
                host.step()
        went = went and not process.is_done
    for host in (first, second):
        if not host.is_idle:
            host.finish()
    return went


@pytest.mark.parametrize("ours", [OURS, THEIRS], ids=["other rows", "the same rows"])
@pytest.mark.parametrize("compacted", [True, False], ids=["compacted", "by itself"])
@pytest.mark.parametrize("copier_first", [True, False])
def test_each_is_told_what_is_there(*, copier_first: bool, compacted: bool, ours: tuple[int, ...]) -> None:
    for begun in range(40):
        some = False
        for done in range(begun % 5, 40, 5):
            with Simulation() as simulation:
                target = Target(simulation, compacted=compacted, ours=ours)
                calls: dict[Host, Callable[[], Any]] = {
                    target.copier: target.copying(target.copier),
                    target.writer: partial(write, target.writer.storage, *ours),
                }
                hosts = (target.copier, target.writer) if copier_first else (target.writer, target.copier)
                went = run(target, *hosts, calls, (begun, done))
                results = [host.process.result for host in (target.copier, target.writer) if host.process]
                target.check(*results)
                before = target.shown()
                retry_until_at_rest(target, results, before)
            some = some or went
            if not went:
                break
        if not some:
            return
    raise AssertionError("the processes never ended")


def retry_until_at_rest(target: Target, results: list[Any], before: set[int]) -> None:
    """Ask both again, twice, a day later: what was done stays done, and the answers stay the same."""
    target.simulation.now += DAY
    storage = target.simulation.storage("later")
    answers = []
    for _ in range(2):
        written = outcome(partial(write, storage, *target.ours))
        copied = outcome(partial(copy, target.source, storage, target.commits))
        target.check(copied, written)
        answers.append((type(copied), type(written)))
    assert answers[0] == answers[1]
    assert Copied in answers[0] or Manifest in answers[0]
    for told, answer in zip(results, answers[0], strict=True):
        assert isinstance(told, MetaxyError) or type(told) is answer
    assert target.shown() >= before
    findings = verify(storage).findings
    assert [finding for finding in findings if finding.severity == "error"] == []


def test_a_write_that_died_holds_a_copy_up_for_a_day() -> None:
    with Simulation() as simulation:
        target = Target(simulation, compacted=True, ours=OURS)
        writer, copier = target.writer, target.copier
        process = writer.start(partial(write, writer.storage, *OURS))
        while process.pending is not None and process.pending.verb == "put":  # its data files
            writer.step()
        writer.finish(None)
        for _ in range(2):
            before = contents(simulation.storage("reader"))
            copier.start(partial(outcome, target.copying(copier)))
            assert "under way there, or was cut short" in str(copier.finish().result)
            assert contents(simulation.storage("reader")) == before
        simulation.now += DAY
        copier.start(partial(outcome, target.copying(copier)))
        assert isinstance(copier.finish().result, Copied)
        assert target.shown() == {*THEIRS, 10}


def test_two_copies_of_other_rows_under_one_name_are_told_apart() -> None:
    """Neither of them sees a write: each brings a compaction."""
    other = described(MemoryStorage())
    put_compaction(other, [write(other, 1), write(other, 11, name=None)], token="1" * 16)
    listed = other.list(f"{PARTITION}/_manifests/appends")
    commits = frozenset(info.path.rpartition("/")[2].removesuffix(".json") for info in listed)
    for begun in range(40):
        with Simulation() as simulation:
            target = Target(simulation, compacted=True, ours=OURS)
            first, second = target.copier, target.writer
            first.start(partial(outcome, target.copying(first)))
            for _ in range(begun):
                if not first.is_idle:
                    first.step()
            if first.is_idle:
                break
            second.start(partial(outcome, partial(copy, other, second.storage, commits)))
            results = [host.finish().result for host in (second, first)]
            assert [type(result) for result in results].count(Copied) <= 1
            if isinstance(results[0], Copied):
                assert target.shown() == {1, 11}
            if isinstance(results[1], Copied):
                assert target.shown() == {*THEIRS, 10}
    assert begun > 5
