"""ClickHouse reads, by the views of the page, the rows that the library reads."""

from pathlib import Path

import polars as pl
import pytest

from tests.engines.clips import STATES, Clip, check, in_state
from tests.engines.pages import run

pytest.importorskip("chdb", reason="chdb is not installed")
COLUMNS = "sample_id|size|data_version|commit|committed_at"


@pytest.mark.parametrize("state", STATES)
def test_of_listed_files(state: str, tmp_path: Path) -> None:
    store = in_state(state, tmp_path)
    session = run("sql.md", naming="from chdb", store=store, Clip=Clip, pl=pl)["session"]
    for view, latest_only in (("rows", False), ("latest", True)):
        found = pl.DataFrame(session.query(f"FROM metaxy.{view}", "ArrowTable"))
        check(found, store, latest_only=latest_only, columns=COLUMNS)
    session.close()
