"""Take one measurement in a process of its own.

    python -m tests.benchmarks.worker MODULE:FUNCTION ARGUMENTS

calls the function with the arguments, a JSON object, and prints what it returns and the peak of memory as one line of
JSON. Nothing is imported here that would make a later import cheaper.
"""

import importlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Measure what the command line names."""
    target, arguments = sys.argv[1:]
    print(json.dumps(measure(target, json.loads(arguments))))


def measure(target: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Call a function, given as `module:name`, and return what it measured together with the peak of memory."""
    module, _, name = target.partition(":")
    measured = getattr(importlib.import_module(module), name)(**arguments)
    return {**measured, "peak_mib": peak_mib()}


def import_module(*, name: str) -> dict[str, float]:
    """Measure the first import of a module in this process."""
    start = time.perf_counter()
    importlib.import_module(name)
    return {"seconds": time.perf_counter() - start}


def peak_mib() -> float:
    """Return the most memory that this process has held at once.

    Linux hands `ru_maxrss` of the parent on to a child that it starts, so the kernel's own mark is read where there is
    one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        marks = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(marks[0].split()[1]) / 1024
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


if __name__ == "__main__":
    main()
