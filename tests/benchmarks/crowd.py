"""Count the commits per second of many processes that write to one table."""

import importlib
import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from typing import Any

from tests.benchmarks.data import batch

_PATIENCE_SECONDS = 300


def run(*, module: str, root: str, processes: int, appends: int) -> dict[str, float]:
    """Let processes append small batches, all at once.

    Args:
        module: Whose table it is: one that has `create` and `append_one`.
        root: Where the table is made.
        processes: How many there are.
        appends: How many batches each of them appends.
    """
    importlib.import_module(f"tests.benchmarks.{module}").create(root=root)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    # The processes get what a pool cannot send, the barrier, when they are started.
    with context.Pool(processes, initializer=_keep, initargs=(barrier,)) as pool:
        work = [(module, root, number, appends) for number in range(processes)]
        done = pool.starmap(_append, work, chunksize=1)
    first, last = min(start for start, _, _ in done), max(end for _, end, _ in done)
    failures = sum(failed for _, _, failed in done)
    return {
        "seconds": last - first,
        "commits_per_second": (processes * appends - failures) / (last - first),
        "failures": float(failures),
    }


def _keep(barrier: Barrier) -> None:
    _BARRIERS.append(barrier)


def _append(module: str, root: str, number: int, appends: int) -> tuple[float, float, int]:
    """Return when a process began and ended, by a clock that all share, and how often it failed."""
    writer: Any = importlib.import_module(f"tests.benchmarks.{module}")
    frames = [batch(number * appends + each) for each in range(appends)]
    failures = 0
    _BARRIERS[0].wait(_PATIENCE_SECONDS)
    start = time.monotonic()
    for frame in frames:
        try:
            writer.append_one(frame, root=root)
        except Exception as error:  # noqa: BLE001  # peers raise what they like
            print(f"{type(error).__name__}: {error}"[:200])
            failures += 1
    return start, time.monotonic(), failures


_BARRIERS: list[Barrier] = []
