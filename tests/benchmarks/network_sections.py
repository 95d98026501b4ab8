"""The sections on buckets at a distance.

A section like those of `tests.benchmarks.sections`. Each request is answered after a delay, by a server that costs next
to nothing; what remains is what the clients do. Ours comes to S3 through s3fs, obstore, and obstore with a cache that
an earlier process has filled, and to GCS through gcsfs. Polars' own reader comes to S3.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.bench import Bench
from tests.benchmarks.network import objects_below
from tests.benchmarks.runner import OURS, Job, Result
from tests.servers.quick import QuickServer

_CLIENTS = ("s3fs", "obstore", "gcsfs")


def network(bench: Bench) -> Iterator[Result]:
    """Writes, chains, and reads of small and of large files, beside Polars' own reader of the same objects."""
    delay, small, (files, rows) = bench.plan.network
    yield from _writes(bench, delay)
    for count in small:
        yield from _reads(bench, delay, "small", {"count": count}, [{}])
    filters = [{"chosen": None}, {"chosen": "id"}, {"chosen": "digest"}]
    yield from _reads(bench, delay, "large", {"files": files, "rows": rows}, filters)


def _writes(bench: Bench, delay: float) -> Iterator[Result]:
    with QuickServer(delay=delay) as server:
        for client in _CLIENTS:
            about = {"endpoint": server.endpoint, "client": client}
            for after in ("nothing", "another", "its own"):
                jobs = {OURS: Job("network:write", {**about, "after": after})}
                case = {"work": "write", "after": after, "client": client}
                yield bench.runner.compare("network", case, jobs)
            case = {"work": "chain of three", "client": client}
            yield bench.runner.compare("network", case, {OURS: Job("network:ask_chain", about)})


def _reads(
    bench: Bench, delay: float, kind: str, sizes: dict[str, int], variants: list[dict[str, Any]]
) -> Iterator[Result]:
    root = bench.scratch / kind
    bench.runner.run(Job(f"network:seed_{kind}", {"root": str(root), **sizes}))
    with QuickServer(delay=delay) as server:
        objects = objects_below(str(root))
        for path, data in objects.items():
            server.put(path, data)
        shutil.rmtree(root)
        paths = [f"s3://{path}" for path in objects if path.endswith(".parquet")]
        for variant in variants:
            for client in (*_CLIENTS, "cache"):
                yield _read(bench, server, kind, client, {"sizes": sizes, "paths": paths, **variant})


def _read(bench: Bench, server: QuickServer, kind: str, client: str, about: dict[str, Any]) -> Result:
    sizes, paths, variant = about["sizes"], about["paths"], {"chosen": about["chosen"]} if "chosen" in about else {}
    cache = str(bench.scratch / "cache") if client == "cache" else None
    reached = {"endpoint": server.endpoint, "client": "obstore" if client == "cache" else client, "cache": cache}
    ours = Job(f"network:read_{kind}", {**reached, **variant})
    if cache is not None:
        bench.runner.run(ours)
    server.counts()
    case = {"work": f"read {kind}", **sizes, **variant, "client": client}
    jobs = {
        OURS: ours,
        "polars": Job(f"network:polars_{kind}", {"endpoint": server.endpoint, "paths": paths, **variant}),
    }
    result = bench.runner.compare("network", case, jobs, observe=lambda: _requests_since(server))
    shutil.rmtree(Path(cache or bench.scratch / "no cache"), ignore_errors=True)
    return result


def _requests_since(server: QuickServer) -> dict[str, float]:
    counts = server.counts()
    return {"at_once": float(counts.pop("at_once")), "requests": float(sum(counts.values()))}
