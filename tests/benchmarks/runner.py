"""Compare contenders, interleaved.

Each measurement is a fresh process, contenders take turns, and the median of several rounds counts: what disturbs the
machine for a while then disturbs them all.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.worker import measure

REPOSITORY = Path(__file__).parents[2]
OURS = "metaxy_fs"

Measured = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One measurement: a function as `module:name` below this package, its arguments, and the Python that runs it."""

    target: str
    arguments: Mapping[str, Any]
    python: str = sys.executable


@dataclass(frozen=True, kw_only=True)
class Result:
    """The medians of every contender on one case, and by how much ours exceeds the best of the others."""

    section: str
    case: Mapping[str, Any]
    contenders: Mapping[str, Measured]
    ratios: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Runs jobs.

    Attributes:
        repeats: How many rounds the medians are taken of.
        fresh: Whether every job gets a process of its own; without, memory is not measured in any sensible way.
    """

    repeats: int
    fresh: bool = True

    def run(self, job: Job) -> Measured:
        """Run one job."""
        target = f"tests.benchmarks.{job.target}"
        if not self.fresh and job.python == sys.executable:
            return measure(target, json.loads(json.dumps(job.arguments)))
        return run_process(target, job)

    def compare(
        self,
        section: str,
        case: Mapping[str, Any],
        contenders: Mapping[str, Job],
        *,
        observe: Callable[[], Measured] = dict,
    ) -> Result:
        """Run all contenders in turn, several times.

        Floats are measurements. Anything else that jobs return, such as a number of rows, is an answer, and all who
        give it have to give the same.

        Args:
            section: What is measured.
            case: The sizes and circumstances.
            contenders: Who takes part.
            observe: Called after each job for what can be measured from outside only.
        """
        rounds = [
            {name: {**self.run(job), **observe()} for name, job in contenders.items()} for _ in range(self.repeats)
        ]
        require_agreement([measured for turn in rounds for measured in turn.values()], case)
        medians = {name: median_of([turn[name] for turn in rounds]) for name in contenders}
        return Result(section=section, case=case, contenders=medians, ratios=ratios(medians))


def run_process(target: str, job: Job) -> Measured:
    """Run one job in a process of its own."""
    # Clients of the server on loopback need a region, and must not look for credentials elsewhere.
    environment = {**os.environ, "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    # A package that pip installed is compiled; a checkout is to be once, by the first round.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [job.python, "-W", "ignore", "-m", "tests.benchmarks.worker", target, json.dumps(job.arguments)]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{target} failed with {dict(job.arguments)}:\n{done.stderr[-4_000:]}")
    measured: Measured = json.loads(done.stdout.splitlines()[-1])
    return measured


def require_agreement(runs: list[Measured], case: Mapping[str, Any]) -> None:
    """Refuse measurements of jobs that did not do the same work."""
    answers: dict[str, set[Any]] = {}
    for measured in runs:
        for name, value in measured.items():
            if not isinstance(value, float):
                answers.setdefault(name, set()).add(value)
    for name, values in answers.items():
        if len(values) > 1:
            raise AssertionError(f"The contenders disagree on {name!r} of {dict(case)}: {sorted(values)}.")


def median_of(runs: list[Measured]) -> Measured:
    """Return the median of each measurement, and the answers as they are."""
    first = runs[0]
    return {
        name: statistics.median(run[name] for run in runs) if isinstance(value, float) else value
        for name, value in first.items()
    }


def ratios(contenders: Mapping[str, Measured]) -> dict[str, float]:
    """Return, for each measurement of ours, how many times the least of the others' it is."""
    others = [measured for name, measured in contenders.items() if name != OURS]
    found = {}
    for name, value in contenders.get(OURS, {}).items():
        theirs = [measured[name] for measured in others if name in measured]
        if isinstance(value, float) and theirs and min(theirs) > 0:
            found[name] = value / min(theirs)
    return found
