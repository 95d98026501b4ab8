"""Move frames into and out of a database by the fastest way that its driver has."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from importlib import import_module
from io import BytesIO
from typing import Any, Final

import polars as pl
import sqlalchemy as sa

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.ext.sql_columns import TYPES, Kind

_ROWS: Final = 100_000
"""How many rows are handed to a driver at once."""

_SECONDS: Final = 60
"""How long a writer waits for others."""

_TIME: Final = "%Y-%m-%d %H:%M:%S%.6f"

_IDLE: Final = "idle_in_transaction_session_timeout"
_SESSION: Final[Mapping[str, str]] = {
    "datestyle": "'ISO, YMD'",
    "bytea_output": "'hex'",
    "extra_float_digits": "'1'",
    "client_encoding": "'UTF8'",
    "tcp_keepalives_idle": f"'{_SECONDS}'",
    _IDLE: f"coalesce(nullif(current_setting('{_IDLE}'), '0'), '{_SECONDS}s')",
}
"""How PostgreSQL writes values, whatever a role is set to, and when it ends a writer that is gone or stands still.

Until then what this one has locked is shut to writers of the feature, and to readers if it adds a column.
"""

Kinds = Mapping[str, Kind]
"""The kinds of columns by their names in the database."""


class Driver(ABC):
    """What differs from one kind of database to another.

    Attributes:
        name: The dialect and driver of SQLAlchemy.
        is_embedded: Whether the database is a file of this machine.
        now: A query for the microseconds since 1970 (UTC), by the clock of the database.
        place: A query that is null if tables could not be seen though they were there; None if they always are.
        extra: What to install of this package for it.
        text: The type of text whose order is that of its bytes.
        number: The type of numbers of more than 64 bits.
    """

    name: str
    extra = "sql"
    is_embedded = True
    now: str
    place: str | None = None
    text: Any = sa.Text()
    number: Any = sa.Text()

    def type_of(self, kind: Kind) -> Any:
        """Return the type of the columns of a kind."""
        types: dict[Kind, Any] = {
            "integer": sa.BigInteger(),
            "float": sa.Double(),
            "boolean": sa.Boolean(),
            "text": self.text,
            "number": self.number,
            "binary": sa.LargeBinary(),
            "date": sa.Date(),
            "time": sa.DateTime(),
            "json": sa.Text(),
        }
        return types[kind]

    def engine(self, url: sa.URL) -> sa.Engine:
        """Return what opens connections to a database.

        Raises:
            ImportError: The driver is not installed.
        """
        try:
            return self._engine(url)
        except ImportError as error:
            raise ImportError(f"{self.name} needs its driver: pip install 'metaxy_fs[{self.extra}]'") from error

    def _engine(self, url: sa.URL) -> sa.Engine:
        return sa.create_engine(url, pool_pre_ping=not self.is_embedded, hide_parameters=True)

    @abstractmethod
    def errors(self) -> tuple[type[BaseException], ...]:
        """Return the errors of the driver itself, which the fast ways let through."""

    def is_conflict(self, error: BaseException | None) -> bool:  # noqa: ARG002  # of most kinds none is
        """Whether an error says that another transaction was in the way, which has not ended yet."""
        return False

    @abstractmethod
    def insert(self, connection: sa.Connection, table: str, rows: pl.DataFrame) -> None:
        """Add rows to a table whose columns have the names of theirs."""

    @abstractmethod
    def read(self, connection: sa.Connection, query: sa.Select[Any], kinds: Kinds) -> pl.DataFrame:
        """Return the rows of a query."""


class SQLite(Driver):
    """A file of SQLite. It keeps dates and times as text, and NaN, which it would turn into null, as text too."""

    name = "sqlite"
    now = "SELECT CAST(ROUND((julianday('now') - 2440587.5) * 86400000000) AS INTEGER)"

    def _engine(self, url: sa.URL) -> sa.Engine:
        engine = sa.create_engine(
            url,
            poolclass=sa.NullPool,
            hide_parameters=True,
            connect_args={"timeout": _SECONDS, "isolation_level": None},
        )
        # The driver begins a transaction at the first change of a row, and so none where a table is made.
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
        return engine

    def errors(self) -> tuple[type[BaseException], ...]:
        return ()

    def insert(self, connection: sa.Connection, table: str, rows: pl.DataFrame) -> None:
        quote = connection.dialect.identifier_preparer.quote_identifier
        columns = ", ".join(map(quote, rows.columns))
        statement = f"INSERT INTO {quote(table)} ({columns}) VALUES ({', '.join('?' * rows.width)})"  # noqa: S608  # of quoted names
        times = [name for name, dtype in rows.schema.items() if isinstance(dtype, pl.Datetime)]
        with_text = rows.with_columns(pl.col(times).dt.to_string(_TIME), pl.col(pl.Date).cast(pl.String))
        floats = {index for index, dtype in enumerate(rows.dtypes) if dtype.is_float()}
        has_nan = any(rows[:, index].is_nan().any() for index in floats)
        for part in with_text.iter_slices(_ROWS):
            values: Iterable[tuple[Any, ...]] = part.rows()
            if has_nan:
                values = [tuple("NaN" if value != value else value for value in row) for row in values]  # noqa: PLR0124  # NaN alone
            connection.exec_driver_sql(statement, list(values))

    def read(self, connection: sa.Connection, query: sa.Select[Any], kinds: Kinds) -> pl.DataFrame:
        found = connection.execute(query).fetchall()
        texts = {name: pl.String() if kind in ("date", "time") else TYPES[kind] for name, kind in kinds.items()}
        columns = zip(*found, strict=True) if found else [()] * len(texts)
        series = [_series(name, values, dtype) for values, (name, dtype) in zip(columns, texts.items(), strict=True)]
        return _parsed(pl.DataFrame(series), kinds)


class DuckDB(Driver):
    """A file of DuckDB, which takes and gives Arrow."""

    name = "duckdb"
    extra = "duckdb"
    now = "SELECT epoch_us(now())"

    def errors(self) -> tuple[type[BaseException], ...]:
        return (import_module("duckdb").Error,)

    def is_conflict(self, error: BaseException | None) -> bool:
        # A key is refused that another transaction has taken, though it has not ended.
        duckdb = import_module("duckdb")
        return isinstance(error, duckdb.TransactionException | duckdb.ConstraintException)

    def insert(self, connection: sa.Connection, table: str, rows: pl.DataFrame) -> None:
        quote = connection.dialect.identifier_preparer.quote_identifier
        columns = ", ".join(map(quote, rows.columns))
        database: Any = connection.connection.dbapi_connection
        database.register("metaxy_rows", _Arrow(rows))
        try:
            connection.exec_driver_sql(f"INSERT INTO {quote(table)} ({columns}) SELECT * FROM metaxy_rows")  # noqa: S608  # of quoted names
        finally:
            database.unregister("metaxy_rows")

    def read(self, connection: sa.Connection, query: sa.Select[Any], kinds: Kinds) -> pl.DataFrame:
        compiled = _compiled(connection, query)
        database: Any = connection.connection.dbapi_connection
        parameters = [compiled.params[name] for name in compiled.positiontup or ()]
        found = database.sql(str(compiled), params=parameters)
        return pl.DataFrame(found).cast({name: TYPES[kind] for name, kind in kinds.items()})


class PostgreSQL(Driver):
    """PostgreSQL by psycopg, with COPY both ways."""

    name = "postgresql+psycopg"
    is_embedded = False
    now = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)"
    place = "SELECT current_schema()"
    extra = "postgresql"
    text = sa.Text(collation="C")
    number = sa.Numeric()

    def _engine(self, url: sa.URL) -> sa.Engine:
        engine = super()._engine(url)
        sa.event.listen(engine, "connect", lambda connection, _record: _set_session(connection))
        return engine

    def errors(self) -> tuple[type[BaseException], ...]:
        return (import_module("psycopg").Error,)

    def is_conflict(self, error: BaseException | None) -> bool:
        return str(getattr(error, "sqlstate", None) or "").startswith("40")  # serialization failures and deadlocks

    def insert(self, connection: sa.Connection, table: str, rows: pl.DataFrame) -> None:
        quote = connection.dialect.identifier_preparer.quote_identifier
        for name, dtype in rows.schema.items():
            if dtype == pl.String() and rows.get_column(name).str.contains("\0", literal=True).any():
                raise MetadataSchemaError(
                    f"The column {name!r} holds text with a NUL character, which PostgreSQL cannot keep. Encode it, or "
                    "keep it as binary.",
                    column=name,
                )
        binary = [name for name, dtype in rows.schema.items() if dtype == pl.Binary()]
        as_text = rows.with_columns((pl.lit("\\x") + pl.col(name).bin.encode("hex")).alias(name) for name in binary)
        columns = ", ".join(map(quote, rows.columns))
        cursor: Any = connection.connection.cursor()
        with cursor.copy(f"COPY {quote(table)} ({columns}) FROM STDIN (FORMAT csv)") as copy:
            for part in as_text.iter_slices(_ROWS):
                data = BytesIO()
                part.write_csv(data, include_header=False, quote_style="non_numeric")
                copy.write(data.getbuffer())

    def read(self, connection: sa.Connection, query: sa.Select[Any], kinds: Kinds) -> pl.DataFrame:
        compiled = _compiled(connection, query)
        cursor: Any = connection.connection.cursor()
        with cursor.copy(f"COPY ({compiled}) TO STDOUT (FORMAT csv)", compiled.params) as copy:
            data = b"".join(copy)
        texts = pl.Schema(
            {name: TYPES[kind] if kind in ("integer", "float") else pl.String() for name, kind in kinds.items()}
        )
        if not data:
            return _parsed(texts.to_frame(), kinds)
        return _parsed(pl.read_csv(data, has_header=False, schema=texts), kinds)


DRIVERS: Final[Mapping[str, Driver]] = {"sqlite": SQLite(), "duckdb": DuckDB(), "postgresql": PostgreSQL()}
"""By the name of the dialect in SQLAlchemy."""


class _Arrow:
    """A frame that offers nothing but the Arrow stream interface, for which DuckDB needs no other package."""

    def __init__(self, rows: pl.DataFrame) -> None:
        self._rows = rows

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._rows.__arrow_c_stream__(requested_schema)


def _compiled(connection: sa.Connection, query: sa.Select[Any]) -> Any:
    return query.compile(dialect=connection.dialect, compile_kwargs={"render_postcompile": True})


def _set_session(connection: Any) -> None:
    settings = ", ".join(f"set_config('{name}', {value}, false)" for name, value in _SESSION.items())
    connection.execute(f"SELECT {settings}")
    connection.commit()


def _series(name: str, values: Iterable[Any], dtype: pl.DataType) -> pl.Series:
    if dtype.is_float():  # among which NaN is text
        return pl.Series(name, [None if value is None else float(value) for value in values], dtype)
    return pl.Series(name, values, pl.Int64() if dtype == pl.Boolean() else dtype)


def _parsed(rows: pl.DataFrame, kinds: Kinds) -> pl.DataFrame:
    """Return rows in the types of their kinds, where a driver gives text or integers for some."""
    made = []
    for name, kind in kinds.items():
        value, given = pl.col(name), rows.schema[name]
        match kind, given:
            case "boolean", pl.String():
                made.append(value == "t")
            case "boolean", pl.Int64():
                made.append(value != 0)
            case "date", pl.String():
                made.append(value.str.to_date("%Y-%m-%d"))
            case "time", pl.String():
                made.append(value.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us"))
            case "binary", pl.String():
                made.append(value.str.slice(2).str.decode("hex"))
    return rows.with_columns(made)
