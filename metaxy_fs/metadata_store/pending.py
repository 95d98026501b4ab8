"""Buffered rows of a job, which a retry commits once.

Theory of operation. A retried job does not cut its rows where the first attempt did: threads deliver them in another
order, a time limit fires elsewhere, and the piece that an exception or a signal cut short is longer the second time. So
no name that is derived from a piece alone will do. The pieces of a job are numbered instead, and each is a write whose
`write_id` is the job's with the number. A write id names one commit for good, so the pieces of a job are a log of its
own, in which every number is taken once, whichever attempt takes it.

An attempt takes number n only when it knows what numbers 0 to n-1 hold, because it has committed them or has read them,
and it leaves out the samples that they hold. It starts at 0, as if it were the first; when a number turns out to be
taken it reads all that are, leaves those samples out, and goes on behind them. So no two pieces of a job share a
sample, wherever they were cut, and also when two attempts run at once. The first attempt asks nothing beyond its puts.

What is left out has to be what was committed: another row of such a sample is an error, as it is for a single write.
"""

import threading
from collections.abc import Sequence
from functools import reduce
from operator import and_
from typing import NamedTuple

import polars as pl

from metaxy_fs.errors import CommitStateUnknownError, WriteConflictError
from metaxy_fs.forks import refuse_lost_threads
from metaxy_fs.ids import elapsed
from metaxy_fs.log import Chunks, FileSchema, column, conform, exact_in, unify, unproven
from metaxy_fs.metadata_store.backend import Backend, SeenSchemas
from metaxy_fs.metadata_store.features import Declared
from metaxy_fs.metadata_store.frames import show_samples
from metaxy_fs.metadata_store.operations import Query
from metaxy_fs.metadata_store.write import GivenTags, commit
from metaxy_fs.reserved import KNOWN
from metaxy_fs.versioning.columns import RESERVED_COMMIT, RESERVED_TIME
from metaxy_fs.versioning.layers import latest_rows

_MARK = "/flush-"


class Flushes:
    """What commits the pieces of one job, one after the other; of each piece the last row of a sample counts.

    Args:
        store: Where they are committed.
        feature: Whose rows they hold.
        tags: What the commits say of themselves.
    """

    def __init__(self, store: Backend, feature: Declared, tags: GivenTags = None) -> None:
        self._store = store
        self._feature = feature
        self._tags = tags
        self._ids = feature.spec.id_columns

    def commit(self, rows: pl.DataFrame) -> None:
        """Commit the rows of one piece, in the order in which they were given; a sample may come more than once.

        If this fails, and `is_repeatable` says so of the error, the rows may be given again, with more or without.
        """
        latest = latest_rows([(rows.lazy(), False)], id_columns=self._ids).sort(self._ids).collect()
        commit(self._store, self._feature, Chunks.of(latest), tags=self._tags)

    def is_repeatable(self, error: BaseException) -> bool:
        """Whether rows whose commit has failed may be given again without a risk that they are committed twice."""
        return not isinstance(error, CommitStateUnknownError)


class NamedFlushes(Flushes):
    """The pieces of a job that may be tried again under its `write_id`: each sample is committed once.

    Args:
        write_id: The name of the job.
    """

    def __init__(self, store: Backend, feature: Declared, write_id: str, tags: GivenTags = None) -> None:
        super().__init__(store, feature, tags)
        self._write_id = write_id
        self._next = 0
        self._known = pl.DataFrame(schema=dict.fromkeys(self._ids, pl.Null()))

    def commit(self, rows: pl.DataFrame) -> None:
        """Commit the rows of all samples that no attempt has committed.

        Raises:
            WriteConflictError: Another row was given before, or was committed by another attempt, for some sample.
        """
        rows = self._without_known(self._without_repeated(rows))
        while rows.height:
            try:
                name = f"{self._write_id}{_MARK}{self._next}"
                commit(self._store, self._feature, Chunks.of(rows), write_id=name, tags=self._tags)
            except WriteConflictError as conflict:
                self._catch_up(conflict)
                rows = self._without_known(rows)
            else:
                known = pl.concat(_of_one_schema(self._known, rows.select(self._ids)))
                # Both or neither, if Ctrl-C comes now: else the rows would be committed again under the next number.
                self._next, self._known = self._next + 1, known
                return

    def is_repeatable(self, error: BaseException) -> bool:  # noqa: ARG002  # whatever the error, the name tells
        """Return True: rows that were committed after all are found under the name."""
        return True

    def _without_repeated(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the rows by id, one a sample; those that come again have to be the same."""
        first = rows.unique(self._ids, keep="first", maintain_order=True)
        if first.height < rows.height:
            self._refuse_others(rows, first)
        return first.sort(self._ids)

    def _without_known(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the rows of samples that no attempt has committed; those of the others have to be as they are."""
        given, known = _of_one_schema(rows.select(self._ids), self._known)
        known = known.with_columns(pl.lit(value=True).alias(KNOWN))
        is_known = given.join(known, on=self._ids, how="left", maintain_order="left")
        mask = is_known.get_column(KNOWN).is_not_null()
        if mask.any():
            again = rows.filter(mask)
            self._refuse_others(again, self._committed(again.select(self._ids)))
        return rows.filter(~mask)

    def _catch_up(self, conflict: WriteConflictError) -> None:
        """Learn what all attempts have committed; the conflict stands if that does not explain it."""
        commits = self._commits()
        if len(commits) <= self._next:
            raise conflict
        self._known = self._scan(commits, columns=frozenset(self._ids)).select(self._ids).collect()
        self._next = len(commits)

    def _committed(self, ids: pl.DataFrame) -> pl.DataFrame:
        """Return the rows of some samples that were committed."""
        prune = reduce(and_, (pl.col(name).is_in(ids.get_column(name).to_list()) for name in self._ids))
        rows = self._scan(self._commits(), prune=prune)
        schema = rows.collect_schema()
        id_types = {name: schema[name] for name in self._ids}
        types = unify([("", ids.schema, unproven), ("", pl.Schema(id_types), unproven)])
        wanted = conform(ids.lazy(), source=ids.schema, target=types)
        return (
            conform(rows, source=schema, target=pl.Schema({**schema, **types}))
            .join(wanted, on=self._ids, how="semi")
            .collect()
        )

    def _commits(self) -> Sequence[str]:
        """Return the ids of the pieces that all attempts have committed."""
        commits = self._store.stored_commits(self._feature.key)
        prefix = f"{self._write_id}{_MARK}"
        number = pl.col("write_id").str.strip_prefix(prefix)
        is_piece = pl.col("write_id").str.starts_with(prefix) & number.str.contains("^[0-9]+$")
        ours = commits.filter(pl.col("partition") == self._feature.definition.partition, is_piece)
        return ours.get_column("commit").to_list()

    def _scan(
        self, commits: Sequence[str], *, columns: frozenset[str] | None = None, prune: pl.Expr | None = None
    ) -> pl.LazyFrame:
        """Return the rows of some commits."""
        partition = self._feature.definition.partition
        query = Query(key=self._feature.key, partition=partition, columns=columns, prune=prune, with_commits=True)
        scan = self._store.scan_rows(query)
        if scan is None:
            raise WriteConflictError(
                f"{self._store.location} lists commits of feature '{self._feature.key}' under the write_id "
                f"{self._write_id!r}, and yet holds none. Look who else changes it, and write again.",
                feature=self._feature.key.dotted,
                root=self._store.location,
                write_id=self._write_id,
            )
        return scan.rows.filter(pl.col(RESERVED_COMMIT).is_in(commits)).drop(RESERVED_COMMIT, RESERVED_TIME)

    def _refuse_others(self, rows: pl.DataFrame, committed: pl.DataFrame) -> None:
        """Refuse rows that are not those held of their samples; what one of the frames lacks counts as null."""
        given, known = _of_one_schema(rows, committed)
        expected = given.select(self._ids).join(known, on=self._ids, how="left", maintain_order="left")
        expected = expected.select(map(column, given.columns))
        if not given.equals(expected):
            other = [index for index in range(given.height) if not given[index].equals(expected[index])]
            raise WriteConflictError(
                f"{len(other)} samples of feature '{self._feature.key}' come again under the write_id "
                f"{self._write_id!r} with other rows: {show_samples(rows[other].select(self._ids))}. A job with a "
                "write_id gives each sample one row, the same in every attempt: look for a column that differs from "
                "run to run, or use another write_id.",
                feature=self._feature.key.dotted,
                root=self._store.location,
                write_id=self._write_id,
            )


def _of_one_schema(*frames: pl.DataFrame) -> list[pl.DataFrame]:
    """Return frames with the columns of all, and the types that hold the values of all."""
    target = unify([("rows of this job", frame.schema, exact_in(frame)) for frame in frames])
    return [conform(frame.lazy(), source=frame.schema, target=target).collect() for frame in frames]


class _PendingBatch(NamedTuple):
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
        self._batch = _PendingBatch()
        self._failure: BaseException | None = None
        self._is_closed = False
        self._is_over = False
        self._commits = 0
        self._lock = threading.Lock()
        self._flushing = threading.Lock()

    @property
    def rows(self) -> int:
        """How many rows are held."""
        return self._batch.rows

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
                    unify(_described((*self._batch.frames, rows)))
                self._seen.add(key, partition, rows.schema)
                since = self._batch.since if self._batch.rows else elapsed()
                self._batch = _PendingBatch((*self._batch.frames, rows), self._batch.rows + rows.height, since)
            return self._batch.rows

    def flush(self, *, at_least: int = 1) -> None:
        """Commit what is held, if it is so many rows: another thread may have been faster.

        Raises:
            ForkedProcessError: This is a child of the process whose rows they are, and would wait forever.
        """
        refuse_lost_threads()
        with self._flushing:
            batch = _PendingBatch()
            try:
                with self._lock:
                    if self._batch.rows < at_least:
                        return
                    batch, self._batch = self._batch, batch
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
        batch = self._batch
        remaining = batch.since + seconds - elapsed() if batch.rows else seconds
        if remaining > 0:
            return remaining
        self.flush_quietly()
        return seconds

    def flush_quietly(self) -> BaseException | None:
        """Commit what is held; return an error, which `hold` or `close` will raise unless a later flush succeeds."""
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

    def _take_back(self, batch: _PendingBatch) -> None:
        with self._lock:
            if batch.rows:
                self._batch = _PendingBatch(
                    (*batch.frames, *self._batch.frames), batch.rows + self._batch.rows, batch.since
                )

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
