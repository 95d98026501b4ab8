"""The cases, and the contenders that meet on each.

Every function here is one section of the suite: it prepares a scratch directory, lets the contenders take turns and
yields a result a case. Peers take part if their Python is given.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import get_args

from metaxy_fs.hashing import ALGORITHMS, DEFAULT_ALGORITHM
from tests.benchmarks.bench import Bench
from tests.benchmarks.carried import Kind
from tests.benchmarks.data import Graph
from tests.benchmarks.log_sections import (
    covering,
    crowd,
    formats,
    groups,
    many,
    month,
    remote_formats,
    requests_since,
)
from tests.benchmarks.network_sections import network
from tests.benchmarks.runner import OURS, Job, Result, Runner
from tests.servers import postgres
from tests.servers.s3 import S3Server


def resolve(bench: Bench) -> Iterator[Result]:
    """`resolve_update`, with no leaf stored and with a tenth of it out of date, beside metaxy's."""
    for rows, rounds in bench.plan.resolve_rows:
        runner = Runner(repeats=min(rounds, bench.plan.repeats), fresh=bench.plan.fresh)
        for graph in get_args(Graph):
            roots = _seed_increments(bench, graph, rows)
            for phase in ("new", "stale"):
                jobs = {OURS: Job("ours:resolve", {"root": str(roots[OURS] / phase), "graph": graph})}
                for kind in _kinds(bench):
                    arguments = {"root": str(roots[kind] / phase), "kind": kind, "graph": graph}
                    jobs[f"metaxy {kind}"] = Job("peer_metaxy:resolve", arguments, python=str(bench.peers))
                case = {"graph": graph, "rows": rows, "phase": phase}
                yield runner.compare("resolve", case, jobs)
            yield runner.compare(
                "resolve", {"graph": graph, "rows": rows, "phase": "new, by the least"}, _least(roots, graph)
            )
            for root in roots.values():
                shutil.rmtree(root)


def scale(bench: Bench) -> Iterator[Result]:
    """Increments and versions of more and more samples, as lazy frames; once each, for the peak of memory."""
    once = Runner(repeats=1, fresh=bench.plan.fresh)
    for rows in bench.plan.scale_rows:
        root = bench.scratch / "scale"
        arguments = {"root": str(root), "graph": "wide"}
        for phase in ("new", "stale"):
            once.run(Job("ours:seed" if phase == "new" else "ours:make_stale_lazily", {**arguments, "rows": rows}))
            jobs = {OURS: Job("ours:resolve_lazily", arguments)}
            yield once.compare("scale", {"work": "resolve", "rows": rows, "phase": phase}, jobs)
        jobs = {OURS: Job("ours:cycle_lazily", arguments)}
        yield once.compare("scale", {"work": "write", "rows": rows, "phase": "new"}, jobs)
        shutil.rmtree(root)


def cycle(bench: Bench) -> Iterator[Result]:
    """`calculate_and_write_data_versions`, beside hashing the same texts in memory."""
    for graph, rows in bench.plan.cycle_rows:
        for shuffled in (False, True):
            root = bench.scratch / "cycle"
            arguments = {"root": str(root), "graph": graph, "rows": rows}
            bench.runner.run(Job("ours:seed_shuffled" if shuffled else "ours:seed", arguments))
            jobs = {
                OURS: Job("ours:cycle", {**arguments, "shuffled": shuffled}),
                "hash alone": Job("plain:hash_preimages", {"graph": graph, "rows": rows}),
            }
            if not shuffled:
                jobs["polars"] = Job("plain:cycle", {"root": str(root), "graph": graph})
            case = {"graph": graph, "rows": rows, "upstream": "shuffled" if shuffled else "sorted"}
            yield bench.runner.compare("cycle", case, jobs)
            shutil.rmtree(root)


def materialize(bench: Bench) -> Iterator[Result]:
    """`materialize` with a function that does next to nothing, beside the same work by hand."""
    for rows in bench.plan.materialize_rows:
        root = bench.scratch / "materialize"
        bench.runner.run(Job("ours:seed", {"root": str(root), "graph": "simple", "rows": rows}))
        for batch_rows, by_hand in ((1_000, 1_000), (100_000, rows)):
            jobs = {
                OURS: Job("ours:materialize", {"root": str(root), "batch_rows": batch_rows}),
                "by hand": Job("ours:materialize_by_hand", {"root": str(root), "batch_rows": by_hand}),
            }
            case = {"rows": rows, "batch_rows": batch_rows, "by_hand": by_hand}
            yield bench.runner.compare("materialize", case, jobs)
        shutil.rmtree(root)


def questions(bench: Bench) -> Iterator[Result]:
    """Questions about four features, beside reading the ids and versions of all of them."""
    for rows in bench.plan.question_rows:
        arguments = {"root": str(bench.scratch / "questions"), "rows": rows}
        bench.runner.run(Job("questions:seed", arguments))
        jobs = {OURS: Job("questions:plan", arguments), "read": Job("questions:read", arguments)}
        yield bench.runner.compare("questions", {"rows": rows, "question": "plan"}, jobs)
        jobs = {OURS: Job("questions:trace", arguments), "read": Job("questions:read", arguments)}
        yield bench.runner.compare("questions", {"rows": rows, "question": "trace"}, jobs)
        shutil.rmtree(arguments["root"])
        bench.runner.run(Job("questions:seed_moments", arguments))
        jobs = {OURS: Job("questions:diff", arguments), "read": Job("questions:read_moments", arguments)}
        yield bench.runner.compare("questions", {"rows": rows, "question": "diff"}, jobs)
        jobs = {OURS: Job("questions:fingerprint", arguments), "read": Job("questions:read", arguments)}
        yield bench.runner.compare("questions", {"rows": rows, "question": "fingerprint"}, jobs)
        shutil.rmtree(arguments["root"])


def carried(bench: Bench) -> Iterator[Result]:
    """Increments that carry a column, beside those without; and those of a hundredth, beside those of everything."""
    for rows in bench.plan.carried_rows:
        for kind in get_args(Kind):
            root = str(bench.scratch / "carried")
            bench.runner.run(Job("carried:seed", {"root": root, "kind": kind, "rows": rows}))
            arguments = {"root": root, "kind": kind}
            jobs = {
                OURS: Job("carried:resolve", {**arguments, "carry": True}),
                "without": Job("carried:resolve", {**arguments, "carry": False}),
            }
            yield bench.runner.compare("carried", {"rows": rows, "samples": kind, "of": "all"}, jobs)
            of_some = Job("carried:resolve", {**arguments, "carry": True, "below": rows // 100})
            jobs = {OURS: of_some, "of all": Job("carried:resolve", {**arguments, "carry": True})}
            yield bench.runner.compare("carried", {"rows": rows, "samples": kind, "of": "1 %"}, jobs)
            shutil.rmtree(root)


def many_machines(bench: Bench) -> Iterator[Result]:
    """Increments that two workers of one thread resolve, beside one process of one thread."""
    for rows, engine in bench.plan.machine_rows:
        root = bench.scratch / "machines"
        arguments = {"root": str(root), "graph": "wide"}
        bench.runner.run(Job("ours:seed", {**arguments, "rows": rows}))
        jobs = {
            OURS: Job("machines:resolve_elsewhere", {**arguments, "engine": engine}),
            "one thread": Job("ours:resolve", arguments),
        }
        yield bench.runner.compare("many-machines", {"graph": "wide", "rows": rows}, jobs)
        shutil.rmtree(root)


def plans(bench: Bench) -> Iterator[Result]:
    """Reads, increments and writes through plans in some processes of one thread, and a compaction in this one."""
    for rows, processes in bench.plan.plan_rows:
        root = bench.scratch / "plans"
        arguments = {"root": str(root), "graph": "simple"}
        bench.runner.run(Job("ours:seed", {**arguments, "rows": rows}))
        job = Job("machines:through_plans", {**arguments, "processes": processes})
        # Once: what it writes is there afterwards.
        once = Runner(repeats=1, fresh=bench.plan.fresh)
        yield once.compare("plans", {"rows": rows, "processes": processes}, {OURS: job})
        shutil.rmtree(root)


def hashes(bench: Bench) -> Iterator[Result]:
    """Versions by the default algorithm, beside those by the others that a root may be made with."""
    jobs = {}
    for algorithm in ALGORITHMS:
        arguments = {"root": str(bench.scratch / algorithm), "algorithm": algorithm, "rows": bench.plan.hash_rows}
        jobs[OURS if algorithm == DEFAULT_ALGORITHM else algorithm] = Job("hashes:calculate", arguments)
    yield bench.runner.compare("hashes", {"rows": bench.plan.hash_rows}, jobs)


def latest(bench: Bench) -> Iterator[Result]:
    """`latest_only` on a history of which a tenth was rewritten, beside a read of everything."""
    for rows in bench.plan.history_rows:
        root = bench.scratch / "latest"
        bench.runner.run(Job("ours:seed_history", {"root": str(root), "rows": rows}))
        jobs = {
            OURS: Job("ours:read_history", {"root": str(root), "latest_only": True}),
            "plain read": Job("ours:read_history", {"root": str(root), "latest_only": False}),
            "polars": Job("plain:read_files_below", {"root": str(root)}),
        }
        yield bench.runner.compare("latest", {"rows": rows}, jobs)
        shutil.rmtree(root)


def imports(bench: Bench) -> Iterator[Result]:
    """The import of the package, alone and with its stores, beside that of Polars, which is a part of the latter."""
    for module in (OURS, f"{OURS}.metadata_store"):
        names = {OURS: module, "polars": "polars"}
        jobs = {contender: Job("worker:import_module", {"name": name}) for contender, name in names.items()}
        # Always in fresh processes: a module is imported once.
        yield Runner(repeats=bench.plan.import_repeats).compare("imports", {"module": module}, jobs)


def local(bench: Bench) -> Iterator[Result]:
    """Small writes to a local root and a read of them all, beside bare Parquet files."""
    count = bench.plan.local_writes
    root = str(bench.scratch / OURS)
    jobs = {OURS: Job("ours:append", {"root": root, "count": count}), **_bare_appends(bench, count)}
    yield bench.runner.compare("local", {"work": "write", "writes": count}, jobs)
    reads = {OURS: Job("ours:read", {"root": root}), "polars": Job("plain:read_files_below", {"root": root})}
    yield bench.runner.compare("local", {"work": "read", "writes": count}, reads)


def remote(bench: Bench) -> Iterator[Result]:
    """A read of small writes to a bucket, beside Polars' own reader of the same objects."""
    with S3Server() as server:
        server.create_bucket("bench")
        root, options = server.url("bench", "root"), server.storage_options
        seed = {"root": root, "count": bench.plan.remote_writes, "storage_options": options}
        bench.runner.run(Job("ours:append_remote", seed))
        puts = [request.path for request in server.requests() if request.kind == "PUT"]
        paths = [f"s3:/{path}" for path in puts if path.endswith(".parquet")]
        jobs = {
            OURS: Job("ours:read", {"root": root, "storage_options": options}),
            "polars": Job("plain:read", {"paths": paths, "storage_options": _polars_options(server)}),
        }
        server.clear_requests()
        case = {"writes": bench.plan.remote_writes}
        yield bench.runner.compare("remote", case, jobs, observe=lambda: requests_since(server))


def sql(bench: Bench) -> Iterator[Result]:
    """A store in DuckDB and, with more than a smoke, in PostgreSQL, beside the bulk path of the driver."""
    programs = postgres.programs() if bench.plan.fresh else None
    with nullcontext() if programs is None else postgres.PostgreSQLServer(programs) as server:
        for database in ("duckdb",) if server is None else ("duckdb", "postgresql"):
            urls = {
                who: f"duckdb:///{bench.scratch}/{who}" if server is None or database == "duckdb" else server.url
                for who in (OURS, "driver")
            }
            for work in ("write", "read"):
                jobs = {
                    who: Job(f"sql:{kind}_{work}", {"url": urls[who], "count": bench.plan.sql_rows})
                    for who, kind in ((OURS, "store"), ("driver", "driver"))
                }
                case = {"database": database, "work": work, "rows": bench.plan.sql_rows}
                yield bench.runner.compare("sql", case, jobs)


SECTIONS: dict[str, Callable[[Bench], Iterator[Result]]] = {
    section.__name__: section
    for section in (
        imports,
        local,
        remote,
        network,
        formats,
        remote_formats,
        crowd,
        many,
        month,
        covering,
        groups,
        plans,
        hashes,
        latest,
        cycle,
        materialize,
        questions,
        carried,
        scale,
        sql,
        resolve,
    )
} | {"many-machines": many_machines}


def _kinds(bench: Bench) -> tuple[str, ...]:
    """Return the kinds of stores that metaxy takes part with."""
    return () if bench.peers is None else ("duckdb", "delta")


def _seed_increments(bench: Bench, graph: Graph, rows: int) -> dict[str, Path]:
    """Write what increments are resolved from, below `new` and `stale` of a directory for each contender."""
    roots = {name: bench.scratch / "resolve" / name for name in (OURS, *_kinds(bench))}
    ours = {phase: {"root": str(roots[OURS] / phase), "graph": graph, "rows": rows} for phase in ("new", "stale")}
    bench.runner.run(Job("ours:seed", ours["new"]))
    bench.runner.run(Job("ours:seed", ours["stale"]))
    bench.runner.run(Job("ours:make_stale", ours["stale"]))
    for kind in _kinds(bench):
        arguments = {"root": str(roots[kind]), "kind": kind, "graph": graph, "rows": rows}
        bench.runner.run(Job("peer_metaxy:seed", arguments, python=str(bench.peers)))
    return roots


def _least(roots: dict[str, Path], graph: Graph) -> dict[str, Job]:
    """Return the job beside a query that reads and hashes the same, and knows that it may."""
    arguments = {"root": str(roots[OURS] / "new"), "graph": graph}
    return {OURS: Job("ours:resolve", arguments), "polars": Job("plain:resolve", arguments)}


def _bare_appends(bench: Bench, count: int) -> dict[str, Job]:
    return {
        name: Job("plain:append", {"root": str(bench.scratch / name), "count": count, "fsync": fsync})
        for name, fsync in (("parquet", False), ("parquet+fsync", True))
    }


def _polars_options(server: S3Server) -> dict[str, str]:
    return {
        "aws_endpoint_url": server.endpoint,
        "aws_access_key_id": "test",
        "aws_secret_access_key": "test",
        "aws_region": "us-east-1",
        "aws_allow_http": "true",
    }
