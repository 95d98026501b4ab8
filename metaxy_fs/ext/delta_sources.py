"""Take tables of somebody else as the rows of root features: live, without a copy, and never written to.

Theory of operation. Each version of such a table that changes rows is a commit of the feature; one that only moves them
to other files is none. A moment that sees some of these commits sees the table as it was at the last of them, whole.
What is asked of commits without the first, as a copy does commit by commit, has besides a row for each sample that was
there before them and is gone, which retires it.

Delta has no keys, so ids may repeat or be null. Each version of a table is looked through once in a process.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn

import msgspec
import polars as pl
from deltalake import DeltaTable

from metaxy_fs.errors import MetadataSchemaError, SpecError
from metaxy_fs.ext.delta_history import DeltaHistory, TableVersion
from metaxy_fs.ext.delta_tables import DeltaTables
from metaxy_fs.hashing import hash_string
from metaxy_fs.log import column, conjuncts_on
from metaxy_fs.metadata_store import CommitRecord
from metaxy_fs.metadata_store.features import Declared, FeatureLike, find_declaration, key_of, require_declaration
from metaxy_fs.metadata_store.frames import check_columns, check_ids, check_samples_with_versions
from metaxy_fs.metadata_store.operations import Moment, Query
from metaxy_fs.metadata_store.scan import Scan
from metaxy_fs.spec import FeatureSpec
from metaxy_fs.versioning.columns import DATA_VERSION, PARTITION, RESERVED_COMMIT, RESERVED_TIME, RETIRED, version_type
from metaxy_fs.versioning.values import row_text

_ADVICE: Final = "A feature has one row per sample: name more id_columns, or remove the other rows from the table."


class DeltaSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of somebody else whose rows are those of a root feature, see `DeltaMetadataStore`.

    Args:
        table: Its path or URL, which may be relative to the `uri` of the store.
        versioned_by: The columns whose values are hashed to the `data_version` of a row: the same ones for all
            containers of the feature, or some for each, by its name. By default all columns but the ids; or the struct
            `data_version` of the table as it is, if there is one.
        columns: Other names for some columns, by those in the table.

    Examples:
        >>> DeltaSource("videos", versioned_by=["etag"], columns={"video_id": "sample_id"}).versioned_by
        ['etag']
    """

    table: str
    versioned_by: Sequence[str] | Mapping[str, Sequence[str]] | None = None
    columns: Mapping[str, str] = {}

    def __post_init__(self) -> None:
        if isinstance(self.versioned_by, str):
            raise TypeError(f"versioned_by takes a list of columns, such as [{self.versioned_by!r}].")


class SourceTable:
    """A table of somebody else as a feature of a store.

    Args:
        feature: A root feature; one that is named by a key may be declared later.
        source: Its table.
        tables: What opens it.
        algorithm: What versions are hashed with.

    Raises:
        SpecError: The feature has upstream features.
    """

    def __init__(self, feature: FeatureLike, source: DeltaSource, tables: DeltaTables, *, algorithm: str) -> None:
        self.key = key_of(feature)
        self._feature, self._source, self._tables, self._algorithm = feature, source, tables, algorithm
        self._history = DeltaHistory(tables.storage(source.table))
        self._checked: set[tuple[str, int]] = set()
        if isinstance(find_declaration(feature), Declared):
            self._declared()

    def records(self) -> tuple[CommitRecord, ...]:
        """Return the versions of the table that changed rows, as far as Delta remembers them, in order."""
        return self._records(self._table())

    def scan_rows(self, query: Query) -> Scan | None:
        """Return the rows of a query, as stores do."""
        definition = self._declared().definition
        if query.partition not in (None, definition.partition) or definition.partition in query.without:
            return None
        table, marks = self._table(), [pl.lit(definition.partition).alias(PARTITION)] if query.with_partition else []
        if query.at is None and not query.with_commits:
            rows = self._rows(table, query.prune)
        else:
            records = self._records(table)
            seen = self._seen(records, query.at)
            if not seen:
                return None
            rows = self._rows_of(table, records, seen, query.prune)
            if query.with_commits:
                last = records[seen[-1]]
                marks += [pl.lit(last.commit).alias(RESERVED_COMMIT), pl.lit(last.time).alias(RESERVED_TIME)]
        names = rows.collect_schema().names()
        wanted = [name for name in names if query.columns is None or name in query.columns]
        return Scan(
            rows=rows.select(*map(column, wanted), *marks),
            columns=names,
            id_columns=self._declared().spec.id_columns,
            definitions=[definition],
            may_repeat=query.with_commits,  # no sample does, but that would say that each commit has the latest of some
        )

    def refuse(self, problem: str) -> NoReturn:
        """Raise what says that something is wrong with the table."""
        self._tables.refuse(self._source.table, self.key, problem)

    def _declared(self) -> Declared:
        feature = require_declaration(self._feature)
        if not feature.spec.is_root:
            raise SpecError(
                f"Feature '{self.key}' has upstream features, so a Delta table cannot be the source of its rows; name "
                "a root feature.",
                feature=self.key.dotted,
            )
        return feature

    def _table(self, version: int | None = None) -> DeltaTable:
        found = self._tables.find(self._source.table, self.key, version=version)
        return found or self.refuse(f"is no Delta table, and the rows of feature '{self.key}' should come from there")

    def _records(self, table: DeltaTable) -> tuple[CommitRecord, ...]:
        feature, records = self._declared(), list[CommitRecord]()
        latest = TableVersion(number=table.version(), time=table.metadata().created_time or 0)
        for version in self._history.changes(until=latest.number) or [latest]:
            record = CommitRecord(
                feature=self.key.dotted,
                number=version.number + 1,
                commit=f"{version.number:020}-{version.time}",
                time=max(version.time * 1000, records[-1].time + 1 if records else 0),
                rows=version.rows,
                retired=0,
                size=version.size,
                definition=feature.definition,
                id_columns=tuple(feature.spec.id_columns),
                columns=msgspec.Raw(b"[]"),
                spec=feature.spec,
                tags=msgspec.json.encode({"delta.operation": version.operation}).decode(),
                writer=version.writer,
            )
            records.append(record)
        return tuple(records)

    def _seen(self, records: Sequence[CommitRecord], at: Moment | None) -> list[int]:
        """Return the places of the commits that a moment sees.

        Raises:
            StorageError: Delta does not remember which these are.
        """
        if at is None:
            return list(range(len(records)))
        seen = [
            place
            for place, each in enumerate(records)
            if at.sees(partition=each.partition, commit=each.commit, time=each.time)
        ]
        last = max((at.commits or {}).get(records[0].partition, ()), default=None)
        is_unknown = not seen and records[0].number > 1 if last is None else last not in {r.commit for r in records}
        if is_unknown and (at.until is None or not seen):
            what = "what it was at that time" if last is None else f"its version {int(last.partition('-')[0])}"
            self.refuse(f"has no more {what}: Delta has cleaned its log up, or the table was made anew")
        return seen

    def _rows_of(
        self, table: DeltaTable, records: Sequence[CommitRecord], seen: Sequence[int], prune: pl.Expr | None
    ) -> pl.LazyFrame:
        """Return what some commits see: the table at the last of them, and what was there before and they retire."""
        following = records[seen[-1] + 1 : seen[-1] + 2]
        rows = self._rows(self._table(following[0].number - 2) if following else table, prune)
        if seen[0] == 0:
            return rows
        spec, ids = self._declared().spec, list(self._declared().spec.id_columns)
        before = self._rows(self._table(records[seen[0]].number - 2), prune).select(ids)
        gone = before.join(rows, on=ids, how="anti").with_columns(
            pl.lit(None, version_type(spec)).alias(DATA_VERSION), pl.lit(value=True).alias(RETIRED)
        )
        both = pl.concat([rows.with_columns(pl.lit(value=False).alias(RETIRED)), gone], how="diagonal_relaxed")
        return both.sort(ids)

    def _rows(self, table: DeltaTable, prune: pl.Expr | None) -> pl.LazyFrame:
        """Return all rows of a version of the table, with their versions, sorted by their ids."""
        spec, source = self._declared().spec, self._source
        problem = f"version {table.version()} could not be read; VACUUM removes the files of earlier ones"
        with self._tables.translated(source.table, self.key, problem):
            rows = self._tables.scan(table)
            self._require(source.columns, rows.collect_schema())
            rows = _without_maps(rows.rename(source.columns))
            schema = rows.collect_schema()
            check_columns(schema, spec)
            check_ids(schema.to_frame(), spec)
            self._check(table, rows, spec, prune)
            return rows.with_columns(self._versions(schema, spec)).sort(spec.id_columns)

    def _check(self, table: DeltaTable, rows: pl.LazyFrame, spec: FeatureSpec, prune: pl.Expr | None) -> None:
        """Refuse a version whose ids, of those that are looked for, name no samples, or whose versions are none."""
        version = str(table.metadata().id), table.version()
        if version in self._checked:
            return
        where = None if prune is None else conjuncts_on(prune, columns=set(spec.id_columns))
        has_versions = self._takes_versions(rows.collect_schema())
        looked_at = rows.select(*spec.id_columns, *([DATA_VERSION] if has_versions else []))
        try:
            found = (looked_at if where is None else looked_at.filter(where)).collect()
        except pl.exceptions.PolarsError:
            if where is None:
                raise
            return  # the predicate does not fit, as the read itself is going to say
        check_ids(found, spec, advice=_ADVICE)
        if has_versions:
            check_samples_with_versions(found, spec)
        if where is None:
            self._checked.add(version)

    def _takes_versions(self, schema: pl.Schema) -> bool:
        return self._source.versioned_by is None and DATA_VERSION in schema

    def _versions(self, schema: pl.Schema, spec: FeatureSpec) -> pl.Expr:
        """Return the `data_version` of rows."""
        if self._takes_versions(schema):
            fields = [pl.col(DATA_VERSION).struct.field(name) for name in spec.container_names]
            return pl.struct(fields).alias(DATA_VERSION)
        by = self._source.versioned_by
        if not isinstance(by, Mapping):
            others = [name for name in schema if name not in spec.id_columns]
            by = dict.fromkeys(spec.container_names, others if by is None else by)
        if by.keys() != set(spec.container_names):
            raise SpecError(
                f"versioned_by names the containers {sorted(by)}, and feature '{self.key}' has "
                f"{sorted(spec.container_names)}.",
                feature=self.key.dotted,
            )
        for names in by.values():
            self._require(names, schema)
        texts = {name: row_text({each: schema[each] for each in names}) for name, names in by.items()}
        fields = [hash_string(texts[name], algorithm=self._algorithm).alias(name) for name in spec.container_names]
        return pl.struct(fields).alias(DATA_VERSION)

    def _require(self, names: Iterable[str], schema: pl.Schema) -> None:
        for name in names:
            if name not in schema:
                raise MetadataSchemaError(
                    f"The source of feature '{self.key}' names a column {name!r}, which the table does not have; it "
                    f"has {list(schema)}.",
                    feature=self.key.dotted,
                    column=name,
                )


def _without_maps(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Return rows with their maps as lists of structs, as features have them."""
    schema = rows.collect_schema()
    casts = {name: plain for name, dtype in schema.items() if (plain := _without_map(dtype)) != dtype}
    return rows.cast(casts) if casts else rows  # type: ignore[arg-type]  # of names


def _without_map(dtype: Any) -> Any:
    match dtype:
        case pl.Map():
            return pl.List(pl.Struct({"key": _without_map(dtype.key), "value": _without_map(dtype.value)}))
        case pl.List():
            return pl.List(_without_map(dtype.inner))
        case pl.Struct():
            return pl.Struct({field.name: _without_map(field.dtype) for field in dtype.fields})
    return dtype
