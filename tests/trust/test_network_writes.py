"""Every write of eight jobs over a bad network is acknowledged once, and read once.

With `--soak` they are processes that make a thousand writes on each service, and the figures are printed.
"""

import multiprocessing
import queue
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import aiohttp
import polars as pl

from metaxy_fs import (
    CommitStateUnknownError,
    CorruptObjectError,
    Feature,
    FeatureGraph,
    FeatureKey,
    FeatureNotFoundError,
    FeatureSpec,
    FilesystemMetadataStore,
    StorageError,
)
from metaxy_fs.testing import Fault, random_faults
from tests.servers import ObjectServer
from tests.servers.proxy import Proxy

ROWS = 3
HANGS = {Fault.HANG_BEFORE, Fault.HANG_AFTER}
# Long enough for an answer of a server that shares two cores with nine processes, short enough to hang often.
PATIENCE = 3.0
DEADLINE = 1_800

with FeatureGraph().use():

    class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]))):
        """Declared where processes that are spawned find it."""


class Job(NamedTuple):
    """One process's share."""

    root: str
    through_proxy: dict[str, Any]
    past_proxy: dict[str, Any]
    number: int
    writes: int


def patience_options(scheme: str) -> dict[str, Any]:
    if scheme == "s3":
        return {"config_kwargs": {"read_timeout": PATIENCE}}
    return {"requests_timeout": aiohttp.ClientTimeout(sock_connect=5, sock_read=PATIENCE)}


def rows_of(job: int, number: int) -> pl.DataFrame:
    ids = [f"{job}-{number}-{row}" for row in range(ROWS)]
    return pl.DataFrame({"sample_id": ids, "data_version": [{"default": "v"}] * ROWS})


def is_committed(job: Job, error: CommitStateUnknownError) -> bool:
    """Find out as the message says, over a network that works."""
    try:
        history = FilesystemMetadataStore(job.root, storage_options=job.past_proxy).history(Video)
    except FeatureNotFoundError:
        return False
    return any(f"lists commit {commit}," in str(error) for commit in history["commit"])


def write_acknowledged(store: FilesystemMetadataStore, job: Job, number: int) -> list[str]:
    """Write until the write is known to stand; return what became of each attempt."""
    attempts = []
    write_id = f"{job.number}-{number}" if number % 2 else None
    while True:
        try:
            store.write_metadata(Video, rows_of(job.number, number), write_id=write_id)
        except CommitStateUnknownError as error:
            attempts.append("unknown")
            if write_id is None and is_committed(job, error):
                return attempts
        except (StorageError, CorruptObjectError) as error:
            attempts.append(type(error).__name__)
        else:
            return [*attempts, "acknowledged"]


def run_job(job: Job, outcomes: Any) -> None:
    store = FilesystemMetadataStore(job.root, storage_options=job.through_proxy)
    met, slowest = Counter[str](), 0.0
    for number in range(job.writes):
        began = time.monotonic()
        met.update(write_acknowledged(store, job, number))
        slowest = max(slowest, time.monotonic() - began)
    outcomes.put((met, slowest))


def run_in_processes(shares: list[Job]) -> list[tuple[Counter[str], float]]:
    context = multiprocessing.get_context("spawn")
    outcomes = context.Queue()
    processes = [context.Process(target=run_job, args=(job, outcomes), daemon=True) for job in shares]
    for process in processes:
        process.start()
    results = [outcomes.get(timeout=DEADLINE) for _ in processes]
    for process in processes:
        process.join(DEADLINE)
    return results


def run_in_threads(shares: list[Job]) -> list[tuple[Counter[str], float]]:
    outcomes: queue.Queue[tuple[Counter[str], float]] = queue.Queue()
    with ThreadPoolExecutor(len(shares)) as pool:
        list(pool.map(lambda job: run_job(job, outcomes), shares))
    return [outcomes.get() for _ in shares]


def test_every_write_is_acknowledged_once_and_read_once(server: ObjectServer, soak: bool) -> None:  # noqa: FBT001
    jobs, writes, rate, faults = (8, 125, 0.1, set(Fault)) if soak else (4, 4, 0.2, set(Fault) - HANGS)
    bucket = f"writes-{uuid.uuid4().hex[:12]}"
    server.create_bucket(bucket)
    root = server.url(bucket, "root")
    began = time.monotonic()
    with Proxy(server, faults=random_faults(rate=rate, seed=5, of=faults)) as proxy:
        options = {**proxy.storage_options, **patience_options(server.scheme)}
        shares = [Job(root, options, server.storage_options, number, writes) for number in range(jobs)]
        results = run_in_processes(shares) if soak else run_in_threads(shares)
        injected, asked = Counter(fault.name for fault in proxy.injected()), len(proxy.requests())
    seconds = time.monotonic() - began

    store = FilesystemMetadataStore(root, storage_options=server.storage_options)
    expected = [
        sample for job in range(jobs) for number in range(writes) for sample in rows_of(job, number)["sample_id"]
    ]
    assert sorted(store.read_metadata(Video)["sample_id"]) == sorted(expected)
    assert store.history(Video).height == jobs * writes
    met = sum((met for met, _ in results), Counter[str]())
    if soak:
        slowest = max(slowest for _, slowest in results)
        print(f"\n{server.scheme}: {jobs * writes} writes by {jobs} processes in {seconds:.0f} s")
        print(f"the slowest took {slowest:.1f} s")
        print(f"{asked} requests, {sum(injected.values())} met a fault: {dict(sorted(injected.items()))}")
        print(f"attempts: {dict(met)}")
