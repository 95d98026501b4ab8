"""Bring a feature up to date: compute what it lacks, batch by batch, and commit what is computed.

Theory of operation. An increment is resolved once, and kept in files. Its pending samples are handed to the function in
batches, in this process or in those of an executor, of which a bounded number is under way. What comes back is checked
where it was computed and given to a buffer, which commits in time and at the end, however that comes. Nothing else is
remembered: what was not committed is resolved again by the next run. A row keeps the version with which its sample was
handed out, whatever became of the upstream rows since, so it says what it was made from.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Final, Literal, NamedTuple, cast, get_args

import polars as pl

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.ids import elapsed
from metaxy_fs.log import Chunks, check_tags
from metaxy_fs.markup import count, counted, fragment, table
from metaxy_fs.metadata_store.backend import Backend
from metaxy_fs.metadata_store.batches import BatchTask, Compute, Computed, shown_error
from metaxy_fs.metadata_store.buffer import WriteBuffer, buffered
from metaxy_fs.metadata_store.features import Declared, about_feature, flag
from metaxy_fs.metadata_store.frames import FrameLike, show_samples, to_frame
from metaxy_fs.metadata_store.read import has_commit
from metaxy_fs.metadata_store.resolve import SpooledIncrement, spooled_increment
from metaxy_fs.metadata_store.retired import UNTIL_BACK
from metaxy_fs.metadata_store.write import append, refuse_partial, retire
from metaxy_fs.progress import samples_done
from metaxy_fs.spec import FeatureSpec
from metaxy_fs.storage.logged import LOGGER
from metaxy_fs.versioning.columns import DATA_VERSION, PROVENANCE, refuse_id_columns

_UNDER_WAY: Final = 64
"""Batches that are with an executor at once: more than most have workers, and few enough to hold."""

_ROWS, _SECONDS = 100_000, 60.0
"""How many rows are held at most, and how long, before they are committed."""

_ROW_LIMIT: Final = 2**32
"""The most rows that Polars has in a frame."""

_HELD: Final = 2**27
"""Bytes of pending samples that are kept in memory: a million small ones."""

ERROR: Final = "error"
"""The column that says why a sample has failed."""

OnError = Literal["raise", "skip"]
"""What is done about a sample that cannot be computed."""


class MaterializationCounts(NamedTuple):
    """How many samples a job found, and what became of them.

    Attributes:
        new: Samples that were not stored.
        stale: Samples that were stored under another version.
        waiting: Samples that lack an upstream row; the job left them alone.
        orphaned: Stored samples that there are no longer.
        retired: Samples that the job retired, because they were orphaned.
        failed: New and stale samples that could not be computed.
        written: Rows that were written: one for each new or stale sample that did not fail or, where one upstream row
            makes many samples, one for each of those.
    """

    new: int = 0
    stale: int = 0
    waiting: int = 0
    orphaned: int = 0
    retired: int = 0
    failed: int = 0
    written: int = 0


@dataclass(frozen=True)
class Materialization:
    """What a job did; made by `MetadataStore.materialize`.

    Attributes:
        counts: How many samples it found, and what became of them.
        failed: The ids of the samples that could not be computed, sorted, and `error`, the type and the message of what
            was raised.
        seconds: How long it took.
    """

    counts: MaterializationCounts
    failed: pl.DataFrame
    seconds: float = field(compare=False)

    def __repr__(self) -> str:
        counts = self.counts._asdict().items()
        return f"Materialization({', '.join(f'{kind}={count}' for kind, count in counts)})"

    def _repr_html_(self) -> str:
        title = f"{self.counts.written:,} row{'' if self.counts.written == 1 else 's'} written in {self.seconds:,.1f} s"
        return fragment(title, table(pl.DataFrame([self.counts._asdict()])), counted("failed", self.failed))


@dataclass(frozen=True, kw_only=True)
class How:
    """The options of a job; see `MetadataStore.materialize`."""

    batch_rows: int
    executor: Executor | None
    on_error: OnError
    retire_orphaned: bool
    tags: Mapping[str, str] | None
    progress: bool

    def check(self) -> None:
        """Refuse what has no meaning, before anything is read.

        Raises:
            TypeError: An option is of a type that it cannot have.
            ValueError: A number or a word has no meaning.
        """
        if not isinstance(self.batch_rows, int) or self.batch_rows < 1:
            raise ValueError(f"batch_rows is how many samples a batch has, at least 1; got {self.batch_rows!r}.")
        if self.on_error not in get_args(OnError):
            raise ValueError(f'on_error is "raise" or "skip", got {self.on_error!r}.')
        if self.executor is not None and not callable(getattr(self.executor, "submit", None)):
            raise TypeError(
                f"executor takes a concurrent.futures.Executor, such as ThreadPoolExecutor(4), or None to compute in "
                f"this process; got {self.executor!r}."
            )
        flag(self.retire_orphaned, name="retire_orphaned")
        flag(self.progress, name="progress")


@about_feature
def materialize(
    store: Backend,
    feature: Declared,
    compute: Compute,
    *,
    samples: FrameLike | None,
    where: pl.Expr | None,
    stale_if: pl.Expr | None,
    how: How,
) -> Materialization:
    """Compute what a feature lacks and commit it, as `MetadataStore.materialize` says."""
    started = elapsed()
    how.check()
    if not callable(compute):
        raise TypeError(f"compute takes a function of a DataFrame that returns one, got {compute!r}.")
    _refuse_error_column(feature, how)
    check_tags(store.tags, how.tags)
    resolve = partial(
        spooled_increment,
        store,
        feature,
        samples,
        where=where,
        stale_if=stale_if,
        held_bytes=_HELD,
        progress=how.progress,
    )
    increment = resolve()
    new, stale, orphaned, waiting, _ = increment.counts
    _log(store, feature, f"{new} new and {stale} stale samples to compute, {waiting} waiting, {orphaned} orphaned")
    retired = _retire_orphaned(store, feature, increment, how)
    refuse_partial(store, feature, partial(_concerned, increment, feature))
    written, failed = _compute_all(store, feature, compute, increment, how)
    if not written and not has_commit(store, feature, fallback=True):
        _commit_no_rows(store, feature, increment.new.schema, how)
    if _makes_many(increment, feature) and increment.counts.stale and how.retire_orphaned:
        # What was not made again of a parent is known only now.
        retired += _retire_orphaned(store, feature, resolve(), how)
    counts = MaterializationCounts(new, stale, waiting, orphaned, retired, failed=failed.height, written=written)
    done = Materialization(counts, failed=failed, seconds=elapsed() - started)
    _log(
        store,
        feature,
        f"{count(written, 'row')} written, {count(failed.height, 'sample')} failed, {retired} retired, "
        f"{done.seconds:.1f} s",
    )
    return done


def _log(store: Backend, feature: Declared, what: str) -> None:
    LOGGER.info("%s: computing feature %s: %s", store.location, feature.key, what)


def _refuse_error_column(feature: Declared, how: How) -> None:
    """Refuse to list samples that failed where their ids have the name of another column of the list."""
    if how.on_error == "skip":
        what = 'what on_error="skip" returns'
        refuse_id_columns([ERROR], ids=feature.spec.id_columns, key=feature.key, what=what)


def _makes_many(increment: SpooledIncrement, feature: Declared) -> bool:
    """Whether the pending samples are parents, of which the function makes any number of samples."""
    return not set(feature.spec.id_columns) <= set(increment.new.schema)


def _retire_orphaned(store: Backend, feature: Declared, increment: SpooledIncrement, how: How) -> int:
    """Retire the orphaned samples if that was asked for, before any hour-long computation: they may come back."""
    if not how.retire_orphaned or not increment.counts.orphaned:
        return 0
    orphaned = pl.concat(frame.select(feature.spec.id_columns) for frame in increment.orphaned)
    retire(store, feature, orphaned, reason="orphaned", tags={**UNTIL_BACK, **(how.tags or {})})
    return orphaned.height


def _concerned(increment: SpooledIncrement, feature: Declared) -> pl.DataFrame:
    """Return the ids of the samples, or parents, that are to be computed or should not be; none if none is computed."""
    names = [name for name in feature.spec.id_columns if name in increment.new.schema]
    pending = [frame.select(names) for frame in increment.pending()]
    orphaned = [frame.select(names) for frame in increment.orphaned] if pending else []
    return pl.concat([*pending, *orphaned], how="vertical_relaxed") if pending else pl.DataFrame()


def _commit_no_rows(store: Backend, feature: Declared, schema: pl.Schema, how: How) -> None:
    """Commit that the feature has no samples so far, so that what is made from it has none, and not a missing upstream.

    The types of ids that only the function would give are left open.
    """
    names = [*feature.spec.id_columns, DATA_VERSION, *([PROVENANCE] if PROVENANCE in schema else [])]
    rows = pl.DataFrame(schema={name: schema.get(name, pl.Null()) for name in names})
    append(store, feature, Chunks.of(rows), tags=how.tags)


def _compute_all(
    store: Backend, feature: Declared, compute: Compute, increment: SpooledIncrement, how: How
) -> tuple[int, pl.DataFrame]:
    """Compute and commit the pending samples; return how many rows were written, and what failed."""
    counts = increment.counts
    tasks = (
        BatchTask(compute, feature.spec, samples, skips=how.on_error == "skip")
        for samples in _batches(increment.pending(), rows=how.batch_rows)
    )
    with (
        samples_done(str(feature.key), total=counts.new + counts.stale, is_shown=how.progress) as advance,
        buffered(store, feature, rows=_ROWS, seconds=_SECONDS, write_id=None, tags=how.tags, check=_checked) as buffer,
    ):
        results = _Results(buffer, advance)
        if how.executor is None:
            _run_here(tasks, results.take)
        else:
            _run_in(how.executor, tasks, results.take)
    return results.written, results.failed(increment.new.schema, feature)


def _batches(frames: Iterable[pl.DataFrame], *, rows: int) -> Iterator[pl.DataFrame]:
    """Yield the rows of frames in batches; all are full but the last."""
    rows = min(rows, _ROW_LIMIT)
    rest: list[pl.DataFrame] = []
    for frame in frames:
        # What claims to be sorted says so in all that a function makes of it, and would be looked at each time.
        together = pl.concat([*rest, to_frame(frame)])
        full = together.height - together.height % rows
        yield from together[:full].iter_slices(rows)
        rest = [together[full:]]
    yield from (each for each in rest if each.height)


def _checked(rows: FrameLike, _spec: FeatureSpec) -> pl.DataFrame:
    """Return rows that were checked where they were computed."""
    return cast("pl.DataFrame", rows)


class _Results:
    """What came of the batches so far.

    Attributes:
        written: How many rows were given to the buffer.
    """

    def __init__(self, buffer: WriteBuffer, advance: Callable[[int], object]) -> None:
        self.written = 0
        self._buffer = buffer
        self._advance = advance
        self._failed: list[pl.DataFrame] = []

    def take(self, task: BatchTask, computed: Computed) -> Iterable[BatchTask]:
        """Give rows to the buffer; return the tasks of single samples that are to be done instead, if that fails."""
        error = computed.error
        if computed.rows is not None:
            error = self._write(computed.rows, skips=task.skips)
        if error and task.samples.height > 1:
            return task.apart()
        if error:
            self._failed.append(task.ids.with_columns(pl.lit(error).alias(ERROR)))
        self._advance(task.samples.height)
        return ()

    def _write(self, rows: pl.DataFrame, *, skips: bool) -> str:
        """Give rows to the buffer, and return why they do not fit what is stored, if that is skipped."""
        try:
            self._buffer.write(rows)
        except MetadataSchemaError as error:
            if not skips:
                raise
            return shown_error(error)
        self.written += rows.height
        return ""

    def failed(self, schema: pl.Schema, feature: Declared) -> pl.DataFrame:
        """Return the samples that failed, sorted, given the columns of those that are pending."""
        ids = {name: schema[name] for name in feature.spec.id_columns if name in schema}
        empty = pl.DataFrame(schema={**ids, ERROR: pl.String()})
        return pl.concat([empty, *self._failed]).sort(list(ids))


_Take = Callable[[BatchTask, Computed], Iterable[BatchTask]]


def _run_here(tasks: Iterator[BatchTask], take: _Take) -> None:
    """Compute batches one after the other."""
    again: deque[BatchTask] = deque()
    while task := again.popleft() if again else next(tasks, None):
        with _noting(task):
            again.extend(take(task, task()))


def _run_in(executor: Executor, tasks: Iterator[BatchTask], take: _Take) -> None:
    """Compute batches side by side; when one fails, take those that are done and forget the others."""
    again: deque[BatchTask] = deque()
    running: dict[Future[Computed], BatchTask] = {}
    # `concurrent.futures.wait` is never told of futures that were cancelled by the shutdown of their executor.
    ended: SimpleQueue[Future[Computed]] = SimpleQueue()
    try:
        while (task := again.popleft() if again else next(tasks, None)) or running:
            if task is not None:
                future = executor.submit(task)
                running[future] = task
                future.add_done_callback(ended.put)
            if task is None or len(running) >= _UNDER_WAY:
                future = ended.get()
                task = running.pop(future)
                with _noting(task):
                    again.extend(take(task, future.result()))
    except BaseException as error:  # Ctrl-C too
        _take_last(running, take, error)
        raise


def _take_last(running: Mapping[Future[Computed], BatchTask], take: _Take, error: BaseException) -> None:
    """Begin no batch any more, and take those that are done."""
    for future in running:
        future.cancel()
    done = [future for future in running if future.done() and not future.cancelled() and future.exception() is None]
    for future in done:
        try:
            take(running[future], future.result())
        except Exception as further:  # noqa: BLE001  # the first error is the one to raise
            error.add_note(f"A batch that was done could not be kept: {further!r}")
            if not isinstance(further, MetadataSchemaError):  # the store would fail for all others, too
                return


@contextmanager
def _noting(task: BatchTask) -> Iterator[None]:
    """Have an error say of which samples it is."""
    try:
        yield
    except Exception as error:
        ids = task.ids
        error.add_note(
            f"Raised for a batch of {count(ids.height, 'sample')} of feature '{task.spec.key}': {show_samples(ids)}. "
            "What was computed before is committed; run the job again for the rest."
        )
        raise
