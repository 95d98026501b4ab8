"""Contents of the golden roots; `python -m tests.golden.contents DIRECTORY` writes one with this version.

After the directory may come the hash algorithm of the root. `tests.golden.compacted` writes one with compactions.

A root that is committed is never written again: a new format gets a directory of its own beside the old ones.
"""

import sys
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl

from metaxy_fs import (
    ContainerDep,
    ContainerKey,
    ContainerSpec,
    Feature,
    FeatureDep,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
)
from metaxy_fs.hashing import HashAlgorithm

FRAMES, AUDIO = ContainerKey(["frames"]), ContainerKey(["audio"])

with FeatureGraph().use():

    class Video(
        Feature,
        spec=FeatureSpec(
            key=FeatureKey(["video", "raw"]),
            containers=[ContainerSpec(key=FRAMES), ContainerSpec(key=AUDIO, code_version="v2")],
        ),
    ):
        """Two writes, of which the second rewrites a sample and brings a column and a wider type."""

    class Faces(
        Feature,
        spec=FeatureSpec(
            key=FeatureKey(["faces"]),
            deps=[FeatureDep(key=Video.spec.key)],
            containers=[ContainerSpec(deps=[ContainerDep(feature_key=Video.spec.key, containers=[FRAMES])])],
        ),
    ):
        """One write with a write_id, with its versions calculated."""


FIRST = pl.DataFrame(
    {
        "sample_id": ["a", "b", "ü"],
        "data_version": [{"frames": f"f{i}", "audio": f"a{i}"} for i in range(3)],
        "size": pl.Series([1, None, 3], dtype=pl.Int32),
        "recorded": [datetime(2024, 2, 29, 12, tzinfo=UTC), None, datetime(1969, 12, 31, 23, 59, 59, 1, tzinfo=UTC)],
        "day": [date(2024, 2, 29), date(1, 1, 1), None],
        "tags": [["x", "y"], [], None],
        "box": [{"left": 0.5, "top": -0.0}, {"left": None, "top": 1.0}, None],
    },
    schema_overrides={"tags": pl.List(pl.String)},
)
SECOND = pl.DataFrame(
    {
        "sample_id": ["b"],
        "data_version": [{"frames": "f1", "audio": "changed"}],
        "size": pl.Series([2**40], dtype=pl.Int64),
        "note": ["rewritten"],
    }
)
FACES = pl.DataFrame({"sample_id": ["ü", "a"], "faces": [2, 0]})


def write(directory: Path, hash_algorithm: HashAlgorithm = "sha256") -> None:
    """Write a golden root."""
    store = FilesystemMetadataStore(directory, hash_algorithm=hash_algorithm)
    store.write_metadata(Video, FIRST)
    store.write_metadata(Video, SECOND)
    store.write_metadata(Faces, store.calculate_data_versions(Faces, FACES), write_id="job 7")


if __name__ == "__main__":
    write(Path(sys.argv[1]), *sys.argv[2:])
