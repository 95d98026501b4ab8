"""ClickHouse reads, by the views of the page, the rows that the library reads."""

from pathlib import Path

import polars as pl
import pytest

from metaxy_fs import publish
from tests.engines.clips import STATES, Clip, check, check_table, in_state
from tests.engines.pages import run

chdb = pytest.importorskip("chdb.session", reason="chdb is not installed")
COLUMNS = "sample_id|size|data_version|commit|committed_at"


@pytest.mark.parametrize("state", STATES)
def test_of_listed_files(state: str, tmp_path: Path) -> None:
    store = in_state(state, tmp_path)
    session = run("sql.md", naming="from chdb", store=store, Clip=Clip, pl=pl)["session"]
    for view, latest_only in (("rows", False), ("latest", True)):
        found = pl.DataFrame(session.query(f"FROM metaxy.{view}", "ArrowTable"))
        check(found, store, latest_only=latest_only, columns=COLUMNS)
    session.close()


@pytest.mark.parametrize("state", ["troubled", "vacuumed"])
def test_a_published_table(state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = in_state(state, tmp_path)
    published = publish(store, Clip)
    monkeypatch.chdir(store.location)  # ClickHouse opens nothing outside
    session = chdb.Session()
    table = f"deltaLakeLocal('{published.location}')"
    check_table(pl.DataFrame(session.query(f"SELECT * FROM {table}", "ArrowTable")), store)  # noqa: S608
    counted = session.query(f"SELECT count() FROM {table}", "ArrowTable")  # noqa: S608
    assert pl.DataFrame(counted).item() == published.rows
    session.close()
