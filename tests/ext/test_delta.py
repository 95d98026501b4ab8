"""A store of Delta tables: the promises of all stores, and what becomes of tables that others work on."""

import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from metaxy_fs import CorruptObjectError, MetadataSchemaError, StorageError, open_store
from metaxy_fs.testing import StoreSuite
from metaxy_fs.testing.store_cases import ids_of, pipeline, samples, videos
from metaxy_fs.testing.store_commits import StoreCommits
from tests.support.examples import examples
from tests.support.strategies import frames

deltalake = pytest.importorskip("deltalake", reason="needs the extra delta")
from metaxy_fs.ext.delta import DeltaMetadataStore, DeltaSource  # noqa: E402

WRITERS, WRITES = 2, 5


class TestDelta(StoreSuite):
    @pytest.fixture
    def make_store(self, tmp_path):
        return lambda name="", fallback_stores=(): DeltaMetadataStore(
            tmp_path / f"a störe $1 {name}", fallback_stores=fallback_stores
        )


class TestDeltaOnS3(StoreCommits):
    """What a service could make a difference to."""

    @pytest.fixture
    def make_store(self, s3_server, s3_bucket):
        return lambda name="", fallback_stores=(): DeltaMetadataStore(
            f"s3://{s3_bucket}/{name}", storage_options=on(s3_server), fallback_stores=fallback_stores
        )

    def test_snapshots_and_features_are_found_through_the_same_options(self, store, reopen):
        video, _ = pipeline()
        store.write_metadata(video, videos([1]))
        store.create_snapshot("then")
        store.write_metadata(video, videos([2]))
        assert ids_of(reopen().at("then").read_metadata(video)) == [1]
        assert reopen().list_features() == store.list_features() == [video.spec.key]


def on(server):
    return {
        "aws_access_key_id": "test",
        "aws_secret_access_key": "not-to-be-shown",
        "aws_endpoint_url": server.endpoint,
        "aws_region": "us-east-1",
        "aws_allow_http": "true",
        "max_retries": "2",
    }


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path):
    """Where tables are kept, and the options that reach them."""
    if request.param == "local":
        return str(tmp_path / "tables"), {}
    return f"s3://{request.getfixturevalue('s3_bucket')}/tables", on(request.getfixturevalue("s3_server"))


@pytest.fixture
def video():
    return pipeline()[0]


def table_in(store, feature="video.processing"):
    return deltalake.DeltaTable(f"{store.location.rstrip('/')}/{feature}")


def test_writers_at_once_take_a_number_each(place, video):
    uri, options = place

    def work(worker):
        store = DeltaMetadataStore(uri, storage_options=options)
        for at in range(WRITES):
            store.write_metadata(video, videos([worker * WRITES + at], {f"by_{worker}": [at]}))
            store.write_metadata(video, videos([-1 - at]), write_id=f"job {at}")

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(work, range(WRITERS)))
    store = DeltaMetadataStore(uri, storage_options=options)
    assert sorted(ids_of(store.read_metadata(video))) == list(range(-WRITES, WRITERS * WRITES))
    assert store.history(video).height == (WRITERS + 1) * WRITES
    table = deltalake.DeltaTable(f"{uri}/video.processing", storage_options=options)
    assert table.version() == (WRITERS + 1) * WRITES
    assert table.transaction_version("metaxy_fs") == (WRITERS + 1) * WRITES


def test_rows_outlast_the_maintenance_of_delta(tmp_path, video):
    store = DeltaMetadataStore(tmp_path)
    for at in range(5):
        store.write_metadata(video, videos([9 - at, at]), write_id=f"job {at}")
    store.retire(video, samples([4]))
    before = store.read_metadata(video, with_commits=True), store.history(video)
    table = table_in(store)
    table.optimize.compact()
    table.vacuum(0, dry_run=False, enforce_retention_duration=False)
    table.create_checkpoint()
    for log in (tmp_path / "video.processing/_delta_log").glob("*[0-9].json"):
        if int(log.stem) < table.version():
            log.unlink()

    other = DeltaMetadataStore(tmp_path)
    assert_frame_equal(other.read_metadata(video, with_commits=True), before[0])
    assert_frame_equal(other.history(video), before[1])
    other.write_metadata(video, videos([0, 9]), write_id="job 0")
    other.write_metadata(video, videos([7]), write_id="job 7")
    assert other.history(video).height == 7
    assert len(table_in(store).file_uris()) < 12


def test_table_may_be_compacted_while_others_write(tmp_path, video):
    store = DeltaMetadataStore(tmp_path)
    store.write_metadata(video, videos([-1]))

    def compact(_):
        try:
            return table_in(store).optimize.compact()
        except deltalake.exceptions.DeltaError:  # it is overtaken by those who write
            return None

    # Of two compactions at once Delta lets both pass, with all rows twice.
    with ThreadPoolExecutor(1) as pool:
        compactions = pool.map(compact, range(10))
        for at in range(10):
            store.write_metadata(video, videos([at]))
        list(compactions)
    assert ids_of(DeltaMetadataStore(tmp_path).read_metadata(video)) == list(range(-1, 10))


def test_files_that_a_filter_rules_out_are_not_read(tmp_path, video):
    store = DeltaMetadataStore(tmp_path)
    for first in (0, 100):
        store.write_metadata(video, videos(range(first, first + 3)))
    part = tmp_path / "video.processing/_metaxy_part=rows"
    [first_file] = [file for file in part.iterdir() if 0 in pl.read_parquet(file)["sample_id"]]
    first_file.unlink()

    assert ids_of(store.read_metadata(video, filters=pl.col("sample_id") >= 100)) == [100, 101, 102]
    with pytest.raises((StorageError, FileNotFoundError)):
        store.read_metadata(video)


def test_what_reads_delta_reads_the_rows(tmp_path, video):
    store = DeltaMetadataStore(tmp_path)
    store.write_metadata(video, videos([1, 2], {"size": [7, 8]}))
    table = table_in(store)
    rows = pl.scan_delta(table).filter(pl.col("_metaxy_part") == "rows").select("sample_id", "size", "data_version")
    assert_frame_equal(rows.collect(), store.read_metadata(video).select("sample_id", "size", "data_version"))
    assert table.history()[0]["commit"] == store.history(video)["commit"].item()


@given(frames(max_rows=4), st.data())
@examples(25)
def test_columns_of_any_type_are_read_back_or_refused_by_name(columns, data):
    video, _ = pipeline()
    columns = columns.rename(lambda name: f"c {name}")
    ids = data.draw(st.permutations(range(columns.height)))
    rows = videos(ids).with_columns(columns)
    with TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr("metaxy_fs.ext.delta.DeltaMetadataStore.now", lambda store: 1)
        store = DeltaMetadataStore(directory)
        try:
            store.write_metadata(video, rows)
        except MetadataSchemaError as refusal:
            assert any(f"{name!r} is" in str(refusal) for name in columns.columns)  # noqa: PT017
            return
        assert_frame_equal(store.read_metadata(video), rows.sort("sample_id"), categorical_as_str=True)


@pytest.mark.parametrize(
    ("column", "told"),
    [
        (pl.lit(1, pl.Int128), "Delta has no type for Int128"),
        (pl.lit([1], pl.List(pl.Int128)), "Delta has no type for Int128"),
        (pl.lit(date(1, 1, 1)) - pl.duration(days=1), "from the year 1 to 9999"),
    ],
)
def test_what_delta_cannot_hold_is_refused_by_name(tmp_path, video, column, told):
    store = DeltaMetadataStore(tmp_path)
    with pytest.raises(MetadataSchemaError, match=told) as caught:
        store.write_metadata(video, videos([1]).with_columns(column.alias("odd")))
    assert caught.value.column == "odd"
    assert not store.has_feature(video)


def test_a_column_whose_type_changed_has_another_beside_it(tmp_path, video):
    store = DeltaMetadataStore(tmp_path)
    store.write_metadata(video, videos([1], {"size": [1], "A": ["x"]}))
    store.write_metadata(video, videos([2], {"size": [2.5], "a": ["y"]}))
    assert store.read_metadata(video)["size"].to_list() == [1.0, 2.5]
    assert store.read_metadata(video).select("A", "a").rows() == [("x", None), (None, "y")]
    beside = [name.partition("@")[0] for name in pl.scan_delta(table_in(store)).collect_schema() if "@" in name]
    assert sorted(beside) == ["a", "size"]


def test_a_table_of_somebody_else_is_an_error_that_says_how_to_read_it(tmp_path, video):
    theirs = tmp_path / "video.processing"
    deltalake.write_deltalake(theirs, pl.DataFrame({"sample_id": [1]}))
    store = DeltaMetadataStore(tmp_path)
    assert store.list_features() == []
    dev = open_store(tmp_path / "dev", store)
    resolve = partial(dev.resolve_update, samples=videos([1]))
    for ask in (store.has_feature, store.read_metadata, dev.read_metadata, store.history, resolve):
        with pytest.raises(StorageError, match="a Delta table that metaxy_fs did not make") as caught:
            ask(video)
    with pytest.raises(StorageError, match="write rows to another place"):
        store.write_metadata(video, videos([1]))
    [advice] = re.findall(r"sources=(.*)\.$", str(caught.value))
    sources = eval(advice, {"DeltaSource": DeltaSource})  # noqa: S307  # it works
    with video.graph.use():
        assert ids_of(DeltaMetadataStore(tmp_path, sources=sources).read_metadata(video)) == [1]
    assert deltalake.DeltaTable(theirs).version() == 0


def test_records_that_somebody_deleted_are_an_error(tmp_path, video):
    store = DeltaMetadataStore(tmp_path)
    for at in range(3):
        store.write_metadata(video, videos([at]))
    table_in(store).delete("_metaxy_part = 'records' and _metaxy_number = 2")
    with pytest.raises(CorruptObjectError, match="has had 3 commits, and has not one record"):
        DeltaMetadataStore(tmp_path).read_metadata(video)


def test_it_is_a_part_of_a_chain_anywhere(tmp_path, video):
    _, processed = pipeline()
    delta = DeltaMetadataStore(tmp_path / "delta")
    delta.write_metadata(video, videos([1, 2]))
    files = open_store(tmp_path / "files", delta)
    files.calculate_and_write_data_versions(processed, samples([1, 2]))
    assert not files.resolve_update(processed)
    last = DeltaMetadataStore(tmp_path / "last", fallback_stores=[files])
    assert ids_of(last.read_metadata(processed)) == [1, 2]
    assert pickle.loads(pickle.dumps(last)).read_metadata(video).equals(delta.read_metadata(video))  # noqa: S301


def test_a_path_that_deltalake_does_not_take_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot hold Delta tables, because of '%'"):
        DeltaMetadataStore(tmp_path / "a%20b")


def test_no_error_shows_a_secret(s3_server, s3_bucket, video):
    store = DeltaMetadataStore(f"s3://{s3_bucket}/gone", storage_options={**on(s3_server), "max_retries": "0"})
    s3_server.deny(s3_bucket)
    try:
        with pytest.raises(StorageError) as caught:
            store.read_metadata(video)
    finally:
        s3_server.allow()
    assert s3_bucket in str(caught.value)
    assert "not-to-be-shown" not in f"{caught.value} {caught.value.__cause__!r} {store!r}"
