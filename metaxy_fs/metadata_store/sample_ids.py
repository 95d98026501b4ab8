"""Take the names of samples in the forms in which callers give them.

One sample is named by the value of the id column or, where there are several, by a tuple in the order of `id_columns`;
by either also as a mapping of column to value. Some samples are named by a frame with the id columns, or by a list of
such names.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.metadata_store.frames import FrameLike, check_ids, to_frame
from metaxy_fs.spec import FeatureKey, FeatureSpec

SampleIds = FrameLike | Sequence[object]
"""Names of some samples."""


def named_samples(ids: SampleIds, spec: FeatureSpec) -> pl.DataFrame:
    """Return the ids of the samples that a caller names, as a frame of the id columns.

    Raises:
        MetadataSchemaError: They do not name samples of the feature, or a frame names one more than once.
    """
    samples = as_frame(ids, spec.id_columns, spec.key)
    check_ids(samples, spec)
    return samples.select(spec.id_columns)


def as_frame(ids: SampleIds, names: Sequence[str], key: FeatureKey) -> pl.DataFrame:
    """Return a frame as it is, and a list of names as a frame of the id columns with each of them once.

    Args:
        ids: The names.
        names: The id columns.
        key: The feature, for messages.

    Raises:
        MetadataSchemaError: It is neither, or something in the list is no name.
    """
    if not isinstance(ids, Sequence):
        return to_frame(ids)
    if isinstance(ids, str | bytes):
        raise MetadataSchemaError(
            f"Samples of feature '{key}' are named by a frame with the columns {list(names)}, or by a list, "
            f"got {ids!r}; write [{ids!r}] for one.",
            feature=key.dotted,
        )
    is_plain = len(names) == 1 and not any(isinstance(each, tuple | Mapping) for each in ids)
    rows: Any = {names[0]: ids} if is_plain else [tuple(named_sample(each, names, key).values()) for each in ids]
    try:
        return pl.DataFrame(rows, schema=list(names), orient="row").unique(maintain_order=True)
    except (TypeError, OverflowError, pl.exceptions.PolarsError) as error:
        raise MetadataSchemaError(
            f"No column holds all of these ids of feature '{key}': {error}", feature=key.dotted
        ) from error


def named_sample(sample_id: object, names: Sequence[str], key: FeatureKey) -> dict[str, object]:
    """Return the value of each id column of one sample, in the order of declaration.

    Raises:
        MetadataSchemaError: It is no name of a sample.
    """
    if isinstance(sample_id, Mapping):
        values = [sample_id.get(name) for name in names]
        fits = sorted(map(str, sample_id)) == sorted(names)
    else:
        values = list(sample_id) if isinstance(sample_id, tuple) else [sample_id]
        fits = len(values) == len(names)
    if not fits:
        raise MetadataSchemaError(
            f"Feature '{key}' names its samples by {list(names)}; got {sample_id!r}. Give a value for each: one "
            "alone for one column, a tuple in that order, or a mapping of column to value.",
            feature=key.dotted,
        )
    if None in values:
        raise MetadataSchemaError(f"An id of feature '{key}' is never null, got {sample_id!r}.", feature=key.dotted)
    return dict(zip(names, values, strict=True))
