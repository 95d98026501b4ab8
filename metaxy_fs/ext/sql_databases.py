"""Reach SQLite, DuckDB and PostgreSQL, and move frames into and out of them by the fastest way of their drivers."""

import builtins
import os
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Final
from weakref import finalize

import polars as pl
import polars.selectors as cs
import sqlalchemy as sa

from metaxy_fs.errors import ObjectExistsError, ObjectNotFoundError, StorageError
from metaxy_fs.ext.sql_columns import refuse
from metaxy_fs.storage import ObjectInfo, Storage
from metaxy_fs.storage.base import by_path, names_below
from metaxy_fs.storage.redaction import conceal, redact, reveals, secrets_of

_SHARED: Final = sa.MetaData()
COMMITS: Final = sa.Table(
    "metaxy_commits",
    _SHARED,
    sa.Column("feature", sa.Text(), primary_key=True),
    sa.Column("number", sa.BigInteger(), primary_key=True, autoincrement=False),
    sa.Column("commit_id", sa.Text(), nullable=False),
    sa.Column("committed_at", sa.DateTime(), nullable=False),
    sa.Column("definition", sa.Text(), nullable=False),
    sa.Column("write_id", sa.Text()),
    sa.Column("record", sa.Text(), nullable=False),
    sa.UniqueConstraint("feature", "definition", "write_id"),
)
_OBJECTS: Final = sa.Table(
    "metaxy_objects",
    _SHARED,
    sa.Column("path", sa.Text(), primary_key=True),
    sa.Column("data", sa.LargeBinary(), nullable=False),
)
_ROWS: Final = 100_000
"""How many rows are handed to a driver at once."""

_SECONDS: Final = 60
"""How long one waits for others."""

_NO_URL: Final = (
    "This is no URL of a database; expected one such as 'sqlite:///rows.db' or 'postgresql://host/database'. In a user "
    "or password write @ as %40, : as %3A and / as %2F."
)
_ADVICE: Final[Mapping[str, str]] = {
    "Could not set lock": "DuckDB lets one process open a file: end the other one, or take SQLite or PostgreSQL",
    "unable to open database": "Make its directory, or write to another place",
    "Cannot open file": "Make its directory, or write to another place",
    "lock timeout": "A writer or an administrator has locked a table: wait, or set lock_timeout in the URL",
    "readonly database": "Make the file and its directory writable, or write to another place",
}
"""What to do where the reason of a database has these words."""


class InTheWayError(StorageError):
    """Another transaction was in the way, which may not have ended yet."""


class Database(Storage):
    """A database that is reached by a URL; a table of it keeps objects, such as snapshots.

    Attributes:
        url: Where it is, with the password if there is one.
        driver: The dialect and driver of SQLAlchemy.
        is_embedded: Whether it is a file of this machine.
        clock: A query for the microseconds since 1970 (UTC), by its clock.
        options: How SQLAlchemy opens it.
        conflicts: The errors of its driver that are an `InTheWayError`.
    """

    driver: ClassVar[str]
    is_embedded: ClassVar = True
    clock: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    conflicts: ClassVar[Sequence[str]] = ()

    def __init__(self, url: sa.URL) -> None:
        self.url = url
        self._secrets = secrets_of(url.render_as_string(hide_password=False), {})
        try:
            self._engine = sa.create_engine(url, hide_parameters=True, **self.options)
        except (ImportError, sa.exc.NoSuchModuleError) as error:
            advice = f"pip install 'metaxy_fs[{url.get_backend_name()}]'"
            raise ImportError(f"{self.driver} needs its driver: {advice}") from error
        self._process = os.getpid()
        self._is_made = False
        finalize(self, _dispose, self._engine, self._process)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.url,)

    @property
    def location(self) -> str:
        return redact(self.url.render_as_string(hide_password=True))

    @property
    def put_is_conditional(self) -> bool:
        return True

    def put(self, path: str, data: bytes) -> None:
        insert = sa.text("INSERT INTO metaxy_objects VALUES (:path, :data) ON CONFLICT DO NOTHING RETURNING path")
        with self.connected(f"write {path!r}") as connection:
            make_shared(connection)
            if not connection.execute(insert, {"path": path, "data": data}).all():
                raise self._failed(ObjectExistsError, "write", path, "an object of that name exists")

    def get(self, path: str) -> bytes:
        for (data,) in self.found(f"read {path!r}", sa.select(_OBJECTS.c.data).where(_OBJECTS.c.path == path)):
            return bytes(data)
        raise self._failed(ObjectNotFoundError, "read", path, "no such object")

    def list(self, directory: str, *, limit: int | None = None) -> builtins.list[ObjectInfo]:
        found: Any = self.found(f"list {directory!r}", sa.select(_OBJECTS.c.path, _OBJECTS.c.data))
        below = f"{directory}/" if directory else ""
        return sorted((ObjectInfo(path, len(data)) for path, data in found if path.startswith(below)), key=by_path)[
            :limit
        ]

    def list_directories(self, directory: str) -> builtins.list[str]:
        return names_below((info.path for info in self.list(directory)), directory)

    def delete(self, path: str) -> None:
        with self.connected(f"delete {path!r}") as connection:
            make_shared(connection)
            connection.execute(_OBJECTS.delete().where(_OBJECTS.c.path == path))

    @contextmanager
    def connected(self, what: str) -> Iterator[sa.Connection]:
        """Give a connection for one transaction, and translate what goes wrong.

        Raises:
            InTheWayError: Another transaction was in the way.
            StorageError: The database refused, or could not be reached. It has no credentials and no rows in it.
        """
        if self._process != os.getpid():  # connections are those of the process that was forked
            self._engine.dispose(close=False)
            self._process = os.getpid()
        try:
            with self._engine.begin() as connection:
                yield connection
        except (sa.exc.SQLAlchemyError, self._engine.dialect.loaded_dbapi.Error) as error:
            cause = getattr(error, "orig", None) or error
            reason = conceal(str(cause).strip().partition("\n")[0], self._secrets)
            advice = "".join(f". {advice}" for words, advice in _ADVICE.items() if words in reason)
            kind = InTheWayError if type(cause).__name__ in self.conflicts else StorageError
            answer = kind(f"cannot {what} in {self.location}: {reason}{advice}", root=self.location)
            raise answer from None if reveals(cause, self._secrets) else cause

    def found(self, what: str, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        """Return what there is in the tables that all features share, which asking does not make."""
        if not self.exists():
            return []
        with self.connected(what) as connection:
            return connection.execute(query).all()

    def exists(self) -> bool:
        """Whether anything was ever written; a file that is not there is not made by asking."""
        if not self._is_made and self._is_there():
            with self.connected("look for tables") as connection:
                self._is_made = sa.inspect(connection).has_table(_OBJECTS.name)
        return self._is_made

    def _is_there(self) -> bool:
        try:
            return not self.is_embedded or bool(Path(str(self.url.database)).stat())
        except OSError as error:  # where nobody can tell, the database says why
            return not isinstance(error, FileNotFoundError)

    @abstractmethod
    def insert(self, connection: sa.Connection, into: str, rows: pl.DataFrame) -> None:
        """Add rows to a table; `into` is its name with those of the columns, quoted, in their order."""

    @abstractmethod
    def read(self, connection: sa.Connection, query: sa.Select[Any], schema: pl.Schema) -> pl.DataFrame:
        """Return the rows of a query, with columns of these names and types."""


class _SQLite(Database):
    """A file of SQLite. It keeps dates and times as text, and NaN, which it would turn into null, as text too."""

    driver = "sqlite"
    clock = "SELECT CAST(ROUND((julianday('now') - 2440587.5) * 86400000000) AS INTEGER)"
    # The driver begins a transaction at the first change of a row; that of a commit begins with one.
    options: ClassVar = {"poolclass": sa.NullPool, "connect_args": {"timeout": _SECONDS}}

    def insert(self, connection: sa.Connection, into: str, rows: pl.DataFrame) -> None:
        has_nan = any(values.is_nan().any() for values in rows.select(cs.float()))
        for part in rows.with_columns(cs.temporal().cast(pl.String)).iter_slices(_ROWS):
            values: Iterable[tuple[Any, ...]] = part.rows()
            if has_nan:
                values = [tuple("NaN" if value != value else value for value in row) for row in values]  # noqa: PLR0124  # NaN alone
            connection.exec_driver_sql(f"INSERT INTO {into} VALUES ({', '.join('?' * rows.width)})", list(values))  # noqa: S608  # of quoted names

    def read(self, connection: sa.Connection, query: sa.Select[Any], schema: pl.Schema) -> pl.DataFrame:
        texts = {name: pl.String() if dtype.is_temporal() else dtype for name, dtype in schema.items()}
        found: Any = connection.execute(query)
        # Not strict, for text that stands for NaN.
        rows = pl.DataFrame(found.cursor.fetchall(), schema=texts, orient="row", strict=False)
        dates, times = ([name for name, dtype in schema.items() if dtype == kind] for kind in (pl.Date, pl.Datetime))
        return rows.with_columns(pl.col(dates).str.to_date(), pl.col(times).str.to_datetime(time_unit="us"))


class _DuckDB(Database):
    """A file of DuckDB, which takes and gives Arrow."""

    driver = "duckdb"
    clock = "SELECT epoch_us(now())"
    # A key is refused that another transaction has taken, though it has not ended.
    conflicts = ("TransactionException", "ConstraintException")

    def insert(self, connection: sa.Connection, into: str, rows: pl.DataFrame) -> None:
        database: Any = connection.connection.dbapi_connection
        database.register("metaxy_rows", rows.to_struct())  # of a frame DuckDB would make a table of pyarrow
        try:
            connection.exec_driver_sql(f"INSERT INTO {into} SELECT * FROM metaxy_rows")  # noqa: S608  # of quoted names
        finally:
            database.unregister("metaxy_rows")

    def read(self, connection: sa.Connection, query: sa.Select[Any], schema: pl.Schema) -> pl.DataFrame:
        compiled, parameters = _compiled(connection, query)
        database: Any = connection.connection.dbapi_connection
        return pl.DataFrame(database.sql(compiled, params=[*parameters.values()])).cast(schema)


class _PostgreSQL(Database):
    """PostgreSQL by psycopg, with COPY both ways."""

    driver = "postgresql+psycopg"
    is_embedded = False
    clock = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)"
    options: ClassVar = {"pool_pre_ping": True}
    conflicts = ("SerializationFailure", "DeadlockDetected", "UniqueViolation", "DuplicateTable", "LockNotAvailable")

    def __init__(self, url: sa.URL) -> None:
        super().__init__(url)
        sa.event.listen(self._engine, "connect", lambda connection, _record: _prepare_session(connection))

    def insert(self, connection: sa.Connection, into: str, rows: pl.DataFrame) -> None:
        for values in rows.select(cs.string()):
            if values.str.contains("\0", literal=True).any():
                refuse((values.name,), "PostgreSQL has no text with a NUL character; encode it, or keep it as binary")
        texts = rows.with_columns(cs.binary().bin.encode("hex").str.replace("^", r"\x"))
        cursor: Any = connection.connection.cursor()
        with cursor.copy(f"COPY {into} FROM STDIN (FORMAT csv)") as copy:
            for part in texts.iter_slices(_ROWS):
                data = BytesIO()
                part.write_csv(data, include_header=False, quote_style="non_numeric")
                copy.write(data.getbuffer())

    def read(self, connection: sa.Connection, query: sa.Select[Any], schema: pl.Schema) -> pl.DataFrame:
        compiled, parameters = _compiled(connection, query)
        cursor: Any = connection.connection.cursor()
        with cursor.copy(f"COPY ({compiled}) TO STDOUT (FORMAT csv)", parameters) as copy:
            data = b"".join(copy)
        flags, binaries = (
            [name for name, dtype in schema.items() if dtype == kind] for kind in (pl.Boolean, pl.Binary)
        )
        texts = pl.Schema({**schema, **dict.fromkeys([*flags, *binaries], pl.String())})
        rows = pl.read_csv(data, has_header=False, schema=texts, raise_if_empty=False)
        return rows.with_columns(pl.col(flags) == "t", pl.col(binaries).str.slice(2).str.decode("hex"))


_SESSION: Final[Mapping[str, str]] = {
    "datestyle": "'ISO, YMD'",
    "bytea_output": "'hex'",
    "extra_float_digits": "'1'",
    "client_encoding": "'UTF8'",
    "tcp_keepalives_idle": f"'{_SECONDS}'",
    **{
        name: f"coalesce(nullif(current_setting('{name}'), '0'), '{_SECONDS}s')"
        for name in ("idle_in_transaction_session_timeout", "lock_timeout")
    },
}
"""How PostgreSQL writes values, whatever a role is set to, and when it ends a writer that is gone or stands still.

Until then what this one has locked is shut to writers of the feature, and to readers if it adds a column.
"""


def _prepare_session(connection: Any) -> None:
    settings = ", ".join(f"set_config('{name}', {value}, false)" for name, value in _SESSION.items())
    [schema, *_] = connection.execute(f"SELECT current_schema(), {settings}").fetchone()
    connection.commit()
    if schema is None:  # tables could not be seen though they were there
        connection.close()
        raise sa.exc.InvalidRequestError(
            "no schema of the search path is there for this user. Create one, or grant USAGE on it"
        )


_KINDS: Final[Mapping[str, type[Database]]] = {"sqlite": _SQLite, "duckdb": _DuckDB, "postgresql": _PostgreSQL}
"""By the name of the dialect in SQLAlchemy."""


def make_shared(connection: sa.Connection) -> None:
    """Make the tables that all features share, if there are none."""
    for table in _SHARED.sorted_tables:  # what only reads first could not wait for others in SQLite
        connection.execute(sa.schema.CreateTable(table, if_not_exists=True))


def open_database(url: str | sa.URL, base_directory: str | os.PathLike[str]) -> Database:
    """Return the database of a URL; nothing is asked of it yet.

    Raises:
        ImportError: Its driver is not installed.
        ValueError: It is no URL of a database that is supported.
    """
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # of a port; what it cites may be a part of a password
        parsed = sa.URL.create("", host="@")
    if "@" in (parsed.host or ""):
        raise ValueError(_NO_URL)
    kind, file = parsed.get_backend_name(), parsed.database or ""
    if kind not in _KINDS:
        meant = " Did you mean 'postgresql'?" if kind == "postgres" else ""
        raise ValueError(
            f"There is no store for {kind!r}; there are {', '.join(_KINDS)}.{meant} A store needs transactions over "
            "several tables and keys that are unique, which ClickHouse lacks; other databases are not tested."
        )
    database = _KINDS[kind]
    if database.is_embedded:
        if re.match(r"$|:|\w{2,}:", file):
            raise ValueError(
                f"{file!r} is no path of a file of {kind}, which is what a store takes. For rows in memory, which "
                "others do not see, take an InMemoryMetadataStore."
            )
        parsed = parsed.set(database=str(Path(base_directory, file).absolute()))
    return database(parsed.set(drivername=database.driver))


def _compiled(connection: sa.Connection, query: sa.Select[Any]) -> tuple[str, dict[str, Any]]:
    compiled = query.compile(dialect=connection.dialect, compile_kwargs={"render_postcompile": True})
    names = compiled.positiontup or compiled.params
    return str(compiled), {name: compiled.params[name] for name in names}


def _dispose(engine: sa.Engine, process: int) -> None:
    if process == os.getpid():
        engine.dispose()
