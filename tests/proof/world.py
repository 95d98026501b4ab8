"""Which processes work on one feature, and what is asked of them?

A world is a simulation, an oracle, and the jobs that run on its hosts. Whoever drives it, Hypothesis or dice, decides
which job starts where, who goes on, and what becomes of each request.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import polars as pl

from metaxy_fs import (
    CommitStateUnknownError,
    Feature,
    FeatureGraph,
    FeatureKey,
    FeatureNotFoundError,
    FeatureSpec,
    FilesystemMetadataStore,
    StorageError,
)
from metaxy_fs.testing import Ending, Host, KilledError, Process, Simulation
from tests.proof.oracle import BrokenPromiseError, Oracle, Write

SKEWS = (0, -90_000_000, 70_000_000, 3_000_000, -1_000_000)
"""By how much the clocks of the hosts are wrong, in microseconds."""

with FeatureGraph().use():

    class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]))):
        """What all processes work on."""


@dataclass
class Job:
    """A call that runs on a host, and who judges how it ends.

    Attributes:
        call: What the process does, given the store of its host.
        judge: Called when the call has returned.
        forgive: Called with the error that it raised and whether any of its requests failed; raises unless that may be.
    """

    call: Callable[[FilesystemMetadataStore], Any]
    judge: Callable[[Any], None]
    forgive: Callable[..., None]


class World:
    """Hosts that run jobs on one feature; use it as a context manager.

    Args:
        seed: Decides random names, and the order of unordered listings.
        ordered: Whether listings come in the order of paths.
    """

    def __init__(self, *, seed: int, ordered: bool) -> None:
        self.simulation = Simulation(seed=seed, page=2, ordered=ordered)
        self.oracle = Oracle(self.simulation.bucket.written)
        self.stations = [Station(self, skew) for skew in SKEWS]
        self.steps = 0

    def write(self, station: "Station", notes: dict[int, str | None], *, name: str | None) -> None:
        """Start a write."""
        self._attempt(station, self.oracle.begin(notes, name=name))

    def retry(self, station: "Station", write: Write) -> None:
        """Start another attempt of a write that has a name."""
        self._attempt(station, write)

    def read(self, station: "Station", *, latest_only: bool) -> None:
        """Start a read."""
        due = self.oracle.due()
        judge = self.oracle.judge_latest if latest_only else self.oracle.judge_rows

        def forgive(error: BaseException, *, failed: bool) -> None:
            if isinstance(error, FeatureNotFoundError):
                self.oracle.judge_absence(due)
            elif not failed:
                raise BrokenPromiseError("a read failed, though all its requests were answered") from error

        def shown(rows: pl.DataFrame) -> None:
            judge(rows, due)
            station.known |= set(rows["take"])

        job = Job(
            call=lambda store: store.read_metadata(Video, latest_only=latest_only),
            judge=shown,
            forgive=forgive,
        )
        station.start(job)

    def drain(self) -> None:
        """Let all that runs end without further faults, and look whether what is left is right."""
        for station in self.stations:
            while not station.is_idle:
                station.step(Ending.ANSWERED)
        while self.simulation.bucket.late:
            self.simulation.bucket.land(0)
        for latest_only in (False, True):
            last = Station(self, 0)
            self.read(last, latest_only=latest_only)
            while not last.is_idle:
                last.step(Ending.ANSWERED)

    def _attempt(self, station: "Station", write: Write) -> None:
        known = set(station.known)

        def acknowledge(_: object) -> None:
            write.state = "acknowledged"
            if write.name is None:
                self.oracle.judge_order(write.take, known=known)
            station.known.add(write.take)

        def forgive(error: BaseException, *, failed: bool) -> None:
            if not failed or not isinstance(error, (StorageError, KilledError)):
                raise BrokenPromiseError(f"write {write.take} failed, though all its requests were answered") from error
            if write.state != "acknowledged":
                certain = not isinstance(error, (CommitStateUnknownError, KilledError))
                write.state = "failed" if certain and write.name is None else "unknown"

        job = Job(
            call=lambda store: store.write_metadata(Video, write.frame(), write_id=write.name),
            judge=acknowledge,
            forgive=forgive,
        )
        station.start(job)

    def __enter__(self) -> Self:
        self.simulation.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.simulation.__exit__(*error)


class Station:
    """A host with its store, which outlives the jobs that run there.

    Attributes:
        known: The writes that its store has seen or made.
    """

    def __init__(self, world: World, skew: int) -> None:
        self._world = world
        self._skew = skew
        self._job: Job | None = None
        self._failed = False
        self._boot()

    @property
    def is_idle(self) -> bool:
        """Whether a job may be started."""
        return self.host.is_idle

    @property
    def process(self) -> Process:
        """What runs, or ran last."""
        assert self.host.process is not None
        return self.host.process

    def start(self, job: Job) -> None:
        """Start a job."""
        self._job = job
        self._failed = False
        self._settle(self.host.start(lambda: job.call(self._store)))

    def step(self, ending: Ending) -> None:
        """Make one request."""
        self._world.steps += 1
        self._failed |= ending is not Ending.ANSWERED
        self._settle(self.host.step(ending))

    def kill(self) -> None:
        """Cut the power; what comes up again knows nothing of what was."""
        self._failed = True
        self._settle(self.host.finish(None))
        self._boot()

    def _boot(self) -> None:
        simulation = self._world.simulation
        self.host: Host = simulation.host(f"host-{len(simulation.hosts)}", skew=self._skew)
        self._store = FilesystemMetadataStore(self.host.storage)
        self.known: set[int] = set()

    def _settle(self, process: Process) -> None:
        if self._job is None or not process.is_done:
            return
        job, self._job = self._job, None
        if process.error is not None:
            job.forgive(process.error, failed=self._failed)
        else:
            job.judge(process.result)
