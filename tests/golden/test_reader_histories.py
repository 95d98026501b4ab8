"""The reader of `docs/format.md` reads any history of writes, compactions and vacuums as the library does."""

import json
import os
import random
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import polars as pl
import pytest

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.ids import MAX_TIME, LamportClock
from metaxy_fs.log.commit import commit
from metaxy_fs.log.compact import compact_partition
from metaxy_fs.log.compactor import Options
from metaxy_fs.log.descriptions import open_for_writing
from metaxy_fs.log.log import Log
from metaxy_fs.log.manifest import Manifest
from metaxy_fs.log.schema import encode_schema
from metaxy_fs.log.unreferenced import Policy
from metaxy_fs.log.vacuum import vacuum
from metaxy_fs.log.view import View, ViewLoader
from metaxy_fs.storage.local import LocalStorage
from tests.golden import reader
from tests.golden.compacted import small_files
from tests.log.commits import PARTITION, request, rows
from tests.log.compactions import put_compaction

IN_2199 = 7_226_582_400
EAGER = Policy(grace=timedelta(0), retention=timedelta(0), is_safe=False)
SIZE = pl.col("sample_id")
KINDS = [
    lambda frame: frame,
    lambda frame: frame.with_columns(size=SIZE.cast(pl.Int32)),
    lambda frame: frame.with_columns(note=pl.lit("n"), size=SIZE * 2**40),
    lambda frame: frame.with_columns(size=SIZE.cast(pl.Float32), deep=pl.struct(x=SIZE)),
    lambda frame: frame.with_columns(deep=pl.struct(y=pl.lit("y"), x=SIZE.cast(pl.Int8))),
]


def retiring(frame: pl.DataFrame, *, share: int) -> pl.DataFrame:
    """Have the first of every few rows retire its sample, or all; those that do have ids alone."""
    is_retired = pl.lit(value=True) if share == 0 else pl.int_range(pl.len()) % share == 0
    others = [pl.when(~is_retired).then(pl.col(name)).alias(name) for name in frame.columns if name != "sample_id"]
    return frame.with_columns(*others, is_retired.alias("_metaxy_retired"))


class History:
    """A root on a disk, to which dice do what they like; clocks of writers are wrong, too."""

    def __init__(self, directory: Path, dice: random.Random) -> None:
        self.directory = directory
        self.storage = LocalStorage(directory)
        open_for_writing(self.storage)
        open_for_writing(self.storage)
        self.dice = dice
        self.appends: list[Manifest] = []
        self.vacuumed = False

    def write(self) -> None:
        ids = sorted(self.dice.sample(range(30), self.dice.choice([0, 1, 2, 5, 12])))
        frame = self.dice.choice(KINDS)(rows(*ids))
        if self.dice.random() < 0.3:
            frame = retiring(frame, share=self.dice.choice([0, 2, 3]))
        tags = {"run": str(len(self.appends))} if self.dice.random() < 0.4 else {}
        name = f"job {len(self.appends)}" if self.dice.random() < 0.4 else None
        is_ahead = self.dice.random() < 0.2
        moment = self.dice.randrange(1_000_000) + is_ahead * (MAX_TIME - 1_000_000)
        clock = LamportClock(wall=lambda: moment)
        self.appends.append(commit(self.storage, request(frame, write_id=name, tags=tags), clock=clock))
        if is_ahead and self.dice.random() < 0.3:  # the machine of the disk was wrong, too
            os.utime(self.path_of(self.appends[-1]), (IN_2199, IN_2199))

    def time_of(self, append: Manifest) -> int:
        """The time at which a commit counts."""
        path = self.path_of(append)
        return reader.time_that_counts({"time": append.time}, path, path.parents[2])

    def path_of(self, append: Manifest) -> Path:
        """The place of a manifest."""
        return self.directory / PARTITION.append_manifest(append.commit)

    def compact(self) -> None:
        clock = LamportClock()
        options = Options(writer="a test", fan=self.dice.choice([2, 3]), full=self.dice.random() < 0.3)
        loader = ViewLoader(self.storage, clock=clock)
        list(compact_partition(self.storage, loader, PARTITION, clock=clock, options=options))

    def overlap(self) -> None:
        """Compact what somebody else would, by hand, from appends whose files are all there."""
        if not self.vacuumed:
            chosen = self.dice.sample(self.appends, self.dice.randint(1, len(self.appends)))
            again = [append.commit for append in chosen if self.dice.random() < 0.4]
            chosen = [msgspec.structs.replace(each, time=self.time_of(each)) for each in chosen]
            put_compaction(self.storage, chosen, token=f"{self.dice.getrandbits(64):016x}", listed_again=again)

    def vacuum(self) -> None:
        self.vacuumed = True
        for _ in range(2):
            assert not vacuum(self.storage, policy=EAGER, dry_run=False).skipped


def library(storage: LocalStorage, view: View | None) -> reader.Rows | None:
    """What the library reads of a view, in the reader's terms."""
    assert view is not None
    try:
        frame = Log(storage, clock=LamportClock()).select([view], with_commits=True).rows.collect()
    except MetadataSchemaError:
        return None
    marks = frame.select("_metaxy_time", "_metaxy_commit").rows()
    held = frame.drop("_metaxy_time", "_metaxy_commit")
    return reader.Rows(msgspec.json.decode(encode_schema(held.schema)), marks, held.to_arrow().to_pylist())


@pytest.mark.parametrize("seed", range(25))
def test_both_read_every_history_alike(seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311  # dice, not keys
    with TemporaryDirectory() as directory, small_files():
        history = History(Path(directory), dice)
        history.write()
        steps = [history.write] * 5 + [history.compact, history.overlap] * 2 + [history.vacuum]
        for _ in range(dice.randint(3, 14)):
            dice.choice(steps)()
        log = Log(history.storage, clock=LamportClock())
        held = {append.commit for append in history.appends}
        some = {append.commit for append in dice.sample(history.appends, dice.randint(1, len(held)))}
        assert read(history.directory, held) == library(history.storage, log.view(PARTITION))
        found, expected = read(history.directory, some), library(history.storage, log.view_at(PARTITION, commits=some))
        told = log.commits(PARTITION.feature).select("time", "commit", "rows", "retired", "write_id", "tags").rows()
        commits = reader.history(history.directory, PARTITION.feature, [PARTITION.version])
        assert commits == [reader.Commit(*row[:5], json.loads(row[5] or "{}")) for row in told]
        # A reader may look at more files than it needs, of which one does not prove that integers are floats.
        assert found == expected or (found is None and has_floats(expected))


def has_floats(read: reader.Rows | None) -> bool:
    return read is not None and ["size", "float64"] in read.schema


def read(root: Path, commits: set[str]) -> reader.Rows | None:
    """What the reader makes of some commits; None where no type holds all values."""
    try:
        return reader.read_commits(root, PARTITION.feature, PARTITION.version, commits)
    except reader.NoTypeError:
        return None
