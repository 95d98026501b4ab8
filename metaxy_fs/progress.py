"""Show the progress of long steps on a terminal.

What draws the bars is imported with the first of them: most processes that open a store show none.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
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
    with _bar(desc=what, total=total, unit="B", disable=is_hidden) as bar:

        def advance(size: int) -> None:
            with lock:
                bar.update(size)

        yield advance


@contextmanager
def growing(what: str, *, unit: str = "B") -> Iterator[Callable[[int, int], object]]:
    """Show a bar on stderr, if that is a terminal, and give the function that moves it and its end.

    It counts bytes unless `what` says otherwise. A step that begins anew, with another end, moves it back.
    """
    with _bar(desc=what, total=0, unit=unit, disable=None) as bar:

        def advance(done: int, known: int) -> None:
            bar.total = known
            bar.update(done - bar.n)

        yield advance


def counting(items: Iterable[_Item], *, what: str) -> Iterable[_Item]:
    """Yield the items, and show on stderr, if that is a terminal, how many there were."""
    return _bar(items, desc=what, unit="", disable=None)


@contextmanager
def tallying(what: str, *, unit: str = "", is_hidden: bool = False) -> Iterator[Callable[[int], object]]:
    """Show on stderr, if that is a terminal, how many things were done, and give the function that adds to them.

    Several threads may call it.
    """
    lock = Lock()
    with _bar(desc=what, unit=unit, disable=is_hidden or None) as bar:

        def advance(number: int) -> None:
            with lock:
                bar.update(number)

        yield advance


@contextmanager
def samples_done(what: str, *, total: int, is_shown: bool) -> Iterator[Callable[[int], object]]:
    """Show a bar of samples, their rate and the time left on stderr, if that is a terminal; give what moves it."""
    is_hidden = None if is_shown and total else True
    with _bar(desc=what, total=total, unit=" samples", disable=is_hidden) as bar:
        yield bar.update


@contextmanager
def waiting(what: str) -> Iterator[Callable[[], object]]:
    """Say on stderr, if that is a terminal, from the first second on what goes on and for how long, until that ends.

    Give the function that takes the line away, as everything that prints has to; a second call does nothing. What goes
    on is told by `at`.
    """
    ended = Event()
    line = Thread(target=_show, args=(what, ended), daemon=True)

    def end() -> None:
        ended.set()
        if line.is_alive():
            line.join()

    if sys.stderr.isatty():
        line.start()
    try:
        yield end
    finally:
        end()


def at(step: object) -> None:
    """Note which step a long job has come to, such as a feature, for the line that `waiting` shows."""
    _STEP[:] = [step]


_STEP: list[object] = []
_PATIENCE, _PERIOD = 1.0, 0.2


def _show(what: str, ended: Event) -> None:
    if ended.wait(_PATIENCE):
        return
    with _bar(desc=what, bar_format="{desc} {elapsed}{postfix}", disable=None) as bar:
        bar.start_t -= _PATIENCE
        while not ended.wait(_PERIOD):
            bar.set_postfix_str(" ".join(map(str, _STEP)))


def _bar(*items: Iterable[Any], **options: Any) -> "tqdm[Any]":
    """Return a bar that is gone once it is full."""
    bar: tqdm[Any] = import_module("tqdm").tqdm(*items, unit_scale=True, leave=False, **options)
    return bar
