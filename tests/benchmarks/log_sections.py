"""The sections on logs of many small writes.

Sections like those of `tests.benchmarks.sections`.
"""

import shutil
from collections.abc import Iterator
from typing import Any

from tests.benchmarks.bench import Bench
from tests.benchmarks.runner import OURS, Job, Result, Runner
from tests.servers.s3 import S3Server

_FORMATS = {"delta": "peer_delta", "lance": "peer_lance", "iceberg": "peer_iceberg"}


def formats(bench: Bench) -> Iterator[Result]:
    """Small appends and a read of them all, as they are and compacted, beside table formats and bare files."""
    for count, rounds in bench.plan.peer_writes:
        runner = Runner(repeats=min(rounds, bench.plan.repeats), fresh=bench.plan.fresh)
        works = {"append": {"count": count}, "read": {}, "compact_root": {}, "read compacted": {}}
        for work, more in works.items():
            function = work.split()[0]
            jobs = {name: _job(bench, name, function, more) for name in _formats(bench)}
            if function == "append":
                arguments = {"root": str(bench.scratch / "bare"), "count": count, "fsync": True}
                jobs["parquet+fsync"] = Job("plain:append", arguments)
            if work == "read":
                jobs["parquet+fsync"] = Job("plain:read_files_below", {"root": str(bench.scratch / "bare")})
            # Whoever has compacted once has nothing to do the second time.
            chosen = Runner(repeats=1, fresh=bench.plan.fresh) if function == "compact_root" else runner
            yield chosen.compare("formats", {"work": work.removesuffix("_root"), "writes": count}, jobs)


def remote_formats(bench: Bench) -> Iterator[Result]:
    """Small appends to a bucket and a read of them all, beside table formats."""
    count = bench.plan.remote_peer_writes
    with S3Server() as server:
        server.create_bucket("bench")
        for work, more in (("append", {"count": count}), ("read", {})):
            jobs = {name: _remote_job(bench, server, name, work, more) for name in _formats(bench)}
            server.clear_requests()
            runner = Runner(repeats=1 if work == "append" else bench.plan.repeats, fresh=bench.plan.fresh)
            case = {"work": work, "writes": count}
            yield runner.compare("remote_formats", case, jobs, observe=lambda: requests_since(server))


def crowd(bench: Bench) -> Iterator[Result]:
    """Many processes that append to one table at once, beside Delta Lake with its retries."""
    processes, appends = bench.plan.crowd
    jobs = {}
    for name, module in _formats(bench).items():
        if name in (OURS, "delta"):
            arguments = {"module": module, "root": str(bench.scratch / name), "processes": processes}
            jobs[name] = Job("crowd:run", {**arguments, "appends": appends}, **_python(bench, name))
    # Always in a fresh process, since it starts others.
    runner = Runner(repeats=bench.plan.repeats)
    yield runner.compare("crowd", {"processes": processes, "appends": appends}, jobs)


def many(bench: Bench) -> Iterator[Result]:
    """What is asked of roots that have taken many small writes, before and after compaction, and what that costs."""
    once = Runner(repeats=1, fresh=bench.plan.fresh)
    for count in bench.plan.many_writes:
        arguments = {"root": str(bench.scratch / "many"), "count": count}
        once.run(Job("many:seed", arguments))
        measure = {OURS: Job("many:measure", arguments)}
        yield once.compare("many", {"writes": count, "state": "as written"}, measure)
        yield once.compare(
            "many", {"writes": count, "state": "publishing"}, {OURS: Job("many:publish_twice", arguments)}
        )
        compaction = {OURS: Job("many:compact_counted", {"root": arguments["root"]})}
        yield once.compare("many", {"writes": count, "state": "compacting"}, compaction)
        yield once.compare("many", {"writes": count, "state": "compacted"}, measure)
        sweep = {OURS: Job("many:vacuum_now", {"root": arguments["root"]})}
        yield once.compare("many", {"writes": count, "state": "vacuuming"}, sweep)
        yield once.compare("many", {"writes": count, "state": "vacuumed"}, measure)
        shutil.rmtree(arguments["root"])
        once.run(Job("many:seed_ten", arguments))
        yield once.compare("many", {"writes": count, "state": "the same rows in ten"}, measure)
        shutil.rmtree(arguments["root"])


def month(bench: Bench) -> Iterator[Result]:
    """Requests, bytes and objects of a month of commits, with compaction each hour and a vacuum each day."""
    once = Runner(repeats=1, fresh=bench.plan.fresh)
    for commits in bench.plan.month:
        yield once.compare(
            "month", {"commits_per_day": commits}, {OURS: Job("month:run", {"commits_per_day": commits})}
        )


def covering(bench: Bench) -> Iterator[Result]:
    """The manifest of a compaction that stands for very many commits."""
    for commits, files in bench.plan.covered:
        root = str(bench.scratch / "covering")
        bench.runner.run(Job("covering:build", {"root": root, "commits": commits, "files": files}))
        job = Job("covering:measure", {"root": root, "files": files})
        yield bench.runner.compare("covering", {"commits": commits, "files": files}, {OURS: job})
        shutil.rmtree(root)


def groups(bench: Bench) -> Iterator[Result]:
    """The commit of very many writes that workers have prepared."""
    for receipts in bench.plan.receipts:
        arguments = {"root": str(bench.scratch / "groups"), "receipts": receipts}
        yield bench.runner.compare("groups", {"receipts": receipts}, {OURS: Job("groups:commit", arguments)})
        shutil.rmtree(arguments["root"])


def requests_since(server: S3Server) -> dict[str, float]:
    """Return how many requests there were since the last call."""
    count = float(len(server.requests()))
    server.clear_requests()
    return {"requests": count}


def _formats(bench: Bench) -> dict[str, str]:
    """Return the module of each contender that takes part."""
    return {OURS: "ours", **({} if bench.peers is None else _FORMATS)}


def _python(bench: Bench, name: str) -> dict[str, str]:
    return {} if name == OURS else {"python": str(bench.peers)}


def _job(bench: Bench, name: str, function: str, more: dict[str, Any]) -> Job:
    arguments = {"root": str(bench.scratch / "formats" / name), **more}
    return Job(f"{_formats(bench)[name]}:{function}", arguments, **_python(bench, name))


def _remote_job(bench: Bench, server: S3Server, name: str, work: str, more: dict[str, Any]) -> Job:
    root = server.url("bench", name)
    if name == OURS:
        function = "append_remote" if work == "append" else work
        return Job(f"ours:{function}", {"root": root, "storage_options": server.storage_options, **more})
    arguments = {"root": root, "endpoint": server.endpoint, **more}
    if name == "iceberg":
        arguments["catalog"] = str(bench.scratch / "catalog")
    return Job(f"{_FORMATS[name]}:{work}", arguments, python=str(bench.peers))
