"""What does Hypothesis decide of the history of a feature?"""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from metaxy_fs.testing import Ending
from tests.proof.world import Station, World

STEPS = st.sampled_from([0, 1, 2, 3, 5, 8, 100, 100])
WHO = st.integers(0, 59)
FAULTS = st.sampled_from([Ending.LOST, Ending.UNHEARD, Ending.LATE, Ending.ANSWERED])
NOTES = st.dictionaries(st.integers(0, 6), st.sampled_from([None, "a", "b"]), min_size=1, max_size=5)


class LogMachine(RuleBasedStateMachine):
    """Writers and readers of one feature."""

    ordered = True

    @initialize(seed=st.integers(0, 2**16))
    def open(self, seed: int) -> None:
        self.world = World(seed=seed, ordered=self.ordered).__enter__()

    @precondition(lambda self: self.idle())
    @rule(who=WHO, notes=NOTES, named=st.booleans(), steps=STEPS)
    def write(self, *, who: int, notes: dict[int, str | None], named: bool, steps: int) -> None:
        name = f"job {len(self.world.oracle.writes)}" if named else None
        station = self.pick(self.idle(), who)
        self.world.write(station, notes, name=name)
        self.run(station, steps)

    @precondition(lambda self: self.idle() and self.named())
    @rule(who=WHO, which=WHO, steps=STEPS)
    def retry(self, who: int, which: int, steps: int) -> None:
        station = self.pick(self.idle(), who)
        self.world.retry(station, self.pick(self.named(), which))
        self.run(station, steps)

    @precondition(lambda self: self.idle())
    @rule(who=WHO, latest_only=st.booleans(), steps=STEPS)
    def read(self, *, who: int, latest_only: bool, steps: int) -> None:
        station = self.pick(self.idle(), who)
        self.world.read(station, latest_only=latest_only)
        self.run(station, steps)

    @precondition(lambda self: self.busy())
    @rule(who=WHO, steps=STEPS)
    def go(self, who: int, steps: int) -> None:
        self.run(self.pick(self.busy(), who), steps)

    @precondition(lambda self: self.busy())
    @rule(who=WHO, endings=st.lists(FAULTS, min_size=1, max_size=6), steps=STEPS)
    def fail(self, who: int, endings: list[Ending], steps: int) -> None:
        station = self.pick(self.busy(), who)
        for ending in endings:
            if not station.is_idle:
                station.step(ending)
        self.run(station, steps)

    @precondition(lambda self: self.busy())
    @rule(who=WHO)
    def kill(self, who: int) -> None:
        self.pick(self.busy(), who).kill()

    @precondition(lambda self: self.world.simulation.bucket.late)
    @rule(which=WHO)
    def land(self, which: int) -> None:
        late = self.world.simulation.bucket.late
        self.world.simulation.bucket.land(which % len(late))

    def teardown(self) -> None:
        try:
            self.world.drain()
        finally:
            self.world.__exit__(None, None, None)

    def idle(self) -> list[Station]:
        return [station for station in self.world.stations if station.is_idle]

    def busy(self) -> list[Station]:
        return [station for station in self.world.stations if not station.is_idle]

    def named(self) -> list:
        return [write for write in self.world.oracle.writes if write.name is not None]

    @staticmethod
    def run(station: Station, steps: int) -> None:
        for _ in range(steps):
            if not station.is_idle:
                station.step(Ending.ANSWERED)

    @staticmethod
    def pick(among: list, which: int):
        return among[which % len(among)]
