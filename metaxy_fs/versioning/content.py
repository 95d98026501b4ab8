"""Containers that are versioned by content: what the store calculates of a sample, and what its writer gives.

A row of a feature with such a container has two structs of one string for each container. `provenance` holds the
versions that follow from what the sample is made from, by the formula that all versions have; an increment compares
them. `data_version` holds what features downstream see: the same, or for a container that is versioned by content what
the writer gives, such as a checksum of the output.
"""

import polars as pl

from metaxy_fs.spec import FeatureSpec
from metaxy_fs.versioning.columns import DATA_VERSION, MADE_FROM, PROVENANCE


def content_containers(spec: FeatureSpec) -> tuple[str, ...]:
    """Return the names of the containers that are versioned by content."""
    return tuple(str(container.key) for container in spec.containers if container.versioned_by == "content")


def version_columns(spec: FeatureSpec) -> tuple[str, ...]:
    """Return the columns that hold versions in the rows of a feature."""
    return (DATA_VERSION, PROVENANCE) if content_containers(spec) else (DATA_VERSION,)


def with_provenance(samples: pl.DataFrame, spec: FeatureSpec) -> pl.DataFrame:
    """Return samples with what their writer starts from, in place of the versions that follow from upstream rows.

    Those become `provenance`, behind `data_version`, which is null where the writer has to give the version. Without a
    container that is versioned by content the samples stay as they are.
    """
    by_writer = content_containers(spec)
    if not by_writer:
        return samples
    unknown = pl.lit(None, dtype=pl.String)
    given = pl.struct((unknown if name in by_writer else _field(name)).alias(name) for name in spec.container_names)
    provenance = samples.get_column(DATA_VERSION).alias(PROVENANCE)
    place = samples.columns.index(DATA_VERSION) + 1
    return samples.with_columns(given.alias(DATA_VERSION)).insert_column(place, provenance)


def with_content(samples: pl.DataFrame, given: pl.Series, spec: FeatureSpec) -> pl.DataFrame:
    """Return samples that have their provenance with the content versions of a writer.

    Args:
        samples: What `with_provenance` gave.
        given: A struct for each of them with (at least) the containers that are versioned by content.
        spec: The feature.
    """
    by_writer = content_containers(spec)
    fields = [
        (given if name in by_writer else samples.get_column(DATA_VERSION)).struct.field(name).alias(name)
        for name in spec.container_names
    ]
    return samples.with_columns(pl.DataFrame(fields).to_struct(DATA_VERSION))


def with_other_content(samples: pl.DataFrame, spec: FeatureSpec) -> pl.DataFrame:
    """Return samples of `with_provenance` as if the output of each were another one than any that there was."""
    if not content_containers(spec):
        return samples
    return samples.with_columns(pl.col(PROVENANCE).alias(DATA_VERSION)).drop(PROVENANCE)


def made_from(schema: pl.Schema, spec: FeatureSpec) -> list[pl.Expr]:
    """Return the column of stored rows that an increment compares, where it is another one than `data_version`.

    Rows of other definitions may have no provenance, because all of their versions were calculated.

    Args:
        schema: The columns of the rows.
        spec: The feature.
    """
    stored, provenance = schema[DATA_VERSION], schema.get(PROVENANCE)
    if not content_containers(spec) or not isinstance(stored, pl.Struct):
        return []
    kept = {field.name for field in provenance.fields} if isinstance(provenance, pl.Struct) else set()
    fields = [
        (pl.coalesce(_field(name, PROVENANCE), _field(name)) if name in kept else _field(name)).alias(name)
        for name in (field.name for field in stored.fields)
    ]
    return [pl.struct(fields).alias(MADE_FROM)]


def _field(name: str, column: str = DATA_VERSION) -> pl.Expr:
    return pl.col(column).struct.field(name)
