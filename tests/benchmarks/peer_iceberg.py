"""What does Iceberg do with small appends, its catalog in SQLite?"""

import time
from pathlib import Path
from typing import Any

import polars as pl
from pyiceberg.catalog.sql import SqlCatalog

from tests.benchmarks.clocks import empty_directory, time_appends
from tests.benchmarks.data import batch

TABLE = "bench.small"


def append(*, root: str, count: int) -> dict[str, float]:
    """Append small batches to a table."""
    catalog = _catalog(empty_directory(root))
    catalog.create_namespace("bench")
    table = catalog.create_table(TABLE, schema=_arrow(batch(0)).schema)
    return time_appends(lambda _, frame: table.append(_arrow(frame)), count=count)


def read(*, root: str) -> dict[str, Any]:
    """Read every row."""
    start = time.perf_counter()
    rows = _catalog(Path(root)).load_table(TABLE).scan().to_arrow()
    return {"seconds": time.perf_counter() - start, "rows": rows.num_rows}


def _catalog(root: Path) -> SqlCatalog:
    return SqlCatalog("bench", uri=f"sqlite:///{root}/catalog.db", warehouse=f"file://{root}")


def _arrow(frame: pl.DataFrame) -> Any:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())
