"""Keep the rows of features in Delta tables, one for each feature.

Theory of operation. A commit is one append to the table of its feature: its rows, and one more that holds the record of
the commit, in a partition of its own. The append carries an application transaction of Delta, whose version is the
number of the commit. A writer appends to a version of the table whose transaction is the number before, and of two
appends that carry the transaction Delta lets one pass: so a number is taken once, whatever others do to the table.
Compaction, vacuum and checkpoints of Delta keep rows, records and the transaction.

Delta has fewer types than Polars, and a column keeps its type. So values are stored in a type of Delta that holds all
of their own type (`_stored_type`), which the record remembers, and values of another type under the same name have a
column beside it (`_names`).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import quote

import polars as pl

try:
    from deltalake import CommitProperties, DeltaTable, Field, Schema, Transaction, write_deltalake
    from deltalake.exceptions import DeltaError, TableNotFoundError
    from deltalake.schema import PrimitiveType
    from obstore.fsspec import FsspecStore
except ImportError as error:
    raise ImportError("metaxy_fs.ext.delta needs deltalake: pip install 'metaxy_fs[delta]'") from error

from metaxy_fs.errors import CommitStateUnknownError, CorruptObjectError, MetadataSchemaError, SpecError, StorageError
from metaxy_fs.ids import elapsed, pause, random_fraction, random_token, wall_clock
from metaxy_fs.log import column
from metaxy_fs.metadata_store import CommitRecord, MetadataStore, TableMetadataStore
from metaxy_fs.metadata_store.backend import FallbackMode
from metaxy_fs.reserved import NUMBER, ORDINAL, PREFIX
from metaxy_fs.spec import FeatureKey
from metaxy_fs.storage import Storage, open_storage
from metaxy_fs.storage.addresses import address_of, is_url
from metaxy_fs.storage.redaction import conceal, reveals, secrets_of

__all__ = ["DeltaMetadataStore"]

RECORD: Final = f"{PREFIX}record"
"""The record of a commit, JSON, in the last of its rows; null in all others."""
PART: Final = f"{PREFIX}part"
"""The column that tables are partitioned by: whether a row is one of a feature, or holds a record."""
ROWS, RECORDS = "rows", "records"
_KINDS: Final = {NUMBER: "long", ORDINAL: "long", RECORD: "string", PART: "string"}
_OWN: Final = Schema([Field(name, PrimitiveType(kind)) for name, kind in _KINDS.items()])
_APPLICATION: Final = "metaxy_fs"
_CLOCK_SECONDS: Final = 600.0
_DAYS: Final = date(1, 1, 1), date(9999, 12, 31)
# Options of deltalake that obstore takes apart from the others, and beginnings of those that it does not take.
_OF_CLIENTS: Final = ("allow_http", "allow_invalid_certificates", "connect_timeout", "proxy_url", "timeout")
_OF_DELTA: Final = ("aws_s3_", "backoff_", "delta_", "max_retries", "retry_timeout")


class DeltaMetadataStore(TableMetadataStore):
    """A store that keeps each feature in a Delta table below a path or URL.

    Any number of processes may write at once. What reads Delta reads the tables: rows of the feature have `rows` in the
    column `_metaxy_part`. Versions are calculated in Polars, as everywhere.

    Args:
        uri: A path or a URL, such as `"./tables"` or `"s3://bucket/tables"`. The table of the feature `video/faces` is
            `video.faces` below it.
        storage_options: Handed to `deltalake`; never shown. Pickles of the store carry them.
        fallback_stores: Stores to read from, nearest first, where this one lacks a feature.
        fallback_mode: Whether they are read by feature or by sample; see `MetadataStore`.
        tags: What every commit that is made through this store says of itself; see `MetadataStore.write_metadata`.
        base_directory: Where a relative path starts; the working directory by default.

    Raises:
        ValueError: The path holds a character, such as a space, for which Polars finds no file of a table.

    Examples:
        >>> from metaxy_fs.ext.delta import DeltaMetadataStore
        >>> store = DeltaMetadataStore("tables")
        >>> store.list_features()
        []
    """

    def __init__(
        self,
        uri: str | os.PathLike[str],
        *,
        storage_options: Mapping[str, str] | None = None,
        fallback_stores: Sequence[MetadataStore] = (),
        fallback_mode: FallbackMode = "feature",
        tags: Mapping[str, str] | None = None,
        base_directory: str | os.PathLike[str] = "",
    ) -> None:
        super().__init__(fallback_stores=fallback_stores, fallback_mode=fallback_mode, tags=tags)
        self._uri = _checked(address_of(uri), base_directory)
        self._options = dict(storage_options or {})
        self._secrets = secrets_of(self._uri, self._options)
        self._storage = _storage(self._uri, self._options)
        self._asked: tuple[float, int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        chained = {"fallback_stores": self.fallback_stores, "fallback_mode": self.fallback_mode}
        return {"uri": self._uri, "storage_options": self._options, **chained, "tags": dict(self.tags)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # as another process would open it

    @property
    def location(self) -> str:
        return self._storage.location

    @property
    def snapshot_storage(self) -> Storage:
        return self._storage

    def now(self) -> int:
        # The place's own clock, which all writers share: it tells from time to time when an object was put.
        if self._asked is None or elapsed() > self._asked[0] + _CLOCK_SECONDS:
            path = f"_clock/{random_token()}"
            self._storage.put(path, b"?")
            [told] = [info.modified for info in self._storage.list("_clock") if info.path == path]
            self._storage.delete(path)
            self._asked = elapsed(), wall_clock() if told is None else int(told.timestamp() * 1_000_000)
        return self._asked[1] + int((elapsed() - self._asked[0]) * 1_000_000)

    def add_commit(self, record: CommitRecord, rows: pl.DataFrame) -> bool:
        key = FeatureKey.parse(record.feature)
        table = self._table(key) or self._made(key)
        if _last(table) is None:
            self._refuse(key, "is a Delta table that metaxy_fs did not make; write the rows to another place")
        if _last(table) != record.number - 1:
            return False
        made = _stored(record, rows, pl.Schema(pl.scan_delta(table).collect_schema()))
        commit = CommitProperties({"commit": record.commit}, None, [Transaction(_APPLICATION, record.number)])
        try:
            with self._translated(key, f"commit {record.commit} could not be added"):
                write_deltalake(table, made, mode="append", schema_mode="merge", commit_properties=commit)
        except StorageError as error:
            return self._stands(key, record, error)
        return True

    def _made(self, key: FeatureKey) -> DeltaTable:
        """Return the table of a feature, made without a commit: of two that were made with one both might pass."""
        address = f"{self._uri}/{key.dotted}"
        once = CommitProperties(max_commit_retries=0)  # it would be made again as the next version of itself
        options: dict[str, Any] = {"storage_options": self._options, "commit_properties": once}
        try:
            with self._translated(key, "the table could not be made"):
                return DeltaTable.create(address, _OWN, partition_by=[PART], **options)
        except StorageError as error:
            if (made := self._table(key)) is None:
                raise error from error.__cause__
            return made

    def _stands(self, key: FeatureKey, record: CommitRecord, error: StorageError) -> bool:
        """Find out what became of an append that failed: whether it was made, or another one has the number."""
        table = self._table(key)
        if table is not None and (_last(table) or 0) >= record.number:
            pause(random_fraction() / 5)  # so that writers at once do not meet again and again
            return self.commits_since(key, record.number - 1)[0].commit == record.commit
        if isinstance(error.__cause__, DeltaError):  # which says that nothing was appended
            raise error
        facts: Any = {"feature": key.dotted, "root": self.location, "commit": record.commit}
        raise CommitStateUnknownError(f"{error} The history of the feature tells.", **facts) from error.__cause__

    def commits_since(self, key: FeatureKey, number: int) -> Sequence[CommitRecord]:
        table = self._table(key)
        last = 0 if table is None else _last(table) or 0
        if table is None or last <= number:
            return []
        is_wanted = (pl.col(PART) == RECORDS) & (pl.col(NUMBER) > number)
        with self._translated(key, "the commits could not be read"):
            found = pl.scan_delta(table).filter(is_wanted).select(NUMBER, RECORD).sort(NUMBER).collect()
        if found[NUMBER].to_list() != list(range(number + 1, last + 1)):
            problem = f"has had {last} commits, and has not one record for each of those above {number}"
            cause = "somebody has changed rows of metaxy_fs, or compacted the table twice at once"
            told = f"{self.location}/{key.dotted} {problem}: {cause}. Restore an earlier version of the Delta table."
            raise CorruptObjectError(told, feature=key.dotted, root=self.location)
        return [CommitRecord.decode(record) for record in found[RECORD]]

    def scan_commits(
        self,
        key: FeatureKey,
        records: Sequence[CommitRecord],
        *,
        schema: pl.Schema,
        prune: pl.Expr | None,  # noqa: ARG002  # Polars hands its predicates to the table by itself
    ) -> pl.LazyFrame:
        rows = pl.scan_delta(self._table(key) or self._refuse(key, "is gone since its commits were read"))
        names = _names(schema, pl.Schema(rows.collect_schema()))
        numbers = [record.number for record in records]
        is_wanted = (pl.col(PART) == ROWS) & pl.col(NUMBER).is_between(numbers[0], numbers[-1])
        if len(numbers) <= numbers[-1] - numbers[0]:
            is_wanted &= pl.col(NUMBER).is_in(numbers)
        stored = [column(names[name]).alias(name) for name in schema]
        casts = {name: dtype for name, dtype in schema.items() if _stored_type(dtype) != dtype}
        return rows.filter(is_wanted).sort(NUMBER, ORDINAL).select(*stored, NUMBER).cast(casts)  # type: ignore[arg-type]

    def stored_features(self) -> list[FeatureKey]:
        keys: list[FeatureKey] = []
        for name in self._storage.list_directories(""):
            with suppress(SpecError):  # a directory of something else
                keys.append(FeatureKey.parse(name))
        return sorted(key for key in keys if (table := self._table(key)) is not None and _last(table))

    def _table(self, key: FeatureKey) -> DeltaTable | None:
        """Return the latest version of the table of a feature, None if there is none."""
        with self._translated(key, "the table could not be opened"), suppress(TableNotFoundError):
            return DeltaTable(f"{self._uri}/{key.dotted}", storage_options=self._options)
        return None

    def _refuse(self, key: FeatureKey, problem: str) -> NoReturn:
        raise StorageError(f"{self.location}/{key.dotted} {problem}.", feature=key.dotted, root=self.location)

    @contextmanager
    def _translated(self, key: FeatureKey, problem: str) -> Iterator[None]:
        try:
            yield
        except (DeltaError, OSError, pl.exceptions.PolarsError) as error:
            told = f"{self.location}/{key.dotted}: {problem} ({conceal(str(error), self._secrets)})."
            cause = None if reveals(error, self._secrets) else error
            raise StorageError(told, feature=key.dotted, root=self.location) from cause


def _checked(address: str, base_directory: str | os.PathLike[str]) -> str:
    """Return the path or URL that the addresses of tables begin with."""
    if is_url(address):
        return address.rstrip("/")
    path = str(Path(base_directory, address).absolute())
    if quote(path) != path:  # deltalake hands paths to Polars as parts of URLs, and Polars takes them as they are
        raise ValueError(f"{path!r} cannot hold Delta tables: use letters without accents, digits, and any of -._~/ .")
    return path


def _storage(uri: str, options: Mapping[str, str]) -> Storage:
    """Return the objects below the tables: for names of tables, and for snapshots."""
    if not options or not is_url(uri):
        return open_storage(uri)
    config, clients = dict[str, Any](), dict[str, Any]()
    for name in (name for name in options if not name.lower().startswith(_OF_DELTA)):
        plain = name.lower().removeprefix("aws_")
        of_whom, known_as = (clients, plain) if plain in _OF_CLIENTS else (config, name.lower())
        of_whom[known_as] = options[name]
    protocol, _, path = uri.partition("://")
    make: Any = FsspecStore  # whose options depend on the protocol
    return open_storage(path, filesystem=make(protocol, config=config, client_options=clients))


def _last(table: DeltaTable) -> int | None:
    """Return the number of the last commit, 0 if there is none, None if the table is of somebody else."""
    number = table.transaction_version(_APPLICATION)
    return 0 if number is None and table.metadata().partition_columns == [PART] else number


_STORED: Final[Mapping[type[pl.DataType], pl.DataType]] = {
    **dict.fromkeys([pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32], pl.Int64()),
    **dict.fromkeys([pl.Duration, pl.Time], pl.Int64()),
    **dict.fromkeys([pl.Float16, pl.Float32, pl.Float64], pl.Float64()),
    **dict.fromkeys([pl.String, pl.Categorical, pl.Enum], pl.String()),
    **dict.fromkeys([pl.Boolean, pl.Null], pl.Boolean()),
    pl.UInt64: pl.Decimal(20, 0),
    pl.Binary: pl.Binary(),
    pl.Date: pl.Date(),
}


def _stored_type(dtype: Any) -> pl.DataType:
    """Return the type of Delta that holds each value of a type.

    Raises:
        TypeError: There is none.
    """
    if isinstance(dtype, pl.List | pl.Array):
        return pl.List(_stored_type(dtype.inner))
    if isinstance(dtype, pl.Struct) and dtype.fields:
        return pl.Struct({field.name: _stored_type(field.dtype) for field in dtype.fields})
    if isinstance(dtype, pl.Datetime):  # Delta counts microseconds
        return pl.Datetime("us", dtype.time_zone and "UTC") if dtype.time_unit == "us" else pl.Int64()
    stored = dtype if isinstance(dtype, pl.Decimal) else _STORED.get(type(dtype))
    if stored is None:
        raise TypeError(f"Delta has no type for {dtype}")
    return stored


def _names(schema: pl.Schema, known: pl.Schema) -> dict[str, str]:
    """Return the column of the table that each column is kept in, given those that there are.

    It has the name of the column, unless another one is spelled so, in capitals or not.
    """
    taken, names = {name.lower(): (name, dtype) for name, dtype in known.items()}, {}
    for name, dtype in schema.items():
        stored = name, _stored_type(dtype)
        beside = f"{name}@{sha256(repr(stored).encode()).hexdigest()[:8]}"
        names[name] = name if taken.setdefault(name.lower(), stored) == stored else beside
    return names


def _stored(record: CommitRecord, rows: pl.DataFrame, known: pl.Schema) -> pl.DataFrame:
    """Return the rows of a commit as the table keeps them, with the record as the last one.

    Raises:
        MetadataSchemaError: Delta has no type for a column, or no value.
    """
    schema = pl.Schema({name: dtype for name, dtype in rows.schema.items() if dtype != pl.Null()})
    for name, dtype in schema.items():
        try:
            _stored_type(dtype)
        except TypeError as error:
            told = f"Column {name!r} cannot be stored: {error}. Cast it, or leave it out."
            raise MetadataSchemaError(told, feature=record.feature, column=name) from None
        if dtype == pl.Date() and not rows[name].drop_nulls().is_between(*_DAYS).all():
            told = f"Column {name!r} cannot be stored: Delta has days from the year 1 to 9999. Store it as text."
            raise MetadataSchemaError(told, feature=record.feature, column=name)
    names = _names(schema, known)
    made = rows.select(column(name).cast(_stored_type(dtype)).alias(names[name]) for name, dtype in schema.items())
    places = pl.int_range(pl.len(), dtype=pl.Int64()).alias(ORDINAL)
    own = pl.DataFrame({RECORD: record.encode().decode(), PART: RECORDS})
    together = pl.concat([made.with_columns(places, pl.lit(ROWS).alias(PART)), own], how="diagonal")
    return together.with_columns(pl.lit(record.number, pl.Int64()).alias(NUMBER))
