"""Measure what each hash algorithm costs and saves."""

import io
import time
from typing import Any

import polars as pl

from metaxy_fs import FilesystemMetadataStore
from metaxy_fs.hashing import HashAlgorithm, hash_string
from tests.benchmarks.clocks import empty_directory
from tests.benchmarks.data import ID, root_containers
from tests.benchmarks.ours import VERSION, declare


def calculate(*, root: str, algorithm: HashAlgorithm, rows: int) -> dict[str, Any]:
    """Calculate and write the leaf of graph `simple`, made from digests of the same algorithm."""
    roots, leaf = declare("simple")
    store = FilesystemMetadataStore(empty_directory(root), hash_algorithm=algorithm)
    upstream = _digests(algorithm, rows)
    store.write_metadata(roots["root_0"], upstream)
    start = time.perf_counter()
    versions = store.calculate_and_write_data_versions(leaf, upstream.select(ID))
    seconds = time.perf_counter() - start
    return {
        "hash_seconds": _hash_alone(upstream, algorithm),
        "cycle_seconds": seconds,
        "bytes_per_version": _stored_bytes(versions.select(VERSION)) / rows,
    }


def _digests(algorithm: str, rows: int) -> pl.DataFrame:
    """Return ids in order, each with a digest of the algorithm per container."""
    ids = pl.int_range(rows, dtype=pl.Int64)
    versions = [
        hash_string(pl.format(f"{name}{{}}", ids), algorithm=algorithm).alias(name)
        for name in root_containers("simple")["root_0"]
    ]
    return pl.select(ids.alias(ID), pl.struct(versions).alias(VERSION))


def _hash_alone(upstream: pl.DataFrame, algorithm: str) -> float:
    """Return how long it takes to hash the leaf's texts, which stand ready in memory."""
    names = sorted(root_containers("simple")["root_0"])
    pieces = [part for name in names for part in (pl.lit(f"|bench_root_0/{name}|"), pl.col(VERSION).struct.field(name))]
    texts = upstream.select(pl.concat_str(pl.lit("out|1"), *pieces).alias("text"))
    start = time.perf_counter()
    texts.select(hash_string(pl.col("text"), algorithm=algorithm))
    return time.perf_counter() - start


def _stored_bytes(frame: pl.DataFrame) -> int:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression_level=1)
    return len(buffer.getvalue())
