"""The measured questions about what a root holds: four features, each made from the one before."""

import time
from typing import Any

import polars as pl

from metaxy_fs import Feature, FeatureDep, FeatureGraph, FeatureKey, FeatureSpec, FilesystemMetadataStore

FEATURES = ("video", "crop", "face", "embedding")


def declare() -> list[type[Feature]]:
    """Declare the features, upstream first."""
    declared: list[type[Feature]] = []
    with FeatureGraph().use():
        for name in FEATURES:
            deps = [FeatureDep(key=above.spec.key) for above in declared[-1:]]
            spec = FeatureSpec(key=FeatureKey([name]), deps=deps)
            declared.append(type(Feature)(name.title(), (Feature,), {}, spec=spec))
    return declared


def seed(*, root: str, rows: int) -> dict[str, Any]:
    """Compute all features of nine samples in ten, then rewrite a tenth of the root feature."""
    store, (video, *others) = FilesystemMetadataStore(root), declare()
    given = pl.DataFrame({"sample_id": range(rows)}).with_columns(_versions(pl.col("sample_id").cast(pl.String)))
    store.write_metadata(video, given)
    for feature in others:
        pending = store.resolve_update(feature).pending
        store.write_metadata(feature, pending.head(rows * 9 // 10))
    store.write_metadata(video, given.head(rows // 10).with_columns(_versions(pl.lit("other"))))
    return {}


def trace(*, root: str, rows: int) -> dict[str, Any]:
    """Find all that was made from a thousand samples that lie together."""
    store, features = FilesystemMetadataStore(root), declare()
    chosen = list(range(rows // 2, rows // 2 + min(1_000, rows // 10)))
    start = time.perf_counter()
    found = store.trace(features[0], chosen)
    seconds = time.perf_counter() - start
    assert found.features["samples"].to_list() == [len(chosen)] * len(features)
    return {"seconds": seconds, "rows": rows}


def seed_moments(*, root: str, rows: int) -> dict[str, Any]:
    """Compute all features, keep a snapshot, and rewrite and compute a tenth of all of them."""
    store, (video, *others) = FilesystemMetadataStore(root), declare()
    given = pl.DataFrame({"sample_id": range(rows)}).with_columns(_versions(pl.col("sample_id").cast(pl.String)))
    for written in (given, given.head(rows // 10).with_columns(_versions(pl.lit("other")))):
        store.write_metadata(video, written)
        for feature in others:
            store.write_metadata(feature, store.resolve_update(feature).pending)
        if written is given:
            store.create_snapshot("then")
    return {}


def diff(*, root: str, rows: int) -> dict[str, Any]:
    """Compare all features with what they were."""
    store = FilesystemMetadataStore(root)
    start = time.perf_counter()
    found = store.diff("then")
    seconds = time.perf_counter() - start
    assert found.causes.rows() == [(name, "changed", "video/default", rows // 10) for name in FEATURES]
    return {"seconds": seconds, "rows": rows}


def read_moments(*, root: str, rows: int) -> dict[str, Any]:
    """Read the ids and versions of the latest rows of all features, now and as they were."""
    store, features = FilesystemMetadataStore(root), declare()
    start = time.perf_counter()
    for seen in (store.at("then"), store):
        for feature in features:
            seen.read_metadata(feature, columns=["sample_id", "data_version"], latest_only=True)
    return {"seconds": time.perf_counter() - start, "rows": rows}


def fingerprint(*, root: str, rows: int) -> dict[str, Any]:
    """Take the fingerprint of all features."""
    store, features = FilesystemMetadataStore(root), declare()
    start = time.perf_counter()
    taken = store.fingerprint(features)
    seconds = time.perf_counter() - start
    assert all(feature.samples == rows for feature in taken.features.values())
    return {"seconds": seconds, "rows": rows}


def plan(*, root: str, rows: int) -> dict[str, Any]:
    """Plan a run of all features."""
    store, features = FilesystemMetadataStore(root), declare()
    start = time.perf_counter()
    found = store.plan(features[-1])
    seconds = time.perf_counter() - start
    assert found.samples == 3 * (rows // 10 + rows - rows * 9 // 10)
    return {"seconds": seconds, "rows": rows}


def read(*, root: str, rows: int) -> dict[str, Any]:
    """Read the ids and versions of the latest rows of all features."""
    store, features = FilesystemMetadataStore(root), declare()
    start = time.perf_counter()
    for feature in features:
        store.read_metadata(feature, columns=["sample_id", "data_version"], latest_only=True)
    return {"seconds": time.perf_counter() - start, "rows": rows}


def _versions(text: pl.Expr) -> pl.Expr:
    return pl.struct(default=text).alias("data_version")
