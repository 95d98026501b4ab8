"""What a section of the benchmarks works with."""

from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.plan import Plan
from tests.benchmarks.runner import Runner


@dataclass(frozen=True)
class Bench:
    """The sizes, an empty directory, and the Python that has the peers."""

    plan: Plan
    scratch: Path
    peers: str | None

    @property
    def runner(self) -> Runner:
        """What runs the jobs."""
        return Runner(repeats=self.plan.repeats, fresh=self.plan.fresh)
