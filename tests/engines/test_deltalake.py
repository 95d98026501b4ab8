"""delta-rs and Polars read a published table, and delta-rs cannot harm it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import deltalake
import polars as pl
import pyarrow as pa
import pytest

from metaxy_fs import FilesystemMetadataStore, compact, publish
from metaxy_fs.log import delta
from tests.engines.clips import Clip, check_table, clips, in_state, troubled, vacuumed
from tests.servers.s3 import S3Server

Read = Callable[[str, dict[str, str] | None], pl.DataFrame]


def by_query(location: str, options: dict[str, str] | None = None) -> pl.DataFrame:
    table = deltalake.DeltaTable(location, storage_options=options)
    return pl.DataFrame(deltalake.QueryBuilder().register("t", table).execute("SELECT * FROM t").read_all())


def by_arrow(location: str, options: dict[str, str] | None = None) -> pl.DataFrame:
    return pl.DataFrame(deltalake.DeltaTable(location, storage_options=options).to_pyarrow_table())


def by_polars(location: str, options: dict[str, str] | None = None) -> pl.DataFrame:
    return pl.scan_delta(location, storage_options=options).drop("size").collect()  # type: ignore[arg-type]


READERS: list[tuple[Read, str]] = [(by_query, ""), (by_arrow, ""), (by_polars, "size")]
"""Each with the column that it refuses, since its type differs from file to file."""


@pytest.mark.parametrize(("read", "lacking"), READERS)
@pytest.mark.parametrize("state", ["troubled", "vacuumed"])
def test_a_table_has_the_rows_of_the_feature(tmp_path: Path, state: str, read: Read, lacking: str) -> None:
    store = in_state(state, tmp_path)
    check_table(read(publish(store, Clip).location, None), store, lacking=lacking)


def test_polars_refuses_a_column_whose_type_differs_from_file_to_file(tmp_path: Path) -> None:
    published = publish(troubled(tmp_path), Clip)
    assert published.widened == ("size",)
    with pytest.raises(pl.exceptions.SchemaError, match="data type mismatch for column size"):
        pl.scan_delta(published.location).select("size").collect()


@pytest.mark.parametrize(("read", "lacking"), READERS)
def test_a_table_follows_compactions_vacuums_and_writes(tmp_path: Path, read: Read, lacking: str) -> None:
    store = troubled(tmp_path)
    location = publish(store, Clip).location
    compact(store, Clip, full=True, republish=True)
    check_table(read(location, None), store, lacking=lacking)
    vacuumed(store)
    check_table(read(location, None), store, lacking=lacking)
    store.write_metadata(Clip, clips(3, 90, note="new"))
    publish(store, Clip)
    check_table(read(location, None), store, lacking=lacking)


@pytest.mark.parametrize(("read", "lacking"), READERS)
def test_a_table_is_read_from_a_checkpoint(
    tmp_path: Path, read: Read, lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta, "_CHECKPOINT_EVERY", 1)
    store = troubled(tmp_path)
    location = publish(store, Clip).location
    store.write_metadata(Clip, clips(91))
    publish(store, Clip)
    (tmp_path / "clip" / "_delta_log" / "00000000000000000000.json").unlink()
    check_table(read(location, None), store, lacking=lacking)


@pytest.mark.parametrize(
    "predicate", ["sample_id > 50", "path = 'clips/60 ü.mp4'", "size = 9", "note IS NULL", "day = DATE '2026-11-29'"]
)
def test_statistics_leave_out_no_row(tmp_path: Path, predicate: str) -> None:
    store = troubled(tmp_path)
    table = deltalake.DeltaTable(publish(store, Clip).location)
    found = deltalake.QueryBuilder().register("t", table).execute(f"SELECT sample_id FROM t WHERE {predicate}")  # noqa: S608
    expected = by_query(str(tmp_path / "clip")).filter(pl.sql_expr(predicate))["sample_id"].sort().to_list()
    assert expected
    assert pl.DataFrame(found.read_all())["sample_id"].sort().to_list() == expected


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_zeros_are_found_whatever_their_sign(tmp_path: Path, zero: float) -> None:
    store = FilesystemMetadataStore(tmp_path)
    store.write_metadata(Clip, clips(1).with_columns(size=zero))
    table = deltalake.DeltaTable(publish(store, Clip).location)
    query = f"SELECT sample_id FROM t WHERE size = {-zero}"  # noqa: S608  # this test's own number
    assert pl.DataFrame(deltalake.QueryBuilder().register("t", table).execute(query).read_all()).height == 1


def test_files_that_statistics_rule_out_are_not_opened(tmp_path: Path) -> None:
    store = troubled(tmp_path)
    published = publish(store, Clip)
    for path in store.files(Clip).filter(pl.col("max").struct.field("sample_id") < 61)["path"]:
        Path(path).unlink()
    found = pl.scan_delta(published.location).filter(pl.col("sample_id") > 60).select("sample_id").collect()
    assert found["sample_id"].to_list() == [61]


MADE = pa.table({"sample_id": [1]})


def _merge(table: deltalake.DeltaTable) -> Any:
    return (
        table.merge(MADE, "s.sample_id = t.sample_id", source_alias="s", target_alias="t")
        .when_matched_delete()
        .execute()
    )


def _vacuum(table: deltalake.DeltaTable, *, full: bool) -> Any:
    return table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False, full=full)


FOREIGN: dict[str, Callable[[deltalake.DeltaTable], Any]] = {
    "append": lambda table: deltalake.write_deltalake(table, MADE, mode="append", schema_mode="merge"),
    "overwrite": lambda table: deltalake.write_deltalake(table, MADE, mode="overwrite", schema_mode="overwrite"),
    "delete": lambda table: table.delete("sample_id = 1"),
    "update": lambda table: table.update({"note": "'x'"}),
    "merge": _merge,
    "optimize": lambda table: table.optimize.compact(),
    "z-order": lambda table: table.optimize.z_order(["sample_id"]),
    "vacuum": lambda table: _vacuum(table, full=False),
    "vacuum full": lambda table: _vacuum(table, full=True),
    "restore": lambda table: table.restore(0),
    "properties": lambda table: table.alter.set_table_properties({"delta.appendOnly": "true"}),
    "polars": lambda table: pl.DataFrame(MADE).write_delta(table.table_uri, mode="append"),
}


@pytest.mark.parametrize("operation", FOREIGN)
def test_foreign_writers_are_refused_and_lose_nothing(tmp_path: Path, operation: str) -> None:
    """Where a compaction has replaced files, a vacuum has something to take."""
    store = troubled(tmp_path)
    publish(store, Clip)
    compact(store, Clip, full=True, republish=True)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    table = deltalake.DeltaTable(str(tmp_path / "clip"))
    with pytest.raises(Exception, match="metaxyFsPublished"):
        FOREIGN[operation](table)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path: data for path, data in after.items() if path in before} == before
    assert after.keys() - before.keys() <= {path for path in after if path.parent.name == "clip"}
    check_table(by_query(str(tmp_path / "clip")), store)


def test_checkpoints_of_others_do_no_harm(tmp_path: Path) -> None:
    store = troubled(tmp_path)
    publish(store, Clip)
    table = deltalake.DeltaTable(str(tmp_path / "clip"))
    table.create_checkpoint()
    store.write_metadata(Clip, clips(92))
    assert publish(store, Clip).added == 1
    check_table(by_query(str(tmp_path / "clip")), store)


@pytest.mark.parametrize(("read", "lacking"), READERS[1:])  # the requests of the first one break off on the test server
def test_a_table_in_a_bucket(s3_server: S3Server, s3_bucket: str, tmp_path: Path, read: Read, lacking: str) -> None:
    store = FilesystemMetadataStore(s3_server.url(s3_bucket), storage_options=s3_server.storage_options)
    store.write_metadata(Clip, clips(*range(5)))
    publish(store, Clip)
    store.write_metadata(Clip, clips(5, 1, note="again"))
    store.retire(Clip, clips(2))
    published = publish(store, Clip)
    assert published.location == f"{store.location}/clip"
    options = {
        "AWS_ENDPOINT_URL": s3_server.endpoint,
        "AWS_ACCESS_KEY_ID": s3_server.storage_options["key"],
        "AWS_SECRET_ACCESS_KEY": s3_server.storage_options["secret"],
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    check_table(read(published.location, options), store, lacking=lacking)
