"""A compaction keeps every row where manifests claim bounds that do not compare."""

import json
from typing import Any

import pytest

from metaxy_fs.ids import LamportClock
from metaxy_fs.log import merge as merging
from metaxy_fs.log import merge as relisting
from metaxy_fs.log.compact import compact_partition
from metaxy_fs.log.compactor import Compaction, Options
from metaxy_fs.log.ranges import Span, depth
from metaxy_fs.log.view import ViewLoader
from metaxy_fs.storage.base import Storage
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.commits import PARTITION, write
from tests.log.compactions import read
from tests.log.roots import edit


def compact(storage: Storage) -> list[Compaction]:
    clock = LamportClock()
    options = Options(writer="a test", full=True)
    return list(compact_partition(storage, ViewLoader(storage, clock=clock), PARTITION, clock=clock, options=options))


def claim(storage: Storage, path: str, low: Any, high: Any) -> None:
    """Have a manifest claim bounds of the ids of all of its files."""

    def change(fields: dict[str, Any]) -> None:
        for file in fields["files"]:
            file["statistics"] = [{"path": ["sample_id"], "nulls": 0, "min": low, "max": high}]
            file.pop("fences", None)

    edit(storage, path, change)


@pytest.mark.parametrize(("low", "high"), [("a", "b"), (1, "b"), ("a", 1), (False, "b"), (0.5, "b")])
def test_of_one_write_among_others(monkeypatch: pytest.MonkeyPatch, low: Any, high: Any) -> None:
    monkeypatch.setattr(merging, "BATCH_FILES", 1)
    storage = MemoryStorage()
    appends = [write(storage, number * 2, number * 2 + 1) for number in range(3)]
    claim(storage, PARTITION.append_manifest(appends[1].commit), low, high)
    assert len(compact(storage)) == 1
    assert sorted(read(storage)["sample_id"]) == list(range(6))


def test_of_a_large_file_that_is_listed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """All claims compare with each other, and none with what the compaction finds in the rows."""
    monkeypatch.setattr(relisting, "LARGE_ROWS", 4)
    storage = MemoryStorage()
    for number in range(2):
        write(storage, number * 2, number * 2 + 1)
    [done] = compact(storage)
    claim(storage, PARTITION.compaction_manifest(done.commit), "a", "b")
    for number in (10, 11):
        claim(storage, PARTITION.append_manifest(write(storage, number).commit), "x", "y")
    [again] = compact(storage)
    files = json.loads(storage.get(PARTITION.compaction_manifest(again.commit)))["files"]
    assert [file["rows"] for file in files] == [4, 2]
    assert sorted(read(storage)["sample_id"]) == [0, 1, 2, 3, 10, 11]


def test_a_depth_of_bounds_that_do_not_compare_is_that_of_all() -> None:
    assert depth([Span(1, 1, 2), Span(1, "a", "b"), Span(0)]) == 2
    assert depth([Span(1, 1, 2), Span(1, 3, 4)]) == 1
