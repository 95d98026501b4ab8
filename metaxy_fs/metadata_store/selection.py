"""Predicates that select samples: a `where` on ids and carried columns, and the test for one id.

A `where` is asked of every sample that there should be, whether it waits or not, with null for what is carried from
a row that is missing. A stored sample that there should not be has ids alone: all that is carried is null. What the
parts of a predicate rule out that name ids alone is not read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property

import polars as pl

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.log import IdRange, balanced, conjuncts_on, flattened, matching_ranges
from metaxy_fs.metadata_store.features import Declared, check_predicate
from metaxy_fs.reserved import KEPT
from metaxy_fs.spec import FeatureKey, FeatureSpec
from metaxy_fs.spec.specs import carried_columns, join_columns, stored_names
from metaxy_fs.versioning.columns import is_id_type
from metaxy_fs.versioning.preimages import sample_source
from metaxy_fs.versioning.relations import looks_at_one_row


@dataclass(frozen=True)
class SampleSelection:
    """The samples of an increment.

    Attributes:
        feature: Whose samples they are.
        predicate: What holds for them; it names ids and carried columns.
        id_columns: What names a sample, or a parent.
    """

    feature: Declared
    predicate: pl.Expr
    id_columns: Sequence[str]

    @cached_property
    def of_ids(self) -> pl.Expr | None:
        """What has to hold for the ids; None where nothing is known."""
        return conjuncts_on(self.predicate, columns=set(self.id_columns))

    def of_upstream(self, upstream: FeatureSpec) -> pl.Expr | None:
        """Return what has to hold for the ids of an upstream feature, as they are stored; None if nothing is known."""
        spec = self.feature.spec
        known = [name for name in join_columns(spec, upstream) if name in self.id_columns]
        stored = dict(zip(known, stored_names(spec.dep(upstream.key), known), strict=True))
        names = {name: old for name, old in stored.items() if old in upstream.id_columns}
        return conjuncts_on(self.predicate, columns=names.keys(), names=names)

    def ranges(self, ranges: Sequence[IdRange], dtype: pl.DataType) -> list[IdRange]:
        """Return the ranges of the first id column, which has a type, that may hold samples: one at least."""
        column = self.id_columns[0]
        predicate = conjuncts_on(self.predicate, columns={column})
        return list(ranges) if predicate is None else matching_ranges(predicate, ranges, column=column, dtype=dtype)

    def check(self, schema: Mapping[str, pl.DataType]) -> None:
        """Refuse a predicate that does not fit the types of the columns.

        Raises:
            MetadataSchemaError: It does not.
        """
        named = {*self.id_columns, *carried_columns(self.feature.spec)}
        columns = pl.Schema({name: dtype for name, dtype in schema.items() if name in named})
        check_predicate(balanced(self.predicate), columns, name="where", key=self.feature.key)

    def holds(self, rows: pl.DataFrame) -> pl.Series:
        """Return whether the predicate holds for rows that have ids and what is carried."""
        holds = flattened(self.predicate).fill_null(value=False)
        return rows.with_columns(holds.alias(KEPT)).get_column(KEPT)

    def orphaned(self, orphaned: pl.DataFrame, *, samples: pl.DataFrame) -> pl.DataFrame:
        """Return the orphaned samples that are selected.

        Args:
            orphaned: Stored samples of which none is of a sample, or parent, that is not selected.
            samples: The samples, or parents, that are selected.
        """
        carried = [name for name in carried_columns(self.feature.spec) if name in samples.columns]
        unknown = [pl.lit(None, dtype=samples.schema[name]).alias(name) for name in carried]
        is_selected = self.holds(orphaned.select(*self.id_columns, *unknown))
        if list(self.id_columns) != list(self.feature.spec.id_columns) and not is_selected.all():
            parents = samples.select(*self.id_columns, pl.lit(value=True).alias(KEPT))
            left_over = orphaned.join(parents, on=list(self.id_columns), how="left", maintain_order="left")
            is_selected |= left_over.get_column(KEPT).is_not_null()
        return orphaned.filter(is_selected)


def selected(where: pl.Expr | None, feature: Declared, *, are_given: bool) -> SampleSelection | None:
    """Return which samples an increment is about; None where it is about all.

    Args:
        where: What users call `where`.
        feature: Whose samples they are.
        are_given: Whether a caller names the samples, and not the upstream features.

    Raises:
        MetadataSchemaError: It names other columns than ids and those that are carried, or looks at several rows.
        TypeError: It is no expression that names its columns.
    """
    if where is None:
        return None
    if not isinstance(where, pl.Expr) or where.meta.has_multiple_outputs():
        raise TypeError(
            f"where takes a Polars expression that names its columns, such as pl.col('sample_id') < 100, got {where!r}."
        )
    spec = feature.spec
    id_columns = spec.id_columns if are_given or spec.is_root else sample_source(feature.graph, spec).id_columns
    unknown = [name for name in where.meta.root_names() if name not in {*id_columns, *carried_columns(spec)}]
    if unknown:
        advice = (
            "it lists parents, and the computation tells their samples, so name only ids of parents."
            if unknown[0] in spec.id_columns
            else f"have a dep carry the column: FeatureDep(key=..., columns=[{unknown[0]!r}])."
        )
        raise MetadataSchemaError(
            f"where names the column '{unknown[0]}'. An increment of feature '{spec.key}' is restricted by what names "
            f"its samples, {list(id_columns)}, and by what it carries of their upstream rows, "
            f"{list(carried_columns(spec))}; {advice}",
            feature=spec.key.dotted,
            column=unknown[0],
        )
    if not where.meta.root_names():
        check_predicate(where, pl.Schema(), name="where", key=spec.key)  # before it restricts what is read
    if not looks_at_one_row(flattened(where)):  # each link of a chain would be asked about all before it
        raise MetadataSchemaError(
            f"where looks at one sample at a time, without aggregates and windows, got {where}.",
            feature=spec.key.dotted,
        )
    return SampleSelection(feature, where, id_columns)


def id_equals(column: str, dtype: pl.DataType, value: object, key: FeatureKey) -> pl.Expr:
    """Return the test whether an id column holds a value, which has to be of its kind."""
    if not is_id_type(dtype):
        raise MetadataSchemaError(
            f"Rows of feature '{key}' are grouped by '{column}', which has the type {dtype}; ids are integers, "
            "strings, binary, dates or datetimes.",
            feature=key.dotted,
            column=column,
        )
    # To Python a flag is a number, and a datetime a date; here they are not.
    if (
        type(value) is bool
        or not isinstance(value, _kind(dtype))
        or isinstance(value, datetime) is not (dtype == pl.Datetime)
    ):
        raise MetadataSchemaError(
            f"The id column '{column}' of feature '{key}' holds {dtype}, got {value!r}, a {type(value).__name__}.",
            feature=key.dotted,
            column=column,
        )
    literal = id_literal(value)
    if isinstance(dtype, pl.Datetime) and isinstance(value, datetime):
        if (value.tzinfo is None) != (dtype.time_zone is None):
            raise MetadataSchemaError(
                f"The id column '{column}' of feature '{key}' holds {dtype}, got {value!r}: either both have a time "
                "zone or neither.",
                feature=key.dotted,
                column=column,
            )
        if dtype.time_zone is not None:
            literal = id_literal(value.astimezone(UTC)).dt.convert_time_zone(dtype.time_zone)
    return pl.col(column) == literal


def id_literal(value: object) -> pl.Expr:
    """Return the value of an id as an expression."""
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
