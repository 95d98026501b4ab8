"""Read features as Ray datasets, and resolve and compute them over Ray tasks.

Theory of operation. Ray runs the tasks of `MetadataStore.plan_read` and `MetadataStore.plan_update`, which travel by
themselves, and the batches of `MetadataStore.materialize`, which the driver alone commits. So a worker that dies costs
time: Ray runs its task again, on another worker, and what a task returns is taken once.
"""

import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from threading import Lock
from typing import Any, NamedTuple, ParamSpec, Self, TypeVar, cast

import polars as pl

try:
    import pyarrow as pa
    import ray
    from ray.data import DataContext, Dataset, Datasink, Datasource
    from ray.data import ReadTask as RayReadTask
    from ray.data.block import Block, BlockAccessor, BlockMetadata
    from ray.data.datasource import WriteResult
    from ray.exceptions import RayTaskError
except ImportError as error:
    raise ImportError("metaxy_fs.ext.ray needs Ray: pip install 'metaxy_fs[ray]'") from error

from metaxy_fs.hashing import HashAlgorithm
from metaxy_fs.metadata_store import (
    FilesystemMetadataStore,
    Increment,
    Materialization,
    MetadataStore,
    ReadTask,
    Receipt,
    UpdateTask,
)
from metaxy_fs.metadata_store.features import Declared, FeatureLike, require_declaration
from metaxy_fs.metadata_store.frames import FrameLike
from metaxy_fs.metadata_store.root_references import address_and_options
from metaxy_fs.spec import FeatureKey

__all__ = ["RayExecutor", "materialize", "read", "resolve", "write"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_OptionalMapping = Mapping[str, Any] | None


def read(
    store: MetadataStore,
    feature: FeatureLike,
    *,
    storage_options: _OptionalMapping = None,
    ray_remote_args: _OptionalMapping = None,
    **options: Any,
) -> Dataset:
    """Return the rows of a feature as a Ray dataset, of which each task of `MetadataStore.plan_read` reads a part.

    Which commits it holds is decided by this call. Their rows are read when Ray needs them, again if it has to.

    Args:
        store: Where they are.
        feature: A Feature class, or a key that the active graph holds.
        storage_options: What workers open remote roots with besides; Ray carries these to them. By default they take
            their credentials from their environment.
        ray_remote_args: Options of the Ray tasks, such as `{"num_cpus": 2}`.
        options: The others of `MetadataStore.plan_read`: `filters`, `columns`, `latest_only` and so on.

    Raises:
        FeatureNotFoundError: As `MetadataStore.plan_read` raises it, and so are all other errors.
    """
    tasks = store.plan_read(feature, **options)
    dataset: Dataset = ray.data.read_datasource(
        _FeatureSource(tasks, storage_options),
        ray_remote_args=None if ray_remote_args is None else dict(ray_remote_args),
    )
    return dataset


def write(
    dataset: Dataset,
    store: FilesystemMetadataStore,
    feature: FeatureLike,
    *,
    write_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    storage_options: _OptionalMapping = None,
    ray_remote_args: _OptionalMapping = None,
) -> None:
    """Append the rows of a Ray dataset to a feature, all of them or none, at one moment.

    Workers prepare the rows and this process commits them, as `MetadataStore.commit_prepared` does. A worker that dies
    is replaced, and no row is written twice.

    Args:
        dataset: Rows as `MetadataStore.write_metadata` takes them; each sample in one row.
        store: A store that a path or URL opens; its fallback stores make no difference.
        feature: A Feature class, or a key that the active graph holds.
        write_id: As for `MetadataStore.commit_prepared`, and so are `tags`.
        tags: See there.
        storage_options: As for `read`.
        ray_remote_args: As for `read`.

    Raises:
        MetadataSchemaError: The rows do not fit the feature.
        StorageError: Nothing was committed.
        CommitStateUnknownError: The rows may or may not have been committed.
    """
    sink = _FeatureSink(
        store,
        require_declaration(feature),
        storage_options,
        partial(store.commit_prepared, write_id=write_id, tags=tags),
    )
    dataset.write_datasink(sink, ray_remote_args=None if ray_remote_args is None else dict(ray_remote_args))


def resolve(
    store: MetadataStore,
    feature: FeatureLike,
    *,
    storage_options: _OptionalMapping = None,
    ray_remote_args: _OptionalMapping = None,
    **options: Any,
) -> Increment:
    """Return what `MetadataStore.resolve_update` does, resolved by Ray tasks.

    Args:
        store: Where the feature is, and what it is made from.
        feature: A Feature class, or a key that the active graph holds.
        storage_options: As for `read`.
        ray_remote_args: As for `read`.
        options: Those of `MetadataStore.plan_update`: `where`, `stale_if`, `rows`.

    Raises:
        DependencyError: As `MetadataStore.plan_update` raises it, and so are all other errors.
    """
    tasks = store.plan_update(feature, **options)
    with RayExecutor(**(ray_remote_args or {})) as executor:
        return Increment.concat(sent.received() for sent in executor.map(partial(_run, storage_options), tasks))


def materialize(
    store: MetadataStore,
    feature: FeatureLike,
    compute: Callable[[pl.DataFrame], FrameLike],
    *,
    ray_remote_args: _OptionalMapping = None,
    **options: Any,
) -> Materialization:
    """Do what `MetadataStore.materialize` does, with the batches computed by Ray tasks; this process alone writes.

    A batch whose worker dies is computed again, three times unless `ray_remote_args` has other `max_retries`, and
    committed once.

    Args:
        store: Where the feature is written.
        feature: A Feature class, or a key that the active graph holds.
        compute: What makes rows of a batch of samples; Ray pickles it.
        ray_remote_args: Options of the Ray tasks, such as `{"num_gpus": 1}`.
        options: The others of `MetadataStore.materialize`, but for `executor`.

    Raises:
        StorageError: As `MetadataStore.materialize` raises it, and so are all other errors.
    """
    with RayExecutor(**(ray_remote_args or {})) as executor:
        return store.materialize(feature, compute, executor=executor, **options)


class RayExecutor(Executor):
    """An executor whose calls are Ray tasks, for `MetadataStore.materialize(executor=)` and whatever else takes one.

    Args:
        remote_options: Options of the tasks, as `ray.remote` takes them; `max_retries` is 3 by default, and tells how
            often a call is made again whose worker died. What a call raises is not tried again.
    """

    def __init__(self, **remote_options: Any) -> None:
        self._call: Any = ray.remote(**{"max_retries": 3, **remote_options})(_call)
        self._running: dict[Future[Any], ray.ObjectRef[Any]] = {}
        self._lock = Lock()

    def submit(self, fn: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_R]:
        """Have Ray make a call; the future has what it returns, or raises what it raises, and cancels it."""
        reference = self._call.remote(fn, args, kwargs)
        future: Future[_R] = Future()
        with self._lock:
            self._running[future] = reference
        future.add_done_callback(partial(_cancelled, reference))
        reference.future().add_done_callback(partial(self._done, future))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002  # of Executor
        """Wait for the calls that are under way, or cancel them."""
        with self._lock:
            running = list(self._running)
        for future in running:
            if cancel_futures:
                future.cancel()
            if wait and not future.cancelled():
                future.exception()

    def _done(self, future: Future[Any], done: Future[Any]) -> None:
        with self._lock:
            del self._running[future]
        if not future.set_running_or_notify_cancel():
            return
        error = done.exception()
        if error is None:
            future.set_result(done.result())
        else:
            future.set_exception(error.cause if isinstance(error, RayTaskError) and error.cause else error)


def _cancelled(reference: "ray.ObjectRef[Any]", future: Future[Any]) -> None:
    if future.cancelled():
        ray.cancel(reference)


class _FeatureSource(Datasource):
    """The rows of the tasks of a plan."""

    def __init__(self, tasks: list[ReadTask], storage_options: _OptionalMapping) -> None:
        super().__init__()  # type: ignore[no-untyped-call,unused-ignore]  # where Ray is installed
        self._tasks = tasks
        self._storage_options = storage_options

    def get_name(self) -> str:
        """Return what Ray calls the step."""
        return self._tasks[0].feature

    def estimate_inmemory_data_size(self) -> int:
        """Return about how many bytes the rows take; columns in files take less."""
        return sum(map(_size, self._tasks))

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002  # a plan has its own
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,  # noqa: ARG002
    ) -> list[RayReadTask]:
        """Return one task of Ray for each of the plan."""
        return [
            RayReadTask(
                partial(_read, self._storage_options, task),
                BlockMetadata(num_rows=None, size_bytes=_size(task), input_files=None, exec_stats=None),
                per_task_row_limit=per_task_row_limit,
            )
            for task in self._tasks
        ]


class _FeatureSink(Datasink[Receipt | None]):
    """Prepares rows in workers, and commits them in the driver."""

    def __init__(
        self,
        store: FilesystemMetadataStore,
        feature: Declared,
        storage_options: _OptionalMapping,
        commit: Callable[[FeatureKey, Sequence[Receipt]], None],
    ) -> None:
        self._opened_by = address_and_options(store.storage.reference, storage_options or {})
        self._algorithm = cast("HashAlgorithm | None", store.log.expected_algorithm)
        self._key, self._graph = feature.key, feature.graph.only_upstream(feature.spec)
        self._commit: Callable[[FeatureKey, Sequence[Receipt]], None] | None = commit

    def __getstate__(self) -> dict[str, Any]:
        # Workers commit nothing, and the store of the driver has its credentials.
        return {**self.__dict__, "_commit": None}

    def write(self, blocks: Iterable[Block], ctx: Any) -> Receipt | None:
        """Prepare the rows of some blocks."""
        frames = [pl.DataFrame(BlockAccessor.for_block(block).to_arrow()) for block in blocks]
        rows = pl.concat([frame for frame in frames if frame.height] or frames[:1], how="vertical_relaxed")
        if not rows.height:
            return None
        address, options = self._opened_by
        store = FilesystemMetadataStore(address, storage_options=options, hash_algorithm=self._algorithm)
        with self._graph.use():
            return store.prepare_write(self._key, rows, task_id=str(ctx.task_idx))

    def on_write_complete(self, write_result: WriteResult[Receipt | None]) -> None:
        """Commit what was prepared."""
        if self._commit is not None:
            with self._graph.use():
                self._commit(self._key, [receipt for receipt in write_result.write_returns if receipt is not None])


_EXPANSION = 4
"""How many times as much memory rows take as their files, about."""


def _size(task: ReadTask) -> int:
    return task.bytes * _EXPANSION


def _read(storage_options: _OptionalMapping, task: ReadTask) -> list[pa.Table]:
    return [task.read(storage_options=storage_options).to_arrow()]


class _SentIncrement(NamedTuple):
    """An increment as Ray carries it: its columns stay where they are until Ray copies them to the other process.

    Polars would copy them three times on the way, which takes as long as to resolve them.
    """

    head: bytes
    columns: list[pickle.PickleBuffer]

    @classmethod
    def of(cls, increment: Increment) -> Self:
        """Return what Ray carries."""
        frames = (increment.new, increment.stale, increment.orphaned, increment.waiting)
        tables = [frame.to_arrow(compat_level=pl.CompatLevel.newest()) for frame in frames]
        columns: list[pickle.PickleBuffer] = []
        head = pickle.dumps((tables, increment.retired), protocol=5, buffer_callback=columns.append)
        return cls(head, columns)

    def received(self) -> Increment:
        """Return the increment, in memory of this process: Ray gives its own to others once this one has left."""
        copied = [bytes(column) for column in self.columns]
        tables, retired = pickle.loads(self.head, buffers=copied)  # noqa: S301  # a worker of this program made it
        new, stale, orphaned, waiting = map(pl.DataFrame, tables)
        return Increment(new, stale, orphaned, waiting, retired)


def _run(storage_options: _OptionalMapping, task: UpdateTask) -> _SentIncrement:
    return _SentIncrement.of(task.run(storage_options=storage_options))


def _call(function: Callable[..., _R], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _R:
    return function(*args, **kwargs)
