"""The work that is measured against a bucket at a distance."""

import importlib
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import polars_hash as plh

from metaxy_fs import (
    Feature,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    MetadataStore,
)
from tests.benchmarks.data import batch
from tests.benchmarks.ours import declare_small
from tests.benchmarks.storages import HastyStorage

ROOT = "bench/root"
COLUMNS = ["sample_id", "digest"]
SCHEMES = {"s3fs": "s3", "gcsfs": "gs"}
OPTIONS = {"s3fs": {"key": "test", "secret": "test"}, "gcsfs": {"token": "anon", "project": "test"}}


def seed_small(*, root: str, count: int) -> dict[str, Any]:
    """Write small batches."""
    store = FilesystemMetadataStore(HastyStorage(root))
    for number in range(count):
        store.write_metadata(declare_small(), batch(number))
    return {}


def seed_large(*, root: str, files: int, rows: int) -> dict[str, Any]:
    """Write files of an id in order, a path, a digest, and a version."""
    store = FilesystemMetadataStore(HastyStorage(root))
    for number in range(files):
        ids = pl.int_range(number * rows, (number + 1) * rows, dtype=pl.Int64, eager=True).alias("sample_id")
        digest = plh.col("sample_id").cast(pl.String).chash.sha2_256()
        version = plh.concat_str(pl.lit("v"), "sample_id").chash.sha2_256()
        frame = ids.to_frame().with_columns(
            pl.format("s3://data/{}.mp4", "sample_id").alias("path"),
            digest.alias("digest"),
            pl.struct(version.alias("default")).alias("data_version"),
        )
        store.write_metadata(declare_large(), frame)
    return {}


def write(*, endpoint: str, client: str, after: str) -> dict[str, Any]:
    """Write a small batch, after nothing, after a write of another process or after one of this process."""
    root = f"bench/{uuid.uuid4().hex}"
    store = _store(endpoint, client, root=root)
    if after != "nothing":
        store.write_metadata(declare_small(), batch(0))
    if after == "another":
        store = _store(endpoint, client, root=root)
    start = time.perf_counter()
    store.write_metadata(declare_small(), batch(1))
    return {"seconds": time.perf_counter() - start}


def ask_chain(*, endpoint: str, client: str) -> dict[str, Any]:
    """Look for a feature that none of three roots has; connections are made before."""
    stores = [_store(endpoint, client, root=f"bench/empty-{number}") for number in range(3)]
    chain = _store(endpoint, client, root="bench/empty-0", fallback_stores=stores[1:])
    chain.has_feature(declare_small(), check_fallback=True)
    start = time.perf_counter()
    found = chain.has_feature(declare_small(), check_fallback=True)
    return {"seconds": time.perf_counter() - start, "found": found}


def read_small(*, endpoint: str, client: str, cache: str | None) -> dict[str, Any]:
    """Read every row of small batches."""
    return _timed(_store(endpoint, client, cache=cache), declare_small(), columns=None, wanted=None)


def read_large(*, endpoint: str, client: str, cache: str | None, chosen: str | None) -> dict[str, Any]:
    """Read two of the columns of large files."""
    store = _store(endpoint, client, cache=cache)
    return _timed(store, declare_large(), columns=COLUMNS, wanted=FILTERS.get(chosen or ""))


def polars_small(*, endpoint: str, paths: list[str]) -> dict[str, Any]:
    """Read the same files by Polars' own client."""
    start = time.perf_counter()
    rows = pl.read_parquet(paths, storage_options=polars_options(endpoint))
    return {"seconds": time.perf_counter() - start, "rows": rows.height}


def polars_large(*, endpoint: str, paths: list[str], chosen: str | None) -> dict[str, Any]:
    """Read two of the columns of the same files by Polars' own client."""
    wanted = FILTERS.get(chosen or "")
    start = time.perf_counter()
    rows = pl.scan_parquet(paths, storage_options=polars_options(endpoint), glob=False)
    rows = rows if wanted is None else rows.filter(wanted)
    found = rows.select(COLUMNS).collect()
    return {"seconds": time.perf_counter() - start, "rows": found.height}


FILTERS = {
    "id": pl.col("sample_id").is_between(100, 1_099),
    "digest": pl.col("digest").str.ends_with("0000"),
}
"""What selects few rows: a test that statistics of the files can answer, and one that they cannot."""


def declare_large() -> type[Feature]:
    """Return the feature that large files belong to."""
    with FeatureGraph().use():

        class Large(Feature, spec=FeatureSpec(key=FeatureKey(["large"]))):
            pass

    return Large


def polars_options(endpoint: str) -> dict[str, str]:
    """Return what Polars' client reaches the endpoint with."""
    return {
        "aws_endpoint_url": endpoint,
        "aws_access_key_id": "test",
        "aws_secret_access_key": "test",
        "aws_region": "us-east-1",
        "aws_allow_http": "true",
    }


def _timed(
    store: FilesystemMetadataStore, feature: type[Feature], *, columns: list[str] | None, wanted: pl.Expr | None
) -> dict[str, Any]:
    start = time.perf_counter()
    rows = store.read_metadata(feature, columns=columns, filters=wanted)
    return {"seconds": time.perf_counter() - start, "rows": rows.height}


def _store(
    endpoint: str,
    client: str,
    *,
    root: str = ROOT,
    cache: str | None = None,
    fallback_stores: Sequence[MetadataStore] = (),
) -> FilesystemMetadataStore:
    importlib.import_module("metaxy_fs.storage.remote")  # the clock runs around the work alone
    about: dict[str, Any] = {"cache_dir": cache, "fallback_stores": fallback_stores}
    if client == "obstore":
        return FilesystemMetadataStore(root, filesystem=_filesystem(endpoint), **about)
    importlib.import_module(client)
    options = {"endpoint_url": endpoint, **OPTIONS[client]}
    return FilesystemMetadataStore(f"{SCHEMES[client]}://{root}", storage_options=options, **about)


def _filesystem(endpoint: str) -> Any:
    return importlib.import_module("obstore.fsspec").FsspecStore(
        "s3",
        endpoint=endpoint,
        access_key_id="test",
        secret_access_key="test",
        region="us-east-1",
        client_options={"allow_http": True},
    )


def objects_below(root: str) -> dict[str, bytes]:
    """Return the objects of a local root by the paths that they have in the bucket."""
    found = sorted(path for path in Path(root).rglob("*") if path.is_file())
    return {f"{ROOT}/{path.relative_to(root).as_posix()}": path.read_bytes() for path in found}
