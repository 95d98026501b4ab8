"""The processes that work on one feature, and what they are asked to do.

A world is a simulation, an oracle, and the jobs that run on its hosts. Whoever drives it, Hypothesis or dice, decides
which job starts where, who goes on, and what becomes of each request.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
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
    ObjectNotFoundError,
    StorageError,
    compact,
    vacuum,
    verify,
)
from metaxy_fs.ids import MAX_TIME
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.verified_io import Finding
from metaxy_fs.metadata_store import Vacuumed
from metaxy_fs.versioning.definition import definition_version
from tests.proof.compactor import Choose, TooLateError, compact_chosen
from tests.proof.oracle import BrokenPromiseError, Oracle, Write
from tests.support.simulation import START, Host, KilledError, Process, Simulation
from tests.support.stepped_storage import Ending, Request

Plan = list[tuple[str | int, list[Ending]]]
"""How far a process goes, and how its requests end from there on."""

TO_THE_END: Plan = [("end", [])]

LISTING = timedelta(minutes=50)
"""The longest that a listing takes; the grace of a vacuum is longer."""

COMMITTING = timedelta(hours=23)
"""The longest from the first attempt to put a manifest to its end; the retention of a vacuum allows for a day."""


SKEWS = (0, -90_000_000, 70_000_000, 3_000_000, -1_000_000)
"""By how much the clocks of the hosts are wrong, in microseconds."""

YEARS = (0, 73 * 365 * 86_400_000_000, -50 * 365 * 86_400_000_000, 3_600_000_000, MAX_TIME - START - 4 * 10**13)
"""Clocks of which two are far ahead, one of them shortly before the end of the calendar, and one is far behind."""

with FeatureGraph().use():

    class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]))):
        """What all processes work on."""


VACUUM_OPTIONS: dict[str, Any] = {}
"""The defaults, unless a test breaks them."""

PARTITION = Partition("video", definition_version(Video.graph, Video.spec.key).partition)


@dataclass
class Job:
    """A call that runs on a host, and who judges how it ends.

    Attributes:
        call: What the process does, given the store of its host.
        judge: Called when the call has returned.
        forgive: Called with its error, and whether anything failed that it needed; raises unless that may be.
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
        self.ordered = ordered
        self.simulation = Simulation(seed=seed, page=1, ordered=ordered)
        self.oracle = Oracle(self.simulation.bucket.written, self.simulation.bucket.arrivals)
        self.stations: list[Station] = []
        self.steps = 0

    def write(self, station: "Station", notes: dict[int, str | None], *, name: str | None) -> None:
        """Start a write."""
        self._attempt(station, self.oracle.begin(notes, name=name))

    def retire(self, station: "Station", samples: Iterable[int]) -> None:
        """Start to retire some samples."""
        self._attempt(station, self.oracle.begin(dict.fromkeys(samples), name=None, retires=True))

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
            station.known |= set(rows["take"]) if "take" in rows.columns else set()

        job = Job(
            call=lambda store: store.read_metadata(Video, latest_only=latest_only),
            judge=shown,
            forgive=forgive,
        )
        station.start(job)

    def compact_by_hand(self, station: "Station", *, choose: Choose, rewrites_all: bool = False) -> None:
        """Start a compaction of what is chosen."""

        def forgive(error: BaseException, *, failed: bool) -> None:
            # What it reads may have been deleted long ago; a sensible compactor reads the files that count.
            if not failed and not isinstance(error, ObjectNotFoundError | TooLateError):
                raise BrokenPromiseError("a compaction failed, though all its requests were answered") from error

        def call(store: FilesystemMetadataStore) -> None:
            compact_chosen(store.storage, self.oracle, PARTITION, choose=choose, rewrites_all=rewrites_all)

        station.start(Job(call, lambda _result: None, forgive))

    def compact(self, station: "Station", *, full: bool) -> None:
        """Start a compaction as the library makes them, of as few manifests as two."""

        forgive = self._forgiving_absence("a compaction failed, though all its requests were answered")
        station.start(Job(lambda store: compact(store, Video, full=full, fan=2), lambda _result: None, forgive))

    def vacuum(self, station: "Station") -> None:
        """Start a vacuum."""

        def judge(done: Vacuumed) -> None:
            if done.skipped and not station.is_excused:
                raise BrokenPromiseError(f"a vacuum left a partition as it is: {done.skipped}")

        forgive = self._forgiving_absence("a vacuum failed, though all its requests were answered")
        station.start(Job(lambda store: vacuum(store, Video, dry_run=False, **VACUUM_OPTIONS), judge, forgive))

    def wait(self, span: timedelta) -> None:
        """Let time pass; who may not stand still for so long goes on first, and what is on its way arrives."""
        for station in self.stations:
            while not station.is_idle and not station.may_stall(span):
                station.step(Ending.ANSWERED)
        while self.simulation.bucket.late:
            self.simulation.bucket.land(0)
        self.simulation.now += span // timedelta(microseconds=1)
        for station in self.stations:
            station.stalled += span

    def drain(self) -> None:
        """Let all that runs end without further faults, and look whether what is left is right."""
        for station in self.stations:
            while not station.is_idle:
                station.step(Ending.ANSWERED)
        while self.simulation.bucket.late:
            self.simulation.bucket.land(0)
        last = Station(self, 0)
        for latest_only in (False, True):
            self.read(last, latest_only=latest_only)
            last.follow(TO_THE_END)
        if self.oracle.due():
            last.start(Job(_audit, self.oracle.judge_audit, _unforgiving))
            last.follow(TO_THE_END)
            times = sorted(time for time, _ in self.oracle.order().values())
            last.start(Job(partial(_restored, times[len(times) // 2]), self.oracle.judge_restored, _unforgiving))
            last.follow(TO_THE_END)

    def _forgiving_absence(self, problem: str) -> Callable[..., None]:
        """Return what forgives that there is no commit, if there need be none, and what fails with its requests."""
        due = self.oracle.due()

        def forgive(error: BaseException, *, failed: bool) -> None:
            if isinstance(error, FeatureNotFoundError):
                self.oracle.judge_absence(due)
            elif not failed:
                raise BrokenPromiseError(problem) from error

        return forgive

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

        def call(store: FilesystemMetadataStore) -> None:
            if write.retires:
                store.retire(Video, write.ids(), tags=write.tags)
            else:
                store.write_metadata(Video, write.frame(), write_id=write.name, tags=write.tags)

        station.start(Job(call, acknowledge, forgive))

    def __enter__(self) -> Self:
        self.simulation.__enter__()
        # Inside, where the clocks of their stores are those of this simulation: one from outside would remember others.
        self.stations = [Station(self, skew) for skew in SKEWS]
        return self

    def __exit__(self, *error: object) -> None:
        self.simulation.__exit__(*error)


def _audit(store: FilesystemMetadataStore) -> tuple[list[Finding], pl.DataFrame]:
    """Return what is damaged, and all commits in order."""
    damage = [finding for finding in verify(store, Video).findings if finding.severity != "note"]
    return damage, store.history(Video)


def _restored(moment: int, store: FilesystemMetadataStore) -> tuple[int, list[pl.DataFrame]]:
    """Restore a time, and return it with the latest rows then, before and after a compaction of all."""
    store.restore(Video, at=datetime.fromtimestamp(0, UTC) + timedelta(microseconds=moment))
    before = store.read_metadata(Video, latest_only=True)
    compact(store, Video, full=True, fan=2)
    return moment, [before, store.read_metadata(Video, latest_only=True)]


def _unforgiving(error: BaseException, *, failed: bool) -> None:
    raise BrokenPromiseError("what is left cannot be looked at") from error


class Station:
    """A host with its store, which outlives the jobs that run there.

    Attributes:
        known: The writes that its store has seen or made.
        stalled: How long its job has stood still; one that takes a day may give up.
    """

    def __init__(self, world: World, skew: int) -> None:
        self._world = world
        self._skew = skew
        self._job: Job | None = None
        self._failed = False
        self.stalled = timedelta(0)
        self._committing_since: int | None = None
        self._listing_since: int | None = None
        self._boot()

    @property
    def is_idle(self) -> bool:
        """Whether a job may be started."""
        return self.host.is_idle

    @property
    def is_excused(self) -> bool:
        """Whether the job may fail: a request did, or it took longer than a day."""
        return self._failed or self.stalled >= COMMITTING

    def may_stall(self, span: timedelta) -> bool:
        """Whether the process may stand still for so long, as far as the protocol says."""
        now = self._world.simulation.now + span // timedelta(microseconds=1)
        since = (self._committing_since, COMMITTING), (self._listing_since, LISTING)
        return all(start is None or now - start < limit // timedelta(microseconds=1) for start, limit in since)

    def start(self, job: Job) -> None:
        """Start a job."""
        self._job = job
        self._failed = False
        self.stalled = timedelta(0)
        self._settle(self.host.start(lambda: job.call(self._store)))

    def step(self, ending: Ending) -> None:
        """Make one request."""
        self._world.steps += 1
        self._failed |= ending is not Ending.ANSWERED
        self._settle(self.host.step(ending))

    def follow(self, plan: Plan) -> None:
        """Go on as planned, as far as the job goes: at least by a request, unless that is to fail."""
        for stop, endings in plan:
            if not endings and not self.is_idle:
                self.step(Ending.ANSWERED)
            self._run(stop)
            for ending in endings:
                if not self.is_idle:
                    self.step(ending)

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

    def _run(self, stop: str | int) -> None:
        """Go on without faults: for some requests, up to one of a kind, or to the end."""
        steps = stop if isinstance(stop, int) else sys.maxsize
        while steps > 0 and not self.is_idle and _kind(self.process.pending) != stop:
            self.step(Ending.ANSWERED)
            steps -= 1

    @property
    def process(self) -> Process:
        """What runs, or ran last."""
        assert self.host.process is not None
        return self.host.process

    def _watch(self, pending: Request | None) -> None:
        """Note since when the process has been doing what must not take too long."""
        now = self._world.simulation.now
        if pending is None:
            self._committing_since = self._listing_since = None
            return
        if pending.verb == "put" and "/_manifests/" in pending.path and self._committing_since is None:
            self._committing_since = now
        if pending.verb != "list" or self._world.ordered:
            self._listing_since = None
        elif self._listing_since is None:
            self._listing_since = now

    def _settle(self, process: Process) -> None:
        self._watch(process.pending)
        if self._job is None or not process.is_done:
            return
        job, self._job = self._job, None
        if process.error is not None:
            job.forgive(process.error, failed=self.is_excused)
        else:
            job.judge(process.result)


def _kind(request: Request | None) -> str:
    """Return what a request is about, as plans say it."""
    if request is None or request.verb in ("list", "delete"):
        return "" if request is None else request.verb
    return f"{request.verb} {'manifest' if '/_manifests/' in request.path else 'data'}"
