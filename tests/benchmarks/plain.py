"""The least that each piece of work could take, with Polars alone."""

import os
import time
from pathlib import Path
from typing import Any

import polars as pl
import polars_hash as plh

from tests.benchmarks.clocks import empty_directory, time_appends
from tests.benchmarks.data import ID, Graph, leaf_containers, root_containers, root_rows


def hash_preimages(*, graph: Graph, rows: int) -> dict[str, Any]:
    """Hash the texts that the leaf's versions are made from, which stand ready in memory."""
    preimages = _preimages(graph, rows)
    names = leaf_containers(graph)
    start = time.perf_counter()
    hashed = preimages.select(plh.col(name).chash.sha2_256() for name in names)
    return {"seconds": time.perf_counter() - start, "rows": hashed.height, "version": hashed.item(0, names[0])}


def resolve(*, root: str, graph: Graph) -> dict[str, Any]:
    """Read the versions of the root features, set them side by side unseen, and hash the leaf's texts."""
    query = _leaf_versions(root, graph)
    start = time.perf_counter()
    found = query.collect(engine="streaming")
    return {"seconds": time.perf_counter() - start, "new": found.height, "stale": 0}


def cycle(*, root: str, graph: Graph) -> dict[str, Any]:
    """Do what `resolve` does, and write the result into one file."""
    query, path = _leaf_versions(root, graph), Path(root, "leaf.parquet")
    start = time.perf_counter()
    query.sink_parquet(path, compression_level=1)
    seconds = time.perf_counter() - start
    written = pl.read_parquet(path)
    path.unlink()
    first = written.filter(pl.col(ID) == 0).get_column("data_version")[0]
    return {"seconds": seconds, "rows": written.height, "version": first[leaf_containers(graph)[0]]}


def read(*, paths: list[str], storage_options: dict[str, str] | None = None) -> dict[str, Any]:
    """Read Parquet files."""
    start = time.perf_counter()
    rows = pl.read_parquet(paths, storage_options=storage_options)
    return {"seconds": time.perf_counter() - start, "rows": rows.height}


def append(*, root: str, count: int, fsync: bool) -> dict[str, float]:
    """Write a Parquet file a batch, as small as the library's."""
    directory = empty_directory(root)

    def write(number: int, frame: pl.DataFrame) -> None:
        _write(directory / f"{number}.parquet", frame, fsync=fsync)

    return time_appends(write, count=count)


def read_files_below(*, root: str) -> dict[str, Any]:
    """Read every Parquet file below a directory."""
    return read(paths=sorted(str(path) for path in Path(root).rglob("*.parquet")))


def _write(path: Path, frame: pl.DataFrame, *, fsync: bool) -> None:
    if not fsync:
        frame.write_parquet(path, compression_level=1)
        return
    with path.open("wb") as file:
        frame.write_parquet(file, compression_level=1)
        file.flush()
        os.fsync(file.fileno())


def _leaf_versions(root: str, graph: Graph) -> pl.LazyFrame:
    """Return the versions of the leaf from files whose samples are the same, in the same order."""
    scans: list[pl.LazyFrame] = []
    template, names = "", []
    for name, containers in root_containers(graph).items():
        versions = [pl.col("data_version").struct.field(part).alias(f"{name}/{part}") for part in containers]
        files = sorted(Path(root).glob(f"bench.{name}/*/*.parquet"))
        scans.append(pl.scan_parquet(files).select(*([] if scans else [ID]), *versions))
        template += "".join(f"|bench_{name}/{part}|{{}}" for part in sorted(containers))
        names += [f"{name}/{part}" for part in sorted(containers)]
    hashed = [
        pl.format(f"{leaf}|1{template}", *map(plh.col, names)).chash.sha2_256().alias(leaf)
        for leaf in leaf_containers(graph)
    ]
    return pl.concat(scans, how="horizontal").select(ID, pl.struct(hashed).alias("data_version"))


def _preimages(graph: Graph, rows: int) -> pl.DataFrame:
    """Return one text column for each container of the leaf."""
    texts: list[pl.Expr] = []
    frames = [pl.select(pl.int_range(rows, dtype=pl.Int64).alias(ID))]
    for root, containers in root_containers(graph).items():
        versions = root_rows(graph, root, rows=rows, version_column="versions").get_column("versions").struct.unnest()
        frames.append(versions.rename({name: f"{root}/{name}" for name in containers}))
        for name in sorted(containers):
            texts += [pl.lit(f"|bench_{root}/{name}|"), pl.col(f"{root}/{name}")]
    joined = pl.concat(frames, how="horizontal")
    return joined.select(pl.concat_str(pl.lit(f"{leaf}|1"), *texts).alias(leaf) for leaf in leaf_containers(graph))
