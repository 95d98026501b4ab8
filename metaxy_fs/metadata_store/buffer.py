"""Collect rows of a long job, and commit them together.

Theory of operation. Rows are checked when they are given and kept until there are enough of them, or the oldest has
waited long enough, or the job ends. One flush runs at a time; a thread that meets a full buffer waits for it, which
bounds what is kept. A thread of the buffer's own watches the clock, and what it cannot commit is raised where somebody
can act on it. What a store does after commits (see `Backend.after_commits`) is left to the threads of the job: it may
take long.
"""

import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue

import polars as pl

from metaxy_fs.errors import ForkedProcessError
from metaxy_fs.log import Chunks, check_tags
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.features import Declared
from metaxy_fs.metadata_store.frames import FrameLike, check_write_id, rows_to_write
from metaxy_fs.metadata_store.pending import Flushes, NamedFlushes, PendingRows
from metaxy_fs.metadata_store.write import GivenTags
from metaxy_fs.spec import FeatureSpec
from metaxy_fs.storage.logged import LOGGER

_ECHOES = 3
"""How often Ctrl-C may be raised while the rows of a job are committed that it has ended; the next one gives up."""

Check = Callable[[FrameLike, FeatureSpec], pl.DataFrame]


class WriteBuffer:
    """Rows of one feature that are collected and committed together; made by `MetadataStore.buffered`.

    Safe to share between threads, not between processes.
    """

    def __init__(
        self, store: Backend, feature: Declared, pending: PendingRows, *, rows: int, check: Check = rows_to_write
    ) -> None:
        self._store = store
        self._feature = feature
        self._pending = pending
        self._enough = rows
        self._check = check

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
        rows = self._check(df, self._feature.spec)
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
    tags: GivenTags = None,
    check: Check = rows_to_write,
) -> Iterator[WriteBuffer]:
    """Yield a buffer of rows, and commit what it holds at the end, however that comes.

    Args:
        store: Where they are committed.
        feature: Whose rows they are.
        rows: See `MetadataStore.buffered`, as for the following.
        seconds: Likewise.
        write_id: Likewise.
        tags: Likewise.
        check: Returns a frame that is given as it is stored, or raises.
    """
    _check_limits(rows, seconds)
    if write_id is not None:
        check_write_id(write_id)
    check_tags(store.tags, tags)
    flushes = Flushes(store, feature, tags) if write_id is None else NamedFlushes(store, feature, write_id, tags)
    pending = PendingRows(feature, flushes)
    with _watched(pending, seconds):
        buffer = WriteBuffer(store, feature, pending, rows=rows, check=check)
        weakref.finalize(buffer, _close_at_last, pending, feature, os.getpid())
        try:
            yield buffer
        except BaseException as error:
            _close_after(error, pending, feature)
            raise
        pending.close()
        _after_commits(store, feature, pending)


def _after_commits(store: Backend, feature: Declared, pending: PendingRows) -> None:
    if commits := pending.take_commits():
        store.after_commits(feature.key, feature.definition.partition, commits=commits)


def _close_after(error: BaseException, pending: PendingRows, feature: Declared) -> None:
    """Commit what is held although the job has failed; if that fails too, the job's error says so."""
    try:
        _close_despite_echoes(pending)
    except BaseException as failure:  # noqa: BLE001  # the job's error is the one to raise
        message = f"{pending.rows} rows of feature '{feature.key}' were not committed: {failure!r}"
        error.add_note(message)
        # The interpreter prints nothing of the note. The rows of a buffer belong to the process that opened it.
        if isinstance(error, SystemExit) and not isinstance(failure, ForkedProcessError):
            LOGGER.error(message)


def _close_despite_echoes(pending: PendingRows) -> None:
    """Commit what is held, also if one Ctrl-C is raised again, as Polars may do for each thread that was in a query."""
    for _ in range(_ECHOES):
        with suppress(KeyboardInterrupt):
            pending.close()
            return
    pending.close()


def _close_at_last(pending: PendingRows, feature: Declared, maker: int) -> None:
    """Commit what is held once nobody can write any more, or the process ends, if Ctrl-C cut the end of the block.

    One Ctrl-C is enough for that: Polars and Python both raise an exception for it, the second in the end of the block.
    """
    if pending.is_over or os.getpid() != maker:
        return
    try:
        pending.close()
    except BaseException as error:  # noqa: BLE001  # nobody could catch it
        LOGGER.error("%d rows of feature '%s' were not committed after Ctrl-C: %r", pending.rows, feature.key, error)


@contextmanager
def _watched(pending: PendingRows, seconds: float | None) -> Iterator[None]:
    """Have rows committed when they are old."""
    if seconds is None:
        yield
        return
    # Its `put` may interrupt itself, so Ctrl-C at any moment does no harm.
    stop: SimpleQueue[None] = SimpleQueue()

    def watch() -> None:
        wait = seconds
        while not _is_stopped(stop, wait):
            wait = pending.flush_old(seconds=seconds)

    thread = threading.Thread(target=watch, name="metaxy_fs buffer", daemon=True)
    try:
        thread.start()
        yield
    finally:
        stop.put(None)
        # At the end of the interpreter daemon threads stand still, and Python 3.13 would join one forever.
        if thread.ident is not None and not sys.is_finalizing():
            thread.join()


def _is_stopped(stop: "SimpleQueue[None]", wait: float) -> bool:
    try:
        stop.get(timeout=wait)
    except Empty:
        return False
    return True


def _check_limits(rows: int, seconds: float | None) -> None:
    if not isinstance(rows, int) or rows < 1:
        raise ValueError(f"rows is how many rows are committed at once, at least 1; got {rows!r}.")
    is_time = seconds is None or (isinstance(seconds, int | float) and 0 < seconds <= threading.TIMEOUT_MAX)
    if not is_time:
        raise ValueError(f"seconds is how long a row waits at most, more than 0, or None forever; got {seconds!r}.")
