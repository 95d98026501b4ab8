"""Say what is stored: features, rows, commits and definitions."""

from typing import Annotated

import polars as pl
import typer

from metaxy_fs.cli.output import Json, print_json, print_table, print_title
from metaxy_fs.cli.targets import (
    ConfigPath,
    Features,
    OneFeature,
    Roots,
    Stores,
    Target,
    feature_keys,
    held_features,
    open_targets,
    refuse,
    sample_frame,
)
from metaxy_fs.metadata_store import MetadataStore
from metaxy_fs.metadata_store.chain import chain
from metaxy_fs.spec import FeatureGraph, FeatureKey

_COUNTED = {"commits": pl.len().cast(pl.Int64), "rows": pl.col("rows").sum(), "bytes": pl.col("bytes").sum()}


def list_features(
    features: Features = None,
    *,
    store: Stores = None,
    root: Roots = None,
    config: ConfigPath = None,
    as_json: Json = False,
) -> None:
    """List features, with commits, rows and the last write."""
    targets = open_targets(store, root, config)
    frames = [counted(target.store, held_features(target.store, features)) for target in targets]
    _answer("list", targets, frames, as_json=as_json)


def show_history(
    feature: OneFeature, *, store: Stores = None, root: Roots = None, config: ConfigPath = None, as_json: Json = False
) -> None:
    """List the commits of a feature, the oldest first."""
    targets = open_targets(store, root, config)
    frames = [_commits(target.store, held_features(target.store, [feature])[0]) for target in targets]
    _answer("history", targets, frames, as_json=as_json)


def show_definitions(
    feature: OneFeature, *, store: Stores = None, root: Roots = None, config: ConfigPath = None, as_json: Json = False
) -> None:
    """List the definitions and code versions of a feature."""
    targets = open_targets(store, root, config)
    frames = [_definitions(target.store, held_features(target.store, [feature])[0]) for target in targets]
    _answer("definitions", targets, frames, as_json=as_json)


def show_rows(
    feature: OneFeature,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Samples; all by default.")] = None,
    *,
    where: Annotated[
        str | None, typer.Option("--where", metavar="SQL", help="Such as \"path LIKE 'a%' AND size > 3\".")
    ] = None,
    columns: Annotated[str | None, typer.Option(metavar="A,B", help="Only these columns.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All rows ever written, not the latest of each sample.")] = False,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="At most so many rows.")] = 20,
    store: Stores = None,
    root: Roots = None,
    config: ConfigPath = None,
    as_json: Json = False,
) -> None:
    """Print rows of a feature, of some samples or by SQL.

    By default these are the latest row of each sample.
    """
    targets = open_targets(store, root, config)
    [key] = feature_keys([feature])
    wanted = columns.split(",") if columns else None
    frames = []
    for target in targets:
        held_features(target.store, [feature])
        rows = target.store.scan_metadata(key, latest_only=not every, versions="all")
        if ids:
            samples = sample_frame(target, FeatureGraph.from_store(target.store), key, ids)
            rows = rows.join(samples.lazy(), on=samples.columns, how="semi", maintain_order="left")
        frames.append(_chosen(rows, where=where, columns=wanted, limit=limit))
    _answer("show", targets, frames, as_json=as_json)


def counted(store: MetadataStore, features: list[FeatureKey]) -> pl.DataFrame:
    """Return how many commits, rows and bytes each store of a chain holds of features, and when it was last written."""
    frames = [
        each.history(key).select(
            pl.lit(str(key)).alias("feature"),
            *(count.alias(name) for name, count in _COUNTED.items()),
            pl.col("time").max().alias("last"),
            pl.lit(each.location).alias("store"),
        )
        for key in features
        for each in _holding(store, key)
    ]
    schema = {"feature": pl.String, "commits": pl.Int64, "rows": pl.Int64, "bytes": pl.Int64}
    none = pl.DataFrame(schema=schema | {"last": pl.Datetime("us", "UTC"), "store": pl.String})
    found = pl.concat([none, *frames], how="vertical_relaxed")
    return found if store.fallback_stores else found.drop("store")


def _holding(store: MetadataStore, key: FeatureKey) -> list[MetadataStore]:
    stores = [each for each in chain(store, fallback=True) if isinstance(each, MetadataStore)]
    return [each for each in stores if key in each.list_features()]


def _commits(store: MetadataStore, key: FeatureKey) -> pl.DataFrame:
    return pl.concat(
        [each.history(key).with_columns(pl.lit(each.location).alias("store")) for each in _holding(store, key)]
    ).sort("time", maintain_order=True)


def _definitions(store: MetadataStore, key: FeatureKey) -> pl.DataFrame:
    """Return one row for each definition in each store, that with the last commit last."""
    frames = []
    for each in _holding(store, key):
        by_partition = each.history(key).group_by("partition", maintain_order=True)
        totals = by_partition.agg(
            pl.col("time").min().alias("first"), pl.col("time").max().alias("last"), pl.len(), pl.col("rows").sum()
        )
        specs = each.stored_specs(key, totals["partition"].to_list())
        codes = {
            partition: ", ".join(f"{container.key} {container.code_version}" for container in stored.spec.containers)
            for partition, stored in specs.items()
        }
        code = pl.col("partition").replace_strict(codes, default=None, return_dtype=pl.String)
        frames.append(
            totals.sort("last").select(
                "partition", code.alias("code"), "first", "last", pl.col("len").alias("commits"), "rows",
                pl.lit(each.location).alias("store"),
            )
        )  # fmt: skip
    return pl.concat(frames)


def _chosen(rows: pl.LazyFrame, *, where: str | None, columns: list[str] | None, limit: int) -> pl.DataFrame:
    try:
        found = rows if where is None else rows.filter(pl.sql_expr(where))
        return (found if columns is None else found.select(columns)).head(limit).collect()
    except pl.exceptions.PolarsError as error:
        if where is None and columns is None:
            raise
        refuse(str(error).splitlines()[0], "--where / --columns")


def _answer(command: str, targets: list[Target], frames: list[pl.DataFrame], *, as_json: bool) -> None:
    locations = [target.store.location for target in targets]
    if as_json:
        print_json(
            command,
            [{"store": place, "rows": frame.to_dicts()} for place, frame in zip(locations, frames, strict=True)],
        )
        return
    for location, frame in zip(locations, frames, strict=True):
        print_title(location, of=len(targets))
        print_table(frame)
