"""Keep the rows of features in Delta tables, one for each feature.

Theory of operation. A commit is one append to the table of its feature: its rows, and one more that holds the record of
the commit, in a partition of its own. The append carries an application transaction of Delta, whose version is the
number of the commit. A writer appends to a version of the table whose transaction is the number before, and of two
appends that carry the transaction Delta lets one pass: so a number is taken once, whatever others do to the table.
Compaction, vacuum and checkpoints of Delta keep rows, records and the transaction.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
import polars as pl

try:
    from deltalake import CommitProperties, DeltaTable, Field, Schema, Transaction, write_deltalake
    from deltalake.exceptions import DeltaError
    from deltalake.schema import PrimitiveType

    from metaxy_fs.ext.delta_columns import PART, RECORD, RECORDS, ROWS, names_of, stored, stored_type
    from metaxy_fs.ext.delta_sources import DeltaSource, SourceTable
    from metaxy_fs.ext.delta_tables import DeltaTables
except ImportError as error:
    raise ImportError("metaxy_fs.ext.delta needs deltalake: pip install 'metaxy_fs[delta]'") from error

from metaxy_fs.errors import CommitStateUnknownError, CorruptObjectError, SpecError, StorageError
from metaxy_fs.ids import elapsed, random_token, wall_clock
from metaxy_fs.log import column
from metaxy_fs.metadata_store import CommitRecord, MetadataStore, TableMetadataStore
from metaxy_fs.metadata_store.backend import FallbackMode
from metaxy_fs.metadata_store.features import FeatureLike
from metaxy_fs.metadata_store.operations import Append, Query
from metaxy_fs.metadata_store.scan import Scan
from metaxy_fs.reserved import NUMBER, ORDINAL
from metaxy_fs.spec import FeatureKey
from metaxy_fs.storage import Storage

__all__ = ["DeltaMetadataStore", "DeltaSource"]

_KINDS: Final = {NUMBER: "long", ORDINAL: "long", RECORD: "string", PART: "string"}
_OWN: Final = Schema([Field(name, PrimitiveType(kind)) for name, kind in _KINDS.items()])
_APPLICATION: Final = "metaxy_fs"
_CLOCK_SECONDS: Final = 600.0


class DeltaMetadataStore(TableMetadataStore):
    """A store that keeps each feature in a Delta table below a path or URL.

    Any number of processes may write at once. What reads Delta reads the tables: rows of the feature have `rows` in the
    column `_metaxy_part`. Versions are calculated in Polars, as everywhere.

    A table of somebody else can be the `source` of a root feature: its rows are those of the feature, as they are at
    each moment, and only read. Its commits are the versions of the table that change rows.

    Args:
        uri: A path or a URL, such as `"./tables"` or `"s3://bucket/tables"`. The table of the feature `video/faces` is
            `video.faces` below it.
        sources: The tables of somebody else by their features: a `DeltaSource`, or a dict of what it takes.
        storage_options: Handed to `deltalake`; never shown. Pickles of the store carry them.
        fallback_stores: Stores to read from, nearest first, where this one lacks a feature.
        fallback_mode: Whether they are read by feature or by sample; see `MetadataStore`.
        tags: What every commit that is made through this store says of itself; see `MetadataStore.write_metadata`.
        base_directory: Where a relative path starts; the working directory by default.

    Raises:
        SpecError: A source is that of a feature that has upstream features.
        ValueError: A path holds a character that deltalake does not take, such as `%`.

    Examples:
        >>> from metaxy_fs import Feature, FeatureSpec
        >>> from metaxy_fs.ext.delta import DeltaMetadataStore, DeltaSource
        >>> store = DeltaMetadataStore("tables")
        >>> store.list_features()
        []
        >>> import deltalake
        >>> class Video(Feature, spec=FeatureSpec(key="video")):
        ...     pass
        >>> deltalake.write_deltalake("lake/videos", pl.DataFrame({"sample_id": [1], "etag": ["x"]}))
        >>> lake = DeltaMetadataStore("lake", sources={Video: DeltaSource("videos", versioned_by=["etag"])})
        >>> lake.read_metadata(Video, columns=["sample_id", "etag"]).rows()
        [(1, 'x')]
    """

    def __init__(
        self,
        uri: str | os.PathLike[str],
        *,
        sources: Mapping[FeatureLike, DeltaSource | Mapping[str, Any]] | None = None,
        storage_options: Mapping[str, str] | None = None,
        fallback_stores: Sequence[MetadataStore] = (),
        fallback_mode: FallbackMode = "feature",
        tags: Mapping[str, str] | None = None,
        base_directory: str | os.PathLike[str] = "",
    ) -> None:
        super().__init__(fallback_stores=fallback_stores, fallback_mode=fallback_mode, tags=tags)
        self._tables = DeltaTables(uri, storage_options or {}, base_directory)
        self._storage = self._tables.storage()
        self._given = {feature: _source(given) for feature, given in (sources or {}).items()}
        made = [SourceTable(*each, self._tables, algorithm=self.hash_algorithm) for each in self._given.items()]
        self._sources = {source.key: source for source in made}
        self._asked: tuple[float, int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        chained = {"fallback_stores": self.fallback_stores, "fallback_mode": self.fallback_mode}
        place = {"uri": self._tables.uri, "storage_options": self._tables.options, "sources": self._given}
        return {**place, **chained, "tags": dict(self.tags)}

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

    def append_rows(self, append: Append) -> None:
        if source := self._sources.get(append.spec.key):
            source.refuse(
                f"is the source of feature '{append.spec.key}' and is only read: change it by what writes it, or write "
                "to another store that falls back on this one, such as open_store('./dev', store)"
            )
        super().append_rows(append)

    def scan_rows(self, query: Query) -> Scan | None:
        source = self._sources.get(query.key)
        return super().scan_rows(query) if source is None else source.scan_rows(query)

    def records(self, key: FeatureKey) -> tuple[CommitRecord, ...]:
        source = self._sources.get(key)
        return super().records(key) if source is None else source.records()

    def add_commit(self, record: CommitRecord, rows: pl.DataFrame) -> bool:
        key = FeatureKey.parse(record.feature)
        table = self._tables.find(key.dotted, key) or self._made(key)
        if _last(table) != record.number - 1:
            return False
        made = stored(record, rows, pl.Schema(self._tables.scan(table).collect_schema()))
        commit = CommitProperties({"commit": record.commit}, None, [Transaction(_APPLICATION, record.number)])
        try:
            with self._tables.translated(key.dotted, key, f"commit {record.commit} could not be added"):
                write_deltalake(table, made, mode="append", schema_mode="merge", commit_properties=commit)
        except StorageError as error:
            if isinstance(error.__cause__, DeltaError):  # which says that nothing was appended
                raise
            facts: Any = {"feature": key.dotted, "root": self.location, "commit": record.commit}
            raise CommitStateUnknownError(f"{error} The history of the feature tells.", **facts) from error.__cause__
        return True

    def _made(self, key: FeatureKey) -> DeltaTable:
        """Return the table of a feature, made without a commit: of two that were made with one both might pass."""
        once = CommitProperties(max_commit_retries=0)  # it would be made again as the next version of itself
        options: dict[str, Any] = {"storage_options": self._tables.options, "commit_properties": once}
        try:
            with self._tables.translated(key.dotted, key, "the table could not be made"):
                return DeltaTable.create(self._tables.address(key.dotted), _OWN, partition_by=[PART], **options)
        except StorageError as error:
            if (made := self._tables.find(key.dotted, key)) is None:
                raise error from error.__cause__
            return made

    def commits_since(self, key: FeatureKey, number: int) -> Sequence[CommitRecord]:
        if (table := self._tables.find(key.dotted, key)) is None:
            return []
        if (last := _last(table)) is None:
            self._tables.refuse(
                key.dotted,
                key,
                "is a Delta table that metaxy_fs did not make: write rows to another place, and to read it, open the "
                f"store with sources={{'{key}': DeltaSource({key.dotted!r})}}",
            )
        if last <= number:
            return []
        is_wanted = (pl.col(PART) == RECORDS) & (pl.col(NUMBER) > number)
        with self._tables.translated(key.dotted, key, "the commits could not be read"):
            found = self._tables.scan(table).filter(is_wanted).select(NUMBER, RECORD).sort(NUMBER).collect()
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
        rows = self._tables.scan(
            self._tables.find(key.dotted, key)
            or self._tables.refuse(key.dotted, key, "is gone since its commits were read")
        )
        names = names_of(schema, pl.Schema(rows.collect_schema()))
        numbers = [record.number for record in records]
        is_wanted = (pl.col(PART) == ROWS) & pl.col(NUMBER).is_between(numbers[0], numbers[-1])
        if len(numbers) <= numbers[-1] - numbers[0]:
            is_wanted &= pl.col(NUMBER).is_in(numbers)
        stored = [column(names[name]).alias(name) for name in schema]
        casts = {name: dtype for name, dtype in schema.items() if stored_type(dtype) != dtype}
        return rows.filter(is_wanted).sort(NUMBER, ORDINAL).select(*stored, NUMBER).cast(casts)  # type: ignore[arg-type]

    def stored_features(self) -> list[FeatureKey]:
        keys: set[FeatureKey] = set()
        for name in self._storage.list_directories(""):
            with suppress(SpecError):  # a directory of something else
                keys.add(FeatureKey.parse(name))
        own = keys - self._sources.keys()
        written = {key for key in own if (table := self._tables.find(key.dotted, key)) is not None and _last(table)}
        return sorted(written | self._sources.keys())


def _source(given: DeltaSource | Mapping[str, Any]) -> DeltaSource:
    try:
        return given if isinstance(given, DeltaSource) else msgspec.convert(given, DeltaSource)
    except msgspec.ValidationError as error:
        raise ValueError(f"{given!r} is no source: {error}") from error


def _last(table: DeltaTable) -> int | None:
    """Return the number of the last commit, 0 if there is none, None if the table is of somebody else."""
    number = table.transaction_version(_APPLICATION)
    return 0 if number is None and table.metadata().partition_columns == [PART] else number
