"""Compute a batch of samples, and check what the function returned.

This runs in the process that computes, which may be a worker: a task is pickled with its samples, and what it returns
fits the feature.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import polars as pl

from metaxy_fs.errors import MetadataSchemaError, about
from metaxy_fs.forks import refuse_lost_threads
from metaxy_fs.metadata_store.arrow import kind_of
from metaxy_fs.metadata_store.expected import same_id_types
from metaxy_fs.metadata_store.frames import (
    FrameLike,
    in_stored_order,
    refuse_repeated,
    rows_to_write,
    show_samples,
    to_frame,
)
from metaxy_fs.spec import FeatureSpec
from metaxy_fs.versioning.columns import DATA_VERSION
from metaxy_fs.versioning.content import content_containers, version_columns, with_content

Compute = Callable[[pl.DataFrame], FrameLike]
"""What makes rows of samples."""


class Computed(NamedTuple):
    """What became of a batch: its rows, which fit the feature, or why there are none."""

    rows: pl.DataFrame | None = None
    error: str = ""


@dataclass(frozen=True)
class BatchTask:
    """A batch of samples to be computed.

    Attributes:
        compute: What makes rows of samples.
        spec: Whose samples they are.
        samples: Rows of `pending`.
        skips: Whether to return what the function raises.
    """

    compute: Compute
    spec: FeatureSpec
    samples: pl.DataFrame
    skips: bool

    @property
    def ids(self) -> pl.DataFrame:
        """The ids of the samples, or of their parents."""
        return self.samples[[name for name in self.spec.id_columns if name in self.samples.columns]]

    def apart(self) -> "Iterator[BatchTask]":
        """Yield a task for each sample."""
        return (replace(self, samples=sample) for sample in self.samples.iter_slices(1))

    def __call__(self) -> Computed:
        """Compute the batch, and check what the function returned."""
        refuse_lost_threads()
        try:
            # The function may change its own frame in place.
            returned = self.compute(self.samples.clone())
            with about(feature=self.spec.key.dotted):
                return Computed(checked_rows(returned, self.samples, self.spec))
        except Exception as error:
            if not self.skips:
                raise
            return Computed(error=shown_error(error))


def shown_error(error: BaseException) -> str:
    """Return an error as a job lists it."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  # the error is of the user's own class
        text = "<exception str() failed>"
    # The name of a file, for one, may hold what no column of strings can.
    return f"{type(error).__name__}: {text}".encode(errors="backslashreplace").decode()


def checked_rows(returned: object, samples: pl.DataFrame, spec: FeatureSpec) -> pl.DataFrame:
    """Return what was computed of some samples as it is stored: with their versions, sorted by id.

    Args:
        returned: What the function returned.
        samples: What it was given: samples with their versions, or the parents of samples.
        spec: Whose samples they are.

    Raises:
        MetadataSchemaError: It is no frame, has rows of other samples, lacks some, or does not fit the feature.
    """
    names = [name for name in spec.id_columns if name in samples.columns]
    made, columns = _framed(returned, samples, spec), samples[list(version_columns(spec))]
    given, found = same_id_types([samples[names], made[names]], spec)
    if not given.equals(found):
        _check_samples(found, given, spec)
        versioned = given.hstack(columns)
        columns = found.join(versioned, on=names, how="left", maintain_order="left").select(columns.columns)
    elif _keeps(made, samples, spec):  # as most functions do, and ids and versions are known to fit
        return in_stored_order(made if DATA_VERSION in made.columns else made.hstack(columns), spec)
    made = made.with_columns(pl.col(name).cast(samples.schema[name]) for name in names)
    if content_containers(spec):
        return rows_to_write(_with_versions(made, columns, spec), spec)
    versions = columns.get_column(DATA_VERSION)
    if DATA_VERSION not in made.columns:
        return rows_to_write(made.with_columns(versions), spec)
    rows = rows_to_write(made, spec)
    _check_versions(made, versions, spec)
    return rows


def _with_versions(made: pl.DataFrame, versions: pl.DataFrame, spec: FeatureSpec) -> pl.DataFrame:
    """Return what was computed with its versions, and its content versions as the function returned them.

    The function may return all of `data_version`, or the containers alone that are versioned by content.
    """
    dtype = made.schema.get(DATA_VERSION)
    returned = {field.name for field in dtype.fields} if isinstance(dtype, pl.Struct) else set()
    rows = made.with_columns(versions.get_columns())
    if not set(content_containers(spec)) <= returned <= set(spec.container_names):
        return rows
    _check_versions(made, versions.get_column(DATA_VERSION), spec)
    return with_content(rows, made.get_column(DATA_VERSION), spec)


def _keeps(made: pl.DataFrame, samples: pl.DataFrame, spec: FeatureSpec) -> bool:
    """Whether what was made of samples has their ids as they are, and the versions that are calculated, or none."""
    names = [name for name in spec.id_columns if name in samples.columns]
    versions = made.get_column(DATA_VERSION) if DATA_VERSION in made.columns else None
    return (
        not content_containers(spec)
        and all(made.schema[name] == samples.schema[name] for name in names)
        and (versions is None or versions.equals(samples.get_column(DATA_VERSION), check_dtypes=True))
    )


def _framed(returned: object, samples: pl.DataFrame, spec: FeatureSpec) -> pl.DataFrame:
    """Return what the function returned as a frame that has the id columns."""
    wanted = f"a frame with the id columns {list(spec.id_columns)} and the columns that it computes"
    try:
        made = to_frame(returned)  # type: ignore[arg-type]  # it says what is no frame
    except MetadataSchemaError as error:
        raise MetadataSchemaError(
            f"The function that computes feature '{spec.key}' returned {kind_of(returned)} for "
            f"{_shown(samples, spec)}; let it return {wanted}. {error}"
        ) from error
    for column in spec.id_columns:
        if column not in made.columns:
            raise MetadataSchemaError(
                f"The function that computes feature '{spec.key}' returned the columns {made.columns} for "
                f"{_shown(samples, spec)}, without '{column}'; let it return {wanted}.",
                column=column,
            )
    return made


def _check_samples(found: pl.DataFrame, given: pl.DataFrame, spec: FeatureSpec) -> None:
    """Refuse rows of others than those given, and samples or parents without a row; and samples with several."""
    others = found.join(given, on=given.columns, how="anti").unique(maintain_order=True)
    if others.height:
        raise MetadataSchemaError(
            f"The function that computes feature '{spec.key}' was given {_shown(given, spec)}, and returned rows of "
            f"{others.height} others: {show_samples(others)}. Let it keep the id columns as it gets them."
        )
    are_parents = list(given.columns) != list(spec.id_columns)
    if not are_parents:
        refuse_repeated(found, spec)
    missing = given.join(found, on=given.columns, how="anti", maintain_order="left")
    if missing.height:
        # A parent without a row would be computed by each run again, and keep the samples that it had.
        instead = "that stands for none, for example with the number -1" if are_parents else "with nulls"
        raise MetadataSchemaError(
            f"The function that computes feature '{spec.key}' was given {_shown(given, spec)}, and returned no row for "
            f"{missing.height} of them: {show_samples(missing)}. Let it return a row for each, if need be one {instead}"
            f"{'' if are_parents else ' or a column that says what is wrong'}, or let it raise."
        )


def _check_versions(made: pl.DataFrame, versions: pl.Series, spec: FeatureSpec) -> None:
    """Refuse a version that is not the expected one, where one is expected."""
    returned, expected = made.get_column(DATA_VERSION).struct, versions.struct
    for name in returned.fields:
        is_other = _is_other(returned.field(name), expected.field(name))
        if is_other.any():
            raise MetadataSchemaError(
                f"The function that computes feature '{spec.key}' returned other versions of container '{name}' than "
                f"it was given for {is_other.sum()} rows: {show_samples(made.filter(is_other).select(spec.id_columns))}"
                f". Let it return '{DATA_VERSION}' as it gets it, or leave it out.",
                column=DATA_VERSION,
            )


def _is_other(returned: pl.Series, expected: pl.Series) -> pl.Series:
    """Return where a version is expected, and what was returned is not it."""
    if returned.dtype != pl.String:
        return expected.is_not_null()
    return (returned != expected).fill_null(value=False)


def _shown(samples: pl.DataFrame, spec: FeatureSpec) -> str:
    names = [name for name in spec.id_columns if name in samples.columns]
    what = "samples" if len(names) == len(spec.id_columns) else "parents"
    return f"{samples.height} {what} ({show_samples(samples.select(names))})"
