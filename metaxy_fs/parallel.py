"""How are pieces of work done side by side, and their results taken in order?"""

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


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int = WORKERS
) -> Iterator[Result]:
    """Yield the results of a function for all items, in their order, a few ahead of whoever takes them.

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
            while running:
                result = running.popleft().result()
                running.extend(pool.submit(function, item) for item in islice(waiting, max(0, workers - len(running))))
                yield result
        finally:
            for future in running:
                future.cancel()


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
