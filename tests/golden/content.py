"""The golden roots of containers versioned by content. `python -m tests.golden.content DIRECTORY` writes one.

`compacted` after the directory has most commits compacted, and their manifests and files vacuumed.
"""

import sys
from datetime import timedelta
from pathlib import Path

import polars as pl

from metaxy_fs import (
    SAME_NAME,
    ContainerKey,
    ContainerSpec,
    Feature,
    FeatureDep,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    compact,
    vacuum,
)
from tests.golden.compacted import small_files

SCAN, MASK, MESH = FeatureKey(["scan"]), FeatureKey(["mask"]), FeatureKey(["mesh"])
OUTLINE, AREA = ContainerKey(["outline"]), ContainerKey(["area"])

with FeatureGraph().use():

    class Scan(Feature, spec=FeatureSpec(key=SCAN)):
        """What the others are made from."""

    class Mask(
        Feature,
        spec=FeatureSpec(
            key=MASK,
            deps=[FeatureDep(key=SCAN)],
            containers=[ContainerSpec(key=OUTLINE, versioned_by="content"), ContainerSpec(key=AREA)],
        ),
    ):
        """One container of two is versioned by content."""

    class Mesh(
        Feature,
        spec=FeatureSpec(
            key=MESH,
            deps=[FeatureDep(key=MASK)],
            containers=[ContainerSpec(key=OUTLINE, versioned_by="content", deps=SAME_NAME)],
        ),
    ):
        """Made from the container of the same name."""


def scans(*numbers: int, take: str) -> pl.DataFrame:
    """Rows of these scans."""
    versions = [{"default": f"{take}{number}"} for number in numbers]
    return pl.DataFrame({"sample_id": [f"s{number}" for number in numbers], "data_version": versions})


def filled(pending: pl.DataFrame, output: str) -> pl.DataFrame:
    """Pending samples with the versions of their output."""
    version = pl.format("{} of {}", pl.lit(output), "sample_id").alias("outline")
    return pending.with_columns(pl.col("data_version").struct.with_fields(version))


def write(directory: Path, *, is_compacted: bool = False) -> None:
    """Write a golden root."""
    with small_files():
        store = FilesystemMetadataStore(directory)
        store.write_metadata(Scan, scans(*range(6), take="a"))
        for feature in (Mask, Mesh):
            store.write_metadata(feature, filled(store.resolve_update(feature).pending, "é"))
        store.create_snapshot("before")
        store.write_metadata(Scan, scans(1, 2, 3, take="b"))
        pending = store.resolve_update(Mask).pending
        store.write_metadata(Mask, filled(pending.head(2), "é"))
        store.write_metadata(Mask, filled(pending.tail(1), "other"), write_id="job")
        store.retire(Mask, pl.DataFrame({"sample_id": ["s5"]}))
        if is_compacted:
            for feature in (Scan, Mask, Mesh):
                compact(store, feature, full=True)
            vacuum(store, dry_run=False, grace=timedelta(0), retention=timedelta(0), unsafe=True)


if __name__ == "__main__":
    write(Path(sys.argv[1]), is_compacted="compacted" in sys.argv[2:])
