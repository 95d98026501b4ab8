"""How does a person see that a long step is under way?"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from tqdm import tqdm


@contextmanager
def progress(what: str, *, total: int) -> Iterator[Callable[[int], object]]:
    """Show a bar on stderr, if that is a terminal, and give the function that moves it by a number of bytes.

    Several threads may call it.
    """
    # Without a total, tqdm would show a bar that never fills.
    is_hidden = None if total else True
    lock = Lock()
    with tqdm(desc=what, total=total, unit="B", unit_scale=True, unit_divisor=1024, leave=False, disable=is_hidden) as bar:

        def advance(size: int) -> None:
            with lock:
                bar.update(size)

        yield advance
