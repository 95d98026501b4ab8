"""The golden roots of tags and retired samples. `python -m tests.golden.retired DIRECTORY` writes one.

`compacted` after the directory has most commits compacted, and their manifests and files vacuumed; `published` has the
features published as Delta tables, in between and in the end.
"""

import sys
from datetime import timedelta
from pathlib import Path

import polars as pl

from metaxy_fs import (
    Feature,
    FeatureDep,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    compact,
    publish,
    vacuum,
)
from tests.golden.compacted import small_files

TAKE, CUT = FeatureKey(["take"]), FeatureKey(["cut"])

with FeatureGraph().use():

    class Take(Feature, spec=FeatureSpec(key=TAKE, id_columns=["scene", "number"])):
        """Samples that are retired, come back, and are restored."""

    class Cut(Feature, spec=FeatureSpec(key=CUT, deps=[FeatureDep(key=TAKE)], id_columns=["scene", "number"])):
        """What is made from takes, of which one was never made and is retired."""


def takes(*numbers: int, scene: str = "s", note: str | None = None) -> pl.DataFrame:
    """Rows of these takes."""
    frame = ids(*numbers, scene=scene).with_columns(
        data_version=pl.struct(pl.format("v{}{}", "number", pl.lit(note or "")).alias("default"))
    )
    return frame if note is None else frame.with_columns(note=pl.lit(note))


def ids(*numbers: int, scene: str = "s") -> pl.DataFrame:
    """The ids of these takes."""
    return pl.DataFrame(
        {"scene": [scene] * len(numbers), "number": numbers}, schema={"scene": pl.String, "number": pl.Int64}
    )


TAGS = {"run": "2026-11-28", "git": "3f2a9c1"}
LATEST = {("s", 0): "v0", ("s", 2): "v2", ("s", 4): "v4", ("s", 6): "v6again", ("z", 1): "v1later"}
"""The latest row of each take in the end."""


def write(directory: Path, *, is_compacted: bool = False, is_published: bool = False) -> None:
    """Write a golden root."""
    published = (Take, Cut) if is_published else ()
    with small_files():
        store = FilesystemMetadataStore(directory, tags={"host": "a"})
        store.write_metadata(Take, takes(*range(7)), tags=TAGS)
        store.retire(Take, ids(1, 3, 5, 9), "out of focus")
        store.write_metadata(Cut, store.resolve_update(Cut).pending)
        store.create_snapshot("good")
        store.write_metadata(
            Take, takes(0, 3, 8, note="bad"), write_id="bad job", tags={"host": "b", "note": 'ü "x"\n'}
        )
        store.retire(Take, ids(2, 6), tags={"by": "me"})
        store.restore(Take, at="good", reason="a bad job")
        store.retire(Cut, ids(4), "never mind")
        for feature in published:
            publish(store, feature)
        if is_compacted:
            for feature in (Take, Cut):
                compact(store, feature, full=True)
            vacuum(store, dry_run=False, grace=timedelta(0), retention=timedelta(0), unsafe=True)
        store.write_metadata(Take, takes(6, note="again"))
        store.write_metadata(Take, takes(1, scene="z", note="later"))
        store.create_snapshot("end")
        for feature in published:
            publish(store, feature)


if __name__ == "__main__":
    write(Path(sys.argv[1]), is_compacted="compacted" in sys.argv[2:], is_published="published" in sys.argv[2:])
