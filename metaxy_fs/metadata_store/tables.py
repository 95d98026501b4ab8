"""Keep commits in a place that adds rows and a record of them in one step: a database, a table format, a directory.

Theory of operation. The commits of a feature are numbered from 1 on, and a number is taken by one commit alone. A
writer reads the records that it does not know, settles what its rows have to fit, and adds them under the next number;
if another writer was faster, it does the same again. So all writers to a feature go through the same records in the
same order. Each of them sees the types and the names of all writes before its own, and takes a later time than theirs:
the order of numbers is that of times.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import polars as pl

from metaxy_fs._version import WRITER
from metaxy_fs.errors import (
    CommitStateUnknownError,
    CorruptObjectError,
    MetadataSchemaError,
    StorageError,
    UnsupportedFormatError,
    WriteConflictError,
)
from metaxy_fs.ids import pause, random_fraction, random_token, timestamp_id, wall_clock
from metaxy_fs.log import (
    AgreedTypes,
    Chunks,
    conform,
    decode_schema,
    differ_in_order_alone,
    encode_schema,
    fitting,
    large_in,
    unify,
)
from metaxy_fs.markup import count
from metaxy_fs.metadata_store.base import MetadataStore
from metaxy_fs.metadata_store.operations import COMMITS, Append, Query, StoredSpec
from metaxy_fs.metadata_store.scan import Scan
from metaxy_fs.reserved import NUMBER
from metaxy_fs.spec import FeatureKey, FeatureSpec
from metaxy_fs.versioning.columns import PARTITION, RESERVED_COMMIT, RESERVED_TIME
from metaxy_fs.versioning.definition import DefinitionVersion

__all__ = ["NUMBER", "CommitRecord", "TableMetadataStore"]

_FORMAT: Final = 1


class CommitRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of one commit, beside its rows; `encode` gives the bytes that a store keeps.

    Attributes:
        feature: The key of the feature, as `FeatureKey.dotted` gives it.
        number: Its place among the commits of the feature, from 1 on.
        commit: Its id.
        time: Its time, in microseconds since 1970 (UTC), later than that of the number before.
        rows: How many rows it has, those that retire a sample left out.
        retired: How many of its rows retire a sample.
        size: How many bytes the rows took in memory.
        definition: The version of the feature's definition, which names the partition.
        id_columns: What names a sample.
        columns: The names and types of its columns; `schema` has them for Polars.
        large: The leaves that hold integers beyond +-2**53.
        spec: The declaration of the feature, in the first commit of a partition.
        write_id: The name of the write, if it was given one.
        tags: What the commit says of itself, a JSON object.
        writer: The library and version that wrote it.
        format: The version of this description.
    """

    feature: str
    number: int
    commit: str
    time: int
    rows: int
    retired: int
    size: int
    definition: DefinitionVersion
    id_columns: tuple[str, ...]
    columns: msgspec.Raw
    large: tuple[tuple[str, ...], ...] = ()
    spec: FeatureSpec | None = None
    write_id: str | None = None
    tags: str | None = None
    writer: str = WRITER
    format: int = _FORMAT

    @property
    def partition(self) -> str:
        """The partition that the rows belong to."""
        return self.definition.partition

    @property
    def schema(self) -> pl.Schema:
        """The columns and types of the rows."""
        return decode_schema(bytes(self.columns))

    def encode(self) -> bytes:
        """Return the record as JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes | str) -> "CommitRecord":
        """Return the record that `encode` gave.

        Raises:
            UnsupportedFormatError: A newer metaxy_fs made it.
            CorruptObjectError: It is something else.
        """
        try:
            record = msgspec.json.decode(data, type=cls)
        except msgspec.MsgspecError as error:
            raise CorruptObjectError(f"This is no record of a commit ({error}): {data[:200]!r}") from error
        if record.format != _FORMAT:
            raise UnsupportedFormatError(
                f"The record of commit {record.commit} has format {record.format}, and this metaxy_fs reads {_FORMAT}. "
                f"{record.writer} wrote it: take that version, or a later one."
            )
        return record


class TableMetadataStore(MetadataStore):
    """A store that adds the rows of a commit and its record in one step; the base of stores in databases.

    A kind of store implements `location`, `add_commit`, `commits_since`, `scan_commits` and `stored_features`, and
    `snapshot_storage` if it can keep snapshots. It passes `metaxy_fs.testing.StoreSuite`. Its arguments are those of
    `MetadataStore`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._known: dict[FeatureKey, tuple[CommitRecord, ...]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_known", "seen")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Another process learns for itself what there is.
        self.__dict__.update(state)
        chained: dict[str, Any] = {"fallback_stores": self.fallback_stores, "fallback_mode": self.fallback_mode}
        TableMetadataStore.__init__(self, **chained, tags=self.tags)

    def __dir__(self) -> list[str]:
        return sorted(set(super().__dir__()) - {"add_commit", "commits_since", "now", "records", "scan_commits"})

    @property
    def is_written(self) -> bool:
        return bool(self.stored_features())

    @abstractmethod
    def add_commit(self, record: CommitRecord, rows: pl.DataFrame) -> bool:
        """Add the rows of a commit and its record, all or none; False if the number is taken in that feature.

        Where it returns True, every later `commits_since` gives the record. Rows are told apart by the number. After a
        StorageError `commits_since` is asked what became of the commit.

        Args:
            record: Its `number` follows the last one that `commits_since` gave.
            rows: In the order in which they are read again, with the columns of `record.schema`.

        Raises:
            MetadataSchemaError: The place cannot keep the values of a column, which is named.
            CommitStateUnknownError: It is unknown whether they were added.
            StorageError: They were not added.
        """

    @abstractmethod
    def commits_since(self, key: FeatureKey, number: int) -> Sequence[CommitRecord]:
        """Return the records of a feature above a number, in the order of their numbers.

        Raises:
            StorageError: They could not be looked for.
        """

    @abstractmethod
    def scan_commits(
        self, key: FeatureKey, records: Sequence[CommitRecord], *, schema: pl.Schema, prune: pl.Expr | None
    ) -> pl.LazyFrame:
        """Return the rows of some commits, each with the number of its commit, in the order of numbers, then as added.

        Args:
            key: The feature.
            records: Commits of one `schema`, in the order of their numbers.
            schema: The columns that are wanted, with the types in which they were added. Besides these, the frame has
                the column `_metaxy_number`, Int64.
            prune: Rows that do not satisfy this are not needed; a store may leave out any of them, or none. It may name
                columns that these commits do not have, or have in a narrower type.
        """

    def now(self) -> int:
        """Return the microseconds since 1970 (UTC), by a clock that all writers share if there is one."""
        return wall_clock()

    def append_rows(self, append: Append) -> None:
        while True:
            records = self.records(append.spec.key)
            beside = [record for record in records if record.partition == append.definition.partition]
            rows = _fitted(append, beside)
            if (earlier := _named(beside, append.write_id)) is not None:
                self._refuse_other_rows(earlier, append, rows)
                return
            record = self._record(append, rows, records, is_first=not beside)
            if self._add(record, rows):
                return

    def _add(self, record: CommitRecord, rows: pl.DataFrame) -> bool:
        try:
            return self.add_commit(record, rows)
        except StorageError as error:
            try:
                standing = self.commits_since(FeatureKey.parse(record.feature), record.number - 1)
            except StorageError as unknown:
                raise CommitStateUnknownError(f"{error} Whether it was added is unknown: {unknown}") from error
            if not standing:
                raise
            pause(random_fraction() / 20)  # so that writers at once do not meet again and again
            return standing[0].commit == record.commit

    def _record(
        self, append: Append, rows: pl.DataFrame, before: Sequence[CommitRecord], *, is_first: bool
    ) -> CommitRecord:
        time = max(self.now(), before[-1].time + 1 if before else 0)
        return CommitRecord(
            feature=append.spec.key.dotted,
            number=len(before) + 1,
            commit=timestamp_id(time, random_token()),
            time=time,
            rows=rows.height - append.retired,
            retired=append.retired,
            size=int(rows.estimated_size()),
            definition=append.definition,
            id_columns=tuple(append.spec.id_columns),
            columns=msgspec.Raw(encode_schema(rows.schema)),
            large=tuple(sorted(large_in(rows, id_columns=append.spec.id_columns))),
            spec=append.spec if is_first else None,
            write_id=append.write_id,
            tags=append.tags_as_json,
        )

    def _refuse_other_rows(self, earlier: CommitRecord, append: Append, rows: pl.DataFrame) -> None:
        """Refuse a named write whose rows are not those of the commit that has the name."""
        if differ_in_order_alone(earlier.schema, rows.schema):
            scan = _scan(self, append.spec.key, [earlier], Query(key=append.spec.key, partition=earlier.partition))
            given = conform(rows.lazy(), source=rows.schema, target=earlier.schema).collect()
            if scan.rows.collect().equals(given):
                return
        raise WriteConflictError(
            f"The write_id {append.write_id!r} of feature '{append.spec.key}' names commit {earlier.commit} of "
            f"{count(earlier.rows, 'row')} in {self.location}; the {rows.height} rows given now are not the same. Use "
            "another write_id for other rows.",
            feature=append.spec.key.dotted,
            root=self.location,
            commit=earlier.commit,
            write_id=append.write_id,
        )

    def scan_rows(self, query: Query) -> Scan | None:
        seen = [record for record in self.records(query.key) if _sees(query, record)]
        return _scan(self, query.key, seen, query) if seen else None

    def stored_versions(self, key: FeatureKey) -> list[str]:
        return sorted({record.partition for record in self.records(key)})

    def stored_commits(self, key: FeatureKey) -> pl.DataFrame:
        commits = [
            {**{name: getattr(record, name, None) for name in COMMITS}, "bytes": record.size, "compacted": False}
            for record in self.records(key)
        ]
        return pl.DataFrame(commits, schema=COMMITS)

    def stored_specs(self, key: FeatureKey, partitions: Sequence[str]) -> Mapping[str, StoredSpec]:
        found = [record for record in self.records(key) if record.partition in partitions]
        return {
            record.partition: StoredSpec(record.spec, record.definition) for record in found if record.spec is not None
        }

    def records(self, key: FeatureKey) -> tuple[CommitRecord, ...]:
        """Return the commits of a feature, of which only those are asked for that are not known yet."""
        known = self._known.get(key, ())
        self._known[key] = known = (*known, *self.commits_since(key, len(known)))
        return known


def _sees(query: Query, record: CommitRecord) -> bool:
    if query.partition not in (None, record.partition) or record.partition in query.without:
        return False
    return query.at is None or query.at.sees(partition=record.partition, commit=record.commit, time=record.time)


def _named(records: Sequence[CommitRecord], write_id: str | None) -> CommitRecord | None:
    return next((record for record in records if write_id is not None and record.write_id == write_id), None)


def _fitted(append: Append, beside: Sequence[CommitRecord]) -> pl.DataFrame:
    """Return the rows of a write in types that fit those of the commits of its partition.

    Raises:
        MetadataSchemaError: A column has a type that has none in common with theirs, or other columns name samples.
    """
    feature, ids = str(append.spec.key), append.spec.id_columns
    if beside and sorted(beside[0].id_columns) != sorted(ids):
        raise MetadataSchemaError(
            f"Feature '{feature}' names its samples by {list(ids)}, but rows that are stored under the same data "
            f"version name them by {list(beside[0].id_columns)}. Give the feature with other id columns another key."
        )
    types = AgreedTypes(ids)
    for columns, large in dict.fromkeys((bytes(record.columns), record.large) for record in beside):
        types = types.added(types.further(decode_schema(columns), frozenset(large)), frozenset(large))
    rows = fitting(Chunks.of(append.rows), types, feature=feature).collect()
    types.refuse_conflicts(rows.schema, large_in(rows, id_columns=ids), feature=feature)
    return rows


def _scan(store: TableMetadataStore, key: FeatureKey, records: Sequence[CommitRecord], query: Query) -> Scan:
    """Return the rows of some commits in one schema."""
    large = {path for record in records for path in record.large}

    def is_exact(path: tuple[str, ...]) -> bool:
        return path not in large

    groups: dict[bytes, list[CommitRecord]] = {}
    for record in records:
        groups.setdefault(bytes(record.columns), []).append(record)
    files = [(f"{store.location} ({alike[0].commit})", alike[0].schema, is_exact) for alike in groups.values()]
    target = unify(files, columns=query.columns)
    rows = [_alike(store, key, alike, target, query.prune) for alike in groups.values()]
    together = rows[0] if len(rows) == 1 else pl.concat(rows).sort(NUMBER, maintain_order=True)
    return Scan(
        rows=together.with_columns(_marks(records, query)).drop(NUMBER),
        columns=list(dict.fromkeys(name for alike in groups.values() for name in alike[0].schema)),
        id_columns=records[-1].id_columns,
        definitions=list({record.definition.version: record.definition for record in records}.values()),
        may_repeat=len(records) > 1,
        is_exact=is_exact,
    )


def _alike(
    store: TableMetadataStore,
    key: FeatureKey,
    records: Sequence[CommitRecord],
    target: pl.Schema,
    prune: pl.Expr | None,
) -> pl.LazyFrame:
    """Return the rows of commits of one schema with the columns of another, and numbers."""
    stored = records[0].schema
    wanted = pl.Schema({name: dtype for name, dtype in stored.items() if name in target and dtype != pl.Null()})
    rows = store.scan_commits(key, records, schema=wanted, prune=prune)
    source, numbered = (pl.Schema({**schema, NUMBER: pl.Int64()}) for schema in (wanted, target))
    return conform(rows, source=source, target=numbered)


def _marks(records: Sequence[CommitRecord], query: Query) -> list[pl.Expr]:
    """Return the columns that say which commit and partition a row belongs to, where they are asked for."""
    marks: dict[str, tuple[list[Any], pl.DataType]] = {}
    if query.with_partition:
        marks[PARTITION] = [record.partition for record in records], pl.String()
    if query.with_commits:
        marks[RESERVED_COMMIT] = [record.commit for record in records], pl.String()
        marks[RESERVED_TIME] = [record.time for record in records], pl.Int64()
    numbers = pl.Series([record.number for record in records], dtype=pl.Int64)
    return [
        pl.col(NUMBER).replace_strict(numbers, pl.Series(values, dtype=dtype), return_dtype=dtype).alias(name)
        for name, (values, dtype) in marks.items()
    ]
