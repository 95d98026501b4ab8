"""How is something done before a process reacts to SIGTERM?

Theory of operation. A handler runs in the main thread, between any two of its steps: what it waits for may be held by
the very code that it has interrupted. So it waits for nothing. It asks another thread for the work, by a means that may
be interrupted by itself, and returns; the main thread goes on meanwhile. When the work is done that thread sends the
signal once more, and then the handler passes it on to whoever handled it before. A signal that comes between the last
step of Python and the system call of a wait does not end that wait, so it is sent until the handler was called.

Theory of operation. Rows are checked when they are given and held until there are enough of them, or the oldest has
waited long enough, or the job ends. One flush runs at a time; a thread that meets a full buffer waits for it, which
bounds what is held. A thread of the buffer's own watches the clock and SIGTERM, and what it cannot commit is raised
where somebody can act on it. What a store does after commits (see `Backend.after_commits`) is left to the threads of
the job: it may take long, and SIGTERM has to be answered soon.
"""

import logging
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from queue import Empty, SimpleQueue
from types import FrameType

from metaxy_fs.ids import pause
from metaxy_fs.log.commit import Chunks
from metaxy_fs.log.manifest import check_tags
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.features import Declared
from metaxy_fs.metadata_store.frames import FrameLike, check_write_id, rows_to_write
from metaxy_fs.metadata_store.pending import Flushes, NamedFlushes, PendingRows, PlainFlushes
from metaxy_fs.metadata_store.write import Tags

_RESENT_AFTER = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""In seconds. A main thread that has not run its handler by then is in code that lets none run."""


class Termination:
    """A SIGTERM that is held back while some work is done.

    Args:
        request: Asks another thread for the work; called in the handler, so it may neither wait nor take a lock.
    """

    def __init__(self, request: Callable[[], None]) -> None:
        self._request = request
        self._pid = os.getpid()
        self._previous = signal.getsignal(signal.SIGTERM)
        self._is_held = False
        self._is_done = False

    def work_is_done(self) -> None:
        """Let the signal through; called by the thread that did the work."""
        self._is_done = True
        for seconds in _RESENT_AFTER:
            # To the main thread and no other: a wait of the main thread ends only for a signal of its own.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            pause(seconds)
            if not self._is_done:  # the handler has passed it on
                return

    def install(self) -> None:
        """Begin to hold signals back."""
        signal.signal(signal.SIGTERM, self._handle)

    def remove(self) -> None:
        """Let signals through again, one that is still held among them."""
        self._is_done = True
        # Somebody who has put a handler on top of this one calls it for ever; it then passes everything on.
        if signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, self._previous)
        if self._is_held:
            signal.raise_signal(signal.SIGTERM)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # A forked child has the handler, but not the thread that would do the work.
        if self._is_done or os.getpid() != self._pid:
            self._pass_on(number, frame)
        else:
            self._is_held = True
            self._request()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._is_held = self._is_done = False
        if callable(self._previous):
            self._previous(number, frame)
        elif self._previous is signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


@contextmanager
def before_termination(request: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Have some work requested before the process reacts to SIGTERM, and yield what tells that the work is done.

    Nothing is installed outside the main thread, which alone may have handlers, nor where the present handler was not
    installed from Python and could not be called.

    Args:
        request: Asks another thread for the work; must neither wait nor take a lock.
    """
    termination = Termination(request)
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is None:
        yield termination.work_is_done
        return
    termination.install()
    try:
        yield termination.work_is_done
    finally:
        termination.remove()


_LOG = logging.getLogger("metaxy_fs")


class WriteBuffer:
    """Rows of one feature that are collected and committed together; made by `MetadataStore.buffered`.

    Safe to share between threads, not between processes.
    """

    def __init__(self, store: Backend, feature: Declared, pending: PendingRows, *, rows: int) -> None:
        self._store = store
        self._feature = feature
        self._pending = pending
        self._enough = rows

    def write(self, df: FrameLike) -> None:
        """Give rows to the buffer; if it is full then, commit what it holds and wait for that.

        A frame without rows changes nothing.

        Args:
            df: One row a sample, as `write_metadata` takes it.

        Raises:
            MetadataSchemaError: The frame does not fit the feature, or what was written before; it was not taken.
            StorageError: What is held could not be committed. It stays, and the next flush tries it again. If that
                flush ran in the background, the frame was not taken.
            CommitStateUnknownError: Rows may or may not have been committed. Without a `write_id` they are not tried
                again, because that might commit them twice.
            WriteConflictError: Under the `write_id` of the buffer, some sample has another row already.
        """
        rows = rows_to_write(df, self._feature.spec)
        self._store.refuse_types(self._feature.spec, self._feature.definition.partition, Chunks.of(rows))
        if self._pending.hold(rows) >= self._enough:
            self._pending.flush(at_least=self._enough)
        _after_commits(self._store, self._feature, self._pending)

    def flush(self) -> None:
        """Commit what is held now, and wait for that. Raises what `write` does."""
        self._pending.flush()
        _after_commits(self._store, self._feature, self._pending)


@contextmanager
def buffered(
    store: Backend,
    feature: Declared,
    *,
    rows: int,
    seconds: float | None,
    write_id: str | None,
    tags: Tags = None,
) -> Iterator[WriteBuffer]:
    """Yield a buffer of rows, and commit what it holds at the end, however that comes."""
    _check_limits(rows, seconds)
    if write_id is not None:
        check_write_id(write_id)
    check_tags(store.tags, tags)
    flushes: Flushes = PlainFlushes(store, feature, tags)
    if write_id is not None:
        flushes = NamedFlushes(store, feature, write_id, tags)
    pending = PendingRows(feature, flushes)
    with _watched(pending, seconds):
        buffer = WriteBuffer(store, feature, pending, rows=rows)
        weakref.finalize(buffer, _close_at_last, pending, feature, os.getpid())
        try:
            yield buffer
        except BaseException as error:
            _close_after(error, pending, feature)
            raise
        pending.close()
        _after_commits(store, feature, pending)


class _Request(Enum):
    """What the watching thread is asked for."""

    STOP = auto()
    FLUSH_BEFORE_TERMINATION = auto()


def _after_commits(store: Backend, feature: Declared, pending: PendingRows) -> None:
    if commits := pending.take_commits():
        store.after_commits(feature.key, feature.definition.partition, commits=commits)


def _close_after(error: BaseException, pending: PendingRows, feature: Declared) -> None:
    """Commit what is held although the job has failed; if that fails too, the job's error says so."""
    try:
        pending.close()
    except BaseException as failure:  # noqa: BLE001  # the job's error is the one to raise
        error.add_note(f"{pending.rows} rows of feature '{feature.key}' were not committed: {failure!r}")


def _close_at_last(pending: PendingRows, feature: Declared, maker: int) -> None:
    """Commit what is held once nobody can write any more, or the process ends, if Ctrl-C cut the end of the block.

    One Ctrl-C is enough for that: Polars and Python both raise an exception for it, the second in the end of the block.
    """
    if pending.is_over or os.getpid() != maker:
        return
    try:
        pending.close()
    except BaseException as error:  # noqa: BLE001  # nobody could catch it
        _LOG.error("%d rows of feature '%s' were not committed after Ctrl-C: %r", pending.rows, feature.key, error)


@contextmanager
def _watched(pending: PendingRows, seconds: float | None) -> Iterator[None]:
    """Have rows committed when they are old, and before the process ends by SIGTERM."""
    # Its `put` may interrupt itself, so a signal handler may call it.
    requests: SimpleQueue[_Request] = SimpleQueue()
    with before_termination(lambda: requests.put(_Request.FLUSH_BEFORE_TERMINATION)) as work_is_done:

        def watch() -> None:
            wait = seconds
            while (request := _next(requests, wait)) is not _Request.STOP:
                if request is _Request.FLUSH_BEFORE_TERMINATION:
                    _flush_at_last(pending)
                    work_is_done()
                elif seconds is not None:
                    wait = pending.flush_old(seconds=seconds)

        thread = threading.Thread(target=watch, name="metaxy_fs buffer", daemon=True)
        try:
            thread.start()
            yield
        finally:
            requests.put(_Request.STOP)
            # At the end of the interpreter daemon threads stand still, and Python 3.13 would join one for ever.
            if thread.ident is not None and not sys.is_finalizing():
                thread.join()


def _next(requests: "SimpleQueue[_Request]", wait: float | None) -> _Request | None:
    try:
        return requests.get(timeout=wait)
    except Empty:
        return None


def _flush_at_last(pending: PendingRows) -> None:
    """Commit what is held before the process ends; nobody may be left to catch an error, so it is logged."""
    error = pending.flush_quietly()
    if error is not None:
        _LOG.error("%d rows were not committed before SIGTERM: %r", pending.rows, error)


def _check_limits(rows: int, seconds: float | None) -> None:
    if not isinstance(rows, int) or rows < 1:
        raise ValueError(f"rows is how many rows are committed at once, at least 1; got {rows!r}.")
    is_time = seconds is None or (isinstance(seconds, int | float) and 0 < seconds <= threading.TIMEOUT_MAX)
    if not is_time:
        raise ValueError(f"seconds is how long a row waits at most, more than 0, or None for ever; got {seconds!r}.")
