"""Show the progress of long steps on a terminal."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TypeVar

from tqdm import tqdm

_Item = TypeVar("_Item")


@contextmanager
def progress(what: str, *, total: int) -> Iterator[Callable[[int], object]]:
    """Show a bar on stderr, if that is a terminal, and give the function that moves it by a number of bytes.

    Several threads may call it.
    """
    # Without a total, tqdm would show a bar that never fills.
    is_hidden = None if total else True
    lock = Lock()
    with tqdm(desc=what, total=total, unit="B", unit_scale=True, leave=False, disable=is_hidden) as bar:

        def advance(size: int) -> None:
            with lock:
                bar.update(size)

        yield advance


@contextmanager
def growing(what: str, *, unit: str = "B") -> Iterator[Callable[[int, int], object]]:
    """Show a bar on stderr, if that is a terminal, and give the function that moves it and its end.

    It counts bytes unless `what` says otherwise. A step that begins anew, with another end, moves it back.
    """
    with tqdm(desc=what, total=0, unit=unit, unit_scale=True, leave=False, disable=None) as bar:

        def advance(done: int, known: int) -> None:
            bar.total = known
            bar.update(done - bar.n)

        yield advance


def counting(items: Iterable[_Item], *, what: str) -> Iterable[_Item]:
    """Yield the items, and show on stderr, if that is a terminal, how many there were."""
    return tqdm(items, desc=what, unit="", unit_scale=True, leave=False, disable=None)


@contextmanager
def tallying(what: str) -> Iterator[Callable[[int], object]]:
    """Show on stderr, if that is a terminal, how many things were done, and give the function that adds to them."""
    with tqdm(desc=what, unit="", unit_scale=True, leave=False, disable=None) as bar:
        yield bar.update
