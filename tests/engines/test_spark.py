"""Spark reads, by the code of the page, the rows that the library reads; `nox -s spark` runs this."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.engines.clips import STATES, Clip, check, in_state
from tests.engines.pages import run

pytestmark = [
    pytest.mark.filterwarnings("ignore::Warning"),  # those of Spark, on pandas, sockets and sessions
    pytest.mark.skipif(shutil.which("java") is None, reason="Java is not installed"),
]
sql = pytest.importorskip("pyspark.sql", reason="pyspark is not installed")


@pytest.fixture(scope="module")
def spark(request: pytest.FixtureRequest) -> Iterator[Any]:
    if not request.config.getoption("--soak"):
        pytest.skip("Spark takes a minute to start: --soak runs it")
    settings = {
        "spark.ui.enabled": False,
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": 1,
    }
    session = sql.SparkSession.builder.master("local[1]").config(map=settings).getOrCreate()
    yield session
    session.stop()


@pytest.mark.parametrize("state", STATES)
def test_of_listed_files(state: str, tmp_path: Path, spark: Any) -> None:
    assert spark
    store = in_state(state, tmp_path)
    names = run("sql.md", naming="from pyspark", store=store, Clip=Clip, pl=pl)
    for view, latest_only in (("rows", False), ("latest", True)):
        check(pl.DataFrame(names[view].toArrow()), store, latest_only=latest_only)
