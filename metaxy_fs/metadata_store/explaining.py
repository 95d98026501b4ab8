"""What do the stores of a chain hold of one sample, and why is it what it is?"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import reduce
from operator import and_

import msgspec
import polars as pl

from metaxy_fs.errors import DependencyError, FeatureNotFoundError, MetadataSchemaError
from metaxy_fs.metadata_store.backend import Backend, Query
from metaxy_fs.metadata_store.chain import chain
from metaxy_fs.metadata_store.features import Declared
from metaxy_fs.metadata_store.hashing import chain_algorithm
from metaxy_fs.metadata_store.reading import require_id_columns
from metaxy_fs.spec import FeatureKey, FeatureSpec
from metaxy_fs.versioning.columns import DATA_VERSION, PARTITION
from metaxy_fs.versioning.definition import DefinitionVersion
from metaxy_fs.versioning.explanation import Explanation
from metaxy_fs.versioning.origins import Versions
from metaxy_fs.versioning.provenance import HeldSample, explain_sample, upstream_first


def explain(store: Backend, feature: Declared, sample_id: object) -> Explanation:
    """Return why a sample of a feature has its versions."""
    sample = _by_column(sample_id, feature.spec)
    algorithm = chain_algorithm(store, fallback=True)
    features = upstream_first(feature.graph, feature.spec)
    held = {spec.key: _held(store, Declared(spec, feature.graph), sample) for spec in features}
    if not any(one.history for one in held.values()):
        raise _unknown_sample(store, feature.spec, sample)
    return explain_sample(feature.graph, feature.spec, sample=sample, held=held, algorithm=algorithm)


class _Found(msgspec.Struct, frozen=True):
    """What one store holds of the sample: its rows in commit order, and the definitions of all rows of the feature."""

    rows: Sequence[tuple[str, Versions]]
    definitions: Mapping[str, DefinitionVersion]

    def latest(self, partition: str | None = None) -> tuple[str, Versions] | None:
        """Return the latest row and its partition; of one partition if that is given."""
        return next((row for row in reversed(self.rows) if partition in (None, row[0])), None)


def _held(store: Backend, feature: Declared, sample: Mapping[str, object]) -> HeldSample:
    """Return what the stores of a chain hold of a sample; rows are read, and compared, where reads would find them."""
    asked = (_find(candidate, feature, sample) for candidate in chain(store, fallback=True))
    found = [one for one in asked if one is not None]
    partition = feature.definition.partition
    holder = next((one for one in found if partition in one.definitions), None)
    current = None if holder is None else holder.latest(partition)
    compared = holder or next(iter(found), None)
    stored = None if compared is None else compared.latest()
    return HeldSample(
        current=None if current is None else current[1],
        stored=None if stored is None else stored[1],
        definition=None if compared is None or stored is None else compared.definitions[stored[0]],
        history=[versions for one in found for _, versions in reversed(one.rows)],
        definitions=[definition for one in found for definition in one.definitions.values()],
    )


def _find(store: Backend, feature: Declared, sample: Mapping[str, object]) -> _Found | None:
    """Return what one store holds, None if it has no commit of the feature."""
    # Pruning takes the values as they come; what it cannot compare keeps every file.
    prune = _all_of(pl.col(column) == _literal(value) for column, value in sample.items())
    columns = frozenset((*sample, DATA_VERSION))
    scan = store.scan_rows(Query(key=feature.key, partition=None, columns=columns, prune=prune, mark_partition=True))
    if scan is None:
        return None
    require_id_columns(scan, feature.spec)
    schema = scan.rows.collect_schema()
    wanted = _all_of(_equals(column, schema[column], value, feature.key) for column, value in sample.items())
    rows = scan.rows.filter(wanted).select(PARTITION, DATA_VERSION).collect()
    return _Found(
        [(partition, _without_nulls(versions)) for partition, versions in rows.iter_rows()],
        {definition.partition: definition for definition in scan.definitions},
    )


def _without_nulls(versions: Mapping[str, str | None]) -> Versions:
    """Return the versions of one row alone: columns of several partitions have the containers of them all."""
    return {container: version for container, version in versions.items() if version is not None}


def _all_of(predicates: Iterable[pl.Expr]) -> pl.Expr:
    return reduce(and_, predicates)


def _by_column(sample_id: object, spec: FeatureSpec) -> dict[str, object]:
    """Return the value of each id column, in the order of declaration."""
    columns = list(spec.id_columns)
    if isinstance(sample_id, Mapping):
        given = list(sample_id)
        values = [sample_id.get(column) for column in columns]
        fits = sorted(map(str, given)) == sorted(columns)
    else:
        values = list(sample_id) if isinstance(sample_id, tuple) else [sample_id]
        fits = len(values) == len(columns)
    if not fits:
        raise MetadataSchemaError(
            f"Feature '{spec.key}' names its samples by {columns}; got {sample_id!r}. Give a value for each: one "
            "alone for one column, a tuple in that order, or a mapping of column to value."
        )
    if None in values:
        raise MetadataSchemaError(f"An id of feature '{spec.key}' is never null, got {sample_id!r}.")
    return dict(zip(columns, values, strict=True))


def _equals(column: str, dtype: pl.DataType, value: object, key: FeatureKey) -> pl.Expr:
    """Return the test whether an id column holds a value, which has to be of its kind."""
    # To Python a flag is a number, and a datetime a date; here they are not.
    if type(value) is bool or not isinstance(value, _kind(dtype)) or _has_time(value) is not (dtype == pl.Datetime):
        raise MetadataSchemaError(
            f"The id column '{column}' of feature '{key}' holds {dtype}, got {value!r}, a {type(value).__name__}."
        )
    literal = _literal(value)
    if isinstance(dtype, pl.Datetime) and isinstance(value, datetime):
        if (value.tzinfo is None) != (dtype.time_zone is None):
            raise MetadataSchemaError(
                f"The id column '{column}' of feature '{key}' holds {dtype}, got {value!r}: either both have a time "
                "zone or neither."
            )
        if dtype.time_zone is not None:
            literal = _literal(value.astimezone(UTC)).dt.convert_time_zone(dtype.time_zone)
    return pl.col(column) == literal


def _literal(value: object) -> pl.Expr:
    try:
        return pl.lit(value)
    except (OverflowError, TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise MetadataSchemaError(f"No sample_id is or holds {value!r}: {error}") from error


def _kind(dtype: pl.DataType) -> type:
    """Return the Python type of the values of an id column."""
    if dtype.is_integer():
        return int
    kinds: dict[type[pl.DataType], type] = {pl.String: str, pl.Binary: bytes, pl.Date: date, pl.Datetime: datetime}
    return kinds[dtype.base_type()]


def _has_time(value: object) -> bool:
    return isinstance(value, datetime)


def _unknown_sample(store: Backend, spec: FeatureSpec, sample: Mapping[str, object]) -> Exception:
    shown = ", ".join(f"{column}={value!r}" for column, value in sample.items())
    searched = ", ".join(candidate.location for candidate in chain(store, fallback=True))
    if spec.is_root:
        return FeatureNotFoundError(
            f"Feature '{spec.key}' has no row of the sample {shown}, under no data version; searched {searched}. "
            "Write it first, or correct the id."
        )
    return DependencyError(
        f"Neither feature '{spec.key}' nor any that it is made from has a row of the sample {shown}; searched "
        f"{searched}. Write it to the root features first, or correct the id."
    )
