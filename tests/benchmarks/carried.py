"""Increments that carry a column of the upstream rows, or are of some samples alone."""

import time
from typing import Any, Literal

import polars as pl

from metaxy_fs import Feature, FeatureDep, FeatureGraph, FeatureKey, FeatureSpec, FilesystemMetadataStore

Kind = Literal["new", "stale", "group"]

VIDEO, CLIP = FeatureKey(["video"]), FeatureKey(["clip"])
_ROWS_OF_GROUP = 10


def seed(*, root: str, kind: Kind, rows: int) -> dict[str, Any]:
    """Write the upstream feature with a path in each row; where samples are to be stale, a tenth of it once more."""
    video, clip = declare(kind, carry=False)
    store = FilesystemMetadataStore(root)
    frame = _videos(kind, rows)
    store.write_metadata(video, frame)
    if kind == "stale":
        store.write_metadata(clip, store.resolve_update(clip).pending)
        again = pl.struct(pl.lit("again").alias("default")).alias("data_version")
        store.write_metadata(video, frame.gather_every(10).with_columns(again))
    return {}


def resolve(*, root: str, kind: Kind, carry: bool, below: int | None = None) -> dict[str, Any]:
    """Find what has to be computed of all samples, or of those whose number is below another one."""
    _, clip = declare(kind, carry=carry)
    where = None if below is None else pl.col("sample_id") < below
    start = time.perf_counter()
    increment = FilesystemMetadataStore(root).resolve_update(clip, where=where)
    seconds = time.perf_counter() - start
    return {"seconds": seconds} | ({"rows": increment.pending.height} if below is None else {})


def declare(kind: Kind, *, carry: bool) -> list[type[Feature]]:
    """Return the upstream feature, and the one that is made from it."""
    is_group = kind == "group"
    dep = FeatureDep(key=VIDEO, relation="aggregation" if is_group else "one_to_one", columns=["path"] if carry else [])
    with FeatureGraph().use():

        class Video(
            Feature, spec=FeatureSpec(key=VIDEO, id_columns=["sample_id", "part"] if is_group else ["sample_id"])
        ):
            pass

        class Clip(Feature, spec=FeatureSpec(key=CLIP, deps=[dep])):
            pass

    return [Video, Clip]


def _videos(kind: Kind, rows: int) -> pl.DataFrame:
    number = pl.int_range(rows, dtype=pl.Int64)
    ids = [(number // _ROWS_OF_GROUP).alias("sample_id"), (number % _ROWS_OF_GROUP).alias("part")]
    return pl.select(
        *(ids if kind == "group" else [number.alias("sample_id")]),
        pl.format("s3://bucket/videos/2026-11/{}.mp4", number).alias("path"),
        pl.struct(pl.format("{}", number.hash()).alias("default")).alias("data_version"),
    )
