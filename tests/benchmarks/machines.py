"""Work that workers of one thread do by tasks, beside one process of one thread."""

import os

os.environ["POLARS_MAX_THREADS"] = "1"  # read when Polars is imported, here and in workers

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from typing import Any, Literal

import polars as pl

from metaxy_fs import FilesystemMetadataStore, Increment, ReadTask, Receipt, UpdateTask, compact
from tests.benchmarks.data import ID, Graph
from tests.benchmarks.ours import declare

WORKERS = 2

Engine = Literal["ray", "threads"]


def resolve_elsewhere(*, root: str, graph: Graph, engine: Engine) -> dict[str, Any]:
    """Find it by tasks, in workers that are there."""
    _, leaf = declare(graph)
    store = FilesystemMetadataStore(root)
    with _resolver(engine) as resolve:
        resolve(store, leaf, where=pl.col(ID) < 0)  # so that all that is needed is imported
        start = time.perf_counter()
        increment = resolve(store, leaf)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "new": increment.new.height, "stale": increment.stale.height}


def through_plans(*, root: str, graph: Graph, processes: int) -> dict[str, Any]:
    """Read, resolve and write by tasks in processes of one thread; what they return is small."""
    roots, leaf = declare(graph)
    store = FilesystemMetadataStore(root)
    with ProcessPoolExecutor(processes, get_context("spawn")) as executor:
        list(executor.map(_warm_process, range(4 * processes)))
        measured = {}
        for work, plan, run in (
            ("read", partial(store.plan_read, next(iter(roots.values())), latest_only=True), _read),
            ("update", partial(store.plan_update, leaf), _update),
            ("write", partial(store.plan_update, leaf), partial(_prepare, root, graph)),
        ):
            start = time.perf_counter()
            done = list(executor.map(run, plan()))
            if work == "write":
                store.commit_prepared(leaf, done)
            measured[f"{work}_seconds"] = time.perf_counter() - start
    start = time.perf_counter()
    compact(store, full=True)
    measured["compact_seconds"] = time.perf_counter() - start
    assert not store.resolve_update(leaf, lazy=True).counts.new
    return {"seconds": sum(measured.values()), **measured}


def _read(task: ReadTask) -> int:
    return task.read().height


def _update(task: UpdateTask) -> int:
    return task.run().new.height


def _prepare(root: str, graph: Graph, task: UpdateTask) -> Receipt:
    _, leaf = declare(graph)
    return FilesystemMetadataStore(root).prepare_write(leaf, task.run().pending)


def _warm_process(_number: int) -> None:
    time.sleep(0.1)


@contextmanager
def _resolver(engine: Engine) -> Iterator[Callable[..., Increment]]:
    """Give what resolves a feature with two workers."""
    if engine == "ray":
        import ray  # noqa: PLC0415  # takes seconds, and the extra

        from metaxy_fs.ext import ray as ext  # noqa: PLC0415

        ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        with ext.RayExecutor() as executor:
            list(executor.map(_warm, range(8 * WORKERS)))
        yield ext.resolve
        ray.shutdown()
    else:
        with ThreadPoolExecutor(WORKERS) as executor:
            yield lambda store, feature, **options: Increment.concat(
                executor.map(UpdateTask.run, store.plan_update(feature, **options))
            )


def _warm(_number: int) -> str:
    time.sleep(0.1)  # the next one goes to the other worker
    return str(import_module("metaxy_fs.ext.ray"))
