"""Increments that workers of one thread resolve, beside one process of one thread."""

import os

os.environ["POLARS_MAX_THREADS"] = "1"  # read when Polars is imported, here and in workers

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Literal

import polars as pl

from metaxy_fs import FilesystemMetadataStore, Increment, UpdateTask
from tests.benchmarks.data import ID, Graph
from tests.benchmarks.ours import declare

WORKERS = 2

Engine = Literal["ray", "threads"]


def resolve_here(*, root: str, graph: Graph) -> dict[str, Any]:
    """Find what has to be computed in this process."""
    _, leaf = declare(graph)
    start = time.perf_counter()
    increment = FilesystemMetadataStore(root).resolve_update(leaf)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "new": increment.new.height, "stale": increment.stale.height}


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
