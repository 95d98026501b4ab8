"""Limits that are smaller in the proof than elsewhere."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

import pytest

from metaxy_fs.log import chunks


class InlineExecutor(Executor):
    """Runs everything at once and in the caller's thread: which of two threads comes first would be no one's choice."""

    def __init__(self, _workers: int) -> None:
        pass

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(call(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  # raised where the result is asked for
            future.set_exception(error)
        return future

    def map(self, call: Callable[..., Any], *iterables: Any, **_: Any) -> Iterator[Any]:
        return map(call, *iterables)


@pytest.fixture(autouse=True)
def _small_and_serial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MAX_FILE_ROWS", 2)
    monkeypatch.setattr("metaxy_fs.parallel.ThreadPoolExecutor", InlineExecutor)
