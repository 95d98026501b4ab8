"""The measured work of metaxy_fs."""

import importlib
import shutil
import time
from pathlib import Path
from typing import Any

import polars as pl

from metaxy_fs import (
    ContainerKey,
    ContainerSpec,
    Feature,
    FeatureDep,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    compact,
)
from tests.benchmarks.clocks import empty_directory, time_appends
from tests.benchmarks.data import ID, Graph, leaf_containers, rewritten, root_containers, root_rows

VERSION = "data_version"
COMMITS = 20


def seed(*, root: str, graph: Graph, rows: int) -> dict[str, Any]:
    """Write every root feature in one commit, sorted."""
    roots, _ = declare(graph)
    store = FilesystemMetadataStore(root)
    for name, feature in roots.items():
        store.write_metadata(feature, root_rows(graph, name, rows=rows, version_column=VERSION))
    return {}


def seed_shuffled(*, root: str, graph: Graph, rows: int) -> dict[str, Any]:
    """Write every root feature in commits of random samples."""
    roots, _ = declare(graph)
    store = FilesystemMetadataStore(root)
    for name, feature in roots.items():
        frame = root_rows(graph, name, rows=rows, version_column=VERSION).sample(fraction=1, shuffle=True, seed=1)
        for part in frame.iter_slices(-(-rows // COMMITS)):
            store.write_metadata(feature, part)
    return {}


def make_stale(*, root: str, graph: Graph, rows: int) -> dict[str, Any]:
    """Write the leaf, then rewrite a tenth of the first root feature."""
    roots, leaf = declare(graph)
    store = FilesystemMetadataStore(root)
    store.write_metadata(leaf, store.resolve_update(leaf).new)
    frame = root_rows(graph, "root_0", rows=rows, version_column=VERSION)
    store.write_metadata(roots["root_0"], rewritten(frame, version_column=VERSION))
    return {}


def make_stale_lazily(*, root: str, graph: Graph, rows: int) -> dict[str, Any]:
    """Do what `make_stale` does, with the leaf's rows left in files."""
    roots, leaf = declare(graph)
    store = FilesystemMetadataStore(root)
    store.write_metadata(leaf, store.resolve_update(leaf, lazy=True).new)
    frame = root_rows(graph, "root_0", rows=rows, version_column=VERSION)
    store.write_metadata(roots["root_0"], rewritten(frame, version_column=VERSION))
    return {}


def resolve(*, root: str, graph: Graph) -> dict[str, Any]:
    """Find what has to be computed."""
    _, leaf = declare(graph)
    start = time.perf_counter()
    increment = FilesystemMetadataStore(root).resolve_update(leaf)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "new": increment.new.height, "stale": increment.stale.height}


def cycle(*, root: str, graph: Graph, rows: int, shuffled: bool) -> dict[str, Any]:
    """Read upstream, calculate the leaf's versions and write them."""
    _, leaf = declare(graph)
    samples = pl.select(pl.int_range(rows, dtype=pl.Int64).alias(ID))
    if shuffled:
        samples = samples.sample(fraction=1, shuffle=True, seed=2)
    start = time.perf_counter()
    result = FilesystemMetadataStore(root).calculate_and_write_data_versions(leaf, samples)
    seconds = time.perf_counter() - start
    first = result.filter(pl.col(ID) == 0).get_column(VERSION)[0]
    return {"seconds": seconds, "rows": result.height, "version": first[leaf_containers(graph)[0]]}


def resolve_lazily(*, root: str, graph: Graph) -> dict[str, Any]:
    """Find what has to be computed, and leave the answer in files."""
    _, leaf = declare(graph)
    start = time.perf_counter()
    increment = FilesystemMetadataStore(root).resolve_update(leaf, lazy=True)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "new": increment.counts.new, "stale": increment.counts.stale}


def cycle_lazily(*, root: str, graph: Graph) -> dict[str, Any]:
    """Calculate and write the versions of samples that come from files, and leave the answer in files."""
    roots, leaf = declare(graph)
    store = FilesystemMetadataStore(root)
    samples = store.scan_metadata(roots["root_1"], columns=[ID])  # whose samples were written once
    start = time.perf_counter()
    result = store.calculate_and_write_data_versions(leaf, samples)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "rows": result.select(pl.len()).collect().item()}


def materialize(*, root: str, batch_rows: int) -> dict[str, Any]:
    """Compute a column of the leaf in one call."""
    _, leaf = declare("simple")
    store = _copied(root)
    start = time.perf_counter()
    done = store.materialize(leaf, _with_column, batch_rows=batch_rows)
    return {"seconds": time.perf_counter() - start, "rows": done.counts.written}


def materialize_by_hand(*, root: str, batch_rows: int) -> dict[str, Any]:
    """Resolve, compute a column of the leaf in batches, and let a buffer commit them; of one batch, write it."""
    _, leaf = declare("simple")
    store = _copied(root)
    start = time.perf_counter()
    pending = store.resolve_update(leaf).pending
    if batch_rows >= pending.height:
        store.write_metadata(leaf, _with_column(pending))
    else:
        with store.buffered(leaf) as buffer:
            for batch in pending.iter_slices(batch_rows):
                buffer.write(_with_column(batch))
    return {"seconds": time.perf_counter() - start, "rows": pending.height}


def seed_history(*, root: str, rows: int) -> dict[str, Any]:
    """Write a root feature in commits of consecutive ids, then a random tenth of it again."""
    feature = declare("simple")[0]["root_0"]
    store = FilesystemMetadataStore(root)
    frame = root_rows("simple", "root_0", rows=rows, version_column=VERSION)
    for part in [*frame.iter_slices(-(-rows // COMMITS)), rewritten(frame, version_column=VERSION)]:
        store.write_metadata(feature, part)
    return {}


def read_history(*, root: str, latest_only: bool) -> dict[str, Any]:
    """Read the rows of a history: all of them, or the latest of each sample."""
    feature = declare("simple")[0]["root_0"]
    start = time.perf_counter()
    FilesystemMetadataStore(root).read_metadata(feature, latest_only=latest_only)
    return {"seconds": time.perf_counter() - start}


def append(*, root: str, count: int) -> dict[str, float]:
    """Write small batches to a local root, with fsync as always."""
    store = FilesystemMetadataStore(empty_directory(root))
    feature = declare_small()
    return time_appends(lambda _, frame: store.write_metadata(feature, frame), count=count)


def append_remote(*, root: str, count: int, storage_options: dict[str, str]) -> dict[str, float]:
    """Write small batches to a bucket."""
    importlib.import_module("s3fs")
    store = FilesystemMetadataStore(root, storage_options=storage_options)
    feature = declare_small()
    return time_appends(lambda _, frame: store.write_metadata(feature, frame), count=count)


def create(*, root: str) -> dict[str, Any]:
    """Make an empty root, for writers that come at once."""
    empty_directory(root)
    return {}


def append_one(frame: pl.DataFrame, *, root: str) -> None:
    """Append a batch while others do."""
    if root not in _STORES:
        _STORES[root] = FilesystemMetadataStore(root)
    _STORES[root].write_metadata(_SMALL, frame)


def read(*, root: str, storage_options: dict[str, str] | None = None) -> dict[str, Any]:
    """Read every row of small batches."""
    feature = declare_small()
    if storage_options is not None:
        importlib.import_module("s3fs")  # a store does so when it is opened; the clock runs around the work alone
    start = time.perf_counter()
    rows = FilesystemMetadataStore(root, storage_options=storage_options).read_metadata(feature)
    return {"seconds": time.perf_counter() - start, "rows": rows.height}


def compact_root(*, root: str) -> dict[str, Any]:
    """Compact small batches, whatever their levels."""
    feature = declare_small()
    start = time.perf_counter()
    compact(FilesystemMetadataStore(root), feature, full=True)
    return {"seconds": time.perf_counter() - start}


def declare(graph: Graph) -> tuple[dict[str, type[Feature]], type[Feature]]:
    """Return the root features by name, and the leaf that depends on all their containers."""
    with FeatureGraph().use():
        roots = {
            name: _feature(_spec(name, containers=containers)) for name, containers in root_containers(graph).items()
        }
        return roots, _feature(_spec("leaf", containers=leaf_containers(graph), upstream=tuple(roots)))


def declare_small() -> type[Feature]:
    """Return the feature that small batches belong to."""
    containers = [ContainerSpec(key=ContainerKey([name])) for name in ("frames", "audio")]
    with FeatureGraph().use():
        return _feature(FeatureSpec(key=FeatureKey(["small"]), containers=containers))


def _copied(root: str) -> FilesystemMetadataStore:
    """Return a store on a copy of a root, which the work may change."""
    copy = Path(f"{root}-copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(root, copy)
    return FilesystemMetadataStore(str(copy))


def _with_column(samples: pl.DataFrame) -> pl.DataFrame:
    return samples.with_columns(computed=pl.lit(1))


def _spec(name: str, *, containers: list[str], upstream: tuple[str, ...] = ()) -> FeatureSpec:
    return FeatureSpec(
        key=FeatureKey(["bench", name]),
        id_columns=[ID],
        deps=[FeatureDep(key=FeatureKey(["bench", root])) for root in upstream],
        containers=[ContainerSpec(key=ContainerKey([container])) for container in containers],
    )


def _feature(declared: FeatureSpec) -> type[Feature]:
    class Declared(Feature, spec=declared):
        pass

    return Declared


_SMALL = declare_small()
_STORES: dict[str, FilesystemMetadataStore] = {}
"""The store that a process keeps for each root, as a job does."""
