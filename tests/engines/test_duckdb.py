"""DuckDB reads, by the views of the page, the rows that the library reads."""

from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from metaxy_fs import FilesystemMetadataStore
from tests.engines.clips import STATES, Clip, check, in_state
from tests.engines.pages import block


@pytest.fixture(params=STATES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> FilesystemMetadataStore:
    return in_state(request.param, tmp_path)


@pytest.fixture(scope="module")
def views() -> str:
    code = block("sql.md", naming="VIEWS =", language="python")
    return code.split('"""')[1]


def check_views(con: Any, store: FilesystemMetadataStore) -> None:
    for view, latest_only in (("rows", False), ("latest", True)):
        check(con.sql(f"FROM {view}").pl(), store, latest_only=latest_only)


def test_of_listed_files(store: FilesystemMetadataStore, views: str) -> None:
    con = duckdb.connect()
    con.register("files", store.files(Clip))
    con.execute(views)
    check_views(con, store)


def test_of_files_that_manifests_name(store: FilesystemMetadataStore, views: str) -> None:
    con = duckdb.connect()
    con.execute(block("sql.md", naming="metaxy_files", language="sql"))
    [partition] = Path(store.location).glob("clip/*")
    con.execute(f"CREATE TABLE files AS FROM metaxy_files('{partition}')")
    listed = store.files(Clip).select("path", "rows", "bytes", "commit", "first", "excluded").sort("path")
    found = con.sql("FROM files ORDER BY path").pl().cast(listed.schema).with_columns(pl.col("excluded").list.sort())
    assert found.equals(listed)
    con.execute(views)
    check_views(con, store)


def test_a_glob_counts_rows_that_do_not_count_until_a_vacuum(tmp_path: Path) -> None:
    store = in_state("troubled", tmp_path)
    count = f"SELECT count(*) FROM read_parquet('{store.location}/clip/**/*.parquet', union_by_name = true)"  # noqa: S608
    assert duckdb.execute(count).fetchall() == [(140,)]  # 66 rows, and 4 that retire a sample
    vacuumed = in_state("vacuumed", tmp_path / "other")
    rows = vacuumed.files(Clip)["rows"].sum()
    retired = vacuumed.history(Clip)["retired"].sum()
    [found] = duckdb.execute(count.replace(store.location, vacuumed.location)).fetchall()
    assert found == (rows,) == (vacuumed.read_metadata(Clip).height + retired,)
