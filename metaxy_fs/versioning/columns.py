"""Which columns have a meaning of their own?"""

from typing import Final

import polars as pl

from metaxy_fs.spec import FeatureKey, FeatureSpec

DATA_VERSION: Final = "data_version"
"""A struct of one text per container: the version of each part of a sample."""

STORED_DATA_VERSION: Final = "stored_data_version"
"""In an increment: the `data_version` that the store holds for the sample."""

CHANGED_CONTAINERS: Final = "changed_containers"
"""In an increment: the names of the containers whose version differs from the stored one."""

MISSING: Final = "missing"
"""In an increment: the upstream features that a sample waits for."""

RESERVED_PREFIX: Final = "_metaxy_"
"""Columns of the library's own bookkeeping begin with this."""

REDO: Final = "_metaxy_redo"
"""Whether a stored row is to be computed again whatever its version, where an increment was told when."""

PARTITION: Final = "_metaxy_partition"
"""The partition that a row was read from, where a scan is asked to say so."""

RETIRED: Final = "_metaxy_retired"
"""Whether a stored row retires its sample, Boolean; few commits have the column, and no read shows it."""

COMMIT: Final = "commit"
"""In a read with commits: the id of the commit that a row belongs to."""

COMMITTED_AT: Final = "committed_at"
"""In a read with commits: the time of that commit, which the order of commits follows; Datetime("us", "UTC")."""

COMMIT_TAGS: Final = "commit_tags"
"""In a read with the tags of commits: those of the row's commit, a JSON object of strings; null without any."""

MARKED_COMMIT: Final = "_metaxy_commit"
"""The commit of a row, where a scan is asked to say so."""

MARKED_TIME: Final = "_metaxy_time"
"""The time of that commit in microseconds since 1970 (UTC), likewise."""

MARKED_TAGS: Final = "_metaxy_tags"
"""The tags of that commit, likewise."""


def version_column(feature: FeatureKey, container: str) -> str:
    """Return the column that holds what stands for an upstream container in a preimage, beside each sample."""
    return f"{RESERVED_PREFIX}version/{feature}/{container}"


def present_column(feature: FeatureKey) -> str:
    """Return the column that says whether a sample has a row in an upstream feature."""
    return f"{RESERVED_PREFIX}present/{feature}"


def is_id_type(dtype: pl.DataType) -> bool:
    """Whether ids may be of a type: they are compared, sorted and joined on, so floats and categories are none."""
    return dtype.is_integer() or dtype in (pl.String, pl.Binary, pl.Date) or isinstance(dtype, pl.Datetime)


def version_type(spec: FeatureSpec) -> pl.Struct:
    """Return the type of `data_version`: a struct of one text for each container, in the order of declaration."""
    return pl.Struct({name: pl.String() for name in spec.container_names})
