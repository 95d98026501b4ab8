"""Measure the commit of very many prepared writes."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import msgspec

from metaxy_fs import FilesystemMetadataStore, Receipt
from metaxy_fs.ids import timestamp_id
from metaxy_fs.log.layout import Partition
from tests.benchmarks.clocks import empty_directory
from tests.benchmarks.data import batch
from tests.benchmarks.ours import declare_small

_LINKS = 50_000
"""How many names one file may have."""


def commit(*, root: str, receipts: int) -> dict[str, Any]:
    """Commit so many receipts, of files that are one file under many names."""
    store = FilesystemMetadataStore(str(empty_directory(root)))
    feature = declare_small()
    prepared = _prepared(store.prepare_write(feature, batch(0)), Path(root), receipts)
    start = time.perf_counter()
    store.commit_prepared(feature, prepared, write_id="job")
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "rows": sum(receipt.rows for receipt in prepared)}


def _prepared(receipt: Receipt, root: Path, count: int) -> list[Receipt]:
    """Return receipts that differ in their names alone, with a file for each."""
    manifest = msgspec.json.decode(receipt.manifest, type=dict[str, Any])
    manifest.pop("sha256")
    [file] = manifest["files"]
    directory = root / str(Partition(receipt.feature.replace("/", "."), receipt.version))
    source = directory / file["name"]
    made = []
    for number in range(count):
        commit_id = timestamp_id(manifest["time"] + number, f"{number:016x}")
        file["name"] = f"{commit_id}-0.parquet"
        manifest["commit"] = commit_id
        if number % _LINKS:
            os.link(source, directory / file["name"])
        else:
            source = Path(shutil.copy(source, directory / file["name"]))
        text = msgspec.json.encode(manifest).decode()
        made.append(msgspec.structs.replace(receipt, commit=commit_id, task_id=str(number), manifest=text))
    return made
