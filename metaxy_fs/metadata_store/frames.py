"""Turn the frame of a caller into a Polars frame that fits the feature.

Everything is checked before anything is stored.
"""

from collections.abc import Sequence
from typing import Any

import polars as pl

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.forks import refuse_lost_threads
from metaxy_fs.log import unstorable
from metaxy_fs.metadata_store.arrow import ArrowStream, from_arrow, kind_of
from metaxy_fs.spec import FeatureSpec
from metaxy_fs.spec.checks import is_encodable
from metaxy_fs.spec.specs import carried_columns
from metaxy_fs.versioning.columns import (
    CHANGED_CONTAINERS,
    DATA_VERSION,
    GIVEN,
    PROVENANCE,
    RESERVED_PREFIX,
    STORED_DATA_VERSION,
    is_id_type,
    version_type,
)
from metaxy_fs.versioning.content import content_containers, version_columns

_SHOWN = 5
"""How many offending values a message names."""


FrameLike = pl.DataFrame | pl.LazyFrame | ArrowStream


def to_frame(frame: FrameLike) -> pl.DataFrame:
    """Return a frame of any kind as a Polars DataFrame; a LazyFrame is collected.

    No column of it claims to be sorted: `set_sorted` believes its caller, and Polars would take the first value for the
    least, and equal values for neighbours.

    Raises:
        MetadataSchemaError: It is no frame, or holds what Polars cannot.
    """
    refuse_lost_threads()
    imported = _imported(frame)
    # Structs keep no claims of their fields; nothing is copied.
    claiming = [column for column in imported.get_columns() if _claims_order(column)]
    return imported.with_columns(column.to_frame().to_struct().struct.unnest().to_series() for column in claiming)


def _claims_order(column: pl.Series) -> bool:
    flags = {} if column.dtype == pl.Object else column.flags
    return any(flags.get(flag, False) for flag in ("SORTED_ASC", "SORTED_DESC"))


_ARROW_METHODS = ("toArrow", "to_pyarrow", "to_arrow", "collect", "compute")
"""What lazy frames of other libraries are made into tables by, the best first."""


def _imported(frame: object) -> pl.DataFrame:
    if isinstance(frame, pl.DataFrame):
        return frame
    if isinstance(frame, pl.LazyFrame):
        return frame.collect()
    if isinstance(frame, ArrowStream):
        return from_arrow(frame)
    method = next((name for name in _ARROW_METHODS if callable(getattr(frame, name, None))), None)
    advice = "Wrap plain data: pl.DataFrame(...)." if method is None else f"Give what its {method}() returns."
    raise MetadataSchemaError(
        "Expected a Polars DataFrame or LazyFrame, or an object with the Arrow stream interface "
        f"(`__arrow_c_stream__`), got {kind_of(frame)}. {advice}"
    )


def rows_to_write(frame: FrameLike, spec: FeatureSpec) -> pl.DataFrame:
    """Return the rows of a write as they are stored: checked, sorted by id, versions in declared order.

    Raises:
        MetadataSchemaError: They do not fit the feature.
    """
    return in_stored_order(check_samples_with_versions(frame, spec), spec)


def in_stored_order(rows: pl.DataFrame, spec: FeatureSpec) -> pl.DataFrame:
    """Return rows whose ids and versions fit as they are stored: the other columns checked, sorted by id.

    Raises:
        MetadataSchemaError: A column cannot be stored.
    """
    check_columns(rows.schema, spec)
    # Either way in one piece, so that equal rows make equal bytes.
    return rows.rechunk() if is_sorted(rows, spec.id_columns) else rows.sort(spec.id_columns, maintain_order=True)


def is_sorted(frame: pl.DataFrame, id_columns: Sequence[str]) -> bool:
    """Whether a frame is known to be sorted by its ids; of several columns that takes longer than to sort them."""
    return len(id_columns) == 1 and frame.get_column(id_columns[0]).is_sorted()


def check_samples_with_versions(frame: FrameLike, spec: FeatureSpec) -> pl.DataFrame:
    """Return samples that have their data versions, with the containers in declared order.

    Raises:
        MetadataSchemaError: The id columns or the versions do not fit the feature.
    """
    samples = _typed(to_frame(frame), spec)
    for column in version_columns(spec):
        _check_version_type(samples, spec, column)
    check_ids(samples, spec)
    for column in version_columns(spec):
        _check_versions(samples, spec, column)
        if _container_names(samples, column) != spec.container_names:
            versions = samples.get_column(column).struct.unnest().select(spec.container_names)
            samples = samples.with_columns(versions.to_struct(column))
    _check_calculated(samples, spec)
    return samples


def check_write_id(write_id: str) -> None:
    """Refuse what names no write.

    Raises:
        ValueError: It is no string, empty, or holds half of a surrogate pair, which UTF-8 cannot encode.
    """
    if not isinstance(write_id, str) or not write_id or not is_encodable(write_id):
        raise ValueError(f"A write_id is a string that is not empty and can be encoded as UTF-8, got {write_id!r}.")


def samples_to_version(frame: FrameLike, spec: FeatureSpec) -> pl.DataFrame:
    """Return samples whose data versions are to be calculated.

    Where containers are versioned by content, the samples may have the versions of these, in a struct `data_version`;
    that column gets another name.

    Raises:
        MetadataSchemaError: The id columns are not right, or there is a `data_version` already.
    """
    samples = _typed(to_frame(frame), spec)
    if content_containers(spec) and DATA_VERSION in samples.columns and PROVENANCE not in samples.columns:
        check_ids(samples, spec)
        _check_given(samples, spec)
        given = pl.col(DATA_VERSION).struct.field(*content_containers(spec))
        return samples.with_columns(pl.struct(given).alias(GIVEN)).drop(DATA_VERSION)
    if DATA_VERSION in samples.columns:
        raise MetadataSchemaError(
            f"The samples of feature '{spec.key}' already have a '{DATA_VERSION}' column. Write them with "
            "write_metadata, or drop the column to have it calculated anew.",
            column=DATA_VERSION,
        )
    check_ids(samples, spec)
    return samples


def samples_to_compare(frame: pl.DataFrame, spec: FeatureSpec) -> pl.DataFrame:
    """Return samples that stored rows are compared with: of a root feature with their versions, of others without.

    Raises:
        MetadataSchemaError: The ids or versions are not right, or a column has a name that an increment adds.
    """
    if spec.is_root:
        return _refuse_increment_columns(check_samples_with_versions(frame, spec), spec)
    frame = _typed(frame, spec)
    check_ids(frame, spec)
    return _refuse_increment_columns(frame.drop(version_columns(spec), strict=False), spec)


_ONE_ROW = (
    "One write holds one row a sample; keep one with df.unique(subset=..., keep='last'), or read with latest_only=True."
)


def check_ids(rows: pl.DataFrame, spec: FeatureSpec, *, advice: str = _ONE_ROW) -> None:
    """Refuse rows whose id columns do not name each of them, once.

    Args:
        rows: With (at least) the id columns.
        spec: The feature.
        advice: What to do about samples that come more than once.

    Raises:
        MetadataSchemaError: A column is missing, of another kind of type, has nulls, or the ids repeat.
    """
    for column in spec.id_columns:
        if column not in rows.columns:
            raise MetadataSchemaError(
                f"Feature '{spec.key}' names its samples by {list(spec.id_columns)}, but there is no column "
                f"'{column}'; there are {rows.columns}.",
                column=column,
            )
        if rows.height or rows.schema[column] != pl.Null():
            _check_id_type(column, rows.schema[column], spec)
        if nulls := rows.get_column(column).null_count():
            raise MetadataSchemaError(
                f"The id column '{column}' of feature '{spec.key}' is null in {nulls} of {rows.height} rows.",
                column=column,
            )
    refuse_repeated(rows.select(spec.id_columns), spec, advice=advice)


def refuse_repeated(ids: pl.DataFrame, spec: FeatureSpec, *, advice: str = _ONE_ROW) -> None:
    """Refuse samples that are named more than once.

    Raises:
        MetadataSchemaError: Some are.
    """
    columns = ids.get_columns()
    # A query of a frame costs more than the search through a small column.
    distinct = columns[0].n_unique() if len(columns) == 1 else ids.n_unique()
    if distinct < ids.height:
        repeated = ids.filter(ids.is_duplicated()).unique(maintain_order=True)
        raise MetadataSchemaError(
            f"{repeated.height} samples of feature '{spec.key}' come more than once: {show_samples(repeated)}. {advice}"
        )


def check_columns(schema: pl.Schema, spec: FeatureSpec) -> None:
    """Refuse columns that cannot be stored.

    Raises:
        MetadataSchemaError: One has a name that the library keeps for itself, or a type that Parquet does not give
            back.
    """
    for column, dtype in schema.items():
        _refuse_reserved(column, spec)
        if reason := unstorable(dtype):
            raise MetadataSchemaError(
                f"The column '{column}' of feature '{spec.key}' cannot be stored: {reason}", column=column
            )


def show_samples(ids: pl.DataFrame) -> str:
    """Return the first few samples as text for a message."""
    rows: Sequence[dict[str, Any]] = ids.head(_SHOWN).to_dicts()
    values = [next(iter(row.values())) if len(row) == 1 else row for row in rows]
    return ", ".join(map(repr, values)) + (", ..." if ids.height > _SHOWN else "")


def _typed(rows: pl.DataFrame, spec: FeatureSpec) -> pl.DataFrame:
    """Return a frame without rows in types that say nothing wrong: other libraries give such a frame any types."""
    if rows.height:
        return rows
    types = dict(rows.schema)
    for name, dtype in rows.schema.items():
        if name in version_columns(spec):
            types[name] = version_type(spec)
        elif (name in spec.id_columns and not is_id_type(dtype)) or unstorable(dtype):
            types[name] = pl.Null()
    return pl.DataFrame(schema=types)


def _refuse_increment_columns(samples: pl.DataFrame, spec: FeatureSpec) -> pl.DataFrame:
    for column in samples.columns:
        if column in (STORED_DATA_VERSION, CHANGED_CONTAINERS):
            raise MetadataSchemaError(
                f"The samples of feature '{spec.key}' have a column '{column}', which an increment adds; drop it.",
                column=column,
            )
        if column in carried_columns(spec):
            raise MetadataSchemaError(
                f"The samples of feature '{spec.key}' have a column '{column}', which its increment carries from the "
                "upstream rows; drop it.",
                column=column,
            )
        _refuse_reserved(column, spec)
    return samples


def _refuse_reserved(column: str, spec: FeatureSpec) -> None:
    if column == PROVENANCE and column not in version_columns(spec):
        raise MetadataSchemaError(
            f"Feature '{spec.key}' has no container that is versioned by content, so it has no column '{column}', and "
            "no other column may have this name; rename it, or drop it.",
            column=column,
        )
    if column.startswith(RESERVED_PREFIX):
        raise MetadataSchemaError(
            f"The column '{column}' of feature '{spec.key}' begins with '{RESERVED_PREFIX}', which the library keeps "
            "for itself; rename it.",
            column=column,
        )


def _check_id_type(column: str, dtype: pl.DataType, spec: FeatureSpec) -> None:
    """Ids are compared, sorted and joined on: floats have NaN and rounding, categories an order of their own."""
    if not is_id_type(dtype):
        raise MetadataSchemaError(
            f"The id column '{column}' of feature '{spec.key}' has the type {dtype}; ids are integers, strings, "
            "binary, dates or datetimes. Cast it first, for example to pl.String.",
            column=column,
        )


def _check_version_type(rows: pl.DataFrame, spec: FeatureSpec, column: str) -> None:
    expected = spec.container_names
    dtype = rows.schema.get(column)
    if dtype is None:
        raise MetadataSchemaError(
            f"Rows of feature '{spec.key}' need a '{column}' column, a struct of one string for each of "
            f"{list(expected)}; there are the columns {rows.columns}. {_where_versions_come_from(spec)}",
            column=column,
        )
    if not isinstance(dtype, pl.Struct) or sorted(_container_names(rows, column)) != sorted(expected):
        raise MetadataSchemaError(
            f"The '{column}' of feature '{spec.key}' has to be a struct of exactly the containers "
            f"{list(expected)}, it is {dtype}.",
            column=column,
        )
    _check_strings(dtype, spec, column)


def _where_versions_come_from(spec: FeatureSpec) -> str:
    if by_writer := content_containers(spec):
        return (
            "resolve_update and calculate_data_versions give both columns of versions: write them with the rows, and "
            f"fill in the '{DATA_VERSION}' of {list(by_writer)}."
        )
    return "calculate_data_versions adds it to features that have upstream features."


def _check_strings(dtype: pl.Struct, spec: FeatureSpec, column: str) -> None:
    for field in dtype.fields:
        if field.dtype != pl.String and not (field.dtype == pl.Null and field.name in content_containers(spec)):
            raise MetadataSchemaError(
                f"The versions of container '{field.name}' of feature '{spec.key}' have the type {field.dtype}; "
                "versions are strings.",
                column=column,
            )


def _check_versions(rows: pl.DataFrame, spec: FeatureSpec, column: str) -> None:
    """Versions become parts of a preimage, in which `|` separates one from the next."""
    # Apart from their struct, which would be looked through anew for each of what may be thousands of containers.
    versions = rows.get_column(column).struct.unnest()
    by_writer = content_containers(spec) if column == DATA_VERSION else ()
    for name in spec.container_names:
        given = versions.get_column(name)
        if name in by_writer and (nulls := given.null_count()):
            raise MetadataSchemaError(
                f"Container '{name}' of feature '{spec.key}' is versioned by content, so the writer gives its version, "
                f"and {nulls} of {rows.height} rows have none. Fill it in, for example from a column `checksum`: "
                f"df.with_columns(pl.col('{column}').struct.with_fields(pl.col('checksum').alias('{name}'))).",
                column=column,
            )
        is_bad = _is_bad(given)
        if count := is_bad.sum():
            first = versions.filter(is_bad).item(0, name)
            where = "" if column == DATA_VERSION else f" in '{column}'"
            raise MetadataSchemaError(
                f"{count} of {rows.height} versions{where} of container '{name}' of feature '{spec.key}' are null, "
                f"empty or hold a '|', the first {first!r}; a version is a string without '|'.",
                column=column,
            )


def _check_calculated(rows: pl.DataFrame, spec: FeatureSpec) -> None:
    """Refuse rows whose calculated versions are others than their provenance, which increments compare."""
    by_writer = content_containers(spec)
    for name in spec.container_names if by_writer else ():
        if name in by_writer:
            continue
        version, provenance = (rows.get_column(column).struct.field(name) for column in version_columns(spec))
        if count := (version != provenance).sum():
            raise MetadataSchemaError(
                f"Container '{name}' of feature '{spec.key}' is not versioned by content, but in {count} of "
                f"{rows.height} rows its '{DATA_VERSION}' is not its '{PROVENANCE}'. Write both as resolve_update or "
                "calculate_data_versions gives them.",
                column=DATA_VERSION,
            )


def _check_given(samples: pl.DataFrame, spec: FeatureSpec) -> None:
    """Refuse samples whose `data_version` lacks a content version; those that are calculated are not looked at."""
    by_writer = content_containers(spec)
    dtype = samples.schema[DATA_VERSION]
    if not isinstance(dtype, pl.Struct) or not set(by_writer) <= set(_container_names(samples, DATA_VERSION)):
        raise MetadataSchemaError(
            f"The '{DATA_VERSION}' of samples of feature '{spec.key}' gives the versions of the containers that are "
            f"versioned by content: it has to be a struct with {list(by_writer)}, it is {dtype}.",
            column=DATA_VERSION,
        )
    given = pl.Struct([field for field in dtype.fields if field.name in by_writer])
    _check_strings(given, spec, DATA_VERSION)
    versions = samples.select(pl.col(DATA_VERSION).struct.unnest()).select(by_writer)
    for name in by_writer:
        if count := _is_bad(versions.get_column(name).cast(pl.String)).sum():
            raise MetadataSchemaError(
                f"{count} of {samples.height} versions of container '{name}' of feature '{spec.key}' are null, empty "
                "or hold a '|'; the writer of a container that is versioned by content gives a string without '|'.",
                column=DATA_VERSION,
            )


def _container_names(rows: pl.DataFrame, column: str) -> tuple[str, ...]:
    dtype = rows.schema[column]
    return tuple(field.name for field in dtype.fields) if isinstance(dtype, pl.Struct) else ()


def _is_bad(versions: pl.Series) -> pl.Series:
    return versions.is_null() | (versions == "") | versions.str.contains("|", literal=True)
