"""Compaction, vacuum, repair and verification hold together in histories of any order."""

import random
from datetime import timedelta

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from metaxy_fs.ids import LamportClock
from metaxy_fs.log import chunks
from metaxy_fs.log.commit import commit
from metaxy_fs.log.compact import compact_partition
from metaxy_fs.log.compactor import Options
from metaxy_fs.log.descriptions import open_for_writing
from metaxy_fs.log.repair import repair
from metaxy_fs.log.unreferenced import Policy
from metaxy_fs.log.vacuum import vacuum
from metaxy_fs.log.verify import verify
from metaxy_fs.log.view import ViewLoader
from metaxy_fs.storage.memory import MemoryStorage
from tests.log.commits import PARTITION, request, rows
from tests.log.compactions import read

EAGER = Policy(grace=timedelta(0), retention=timedelta(0), is_safe=False)


class Root:
    """A root whose rows never change but by writes; each step ends in a verification."""

    def __init__(self, dice: random.Random) -> None:
        self.storage = MemoryStorage()
        open_for_writing(self.storage)
        self.dice = dice
        self.clock = LamportClock()
        self.expected = rows()

    def write(self) -> None:
        count = self.dice.choice([0, 1, 3, 10, 120])
        frame = rows(*sorted(self.dice.sample(range(200), count)))
        frame = frame.with_columns(note=pl.lit("x")) if self.dice.random() < 0.3 else frame
        name = f"job {self.dice.random()}" if self.dice.random() < 0.3 else None
        commit(self.storage, request(frame, write_id=name), clock=self.clock)
        self.expected = read(self.storage)

    def compact(self) -> None:
        options = Options(writer="a test", fan=self.dice.choice([2, 3, 10]), full=self.dice.random() < 0.3)
        loader = ViewLoader(self.storage, clock=self.clock)
        list(compact_partition(self.storage, loader, PARTITION, clock=self.clock, options=options))

    def vacuum(self) -> None:
        found = vacuum(self.storage, policy=EAGER, dry_run=False)
        assert found.skipped == ()
        assert {removal.state for removal in found.removals} <= {"deleted"}

    def lose_and_repair(self) -> None:
        compactions = [info.path for info in self.storage.list(f"{PARTITION}/_manifests/compactions")]
        if not compactions:
            return
        path = self.dice.choice(compactions)
        data = self.storage.get(path)
        self.storage.delete(path)
        if is_damaged := self.dice.random() < 0.5:
            self.storage.put(path, data[: self.dice.randrange(len(data))])
        found = repair(self.storage, dry_run=False)
        assert {restoration.state for restoration in found} <= {"restored"}
        if is_damaged:
            assert self.storage.get(path) == data

    def check(self) -> None:
        assert_frame_equal(read(self.storage), self.expected)
        unlooked = {"_store.json", PARTITION.definition_file}
        findings = [finding for finding in verify(self.storage).findings if finding.path not in unlooked]
        assert [finding for finding in findings if finding.severity != "note" or "footer" in finding.problem] == []


@pytest.mark.parametrize("seed", range(5))
def test_rows_and_proofs_outlast_every_history(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MAX_FILE_ROWS", 50)
    root = Root(random.Random(seed))  # noqa: S311  # dice, not keys
    root.write()
    steps = [root.write] * 6 + [root.compact] * 2 + [root.vacuum, root.lose_and_repair]
    for _ in range(20):
        root.dice.choice(steps)()
        root.check()
