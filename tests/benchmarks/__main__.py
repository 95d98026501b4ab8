"""Run the benchmarks.

    python -m tests.benchmarks [--smoke] [--only SECTION ...] [--peers PYTHON] [--output FILE]

writes one JSON document, after each case anew, and prints its tables.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from metaxy_fs import __version__
from tests.benchmarks.bench import Bench
from tests.benchmarks.plan import SMOKE, Plan
from tests.benchmarks.report import tables
from tests.benchmarks.runner import Result
from tests.benchmarks.sections import SECTIONS

OUR_PACKAGES = ("polars", "polars-hash", "fsspec", "s3fs")
PEER_PACKAGES = ("metaxy", "duckdb", "deltalake", "pyiceberg", "pylance", "polars")


def main() -> None:
    """Run the chosen sections."""
    options = arguments()
    plan = SMOKE if options.smoke else Plan()
    if options.repeats:
        plan = dataclasses.replace(plan, repeats=options.repeats)
    results: list[Result] = []
    about = environment(options.peers)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for name in options.only or SECTIONS:
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=options.scratch) as scratch:
            for result in SECTIONS[name](Bench(plan, Path(scratch), options.peers)):
                results.append(result)
                print(json.dumps(dataclasses.asdict(result)), file=sys.stderr, flush=True)
                document = {"environment": about, "results": [dataclasses.asdict(each) for each in results]}
                options.output.write_text(json.dumps(document, indent=1) + "\n")
    print(tables(results))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure metaxy_fs and its peers.")
    parser.add_argument("--smoke", action="store_true", help="sizes that take seconds, in one process")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), help="sections to run; all by default")
    parser.add_argument("--peers", metavar="PYTHON", help="a Python that has the peers; they are left out without")
    parser.add_argument("--repeats", type=int, help="rounds that the medians are taken of")
    parser.add_argument("--scratch", type=Path, help="where to write; a temporary directory by default")
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks.json"), help="where the results go")
    return parser.parse_args()


def environment(peers: str | None) -> dict[str, Any]:
    """Return what the numbers depend on besides the code."""
    return {
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.system(),
        "packages": {"metaxy_fs": __version__, **versions(OUR_PACKAGES)},
        "peers": {} if peers is None else peer_versions(peers),
    }


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of installed packages."""
    return {name: importlib.metadata.version(name) for name in packages}


def peer_versions(python: str) -> dict[str, str]:
    """Return the versions of the peers in another environment."""
    script = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    found = subprocess.run([python, "-c", script, *PEER_PACKAGES], capture_output=True, text=True, check=True)
    read: dict[str, str] = json.loads(found.stdout)
    return read


if __name__ == "__main__":
    main()
