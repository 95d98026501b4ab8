"""Thousands of processes that write once each keep their root compacted at little cost."""

import random

import polars as pl

from metaxy_fs import FilesystemMetadataStore
from metaxy_fs.ids import Source, driven_by
from metaxy_fs.storage.memory import MemoryStorage
from metaxy_fs.testing.store_cases import pipeline, videos
from tests.log.faulty import FaultyStorage

VIDEO, _ = pipeline()


class Dice(Source):
    """Throws what a seed gives."""

    def __init__(self) -> None:
        super().__init__()
        self.fraction = random.Random(2).random  # type: ignore[method-assign]  # noqa: S311  # dice, not keys


def test_nobody_counts_and_yet_it_is_done(soak: bool) -> None:  # noqa: FBT001  # a fixture
    """Each process has a store of its own, and the dice are all that they have in common."""
    limit, writes = (100, 10_000) if soak else (40, 400)
    root = FaultyStorage(MemoryStorage())
    waiting, looked, most, compactions, in_vain = 0, 0, 0, 0, 0
    with driven_by(Dice()):
        for number in range(writes):
            root.requests.clear()
            FilesystemMetadataStore(root, compact_after=limit).write_metadata(VIDEO, videos([number]))
            verbs = [verb for verb, _ in root.requests]
            is_compaction = verbs.count("put") > 2 and number > 0
            waiting = uncovered(root) if is_compaction else waiting + 1
            most = max(most, waiting)
            compactions += is_compaction
            looked += "list" in verbs
            in_vain += 0 if is_compaction or number == 0 else len(verbs) - 4
    print(f"{writes} writes, compact_after={limit}: {looked} looked, {compactions} compacted, {most} waited at most,")
    print(f"and looks that found nothing to do made {in_vain / writes:.3f} requests a write")
    assert looked < writes / 15
    assert limit < most < limit * 4
    assert in_vain / writes < 1 / 10
    held = FilesystemMetadataStore(root.inner).read_metadata(VIDEO)
    assert held["sample_id"].to_list() == list(range(writes))


def uncovered(root: FaultyStorage) -> int:
    history = FilesystemMetadataStore(root.inner).history(VIDEO)
    return history.filter(~pl.col("compacted")).height
