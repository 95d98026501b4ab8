"""Stores in SQL databases: what every store promises, types without loss, predicates, writers at once, no password."""

import pickle
import subprocess
import sys
import threading
import time
import tomllib
import traceback
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from metaxy_fs import copy_metadata, load_config, open_store
from metaxy_fs.errors import FeatureNotFoundError, MetadataSchemaError, StorageError, WriteConflictError
from metaxy_fs.spec import FeatureKey
from metaxy_fs.testing import StoreSuite
from metaxy_fs.testing.store_cases import declare, ids_of, pipeline, root, samples, videos
from metaxy_fs.testing.store_commits import StoreCommits
from metaxy_fs.testing.store_retired import StoreRetired
from metaxy_fs.testing.store_types import StoreTypes
from metaxy_fs.testing.store_writes import StoreWrites
from tests.servers import postgres
from tests.support.strategies import dtypes, frames, predicates

sql = pytest.importorskip("metaxy_fs.ext.sql", reason="needs SQLAlchemy")
psycopg = pytest.importorskip("psycopg", reason="needs psycopg")
pytest.importorskip("duckdb_engine", reason="needs duckdb-engine")
SQLMetadataStore = sql.SQLMetadataStore

KINDS = ("sqlite", "duckdb", "postgresql")


@pytest.fixture(scope="session")
def server():
    programs = postgres.programs()
    if programs is None:
        pytest.skip("needs the programs of PostgreSQL: apt-get install postgresql")
    with postgres.PostgreSQLServer(programs) as running:
        yield running.url


@pytest.fixture(scope="session")
def url_of(request, tmp_path_factory):
    """Gives the URL of an empty database of a kind, another one for each name."""
    on_disk = tmp_path_factory.mktemp("databases")

    def url(kind, name):
        if kind != "postgresql":
            return f"{kind}:///{on_disk}/{name}.{kind}"
        server = request.getfixturevalue("server")
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {name}")
        return f"{server}?options=-csearch_path%3D{name}"

    return url


class _Case:
    kind: str

    @pytest.fixture
    def make_store(self, url_of):
        token = uuid.uuid4().hex[:12]
        return lambda name="", fallback_stores=(): SQLMetadataStore(
            url_of(self.kind, f"s{token}_{''.join(filter(str.isalnum, name)).lower()}"), fallback_stores=fallback_stores
        )


class TestSQLite(_Case, StoreSuite):
    kind = "sqlite"


class TestDuckDB(_Case, StoreTypes, StoreRetired):
    kind = "duckdb"


class TestPostgreSQL(_Case, StoreWrites, StoreCommits):
    kind = "postgresql"


@pytest.mark.soak
class TestAllOfDuckDB(_Case, StoreSuite):
    kind = "duckdb"


@pytest.mark.soak
class TestAllOfPostgreSQL(_Case, StoreSuite):
    kind = "postgresql"


# Types and values.


def rows_of(frame):
    """Return rows of a root feature with the columns of a frame."""
    ids = pl.Series("sample_id", range(frame.height), dtype=pl.Int64)
    versions = pl.Series("data_version", [{"default": "v"}] * frame.height, dtype=pl.Struct({"default": pl.String}))
    return pl.DataFrame([ids, *frame.get_columns(), versions])


@pytest.fixture(scope="module")
def shared_store(url_of):
    """Gives one store of each kind: examples take features of their own."""
    opened = {}
    return lambda kind: opened.setdefault(kind, SQLMetadataStore(url_of(kind, "shared")))


def new_feature():
    [feature] = declare(root(FeatureKey([f"f{uuid.uuid4().hex}"])))
    return feature


FEW = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.mark.parametrize("kind", KINDS)
@FEW
@given(data=st.data())
def test_values_come_back_as_they_were_or_are_refused_by_name(shared_store, kind, data):
    schema = data.draw(st.dictionaries(st.sampled_from(["a", "A", "b__c", "order", "x y", "*"]), dtypes(), min_size=1))
    frame = data.draw(frames(schema=pl.Schema(schema), max_rows=4))
    feature, rows, store = new_feature(), rows_of(frame), shared_store(kind)
    try:
        store.write_metadata(feature, rows)
    except MetadataSchemaError as error:
        refused = error
    else:
        refused = None
    if refused is not None:
        assert refused.column in frame.columns
        assert any(part in str(refused) for part in ("NaN or infinity", "lists of binary"))
        assert not store.has_feature(feature)
        return
    found = store.read_metadata(feature)
    assert found.schema == rows.schema
    assert found.equals(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_arrays_may_be_missing(shared_store, kind):
    column = pl.Series("a", [[[0]], None], dtype=pl.Array(pl.Array(pl.Int8, 1), 1))
    feature, store = new_feature(), shared_store(kind)
    store.write_metadata(feature, rows_of(column.to_frame()))
    assert store.read_metadata(feature)["a"].equals(column, check_dtypes=True)


@pytest.mark.parametrize("kind", KINDS)
@FEW
@given(data=st.data())
def test_filters_mean_what_they_mean_in_polars(shared_store, kind, data):
    frame = data.draw(frames(max_rows=6))
    predicate = data.draw(predicates(frame.schema))
    rows = rows_of(frame)
    try:
        expected = rows.filter(predicate)
    except pl.exceptions.PolarsError:
        reject()
    feature, store = new_feature(), shared_store(kind)
    store.write_metadata(feature, rows)
    assert store.read_metadata(feature, filters=predicate).equals(expected)
    assert store.scan_metadata(feature).filter(predicate).collect().equals(expected)


EXTREMES = {
    "text": ["", "NULL", "\\N", "\\.", 'a"b,\n\\.\nc', "'; DROP TABLE x; --", "%s", ":x", "\u0131I\u00df", None],
    "float": [float("nan"), float("inf"), float("-inf"), -0.0, 5e-324, 1.7976931348623157e308, 0.1, None, 2.0**53, 1.0],
    "binary": [b"", b"\0", b"\\x00", b"\xff", None, b"a", b"b", b"c", b"d", b"e"],
    "day": [date(1, 1, 1), date(9999, 12, 31), date(1582, 10, 10), None] + [date(2024, 2, 29)] * 6,
    "time": [datetime(1, 1, 1, 0, 0, 0, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999), None]  # noqa: DTZ001
    + [datetime(2026, 3, 29, 2, 30)] * 7,  # noqa: DTZ001
    "zoned": pl.Series([datetime(2026, 10, 25, 0, 30, tzinfo=UTC), None] * 5, dtype=pl.Datetime("us", "Europe/Berlin")),
    "huge": pl.Series([2**127 - 1, -(2**127), None, 0, 1] * 2, dtype=pl.Int128),
    "unsigned": pl.Series([2**64 - 1, 0, None, 1, 2] * 2, dtype=pl.UInt64),
    "decimal": pl.Series([*map(Decimal, ["0.10", "-99999999.99", "0", "1"]), None] * 2, dtype=pl.Decimal(10, 2)),
    "boxes": pl.Series([[[0]], None] * 5, dtype=pl.Array(pl.Array(pl.Int8, 1), 1)),
    "nested": [{"a": {"b": None}}, {"a": None}, None, {"a": {"b": "x"}}, {"a": {"b": ""}}] * 2,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_extremes_come_back(shared_store, kind):
    feature, rows = new_feature(), rows_of(pl.DataFrame(EXTREMES))
    shared_store(kind).write_metadata(feature, rows)
    found = shared_store(kind).read_metadata(feature)
    assert found.equals(rows)
    assert str(found["float"][3]) == ("0.0" if kind == "sqlite" else "-0.0")  # the docs say so


def test_values_come_back_whatever_form_a_role_is_set_to(url_of):
    forms = ("datestyle%3DGerman", "bytea_output%3Descape", "extra_float_digits%3D-15", "client_encoding%3DLATIN1")
    url = url_of("postgresql", "forms") + "".join(f"%20-c{form}" for form in forms)
    feature, store = new_feature(), SQLMetadataStore(url)
    rows = rows_of(pl.DataFrame(EXTREMES).with_columns(euro=pl.lit("\u20ac")))
    store.write_metadata(feature, rows)
    assert store.read_metadata(feature).equals(rows)


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pl.Series("a", [[float("nan")]]), "NaN or infinity"),
        (pl.Series("a", [[b"x"]]), "lists of binary"),
        (pl.Series("a", [-800_000], dtype=pl.Int32).cast(pl.Date), "years 1 to 9999"),
        (pl.Series("a", [2**62]).cast(pl.Datetime("us")), "years 1 to 9999"),
    ],
    ids=["NaN in a list", "binary in a list", "an early day", "a late time"],
)
def test_what_cannot_be_kept_is_refused_by_name(shared_store, column, reason):
    feature = new_feature()
    with pytest.raises(MetadataSchemaError, match=f"'a'.*{reason}") as caught:
        shared_store("sqlite").write_metadata(feature, rows_of(column.to_frame()))
    assert caught.value.column == "a"
    assert not shared_store("sqlite").has_feature(feature)


def test_a_table_is_named_as_openlineage_names_those_of_its_kind(url_of):
    key = FeatureKey(["video", "faces"])
    url = sa.make_url(url_of("postgresql", "named"))
    namespace = f"postgres://{url.host}:{url.port}"
    assert SQLMetadataStore(url).dataset_of(key) == (namespace, f"{url.database}.named.metaxy__video__faces")
    for kind in ("sqlite", "duckdb"):
        path = sa.make_url(url_of(kind, "named")).database
        assert SQLMetadataStore(url_of(kind, "named")).dataset_of(key) == ("file", f"{path}/video/faces")


def test_nul_in_text_is_kept_or_refused_by_name(shared_store):
    feature, rows = new_feature(), rows_of(pl.DataFrame({"a": ["x\0y"]}))
    for kind in ("sqlite", "duckdb"):
        shared_store(kind).write_metadata(feature, rows)
        assert shared_store(kind).read_metadata(feature).equals(rows)
    with pytest.raises(MetadataSchemaError, match="NUL"):
        shared_store("postgresql").write_metadata(feature, rows)
    assert not shared_store("postgresql").has_feature(feature)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_whose_kinds_change_are_read_together(shared_store, kind):
    feature, store = new_feature(), shared_store(kind)
    for value in (1, 0.5, 2, None):
        store.write_metadata(feature, rows_of(pl.DataFrame({"size": [value], "SIZE": [str(value)]})))
    found = store.read_metadata(feature)
    assert found["size"].to_list() == [1.0, 0.5, 2.0, None]
    assert found["SIZE"].to_list() == ["1", "0.5", "2", "None"]


# Predicates.


def asked(store, monkeypatch):
    """Record how many rows the database gives back."""
    given_back, database = [], type(store._database)
    read = database.read

    def recorded(self, *arguments):
        rows = read(self, *arguments)
        given_back.append(rows.height)
        return rows

    monkeypatch.setattr(database, "read", recorded)
    return given_back


PUSHED = {
    "an integer": (pl.col("sample_id") >= 8, 2),
    "from the right": (pl.lit(8) <= pl.col("sample_id"), 2),
    "a range": (pl.col("sample_id").is_between(2, 4, closed="left"), 2),
    "a membership": (pl.col("sample_id").is_in([1, 3, None]), 2),
    "text of another case": (pl.col("text") == "a", 1),
    "text by its bytes": (pl.col("text") < "a", 5),
    "null": (pl.col("text").is_null(), 1),
    "no null": (~pl.col("text").is_null(), 9),
    "a field": (pl.col("data_version").struct.field("default") == "v1", 1),
    "a day": (pl.col("day") > date(2026, 1, 7), 3),
    "a time": (pl.col("at") > datetime(2026, 1, 7, 2, tzinfo=ZoneInfo("Europe/Berlin")), 3),
    "either": ((pl.col("sample_id") == 1) | (pl.col("text") == "B"), 2),
    "one that is left to Polars, and one": ((pl.col("float") > 0.5) & (pl.col("sample_id") < 5), 5),
    "a float": (pl.col("float") > 0.5, 10),
    "a pattern": (pl.col("text").str.starts_with("A"), 10),
    "a look at other rows": ((pl.col("sample_id") < 5) & (pl.col("float") == pl.col("float").max()), 10),
}


@pytest.mark.parametrize("kind", KINDS)
def test_predicates_that_mean_the_same_in_sql_leave_out_rows_there(shared_store, kind, monkeypatch):
    feature, store = new_feature(), shared_store(kind)
    days = pl.Series([date(2026, 1, day) for day in range(1, 11)])
    frame = pl.DataFrame(
        {
            "text": [*"aABCDEbcd", None],
            "float": [float("nan"), *(number / 4 for number in range(9))],
            "day": days,
            "at": days.cast(pl.Datetime("us")).dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Berlin"),
        }
    )
    versions = [{"default": f"v{number}"} for number in range(10)]
    rows = rows_of(frame).with_columns(data_version=pl.Series(versions))
    store.write_metadata(feature, rows)
    given_back = asked(store, monkeypatch)
    found = {}
    for name, (predicate, _) in PUSHED.items():
        given_back.clear()
        assert store.read_metadata(feature, filters=predicate).equals(rows.filter(predicate)), name
        found[name] = given_back[0]
    assert found == {name: number for name, (_, number) in PUSHED.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_integers_beside_floats_are_compared_as_polars_does(shared_store, kind):
    feature, store = new_feature(), shared_store(kind)
    for size in (2**53, 0.5):
        store.write_metadata(feature, rows_of(pl.DataFrame({"size": [size]})))
    every = store.read_metadata(feature)
    for size in (2**53, 2**53 + 1, 2**53 - 1):
        for predicate in (pl.col("size") == size, pl.col("size") >= size):
            assert store.read_metadata(feature, filters=predicate).equals(every.filter(predicate))


@pytest.mark.parametrize("kind", KINDS)
def test_predicates_of_any_length_are_answered(shared_store, kind, monkeypatch):
    feature, store = new_feature(), shared_store(kind)
    store.write_metadata(feature, rows_of(pl.DataFrame({"a": range(4)})))
    given_back = asked(store, monkeypatch)
    none = [pl.col("a") != at for at in range(2, 1200)]
    assert ids_of(store.read_metadata(feature, filters=[pl.col("a") > 0, *none])) == [1]
    assert ids_of(store.read_metadata(feature, filters=~pl.all_horizontal(none) & (pl.col("a") > 2))) == [3]
    assert given_back == [1, 1]
    nested = pl.col("a") == 0
    for at in range(60):
        nested = (pl.col("a") != at + 1) & (nested | (pl.col("a") == at + 2))
    assert store.read_metadata(feature, filters=nested).height == store.read_metadata(feature).filter(nested).height


def test_a_few_rows_of_many_are_all_that_is_asked_for(shared_store, monkeypatch):
    feature, store = new_feature(), shared_store("sqlite")
    for start in range(3):
        store.write_metadata(feature, rows_of(pl.DataFrame({"a": [start] * 100})))
    given_back = asked(store, monkeypatch)
    assert store.scan_metadata(feature).head(5).collect()["a"].to_list() == [0] * 5
    assert given_back == [5]


# Writers at once, and processes.

WRITER = """
import sys
from metaxy_fs.ext.sql import SQLMetadataStore
from metaxy_fs.testing.store_cases import pipeline, videos
video, _ = pipeline()
store, worker = SQLMetadataStore(sys.stdin.readline().strip()), int(sys.argv[1])
for at in range(int(sys.argv[2])):
    store.write_metadata(video, videos([worker * 1000 + at], **{f"by_{worker}": [at]}))
    store.write_metadata(video, videos([-1 - at]), write_id=f"job {at}")
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_processes_that_write_at_once_lose_nothing(url_of, kind, soak):
    processes, writes = (8, 25) if soak else (3, 3)
    url = url_of(kind, f"crowd_{uuid.uuid4().hex[:8]}")
    running = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(worker), str(writes)], stdin=subprocess.PIPE, text=True)
        for worker in range(processes)
    ]
    for process in running:
        process.stdin.write(url + "\n")
        process.stdin.close()
    assert [process.wait(timeout=600) for process in running] == [0] * processes
    video, _ = pipeline()
    store = SQLMetadataStore(url)
    found = store.read_metadata(video)
    assert sorted(ids_of(found)) == sorted(
        [worker * 1000 + at for worker in range(processes) for at in range(writes)] + [-1 - at for at in range(writes)]
    )
    assert {f"by_{worker}" for worker in range(processes)} <= set(found.columns)
    assert store.history(video)["time"].n_unique() == (processes + 1) * writes


@pytest.mark.parametrize("kind", KINDS)
def test_stores_whose_first_writes_come_at_once_lose_nothing(url_of, kind):
    video, _ = pipeline()
    url, gate = url_of(kind, "at_once"), threading.Barrier(6)

    def write(at):
        store = SQLMetadataStore(url)
        gate.wait()
        store.write_metadata(video, videos([at], **{f"by_{at}": [at]}))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    assert sorted(ids_of(SQLMetadataStore(url).read_metadata(video))) == list(range(6))


def test_a_writer_says_that_it_waits_for_another_one(url_of, caplog):
    video, _ = pipeline()
    url = url_of("postgresql", "waiting")
    store = SQLMetadataStore(url + "%20-clock_timeout%3D300ms")
    store.write_metadata(video, videos([1]))
    with psycopg.connect(url) as other, ThreadPoolExecutor(1) as pool:
        other.execute("INSERT INTO metaxy_commits VALUES ('video.processing', 2, '', now(), '', NULL, '')")
        writing = pool.submit(store.write_metadata, video, videos([2]))
        deadline = time.monotonic() + 50
        while "goes on waiting" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.05)
        other.rollback()
        writing.result(timeout=60)
    assert "lock timeout" in caplog.text
    assert ids_of(store.read_metadata(video)) == [1, 2]


def test_a_reader_that_is_locked_out_is_told_what_to_do(url_of):
    video, _ = pipeline()
    url = url_of("postgresql", "locked")
    store = SQLMetadataStore(url + "%20-clock_timeout%3D100ms")
    store.write_metadata(video, videos([1]))
    with SQLMetadataStore(url)._database.connected("lock") as connection:
        connection.exec_driver_sql("LOCK TABLE metaxy__video__processing IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StorageError, match=r"lock timeout.*set lock_timeout"):
            store.read_metadata(video)


def test_what_a_file_of_another_process_or_nowhere_needs_is_said(tmp_path):
    video, _ = pipeline()
    for kind in ("sqlite", "duckdb"):
        with pytest.raises(StorageError, match="Make its directory"):
            SQLMetadataStore(f"{kind}:///{tmp_path}/none/rows.db").write_metadata(video, videos([1]))
    store = SQLMetadataStore(f"duckdb:///{tmp_path}/rows.duckdb")
    store.write_metadata(video, videos([1]))
    ask = f"from metaxy_fs.ext.sql import SQLMetadataStore; SQLMetadataStore({store.location!r}).list_features()"
    found = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False)
    assert "lets one process open a file" in found.stderr.splitlines()[-1]


def test_a_writer_that_stalls_is_ended_by_the_database(url_of):
    url = url_of("postgresql", "stalled")
    for options, used in (("", "1min"), ("%20-cidle_in_transaction_session_timeout%3D5s", "5s")):
        with SQLMetadataStore(url + options)._database.connected("ask") as connection:
            assert connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar() == used
            assert connection.exec_driver_sql("SHOW tcp_keepalives_idle").scalar() == "60"


def test_a_commit_that_fails_half_way_leaves_nothing(shared_store, monkeypatch):
    for kind in KINDS:
        feature, store = new_feature(), shared_store(kind)
        store.write_metadata(feature, rows_of(pl.DataFrame({"a": [1]})))

        def fail(_self, connection, *_arguments):
            connection.exec_driver_sql("SELECT * FROM there_is_no_such_table")

        with monkeypatch.context() as patch:
            patch.setattr(type(store._database), "insert", fail)
            with pytest.raises(StorageError, match="add commit"):
                store.write_metadata(feature, rows_of(pl.DataFrame({"b": [1]})))
        store.write_metadata(feature, rows_of(pl.DataFrame({"b": [2]})))
        assert store.read_metadata(feature)["b"].to_list() == [None, 2]
        assert store.history(feature).height == 2


# Chains, files and secrets.


def test_stores_of_files_and_databases_make_one_chain(url_of, tmp_path):
    video, processed = pipeline()
    prod = SQLMetadataStore(url_of("sqlite", "prod"))
    prod.write_metadata(video, videos([1, 2]))
    dev = open_store(tmp_path / "dev", prod)
    assert dev.resolve_update(processed).new.height == 2
    dev.write_metadata(processed, dev.resolve_update(processed).new)
    assert dev.resolve_update(processed).new.is_empty()
    behind = SQLMetadataStore(url_of("sqlite", "behind"), fallback_stores=[dev], fallback_mode="sample")
    behind.write_metadata(video, videos([2, 3], take="new"))
    assert behind.read_metadata(video, latest_only=True).height == 3
    assert behind.resolve_update(processed).stale["sample_id"].to_list() == [2]
    assert pickle.loads(pickle.dumps(behind)).read_metadata(processed).height == 2  # noqa: S301  # of this test's own


@pytest.fixture
def registered(monkeypatch):
    """Registers the kind `sql`, as the project says now: an installation may be older."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    entry = EntryPoint("sql", project["entry-points"]["metaxy_fs.stores"]["sql"], "metaxy_fs.stores")
    installed = entry_points
    monkeypatch.setattr(
        "importlib.metadata.entry_points",
        lambda **named: [entry] if named == {"group": entry.group} else installed(**named),
    )


@pytest.mark.usefixtures("registered")
def test_a_file_of_configuration_names_a_database(tmp_path, monkeypatch):
    monkeypatch.setenv("ROWS", f"sqlite:///{tmp_path}/rows.db")
    file = tmp_path / "metaxy_fs.toml"
    file.write_text('[stores.x]\nkind = "sql"\nurl = "${ROWS}"\ntags = {run = "1"}')
    store = load_config(file).store()
    assert isinstance(store, SQLMetadataStore)
    assert dict(store.tags) == {"run": "1"}


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_a_relative_file_is_beside_the_configuration(tmp_path, monkeypatch, kind):
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    (tmp_path / "metaxy_fs.toml").write_text(f'[stores.x]\nkind = "sql"\nurl = "{kind}:///rows.db"')
    store = load_config().store()
    video, _ = pipeline()
    store.write_metadata(video, videos([1]))
    assert (tmp_path / "rows.db").exists()
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(pickle.dumps(store)).list_features() == [video.spec.key]  # noqa: S301  # of this test's own


def test_a_password_is_shown_nowhere(server, caplog):
    caplog.set_level("DEBUG")
    right, wrong = postgres.PASSWORD, "s3cret-of-nobody"
    store = SQLMetadataStore(server.replace("/postgres", "/nowhere"))
    denied = SQLMetadataStore(server.replace(right, wrong))
    video, _ = pipeline()
    shown = [repr(store), str(store.location), repr(denied), store.identity]
    for each in (store, denied):
        for ask in (each.list_features, lambda each=each: each.write_metadata(video, videos([1]))):
            with pytest.raises(StorageError) as caught:
                ask()
            shown += ["".join(traceback.format_exception(caught.value)), repr(caught.value)]
    with pytest.raises(ValueError, match="There is no store for 'mysql'") as caught:
        SQLMetadataStore(f"mysql://me:{wrong}@host/db")
    shown += [str(caught.value), caplog.text]
    assert not any(secret in text for text in shown for secret in (right, wrong))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://", "in memory"),
        ("duckdb:///:memory:", "in memory"),
        ("clickhouse://host/db", "ClickHouse lacks"),
        ("postgres://host/db", "Did you mean 'postgresql'"),
        ("no url", "no URL of a database"),
        ("postgresql://me:pa@ss@host/db", "write @ as %40"),
        ("postgresql://me:pa@ss:word@host/db", "write @ as %40"),
        ("sqlite:///file:rows.db?mode=ro&uri=true", "no path of a file"),
        ("duckdb:///md:rows", "no path of a file"),
    ],
)
def test_what_is_no_place_for_a_store_is_refused(url, message):
    with pytest.raises(ValueError, match=message) as caught:
        SQLMetadataStore(url)
    assert not any(secret in "".join(traceback.format_exception(caught.value)) for secret in ("word@", "ss@"))


def test_a_schema_that_cannot_be_looked_into_is_not_empty(server, url_of):
    video, _ = pipeline()
    url = url_of("postgresql", "closed")
    SQLMetadataStore(url).write_metadata(video, videos([1]))
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("CREATE ROLE reader LOGIN PASSWORD 'of-a-reader'")
    reader = SQLMetadataStore(url.replace(f"{postgres.USER}:{postgres.PASSWORD}", "reader:of-a-reader"))
    with pytest.raises(StorageError, match="grant USAGE"):
        reader.read_metadata(video)


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_nothing_is_made_by_looking(tmp_path, kind):
    store = SQLMetadataStore(f"{kind}:///{tmp_path}/looked_at.db")
    video, _ = pipeline()
    assert store.list_features() == []
    assert store.list_snapshots().is_empty()
    with pytest.raises(FeatureNotFoundError):
        store.read_metadata(video)
    assert not store.is_written
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_commits_are_copied_from_files_to_a_database_and_back(url_of, tmp_path, kind):
    video, _ = pipeline()
    files = open_store(tmp_path / "files")
    files.write_metadata(video, videos([1, 2], size=[1, 2]), write_id="job", tags={"run": "1"})
    files.write_metadata(video, videos([2], take="new", size=[0.5]))
    files.retire(video, samples([1]), reason="withdrawn")
    files.write_metadata(pipeline(frames=2)[0], videos([7]))
    database = SQLMetadataStore(url_of(kind, f"copied_{uuid.uuid4().hex[:8]}"))
    back = open_store(tmp_path / "back")

    for added in (4, 0):
        assert copy_metadata(source=files, target=database).added == added
        assert copy_metadata(source=database, target=back).added == added
    for store in (database, back):
        assert store.read_metadata(video, versions="all").equals(files.read_metadata(video, versions="all"))
        assert ids_of(store.read_metadata(video, latest_only=True)) == [2]
        kept = ["rows", "retired", "partition", "tags"]
        assert store.history(video).select(kept).equals(files.history(video).select(kept))
        store.write_metadata(video, videos([1, 2], size=[1, 2]), write_id="job")
        assert store.history(video).height == 4
    with pytest.raises(TypeError, match="FilesystemMetadataStore"):
        copy_metadata(video, source=files, target=database, exclude=samples([1]))
    files.write_metadata(video, videos([9]), write_id="taken")
    database.write_metadata(video, videos([8]), write_id="taken")
    with pytest.raises(WriteConflictError, match="taken"):
        copy_metadata(video, source=files, target=database)


def test_copy_of_the_latest_rows_is_read_alike(url_of, tmp_path):
    video, _ = pipeline()
    files, database = open_store(tmp_path / "files"), SQLMetadataStore(url_of("sqlite", "latest_copied"))
    for ids in ([1, 2], [1, 2], [3]):
        files.write_metadata(video, videos(ids))
    assert copy_metadata(video, source=files, target=database, which="latest").added == 2
    latest = [store.read_metadata(video, latest_only=True) for store in (files, database)]
    assert latest[0].equals(latest[1])
