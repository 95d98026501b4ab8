"""Pieces of work that are done side by side or in groups, and their results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

WORKERS = 2
"""Pieces under way at once. Polars uses all processors within each; a second one fills the gaps that it leaves."""

REQUESTS = 64
"""Requests to a distant root under way at once: each costs a thread that waits."""


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int = WORKERS
) -> Iterator[Result]:
    """Yield the results of a function for all items, in their order, a few ahead of the caller.

    Items are taken, and results held, only `workers` at a time. An exception is raised where its result would have
    been; what is under way then is waited for, and nothing new is begun. One item costs no thread.
    """
    waiting = iter(items)
    first = list(islice(waiting, 2))
    if len(first) < 2:
        yield from map(function, first)
        return
    with ThreadPoolExecutor(workers) as pool:
        running: deque[Future[Result]] = deque(pool.submit(function, item) for item in first)
        try:
            running.extend(pool.submit(function, item) for item in islice(waiting, max(0, workers - 2)))
            while running:
                result = running.popleft().result()
                running.extend(pool.submit(function, item) for item in islice(waiting, max(0, workers - len(running))))
                yield result
        finally:
            for future in running:
                future.cancel()


def batched(items: Iterable[Item], *limits: tuple[Callable[[Item], int], int]) -> Iterator[list[Item]]:
    """Yield items, in their order, in groups that stay within all limits, where one item alone does.

    Args:
        items: Taken as they are needed.
        limits: What an item counts for, and how much a group may come to.
    """
    batch: list[Item] = []
    totals = [0] * len(limits)
    for item in items:
        sizes = [size_of(item) for size_of, _ in limits]
        if batch and any(total + size > most for total, size, (_, most) in zip(totals, sizes, limits, strict=True)):
            yield batch
            batch, totals = [], [0] * len(limits)
        batch.append(item)
        totals = [total + size for total, size in zip(totals, sizes, strict=True)]
    if batch:
        yield batch


def one(_item: object) -> int:
    """Count an item as one, for a limit to how many there are."""
    return 1


def asked(question: Callable[[Item], Result], items: Iterable[Item], *, is_remote: bool) -> list[Result]:
    """Return the answers of a root to one question about each item, in the order of the items.

    Args:
        question: What is asked; waits for the root, and for little else.
        items: What it is asked about.
        is_remote: Whether an answer takes so long that many are worth waiting for at once.
    """
    return list(ordered_map(question, items, workers=REQUESTS) if is_remote else map(question, items))


@contextmanager
def beside(work: Callable[[], object] | None, *, at_once: bool) -> Iterator[None]:
    """Have some work done while the body runs, or before it; its error is raised at the end of the body at the latest.

    Args:
        work: What to do; None for nothing.
        at_once: Whether to do it in a thread, while the body runs.
    """
    if work is None or not at_once:
        if work is not None:
            work()
        yield
        return
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        yield
        working.result()
