"""Measure a manifest that stands for very many commits."""

import time
from typing import Any

import msgspec
import polars as pl

from metaxy_fs import FilesystemMetadataStore
from metaxy_fs.ids import timestamp_id
from metaxy_fs.log.decoding import decode_manifest
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.manifest import CommitTable, DataFile, Manifest, encode_manifest
from metaxy_fs.storage import MemoryStorage, ObjectInfo
from tests.benchmarks.clocks import empty_directory
from tests.benchmarks.data import BATCH_ROWS, batch
from tests.benchmarks.ours import declare_small
from tests.benchmarks.storages import CountingStorage, HastyStorage

_START = 1_795_000_000_000_000
_POINTS = 10


def build(*, root: str, commits: int, files: int) -> dict[str, Any]:
    """Put the manifest of a compaction, and nothing of what it names."""
    partition, template = _append()
    ids = [timestamp_id(_START + number, f"{number:016x}") for number in range(commits)]
    each = commits // files
    entries = [
        _rewritten(template.files[0], number, first=ids[number * each], last=ids[number * each + each - 1], each=each)
        for number in range(files)
    ]
    end = _START + commits
    compaction = msgspec.structs.replace(
        template,
        commit=timestamp_id(end, f"{commits:016x}"),
        time=end,
        rows=sum(entry.rows for entry in entries),
        files=tuple(entries),
        covers=" ".join(ids),
        commits=CommitTable(name="_commits/c.table", rows=commits, bytes=80 * commits, sha256="0" * 64),
    )
    path = partition.compaction_manifest(compaction.commit)
    HastyStorage(str(empty_directory(root))).put(path, encode_manifest(compaction))
    return {}


def measure(*, root: str, files: int) -> dict[str, Any]:
    """Decode the manifest, then plan the read of ten ids: with a new store, and with one that knows the manifest."""
    storage, feature = CountingStorage(root), declare_small()
    [info] = storage.list("")
    data = storage.get(info.path)
    where = {"partition": _partition_of(info), "commit": _commit_of(info), "name": info.path}
    decode_seconds = _seconds(lambda: decode_manifest(data, **where, is_compaction=True))
    store = FilesystemMetadataStore(storage)
    points = [number * files * BATCH_ROWS // _POINTS for number in range(_POINTS)]
    plan = pl.col("sample_id").is_in(points)
    return {
        "mebibytes": len(data) / 2**20,
        "decode_seconds": decode_seconds,
        "seconds": _seconds(lambda: store.scan_metadata(feature, filters=plan)),
        "again_seconds": _seconds(lambda: store.scan_metadata(feature, filters=plan)),
    }


def _append() -> tuple[Partition, Manifest]:
    """Return the manifest of one small batch, and where it belongs."""
    storage = MemoryStorage()
    FilesystemMetadataStore(storage).write_metadata(declare_small(), batch(0))
    [info] = [info for info in storage.list("") if "/_manifests/" in info.path]
    partition = _partition_of(info)
    return partition, decode_manifest(
        storage.get(info.path), partition=partition, commit=_commit_of(info), name=info.path
    )


def _rewritten(template: DataFile, number: int, *, first: str, last: str, each: int) -> DataFile:
    """Return the entry of a file that holds a thousand ids of its own."""
    lowest = number * BATCH_ROWS
    statistics = tuple(
        msgspec.structs.replace(leaf, min=lowest, max=lowest + BATCH_ROWS - 1) if leaf.path == ("sample_id",) else leaf
        for leaf in template.statistics
    )
    start = _START + number * each
    return msgspec.structs.replace(
        template,
        name=f"{number:08d}.parquet",
        statistics=statistics,
        first=(start, first),
        last=(start + each - 1, last),
    )


def _partition_of(info: ObjectInfo) -> Partition:
    feature, version = info.path.split("/")[:2]
    return Partition(feature, version)


def _commit_of(info: ObjectInfo) -> str:
    return info.path.rpartition("/")[2].removesuffix(".json")


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
