"""The rows that all contenders work on.

Made with Polars alone, since the peers' environment has no more.
"""

import hashlib
from typing import Literal

import polars as pl

Graph = Literal["simple", "wide"]

ID = "sample_uid"
BATCH_ROWS = 1_000
_CONTAINERS = ("audio", "frames", "text", "depth")


def root_containers(graph: Graph) -> dict[str, list[str]]:
    """Return the containers of every root feature: one root of two, or two roots of four."""
    if graph == "simple":
        return {"root_0": list(_CONTAINERS[:2])}
    return {"root_0": list(_CONTAINERS), "root_1": list(_CONTAINERS)}


def leaf_containers(graph: Graph) -> list[str]:
    """Return the containers of the leaf; each depends on every container of every root."""
    return ["out"] if graph == "simple" else ["out_a", "out_b"]


def root_rows(graph: Graph, root: str, *, rows: int, version_column: str) -> pl.DataFrame:
    """Return ids 0 to `rows` - 1 in order, each with a short version per container."""
    names = root_containers(graph)[root]
    ids = pl.int_range(rows, dtype=pl.Int64)
    versions = [
        (pl.lit(name[0]) + (ids.hash(seed) % 2**20).cast(pl.String)).alias(name)
        for seed, name in enumerate(names, start=100 * int(root[-1]))
    ]
    return pl.select(ids.alias(ID), pl.struct(versions).alias(version_column))


def rewritten(frame: pl.DataFrame, *, version_column: str) -> pl.DataFrame:
    """Return a random tenth of the rows, with another version of their first container."""
    bumped = pl.col(version_column).struct.with_fields(audio=pl.field("audio") + "_bumped")
    return frame.filter(pl.col(ID).hash(777) % 10 == 0).with_columns(bumped)


def batch(number: int) -> pl.DataFrame:
    """Return what one small job writes: 1,000 ids, a path, and two versions of 64 hex digits."""
    ids = range(number * BATCH_ROWS, (number + 1) * BATCH_ROWS)
    versions = {name: [hashlib.sha256(f"{name}{n}".encode()).hexdigest() for n in ids] for name in _CONTAINERS[:2]}
    return pl.DataFrame(
        {"sample_id": ids, "path": [f"s3://data/{n:09d}.mp4" for n in ids]}, schema_overrides={"sample_id": pl.Int64}
    ).with_columns(pl.DataFrame(versions).to_struct("data_version"))
