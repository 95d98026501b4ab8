"""Histories of a feature that Hypothesis decides.

Which job starts where, who goes on and up to what, how each request ends, who dies, and when time passes. A process is
mostly left where something is at stake: before a manifest is put, in the middle of a listing, before a file is fetched.
"""

from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.proof.compactor import by_dice
from tests.proof.world import Plan, Station, World, Write
from tests.support.stepped_storage import Ending

WHO = st.integers(0, 59)
FAULTS = st.lists(st.sampled_from([Ending.LOST, Ending.UNHEARD, Ending.LATE, Ending.ANSWERED]), min_size=1, max_size=6)


def plans(*stakes: str) -> st.SearchStrategy[Plan]:
    """Draw how far a process goes, and how its next requests end, once or twice."""
    stops = st.sampled_from(["end", "end", *stakes, *stakes, 1, 3])
    return st.lists(st.tuples(stops, st.one_of(st.just([]), st.just([]), FAULTS)), min_size=1, max_size=2)


WRITING = plans("put manifest", "put manifest", "put data", "get data")
READING = plans("list", "get manifest", "get data")
COMPACTING = plans("list", "get manifest", "get data", "put data", "put manifest", "put manifest")
DELETING = plans("list", "get manifest", "put data", "delete", "delete")
ANYTHING = plans("list", "get manifest", "get data", "put manifest", "put data", "delete")
SPANS = st.sampled_from([timedelta(minutes=40), timedelta(hours=2), timedelta(hours=22), timedelta(days=8)])
NOTES = st.dictionaries(st.integers(0, 6), st.sampled_from([None, "a", "b"]), min_size=1, max_size=5)


class LogMachine(RuleBasedStateMachine):
    """Jobs on one feature; `ordered` says whether listings come in the order of paths."""

    ordered = True

    @initialize(seed=st.integers(0, 2**16))
    def open(self, seed: int) -> None:
        self.world = World(seed=seed, ordered=self.ordered).__enter__()

    @precondition(lambda self: self.idle())
    @rule(who=WHO, notes=NOTES, named=st.booleans(), plan=WRITING)
    def write(self, *, who: int, notes: dict[int, str | None], named: bool, plan: Plan) -> None:
        name = f"job {len(self.world.oracle.writes)}" if named else None
        station = pick(self.idle(), who)
        self.world.write(station, notes, name=name)
        station.follow(plan)

    @precondition(lambda self: self.idle())
    @rule(who=WHO, samples=st.sets(st.integers(0, 6), min_size=1, max_size=4), plan=WRITING)
    def retire(self, *, who: int, samples: set[int], plan: Plan) -> None:
        station = pick(self.idle(), who)
        self.world.retire(station, sorted(samples))
        station.follow(plan)

    @precondition(lambda self: self.idle() and self.named())
    @rule(who=WHO, which=WHO, plan=WRITING)
    def retry(self, who: int, which: int, plan: Plan) -> None:
        station = pick(self.idle(), who)
        self.world.retry(station, pick(self.named(), which))
        station.follow(plan)

    @precondition(lambda self: self.idle())
    @rule(who=WHO, latest_only=st.booleans(), plan=READING)
    def read(self, *, who: int, latest_only: bool, plan: Plan) -> None:
        station = pick(self.idle(), who)
        self.world.read(station, latest_only=latest_only)
        station.follow(plan)

    @precondition(lambda self: self.idle())
    @rule(who=WHO, full=st.booleans(), plan=COMPACTING)
    def compact(self, *, who: int, full: bool, plan: Plan) -> None:
        station = pick(self.idle(), who)
        self.world.compact(station, full=full)
        station.follow(plan)

    @precondition(lambda self: self.idle())
    @rule(who=WHO, seed=st.integers(0, 2**16), plan=COMPACTING)
    def compact_by_hand(self, who: int, seed: int, plan: Plan) -> None:
        station = pick(self.idle(), who)
        self.world.compact_by_hand(station, choose=by_dice(seed))
        station.follow(plan)

    @precondition(lambda self: self.idle())
    @rule(who=WHO, plan=DELETING)
    def vacuum(self, who: int, plan: Plan) -> None:
        station = pick(self.idle(), who)
        self.world.vacuum(station)
        station.follow(plan)

    @precondition(lambda self: self.busy())
    @rule(who=WHO, plan=ANYTHING)
    def go(self, who: int, plan: Plan) -> None:
        pick(self.busy(), who).follow(plan)

    @precondition(lambda self: self.busy())
    @rule(who=WHO)
    def kill(self, who: int) -> None:
        pick(self.busy(), who).kill()

    @precondition(lambda self: self.world.simulation.bucket.late)
    @rule(which=WHO)
    def land(self, which: int) -> None:
        late = self.world.simulation.bucket.late
        self.world.simulation.bucket.land(which % len(late))

    @rule(span=SPANS)
    def wait(self, span: timedelta) -> None:
        self.world.wait(span)

    def teardown(self) -> None:
        try:
            self.world.drain()
        finally:
            self.world.__exit__(None, None, None)

    def idle(self) -> list[Station]:
        return [station for station in self.world.stations if station.is_idle]

    def busy(self) -> list[Station]:
        return [station for station in self.world.stations if not station.is_idle]

    def named(self) -> list[Write]:
        return [write for write in self.world.oracle.writes if write.name is not None]


def pick(among: list[Any], which: int) -> Any:
    """Return one of several by any number."""
    return among[which % len(among)]
