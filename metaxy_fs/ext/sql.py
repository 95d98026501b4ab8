"""Keep the rows of features in a SQL database: SQLite, DuckDB or PostgreSQL.

Theory of operation. A commit is one transaction. It inserts the record of the commit first, whose key is the feature
and the number, so that of two writers the second one waits for the first and then learns that the number is taken. Only
the one who has the number goes on, adds columns that the table of the feature lacks, and inserts the rows. So which
columns there are follows from the records alone, and nobody asks the database. Rows are never changed, so a read needs
no transaction over several statements.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final

import polars as pl
from polars.io.plugins import register_io_source

try:
    import sqlalchemy as sa
except ImportError as error:
    raise ImportError("metaxy_fs.ext.sql needs SQLAlchemy: pip install 'metaxy_fs[sql]'") from error

from metaxy_fs.ext.sql_columns import columns_of, decoded, encoded, stored_schema
from metaxy_fs.ext.sql_databases import COMMITS, InTheWayError, make_shared, open_database
from metaxy_fs.ext.sql_predicates import conditions
from metaxy_fs.ids import pause, random_fraction
from metaxy_fs.log import column, decode_schema
from metaxy_fs.metadata_store import MetadataStore
from metaxy_fs.metadata_store.backend import FallbackMode
from metaxy_fs.metadata_store.tables import NUMBER, CommitRecord, TableMetadataStore
from metaxy_fs.reserved import ROW_OF_SCAN as ROW
from metaxy_fs.spec import FeatureKey
from metaxy_fs.storage import Storage

__all__ = ["SQLMetadataStore"]

_LOG: Final = logging.getLogger("metaxy_fs")
_NUMBER: Final = sa.column(NUMBER, sa.BigInteger())
_PLACE: Final = f"{NUMBER} BIGINT", f"{ROW} BIGINT"


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
        self._database = open_database(url, base_directory)

    @property
    def location(self) -> str:
        return self._database.location

    @property
    def identity(self) -> str:
        return self._database.location

    @property
    def snapshot_storage(self) -> Storage:
        return self._database

    def dataset_of(self, key: FeatureKey) -> tuple[str, str]:
        """Return the namespace and the name of a feature's table in OpenLineage, without credentials."""
        url = self._database.url
        if self._database.is_embedded:
            return "file", f"{url.database}/{key}"
        with self._database.connected("ask for the schema") as connection:
            schema = connection.exec_driver_sql("SELECT current_schema()").scalar()
        name = f"{url.database or url.username}.{schema}.{_table_of(key)}"
        return f"postgres://{url.host or 'localhost'}:{url.port or 5432}", name

    def now(self) -> int:
        with self._database.connected("ask for the time") as connection:
            return int(connection.exec_driver_sql(self._database.clock).scalar_one())

    def add_commit(self, record: CommitRecord, rows: pl.DataFrame) -> bool:
        key, database = FeatureKey.parse(record.feature), self._database
        schemas = self._schemas(key)
        columns = columns_of([*schemas, record.schema])
        added = list(columns.values())[len(columns_of(schemas)) :]
        made = encoded(rows, columns).with_columns(
            pl.lit(record.number, pl.Int64()).alias(NUMBER), pl.int_range(pl.len(), dtype=pl.Int64()).alias(ROW)
        )
        try:
            with database.connected(f"add commit {record.commit} of feature '{key}'") as connection:
                if record.number == 1:
                    make_shared(connection)
                connection.execute(COMMITS.insert(), _described(record))
                _extend(connection, _table_of(key), added, is_new=record.number == 1)
                if rows.height:
                    database.insert(connection, f"{_table_of(key)} ({', '.join(map(_quoted, made.columns))})", made)
        except InTheWayError as error:
            if "lock timeout" in str(error):
                _LOG.warning("%s. The writer goes on waiting.", error)
            pause(random_fraction() / 20)
            return False
        return True

    def commits_since(self, key: FeatureKey, number: int) -> Sequence[CommitRecord]:
        mine = (COMMITS.c.feature == key.dotted) & (COMMITS.c.number > number)
        query = sa.select(COMMITS.c.record).where(mine).order_by(COMMITS.c.number)
        found = self._database.found(f"list the commits of feature '{key}'", query)
        return [CommitRecord.decode(record) for (record,) in found]

    def scan_commits(
        self, key: FeatureKey, records: Sequence[CommitRecord], *, schema: pl.Schema, prune: pl.Expr | None
    ) -> pl.LazyFrame:
        columns, table = columns_of(self._schemas(key)), sa.table(_table_of(key))
        numbers = [record.number for record in records]
        is_wanted: Any = _NUMBER.between(numbers[0], numbers[-1])
        if len(numbers) <= numbers[-1] - numbers[0]:
            is_wanted &= _NUMBER.in_(sa.bindparam("numbers", numbers, expanding=True, literal_execute=True))

        def read(
            with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _batch_size: int | None
        ) -> Iterator[pl.DataFrame]:
            needed = schema if with_columns is None else {*with_columns, *_roots(predicate)}
            wanted = pl.Schema({name: dtype for name, dtype in schema.items() if name in needed})
            stored = pl.Schema({**stored_schema(wanted, columns), NUMBER: pl.Int64(), ROW: pl.Int64()})
            # The predicate is meant for the first rows: what it leaves out counts towards these.
            asked = [prune, predicate if n_rows is None else None]
            where = [is_wanted, *(each for expression in asked for each in conditions(expression, schema, columns))]
            names: list[Any] = [sa.literal_column(_quoted(name)) for name in stored]  # SQLAlchemy 2.0, 2.1 disagree
            query = sa.select(*names).select_from(table).where(*where)
            if n_rows is not None:
                query = query.order_by(_NUMBER, sa.column(ROW)).limit(n_rows)
            with self._database.connected(f"read feature '{key}'") as connection:
                found = self._database.read(connection, query, stored)
            rows = _in_order(found).select(*decoded(wanted, columns), NUMBER)
            rows = rows if predicate is None else rows.filter(predicate)
            yield rows if with_columns is None else rows.select(map(column, with_columns))

        return register_io_source(read, schema=pl.Schema({**schema, NUMBER: pl.Int64()}), is_pure=True)

    def stored_features(self) -> list[FeatureKey]:
        found = self._database.found("list the features", sa.select(COMMITS.c.feature).distinct())
        return sorted(FeatureKey.parse(feature) for (feature,) in found)

    def _schemas(self, key: FeatureKey) -> list[pl.Schema]:
        """Return the schemas that the commits of a feature have brought, in their order."""
        columns = dict.fromkeys(bytes(record.columns) for record in self._known.get(key, ()))
        return [decode_schema(each) for each in columns]


def _extend(connection: sa.Connection, table: str, added: Sequence[sa.Column[Any]], *, is_new: bool) -> None:
    """Make the table of a feature, or add columns to it."""
    columns = [f"{_quoted(each.name)} {each.type.compile(connection.dialect)}" for each in added]
    if is_new:
        connection.exec_driver_sql(f"CREATE TABLE {table} ({', '.join([*_PLACE, *columns])})")
    for each in [] if is_new else columns:
        connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {each}")


def _in_order(rows: pl.DataFrame) -> pl.DataFrame:
    places = rows.select(pl.col(NUMBER) * 2**32 + pl.col(ROW)).to_series()
    return rows if places.is_sorted() else rows.sort(NUMBER, ROW)


def _roots(predicate: pl.Expr | None) -> Sequence[str]:
    return [] if predicate is None else predicate.meta.root_names()


def _quoted(name: str) -> str:
    return f'"{name}"'  # there is none in the name of a column


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
    if not re.fullmatch(r"[a-z0-9_]{1,40}", name) or any("__" in part for part in key.parts):
        name = f"{re.sub('[^a-z0-9_]', '_', name.lower())[:40]}_{sha256(key.dotted.encode()).hexdigest()[:8]}"
    return f"metaxy__{name}"
