"""Which rows of a buffer wait for their commit, and what became of those whose commit failed?"""

import threading
from typing import NamedTuple

import polars as pl

from metaxy_fs.forks import refuse_lost_threads
from metaxy_fs.ids import elapsed
from metaxy_fs.log.objects.statistics import exact_in
from metaxy_fs.log.objects.widening import FileSchema, conform, unify
from metaxy_fs.log.writing.chunks import Chunks
from metaxy_fs.metadata_store.arguments.features import Declared
from metaxy_fs.metadata_store.backends.seen import SeenSchemas
from metaxy_fs.metadata_store.writing.flushes import Flushes


class _Batch(NamedTuple):
    """Rows that are held, how many, and since when the oldest of them are."""

    frames: tuple[pl.DataFrame, ...] = ()
    rows: int = 0
    since: float = 0.0


class PendingRows:
    """Rows that leave when they are committed, and come back if that fails. Safe to share between threads.

    Args:
        feature: Whose rows they are.
        flushes: What commits them.
    """

    def __init__(self, feature: Declared, flushes: Flushes) -> None:
        self._feature = feature
        self._flushes = flushes
        self._seen = SeenSchemas()
        self._held = _Batch()
        self._failure: BaseException | None = None
        self._is_closed = False
        self._is_over = False
        self._commits = 0
        self._lock = threading.Lock()
        self._flushing = threading.Lock()

    @property
    def rows(self) -> int:
        """How many rows are held."""
        return self._held.rows

    def hold(self, rows: pl.DataFrame) -> int:
        """Take rows and return how many are held, or raise what a flush in the background has failed with.

        Raises:
            MetadataSchemaError: The types do not fit those of rows taken before.
        """
        key, partition = self._feature.key, self._feature.definition.partition
        with self._lock:
            self._refuse_closed()
            self._raise_failure()
            self._seen.check(self._feature.spec, partition, Chunks.of(rows))
            if rows.height:
                if self._seen.of(key, partition).added(rows.schema).is_mixed:
                    unify(_described((*self._held.frames, rows)))
                self._seen.add(key, partition, rows.schema)
                since = self._held.since if self._held.rows else elapsed()
                self._held = _Batch((*self._held.frames, rows), self._held.rows + rows.height, since)
            return self._held.rows

    def flush(self, *, at_least: int = 1) -> None:
        """Commit what is held, if it is so many rows: another thread may have been faster.

        Raises:
            ForkedProcessError: This is a child of the process whose rows they are, and would wait for ever.
        """
        refuse_lost_threads()
        with self._flushing:
            batch = _Batch()
            try:
                with self._lock:
                    if self._held.rows < at_least:
                        return
                    batch, self._held = self._held, batch
                self._flushes.commit(_as_one(batch.frames))
            except BaseException as error:  # Ctrl-C, at whichever moment
                if self._flushes.is_repeatable(error):
                    self._take_back(batch)
                raise
            with self._lock:
                self._commits += 1
                if self._failure is not None and self._flushes.is_repeatable(self._failure):
                    self._failure = None  # what had failed is committed now

    def flush_old(self, *, seconds: float) -> float:
        """Commit what is held if the oldest of it is so old; return the seconds until it is time to ask again."""
        held = self._held
        remaining = held.since + seconds - elapsed() if held.rows else seconds
        if remaining > 0:
            return remaining
        self.flush_quietly()
        return seconds

    def flush_quietly(self) -> BaseException | None:
        """Commit what is held; return an error, which `hold` or `close` will raise unless a later flush mends it."""
        try:
            self.flush()
        except BaseException as error:  # noqa: BLE001  # raised in a thread that can do something about it
            with self._lock:
                self._failure = error
            return error
        return None

    def take_commits(self) -> int:
        """Return how many commits there were since this was asked last."""
        with self._lock:
            commits, self._commits = self._commits, 0
            return commits

    @property
    def is_over(self) -> bool:
        """Whether `close` has come to its end, good or bad; Ctrl-C may cut it short."""
        return self._is_over

    def close(self) -> None:
        """Take nothing more, commit what is held, and raise what has not been raised yet, as `flush` does."""
        refuse_lost_threads()
        with self._lock:
            self._is_closed = True
        try:
            self.flush()
        except Exception:
            self._is_over = True
            raise
        self._is_over = True
        with self._lock:
            self._raise_failure()

    def _take_back(self, batch: _Batch) -> None:
        with self._lock:
            if batch.rows:
                self._held = _Batch((*batch.frames, *self._held.frames), batch.rows + self._held.rows, batch.since)

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise ValueError(
                f"The buffer of feature '{self._feature.key}' is closed, because its `with` block has ended; open "
                "another one."
            )

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure


def _as_one(frames: tuple[pl.DataFrame, ...]) -> pl.DataFrame:
    """Return the rows of several frames, in order, in the types that hold them all."""
    target = unify(_described(frames))
    return pl.concat(conform(frame.lazy(), source=frame.schema, target=target) for frame in frames).collect()


def _described(frames: tuple[pl.DataFrame, ...]) -> list[FileSchema]:
    return [(f"piece {number}", frame.schema, exact_in(frame)) for number, frame in enumerate(frames, start=1)]
