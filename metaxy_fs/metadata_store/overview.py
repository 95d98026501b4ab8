"""Count what a read of a chain reads of a feature: commits, rows, bytes, files and definitions. No data file is read.

The stores that count are those that a read of all definitions takes its rows from: the nearest that holds the feature,
or each that holds it in a chain that falls back by sample. What a nearer store hides is shown by its own store.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

import polars as pl

from metaxy_fs.errors import FeatureNotFoundError
from metaxy_fs.metadata_store.base import MetadataStore
from metaxy_fs.metadata_store.chain import chain
from metaxy_fs.metadata_store.operations import COMMITS, LISTED_FILES
from metaxy_fs.spec import FeatureKey

_TIME: Final = pl.Datetime("us", "UTC")
_COUNTED: Final = {
    "commits": pl.len().cast(pl.Int64),
    "rows": pl.col("rows").sum(),
    "bytes": pl.col("bytes").sum(),
    "last": pl.col("time").max(),
}

LISTED: Final = pl.Schema(
    {
        "feature": pl.String(),
        "commits": pl.Int64(),
        "rows": pl.Int64(),
        "bytes": pl.Int64(),
        "last": _TIME,
        "store": pl.String(),
    }
)
"""The columns of `counted`."""

COMMITS_IN_STORES: Final = pl.Schema({**COMMITS, "store": pl.String()})
"""The columns of `commits_in`."""

FILES_IN_STORES: Final = pl.Schema({**LISTED_FILES, "store": pl.String()})
"""The columns of `files_in`."""

DEFINED: Final = pl.Schema(
    {
        "partition": pl.String(),
        "code": pl.String(),
        "first": _TIME,
        "last": _TIME,
        "commits": pl.Int64(),
        "rows": pl.Int64(),
        "store": pl.String(),
    }
)
"""The columns of `definitions_in`."""


def counted(store: MetadataStore, features: Iterable[FeatureKey]) -> pl.DataFrame:
    """Return how many commits, rows and bytes the stores that are read hold of features, and when they last changed."""
    frames = [
        commits.group_by("store").agg(**_COUNTED).select(pl.lit(str(key)).alias("feature"), *_REST)
        for key in features
        for _, commits in held_in(store, key)
    ]
    return pl.concat([pl.DataFrame(schema=LISTED), *frames], how="vertical_relaxed")


def commits_in(store: MetadataStore, key: FeatureKey) -> pl.DataFrame:
    """Return the commits of a feature in the stores that are read, by time, as `history` does, with their `store`."""
    return commits_of(held_in(store, key))


def definitions_in(store: MetadataStore, key: FeatureKey) -> pl.DataFrame:
    """Return one row for each definition of a feature in each store that is read, that with the last commit last.

    `code` is null where the declaration is not kept.
    """
    return definitions_of(held_in(store, key), key)


Held = Sequence[tuple[MetadataStore, pl.DataFrame]]
"""The stores of a chain that a feature is read from, the nearest first, with their commits of it."""


def held_in(store: MetadataStore, key: FeatureKey) -> Held:
    """Return the stores of a chain that a feature is read from, with their commits of it."""
    held: list[tuple[MetadataStore, pl.DataFrame]] = []
    for each in chain(store, fallback=True):
        if held and store.fallback_mode == "feature":
            break
        if isinstance(each, MetadataStore):
            with suppress(FeatureNotFoundError):
                held.append((each, each.history(key).with_columns(pl.lit(each.location).alias("store"))))
    return held


def commits_of(held: Held) -> pl.DataFrame:
    """Return the commits of some stores together, by time."""
    frames = [commits for _, commits in held]
    return pl.concat([pl.DataFrame(schema=COMMITS_IN_STORES), *frames]).sort("time", maintain_order=True)


def definitions_of(held: Held, key: FeatureKey) -> pl.DataFrame:
    """Return one row for each definition of a feature in some stores, by store and last commit."""
    frames = [_definitions(each, key, commits) for each, commits in held]
    return pl.concat([pl.DataFrame(schema=DEFINED), *frames])


def files_in(store: MetadataStore, key: FeatureKey) -> pl.DataFrame:
    """Return the data files of a feature in the stores that are read, as `files` does, with their `store`."""
    frames = [
        each.files(key, versions="all").with_columns(pl.lit(each.location).alias("store"))
        for each, _ in held_in(store, key)
    ]
    return pl.concat(frames, how="vertical_relaxed")


_REST: Final = [name for name in LISTED if name != "feature"]


def _definitions(store: MetadataStore, key: FeatureKey, commits: pl.DataFrame) -> pl.DataFrame:
    totals = commits.group_by("partition", "store", maintain_order=True).agg(
        pl.col("time").min().alias("first"), **_COUNTED
    )
    specs = store.stored_specs(key, totals["partition"].to_list())
    codes = {
        partition: ", ".join(f"{container.key} {container.code_version}" for container in stored.spec.containers)
        for partition, stored in specs.items()
    }
    code = pl.col("partition").replace_strict(codes, default=None, return_dtype=pl.String).alias("code")
    return totals.sort("last").with_columns(code).select(DEFINED.names())
