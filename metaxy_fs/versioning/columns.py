"""Columns that have a meaning of their own; the names of those that are reserved are in `metaxy_fs.reserved`."""

from collections.abc import Iterable, Sequence
from typing import Final

import polars as pl

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.reserved import (
    CHANGED_CONTAINERS,
    DATA_VERSION,
    GIVEN,
    MADE_FROM,
    MISSING,
    PARTITION,
    PRESENT,
    PROVENANCE,
    REDO,
    RETIRED,
    RETURNS,
    STORED_DATA_VERSION,
)
from metaxy_fs.reserved import COMMIT as RESERVED_COMMIT
from metaxy_fs.reserved import PREFIX as RESERVED_PREFIX
from metaxy_fs.reserved import TAGS as RESERVED_TAGS
from metaxy_fs.reserved import TIME as RESERVED_TIME
from metaxy_fs.spec import FeatureKey, FeatureSpec

__all__ = [
    "CHANGED_CONTAINERS",
    "COMMIT",
    "COMMITTED_AT",
    "COMMIT_TAGS",
    "DATA_VERSION",
    "GIVEN",
    "MADE_FROM",
    "MISSING",
    "PARTITION",
    "PRESENT",
    "PROVENANCE",
    "REDO",
    "RESERVED_COMMIT",
    "RESERVED_PREFIX",
    "RESERVED_TAGS",
    "RESERVED_TIME",
    "RETIRED",
    "RETURNS",
    "STORED_DATA_VERSION",
    "is_id_type",
    "refuse_id_columns",
    "version_type",
]

COMMIT: Final = "commit"
"""In a read with commits: the id of the commit that a row belongs to."""

COMMITTED_AT: Final = "committed_at"
"""In a read with commits: the time of that commit, which the order of commits follows; Datetime("us", "UTC")."""

COMMIT_TAGS: Final = "commit_tags"
"""In a read with the tags of commits: those of the row's commit, a JSON object of strings; null without any."""


def is_id_type(dtype: pl.DataType) -> bool:
    """Whether ids may be of a type: they are compared, sorted and joined on, so floats and categories are none."""
    return dtype.is_integer() or dtype in (pl.String, pl.Binary, pl.Date) or isinstance(dtype, pl.Datetime)


def refuse_id_columns(own: Iterable[str], *, ids: Sequence[str], key: FeatureKey, what: str) -> None:
    """Refuse ids that have the name of another column of a frame that the library makes.

    Args:
        own: The other columns of the frame.
        ids: The id columns.
        key: Whose they are.
        what: What the frame is called.

    Raises:
        MetadataSchemaError: One has.
    """
    for name in own:
        if name in ids:
            raise MetadataSchemaError(
                f"The id columns of feature '{key}' are {list(ids)}; {what} has a column of its own that is called "
                f"'{name}'. Name its samples by another column.",
                feature=key.dotted,
                column=name,
            )


def version_type(spec: FeatureSpec) -> pl.Struct:
    """Return the type of versions: a struct of one string for each container, in the order of declaration."""
    return pl.Struct({name: pl.String() for name in spec.container_names})
