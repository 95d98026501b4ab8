"""Workers that prepare, and drivers that commit together, request by request, in the real code.

A job has two tasks, whose rows are seen together, once, and for ever once they were seen. Hosts, faults and the passing
of time are those of `tests.proof.world`; random numbers decide.
"""

import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import combinations

import polars as pl

from metaxy_fs import FeatureNotFoundError, Receipt, StorageError, WriteConflictError, repair
from tests.proof.dice import FAULTS
from tests.proof.oracle import BrokenPromiseError
from tests.proof.world import TO_THE_END, Job, Station, Video, World, _audit, _unforgiving
from tests.support.simulation import KilledError

TASKS = 2
HOUR = 3_600_000_000
SPANS = (timedelta(minutes=40), timedelta(hours=2), timedelta(hours=22), timedelta(days=8))
STOPS = ("end", "end", "end", "put manifest", "put data", "put data", "list", "get data", 1, 3)
JOBS = (*("prepare",) * 4, *("drive",) * 5, *("read",) * 2, "compact", "vacuum", "repair")


@dataclass
class Known:
    """What is known of all jobs: odd ones have a name.

    Attributes:
        receipts: What workers have returned, by job.
        used: The receipts that a driver of a job without a name takes.
        running: How many drivers of each job are at it.
        raced: Jobs with several drivers at once, of which those without a name may change their time.
        seen: The jobs that were acknowledged or read.
        pairs: Which job was read before which.
        born: When the first receipt of each job was prepared.
    """

    receipts: dict[int, list[Receipt]] = field(default_factory=dict)
    used: dict[int, list[Receipt]] = field(default_factory=dict)
    running: Counter[int] = field(default_factory=Counter)
    raced: set[int] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)
    pairs: set[tuple[int, int]] = field(default_factory=set)
    born: dict[int, int] = field(default_factory=dict)

    def due(self) -> frozenset[int]:
        """Return the jobs that a read has to show."""
        return frozenset(self.seen)

    def is_ready(self, job: int) -> bool:
        """Whether there is a receipt of each task of a job."""
        return len({receipt.task_id for receipt in self.receipts.get(job, ())}) == TASKS

    def judge_absence(self, due: frozenset[int]) -> None:
        """Refuse the answer that there is no commit."""
        if due:
            raise BrokenPromiseError(f"no commit is shown, though {sorted(due)} were")

    def judge_rows(self, rows: pl.DataFrame, due: frozenset[int]) -> None:
        """Refuse rows that no reader may see."""
        found = list(zip(rows["job"], rows["sample_id"], strict=True))
        if len(found) > len(set(found)):
            raise BrokenPromiseError(f"a task is counted twice: {found}")
        sizes = Counter(rows["job"])
        if broken := [job for job, size in sizes.items() if size != 2 * TASKS]:
            raise BrokenPromiseError(f"jobs {broken} are seen in part: {found}")
        if missing := due - sizes.keys():
            raise BrokenPromiseError(f"jobs {sorted(missing)} vanished: {found}")
        order = [job for job in dict.fromkeys(rows["job"]) if job not in self.raced]
        pairs = set(combinations(order, 2))
        if turned := [pair for pair in pairs if pair[::-1] in self.pairs and self.raced.isdisjoint(pair)]:
            raise BrokenPromiseError(f"jobs are seen in the order {order}, but {turned} were the other way round")
        self.pairs |= pairs
        self.seen |= sizes.keys()


class GroupWorld(World):
    """Hosts that prepare and drive; use it as a context manager."""

    def __init__(self, *, seed: int, ordered: bool) -> None:
        super().__init__(seed=seed, ordered=ordered)
        self.oracle = self.known = Known()  # type: ignore[assignment]

    def prepare(self, station: Station, job: int, task: int) -> None:
        """Start a worker."""
        rows = pl.DataFrame({"sample_id": [2 * task, 2 * task + 1], "job": [job] * 2})
        rows = rows.with_columns(data_version=pl.struct(default=pl.format("{}/{}", "job", "sample_id")))

        def keep(receipt: Receipt) -> None:
            self.known.receipts.setdefault(job, []).append(receipt)

        self.known.born.setdefault(job, self.simulation.now)
        station.start(Job(lambda store: store.prepare_write(Video, rows, task_id=str(task)), keep, _forgive_failures))

    def drive(self, station: Station, job: int) -> None:
        """Start a driver, once there is a receipt of each task."""
        known = self.known
        receipts = list(known.receipts.get(job, ()))
        if not known.is_ready(job):
            return
        is_named = job % 2 == 1
        receipts = receipts if is_named else known.used.setdefault(job, receipts)
        if known.running[job] and not is_named:
            known.raced.add(job)
        known.running[job] += 1

        def done(_: object) -> None:
            known.running[job] -= 1
            known.seen.add(job)

        def forgive(error: BaseException, *, failed: bool) -> None:
            known.running[job] -= 1
            # A driver that stands still while it asks for the time takes receipts for older than they are.
            stalled = station.stalled // timedelta(microseconds=1)
            is_late = self.simulation.now - known.born[job] + stalled > 23 * HOUR
            if not (is_late and isinstance(error, StorageError | WriteConflictError)):
                _forgive_failures(error, failed=failed)

        name = f"job {job}" if is_named else None
        station.start(Job(lambda store: store.commit_prepared(Video, receipts, write_id=name), done, forgive))

    def show(self, station: Station) -> None:
        """Start a read."""
        due = self.known.due()

        def forgive(error: BaseException, *, failed: bool) -> None:
            if isinstance(error, FeatureNotFoundError):
                self.known.judge_absence(due)
            elif not failed:
                raise BrokenPromiseError("a read failed, though all its requests were answered") from error

        station.start(
            Job(lambda store: store.read_metadata(Video), lambda rows: self.known.judge_rows(rows, due), forgive)
        )

    def repair(self, station: Station) -> None:
        """Start a repair, which must find nothing that it may restore."""

        def judge(found: list[object]) -> None:
            if restored := [each for each in found if each.state != "unproven"]:  # type: ignore[attr-defined]
                raise BrokenPromiseError(f"a repair restores what was not committed, or is not lost: {restored}")

        forgive = self._forgiving_absence("a repair failed, though all its requests were answered")
        station.start(Job(lambda store: repair(store, dry_run=False), judge, forgive))

    def drain(self) -> None:
        """Let all that runs end, and look what is left, also after days and vacuums."""
        for station in self.stations:
            while not station.is_idle:
                station.step(FAULTS[-1])
        while self.simulation.bucket.late:
            self.simulation.bucket.land(0)
        last = Station(self, 0)
        for _ in range(3):
            self.show(last)
            last.follow(TO_THE_END)
            self.repair(last)
            last.follow(TO_THE_END)
            if self.known.due():
                last.start(Job(_audit, _judge_audit, _unforgiving))
                last.follow(TO_THE_END)
            self.wait(timedelta(days=9))
            self.vacuum(last)
            last.follow(TO_THE_END)
        self.show(last)
        last.follow(TO_THE_END)


def _forgive_failures(error: BaseException, *, failed: bool) -> None:
    """Forgive what fails with its requests."""
    if not failed or not isinstance(error, (StorageError, KilledError)):
        raise BrokenPromiseError("a process failed, though all its requests were answered") from error


def _judge_audit(audit: tuple[list[object], pl.DataFrame]) -> None:
    damage, _ = audit
    if damage:
        raise BrokenPromiseError(f"verify finds damage: {damage}")


def gather(seed: int, *, ordered: bool, actions: int = 80) -> int:
    """Live through one history, and return how many requests it had.

    Raises:
        BrokenPromiseError: The log broke a promise.
    """
    dice = random.Random(seed)  # noqa: S311  # nothing secret
    with GroupWorld(seed=seed, ordered=ordered) as world:
        for _ in range(actions):
            _act(world, dice)
        world.drain()
        return world.steps


def _act(world: GroupWorld, dice: random.Random) -> None:
    idle = [station for station in world.stations if station.is_idle]
    busy = [station for station in world.stations if not station.is_idle]
    fate = dice.random()
    if fate < 0.04:
        world.wait(dice.choice(SPANS))
    elif busy and fate < 0.12:
        _harm(dice, dice.choice(busy))
    elif idle and fate < 0.75:
        _start(world, dice, dice.choice(idle))
    elif busy:
        dice.choice(busy).follow([(dice.choice(STOPS), [])])


def _start(world: GroupWorld, dice: random.Random, station: Station) -> None:
    kind, job = dice.choice(JOBS), dice.randrange(4)
    match kind:
        case "prepare":
            world.prepare(station, job, dice.randrange(TASKS))
        case "drive":
            ready = [job for job in world.known.receipts if world.known.is_ready(job)]
            world.drive(station, dice.choice(ready or [job]))
        case "read":
            world.show(station)
        case "compact":
            world.compact(station, full=dice.random() < 0.5)
        case "vacuum":
            world.vacuum(station)
        case _:
            world.repair(station)
    if not station.is_idle:
        station.follow([(dice.choice(STOPS), [])])


def _harm(dice: random.Random, station: Station) -> None:
    if dice.random() < 0.5:
        station.kill()
    else:
        faults = [dice.choice(FAULTS) for _ in range(dice.randint(1, 4))]
        station.follow([(dice.choice(("put manifest", "put data", 0)), faults)])
