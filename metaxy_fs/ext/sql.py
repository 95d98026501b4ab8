"""Keep the rows of features in a SQL database: SQLite, DuckDB or PostgreSQL.

Theory of operation. A commit is one transaction. It inserts the record of the commit first, whose key is the feature
and the number, so that of two writers the second one waits for the first and then learns that the number is taken. Only
the one who has the number goes on, adds columns that the table of the feature lacks, and inserts the rows. So which
columns there are follows from the records alone, and nobody asks the database. Rows are never changed, so a read needs
no transaction over several statements.
"""

import builtins
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from weakref import finalize

import polars as pl
from polars.io.plugins import register_io_source

try:
    import sqlalchemy as sa
except ImportError as error:
    raise ImportError("metaxy_fs.ext.sql needs SQLAlchemy: pip install 'metaxy_fs[sql]'") from error

from metaxy_fs.errors import CommitStateUnknownError, ObjectExistsError, ObjectNotFoundError, StorageError
from metaxy_fs.ext.sql_columns import Kind, Names, decoded, encoded, leaves_of, names_of
from metaxy_fs.ext.sql_drivers import DRIVERS, Driver
from metaxy_fs.ext.sql_predicates import Column, conditions
from metaxy_fs.ids import pause, random_fraction
from metaxy_fs.log import column, decode_schema
from metaxy_fs.metadata_store import MetadataStore
from metaxy_fs.metadata_store.backend import FallbackMode
from metaxy_fs.metadata_store.tables import NUMBER, CommitRecord, TableMetadataStore
from metaxy_fs.reserved import ROW_OF_SCAN as ROW
from metaxy_fs.spec import FeatureKey
from metaxy_fs.storage import ObjectInfo, Storage
from metaxy_fs.storage.base import by_path
from metaxy_fs.storage.redaction import conceal, redact, reveals, secrets_of

__all__ = ["SQLMetadataStore"]

_OWN: Final = sa.MetaData()
_COMMITS: Final = sa.Table(
    "metaxy_commits",
    _OWN,
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
    _OWN,
    sa.Column("path", sa.Text(), primary_key=True),
    sa.Column("data", sa.LargeBinary(), nullable=False),
)
_MOST_RUNS: Final = 100
_NO_URL: Final = (
    "This is no URL of a database; expected one such as 'sqlite:///rows.db' or 'postgresql://host/database'. In a user "
    "or password write @ as %40, : as %3A and / as %2F."
)


class SQLMetadataStore(TableMetadataStore):
    """A store that keeps each feature in a table of a SQL database.

    Writers of any number of processes may share a database as far as it allows that; DuckDB lets one process open its
    file at a time. Versions are calculated in Polars, as everywhere.

    Args:
        url: A URL of SQLAlchemy: `sqlite:///rows.db`, `duckdb:///rows.duckdb`, or
            `postgresql://user:password@host/database`. The password is never shown; pickles of the store carry it.
        fallback_stores: Stores to read from, nearest first, where this one lacks a feature.
        fallback_mode: Whether they are read by feature or by sample; see `MetadataStore`.
        tags: What every commit that is made through this store says of itself; see `MetadataStore.write_metadata`.
        base_directory: Where the path of a file starts, if it is relative; the working directory by default.

    Raises:
        ImportError: The driver of the database is not installed; the message says which extra to install.
        ValueError: It is no URL of a database that is supported.

    Examples:
        >>> from metaxy_fs.ext.sql import SQLMetadataStore
        >>> store = SQLMetadataStore("sqlite:///rows.db")
        >>> store.list_features()
        []
    """

    def __init__(
        self,
        url: str | sa.URL,
        *,
        fallback_stores: Sequence[MetadataStore] = (),
        fallback_mode: FallbackMode = "feature",
        tags: Mapping[str, str] | None = None,
        base_directory: str | os.PathLike[str] = "",
    ) -> None:
        super().__init__(fallback_stores=fallback_stores, fallback_mode=fallback_mode, tags=tags)
        self._database = Database(_checked(url, base_directory))

    def __getstate__(self) -> dict[str, Any]:
        chained = {"fallback_stores": self.fallback_stores, "fallback_mode": self.fallback_mode}
        return {"url": self._database.url, **chained, "tags": dict(self.tags)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # as another process would open it

    @property
    def location(self) -> str:
        return self._database.location

    @property
    def identity(self) -> str:
        return self._database.location

    @property
    def snapshot_storage(self) -> Storage:
        return _Objects(self._database)

    def dataset_of(self, key: FeatureKey) -> tuple[str, str]:
        """Return the namespace and the name of a feature's table in OpenLineage, without credentials."""
        return self._database.dataset_of(_table_of(key), feature=str(key))

    def now(self) -> int:
        with self._database.connected("ask for the time") as connection:
            return int(connection.exec_driver_sql(self._database.driver.now).scalar_one())

    def add_commit(self, record: CommitRecord, rows: pl.DataFrame) -> bool:
        key = FeatureKey.parse(record.feature)
        before = names_of(self._schemas(key))
        names = names_of([*self._schemas(key), record.schema])
        added = [(name, kind) for (path, kind), name in names.items() if (path, kind) not in before]
        made = encoded(rows, names).with_columns(
            pl.lit(record.number, pl.Int64()).alias(NUMBER), pl.int_range(pl.len(), dtype=pl.Int64()).alias(ROW)
        )
        self._database.make()
        try:
            with self._database.connected(f"add commit {record.commit} of feature '{key}'") as connection:
                connection.execute(_COMMITS.insert(), _described(record))
                self._database.extend(connection, _table_of(key), added, is_new=record.number == 1)
                if rows.height:
                    self._database.driver.insert(connection, _table_of(key), made)
        except StorageError as error:
            return self._stands(key, record, error)
        return True

    def commits_since(self, key: FeatureKey, number: int) -> Sequence[CommitRecord]:
        if not self._database.exists():
            return []
        mine = (_COMMITS.c.feature == key.dotted) & (_COMMITS.c.number > number)
        query = sa.select(_COMMITS.c.record).where(mine).order_by(_COMMITS.c.number)
        with self._database.connected(f"list the commits of feature '{key}'") as connection:
            return [CommitRecord.decode(record) for record in connection.execute(query).scalars()]

    def scan_commits(
        self, key: FeatureKey, records: Sequence[CommitRecord], *, schema: pl.Schema, prune: pl.Expr | None
    ) -> pl.LazyFrame:
        names = names_of(self._schemas(key))
        numbers = [record.number for record in records]
        stored = pl.Schema({**schema, NUMBER: pl.Int64()})

        def read(
            with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _batch_size: int | None
        ) -> Iterator[pl.DataFrame]:
            needed = {*(schema if with_columns is None else with_columns), *_columns_of(predicate)}
            wanted = pl.Schema({name: dtype for name, dtype in schema.items() if name in needed})
            # The predicate is meant for the first rows: what it leaves out counts towards these.
            asked = [prune] if n_rows is not None else [prune, predicate]
            where = [each for expression in asked for each in conditions(expression, _columns(schema, names))]
            rows = self._rows(key, numbers, wanted, names=names, where=where, limit=n_rows)
            rows = rows if predicate is None else rows.filter(predicate)
            yield rows if with_columns is None else rows.select(map(column, with_columns))

        return register_io_source(read, schema=stored, is_pure=True)

    def stored_features(self) -> list[FeatureKey]:
        if not self._database.exists():
            return []
        with self._database.connected("list the features") as connection:
            found = connection.execute(sa.select(_COMMITS.c.feature).distinct()).scalars()
            return sorted(map(FeatureKey.parse, found))

    def _schemas(self, key: FeatureKey) -> list[pl.Schema]:
        """Return the schemas that the commits of a feature have brought, in their order."""
        columns = dict.fromkeys(bytes(record.columns) for record in self._known.get(key, ()))
        return [decode_schema(each) for each in columns]

    def _rows(
        self,
        key: FeatureKey,
        numbers: Sequence[int],
        schema: pl.Schema,
        *,
        names: Names,
        where: Sequence[sa.ColumnElement[bool]],
        limit: int | None,
    ) -> pl.DataFrame:
        """Return rows of some commits in their order, each with its number."""
        kinds: dict[str, Kind] = {names[leaf.path, leaf.kind]: leaf.kind for leaf in leaves_of(schema)}
        kinds |= {NUMBER: "integer", ROW: "integer"}
        runs = _runs(numbers)
        is_exact = len(runs) <= _MOST_RUNS
        number = sa.column(NUMBER, sa.BigInteger())
        mine = [number.between(low, high) for low, high in (runs if is_exact else [(numbers[0], numbers[-1])])]
        chosen: list[Any] = [sa.column(name) for name in kinds]  # SQLAlchemy 2.0 and 2.1 disagree on the type
        query = sa.select(*chosen).select_from(sa.table(_table_of(key))).where(sa.or_(*mine), *where)
        if limit is not None and is_exact:
            query = query.order_by(number, sa.column(ROW)).limit(limit)
        with self._database.connected(f"read feature '{key}'") as connection:
            found = self._database.driver.read(connection, query, kinds)
        found = found if is_exact else found.filter(pl.col(NUMBER).is_in(numbers))
        places = found.select(pl.col(NUMBER) * 2**32 + pl.col(ROW)).to_series()
        ordered = found if places.is_sorted() else found.sort(NUMBER, ROW)
        return ordered.head(found.height if limit is None else limit).select(*decoded(schema, names), NUMBER)

    def _stands(self, key: FeatureKey, record: CommitRecord, error: StorageError) -> bool:
        """Return whether a commit was added after all; False if its number is taken by another one.

        Raises:
            StorageError: It was not added, or nobody knows.
        """
        try:
            standing = self.commits_since(key, record.number - 1)
        except StorageError as unknown:
            raise CommitStateUnknownError(f"{error} Whether it was added is unknown: {unknown}") from error
        if not standing and not self._database.driver.is_conflict(error.__cause__):
            raise error
        if not standing:
            pause(random_fraction() / 20)
        return bool(standing) and standing[0].commit == record.commit


class Database:
    """A database that is reached by a URL.

    Attributes:
        url: Where it is, with the password if there is one.
        driver: What is particular to its kind.
        location: Where it is, for people.
    """

    def __init__(self, url: sa.URL) -> None:
        self.url = url
        self.driver: Driver = DRIVERS[url.get_backend_name()]
        self.location = redact(url.render_as_string(hide_password=True))
        self._secrets = secrets_of(url.render_as_string(hide_password=False), {})
        self._engine = self.driver.engine(url)
        self._errors: tuple[type[BaseException], ...] = (sa.exc.SQLAlchemyError, *self.driver.errors())
        self._process = os.getpid()
        self._is_made = False
        finalize(self, _dispose, self._engine, self._process)

    @contextmanager
    def connected(self, what: str) -> Iterator[sa.Connection]:
        """Give a connection for one transaction, and translate what goes wrong.

        Raises:
            StorageError: The database refused, or could not be reached. It has no credentials and no rows in it.
        """
        if self._process != os.getpid():  # connections are those of the process that was forked
            self._engine.dispose(close=False)
            self._process = os.getpid()
        try:
            with self._engine.begin() as connection:
                yield connection
        except self._errors as error:
            cause = getattr(error, "orig", None) or error
            reason = conceal(str(cause).strip().partition("\n")[0], self._secrets)
            answer = StorageError(f"cannot {what} in {self.location}: {reason}", root=self.location)
            raise answer from None if reveals(cause, self._secrets) else cause

    def exists(self) -> bool:
        """Whether anything was ever written; a file that is not there is not made by asking.

        Raises:
            StorageError: Nobody knows.
        """
        if not self._is_made and self._has_file():
            with self.connected("look for tables") as connection:
                self._is_made = sa.inspect(connection).has_table(_OBJECTS.name)
                place = self.driver.place
                if not self._is_made and place and connection.exec_driver_sql(place).scalar() is None:
                    raise StorageError(
                        f"cannot look for tables in {self.location}: no schema of the search path is there for this "
                        "user. Create one, or grant USAGE on it.",
                        root=self.location,
                    )
        return self._is_made

    def make(self) -> None:
        """Make the tables that all features share, if there are none."""
        while not self.exists():
            try:
                with self.connected("make tables") as connection:
                    for table in _OWN.sorted_tables:  # what only reads first could not wait for others in SQLite
                        connection.execute(sa.schema.CreateTable(table, if_not_exists=True))
            except StorageError as error:  # perhaps because another writer has made them, or is about to
                if not self.exists() and not self.driver.is_conflict(error.__cause__):
                    raise
                pause(random_fraction() / 20)

    def extend(self, connection: sa.Connection, table: str, added: Sequence[tuple[str, Any]], *, is_new: bool) -> None:
        """Make the table of a feature, or add columns to it."""
        quote = connection.dialect.identifier_preparer.quote_identifier
        made = [(NUMBER, "integer"), (ROW, "integer"), *added] if is_new else added
        columns = [f"{quote(name)} {self.driver.type_of(kind).compile(connection.dialect)}" for name, kind in made]
        if is_new:
            connection.exec_driver_sql(f"CREATE TABLE {quote(table)} ({', '.join(columns)})")
        else:
            for each in columns:
                connection.exec_driver_sql(f"ALTER TABLE {quote(table)} ADD COLUMN {each}")

    def dataset_of(self, table: str, *, feature: str) -> tuple[str, str]:
        """Return the namespace and the name of a table in OpenLineage; an embedded database is named as its file."""
        if self.driver.place is None:
            return "file", f"{self.url.database}/{feature}"
        with self.connected("ask for the schema") as connection:
            schema = connection.exec_driver_sql(self.driver.place).scalar()
        url = self.url
        name = f"{url.database or url.username}.{schema}.{table}"
        return f"postgres://{url.host or 'localhost'}:{url.port or 5432}", name

    def _has_file(self) -> bool:
        """Whether the file of an embedded database may be there; of one that cannot be seen, the database tells."""
        try:
            return not self.driver.is_embedded or bool(Path(str(self.url.database)).stat())
        except OSError as error:
            return not isinstance(error, FileNotFoundError)


class _Objects(Storage):
    """The objects of a database, of which snapshots are made: a table of bytes by path."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def location(self) -> str:
        return self._database.location

    @property
    def put_is_conditional(self) -> bool:
        return True

    def put(self, path: str, data: bytes) -> None:
        self._database.make()
        try:
            with self._database.connected(f"write {path!r}") as connection:
                connection.execute(_OBJECTS.insert(), {"path": path, "data": data})
        except StorageError as error:
            if self._read(path) is not None:
                raise self._failed(ObjectExistsError, "write", path, "an object of that name exists") from error
            raise

    def get(self, path: str) -> bytes:
        if (data := self._read(path)) is None:
            raise self._failed(ObjectNotFoundError, "read", path, "no such object")
        return data

    def list(self, directory: str, *, limit: int | None = None) -> builtins.list[ObjectInfo]:
        below = f"{directory}/" if directory else ""
        if not self._database.exists():
            return []
        with self._database.connected(f"list {directory!r}") as connection:
            found = connection.execute(sa.select(_OBJECTS.c.path, _OBJECTS.c.data)).all()
        return sorted((ObjectInfo(path, len(data)) for path, data in found if path.startswith(below)), key=by_path)[
            :limit
        ]

    def list_directories(self, directory: str) -> builtins.list[str]:
        start = len(directory) + 1 if directory else 0
        return sorted({info.path[start:].split("/")[0] for info in self.list(directory) if "/" in info.path[start:]})

    def delete(self, path: str) -> None:
        if self._database.exists():
            with self._database.connected(f"delete {path!r}") as connection:
                connection.execute(_OBJECTS.delete().where(_OBJECTS.c.path == path))

    def _read(self, path: str) -> bytes | None:
        if not self._database.exists():
            return None
        with self._database.connected(f"read {path!r}") as connection:
            data = connection.execute(sa.select(_OBJECTS.c.data).where(_OBJECTS.c.path == path)).scalar()
        return None if data is None else bytes(data)


def _dispose(engine: sa.Engine, process: int) -> None:
    if process == os.getpid():
        engine.dispose()


def _checked(url: str | sa.URL, base_directory: str | os.PathLike[str]) -> sa.URL:
    """Return a URL with the driver that is used; files have their whole path.

    Raises:
        ValueError: It is no URL of a database that is supported.
    """
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # of a port; what it cites may be a part of a password
        raise ValueError(_NO_URL) from None
    if "@" in (parsed.host or ""):
        raise ValueError(_NO_URL)
    kind = parsed.get_backend_name()
    if kind not in DRIVERS:
        meant = " Did you mean 'postgresql'?" if kind == "postgres" else ""
        raise ValueError(
            f"There is no store for {kind!r}; there are {', '.join(DRIVERS)}.{meant} A store needs transactions over "
            "several tables and keys that are unique, which ClickHouse lacks; other databases are not tested."
        )
    driver = DRIVERS[kind]
    if not driver.is_embedded:
        return parsed.set(drivername=driver.name)
    if parsed.database in (None, "", ":memory:"):
        raise ValueError(f"A database of {kind} in memory has no rows for others; take an InMemoryMetadataStore.")
    if re.match(r"\w{2,}:", str(parsed.database)):
        raise ValueError(f"{parsed.database!r} is no path of a file of {kind}, which is what a store takes.")
    return parsed.set(drivername=driver.name, database=str(Path(base_directory, str(parsed.database)).absolute()))


def _described(record: CommitRecord) -> dict[str, Any]:
    return {
        "feature": record.feature,
        "number": record.number,
        "commit_id": record.commit,
        "committed_at": datetime(1970, 1, 1) + timedelta(microseconds=record.time),  # noqa: DTZ001  # of UTC
        "definition": record.partition,
        "write_id": record.write_id,
        "record": record.encode().decode(),
    }


def _table_of(key: FeatureKey) -> str:
    """Return the name of the table of a feature: that of the feature where it is short and in lower case."""
    name = "__".join(key.parts)
    is_plain = re.fullmatch(r"[a-z0-9_]{1,40}", name) and not any("__" in part for part in key.parts)
    plain = (
        name
        if is_plain
        else f"{re.sub('[^a-z0-9_]', '_', name.lower())[:40]}_{sha256(key.dotted.encode()).hexdigest()[:8]}"
    )
    return f"metaxy__{plain}"


def _columns_of(predicate: pl.Expr | None) -> Sequence[str]:
    return [] if predicate is None else predicate.meta.root_names()


def _columns(schema: pl.Schema, names: Names) -> dict[tuple[str, ...], Column]:
    return {leaf.path: Column(names[leaf.path, leaf.kind], leaf) for leaf in leaves_of(schema)}


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first and last of each run of ascending numbers without a gap."""
    gaps = [(low, high) for low, high in pairwise(numbers) if high > low + 1]
    starts, ends = [numbers[0], *(high for _, high in gaps)], [*(low for low, _ in gaps), numbers[-1]]
    return list(zip(starts, ends, strict=True))
