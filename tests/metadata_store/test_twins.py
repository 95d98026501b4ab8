"""Stores of files, whatever becomes of the files, answer as stores in memory do.

The same things happen to two chains, one of roots and one of stores in memory. The roots are besides compacted in every
way and vacuumed, written to by clocks that are far ahead, and opened anew; files and pieces hold a few rows each. Scans
are kept, and collected when their files are long gone.
"""

import time
from contextlib import contextmanager
from datetime import timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from metaxy_fs import compact, vacuum
from metaxy_fs.errors import MetaxyError
from metaxy_fs.ids import MAX_TIME
from metaxy_fs.log import merge
from metaxy_fs.metadata_store import FilesystemMetadataStore, InMemoryMetadataStore
from metaxy_fs.spec import FeatureDep, FeatureKey, FeatureSpec
from metaxy_fs.storage.memory import MemoryStorage
from metaxy_fs.testing.store_cases import declare, root
from metaxy_fs.testing.store_clocks import machine_at
from tests.support.examples import examples
from tests.versioning.pieces import tiny_pieces

CLIP, FRAME, SCENE = (FeatureKey([name]) for name in ("clip", "frame", "scene"))
FEATURES = declare(
    root(CLIP),
    FeatureSpec(key=FRAME, deps=[FeatureDep(key=CLIP, relation="expansion")], id_columns=["frame", "sample_id"]),
    FeatureSpec(key=SCENE, deps=[FeatureDep(key=FRAME, relation="aggregation", optional=True), FeatureDep(key=CLIP)]),
)
OPTIONAL = {"size": [[1, 7], [0.5, None], [2**60, 3]], "note": [["x", None], [None, None], [4, 5]]}
HAPPENS = ["write"] * 6 + ["ahead", "retire", "update", "snapshot", "restore", "compact", "vacuum", "scan"]
DONE = {"dry_run": False, "grace": timedelta(0), "retention": timedelta(0), "unsafe": True}


class Twins:
    """Two chains of two stores each, and what was asked of them before.

    Args:
        dice: Decides what happens.
        places: The places of the roots, the nearest first.
        mode: How the chains fall back.
    """

    def __init__(self, dice, places, mode):
        self.dice, self.places, self.mode = dice, places, mode
        far = InMemoryMetadataStore()
        self.memory = [InMemoryMetadataStore(fallback_stores=[far], fallback_mode=mode), far]
        self.kept = self.opened()
        self.snapshots, self.scans = [], []

    def opened(self):
        far = FilesystemMetadataStore(self.places[1])
        return [FilesystemMetadataStore(self.places[0], fallback_stores=[far], fallback_mode=self.mode), far]

    @property
    def files(self):
        return self.dice.choice([self.kept, self.opened()])

    def step(self):
        getattr(self, self.dice.choice(HAPPENS))(self.dice.choice(FEATURES))

    def write(self, feature):
        frame = self.rows(feature)
        self.to_both(lambda store: store.write_metadata(feature, frame), place=self.dice.choice([0, 0, 0, 1]))

    def ahead(self, feature):
        frame = self.rows(feature)
        with machine_at(MAX_TIME):
            found = attempt(lambda: self.opened()[0].write_metadata(feature, frame))
        self.same(found, attempt(lambda: self.memory[0].write_metadata(feature, frame)))

    def retire(self, feature):
        ids = self.ids(feature)
        self.to_both(lambda store: store.retire(feature, ids))

    def update(self, _feature):
        scene = FEATURES[2]
        self.to_both(lambda store: store.retire(scene, store.resolve_update(scene).orphaned))
        self.to_both(lambda store: store.write_metadata(scene, store.resolve_update(scene).pending))

    def snapshot(self, _feature):
        name = f"s{len(self.snapshots)}"
        if self.to_both(lambda store: store.create_snapshot(name)):
            self.snapshots.append(name)

    def restore(self, feature):
        name = self.dice.choice([*self.snapshots, "none"])
        self.to_both(lambda store: store.restore(feature, at=name))

    def compact(self, _feature):
        cluster, full = self.dice.random() < 0.5, self.dice.random() < 0.5
        compact(self.dice.choice(self.opened()), full=full, fan=2, cluster=cluster)

    def vacuum(self, _feature):
        for store in self.opened():
            compact(store, full=True)
            attempt(lambda store=store: [vacuum(store, **DONE) for _ in range(2)])

    def scan(self, feature):
        latest_only = self.dice.random() < 0.5
        found = attempt(lambda: self.files[0].scan_metadata(feature, latest_only=latest_only))
        expected = attempt(lambda: self.memory[0].read_metadata(feature, latest_only=latest_only))
        if isinstance(expected, pl.DataFrame):
            self.scans.append((found, expected))

    def check(self):
        """Compare what is read, what is to be computed, and what scans give."""
        feature = self.dice.choice(FEATURES)
        seen = self.dice.choice([None, *self.snapshots])
        files, memory = (store if seen is None else store.at(seen) for store in (self.files[0], self.memory[0]))
        columns = self.dice.choice([None, ["size"], ["note"], ["note", "data_version"]])
        latest_only, versions = self.dice.random() < 0.5, self.dice.choice(["current", "all"])
        options = {"columns": columns, "latest_only": latest_only, "versions": versions}
        self.both(files, memory, lambda store: store.read_metadata(feature, **options))
        samples = self.rows(feature) if feature is FEATURES[0] else None
        self.both(files, memory, lambda store: increment(store, feature, samples))
        for scan, expected in self.scans[-2:]:
            assert_frame_equal(scan.collect(), expected)

    def to_both(self, ask, *, place=0):
        return self.both(self.files[place], self.memory[place], ask)

    def both(self, files, memory, ask):
        return self.same(attempt(lambda: ask(files)), attempt(lambda: ask(memory)))

    @staticmethod
    def same(found, expected):
        """Compare two answers; whether they are no errors."""
        if isinstance(expected, pl.DataFrame) and isinstance(found, pl.DataFrame):
            assert_frame_equal(found, expected)
        elif isinstance(expected, list) and isinstance(found, list):
            assert all(Twins.same(*pair) for pair in zip(found, expected, strict=True))
        elif isinstance(expected, Exception) or isinstance(found, Exception):
            assert type(found) is type(expected), f"{found!r} and {expected!r}"
            return False
        else:
            assert found == expected
        return True

    def ids(self, feature):
        names = feature.spec.id_columns
        count = self.dice.choice([0, 1, 3, 6])
        rows = sorted({tuple(self.dice.randrange(6) for _ in names) for _ in range(count)})
        return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.Int64), orient="row")

    def rows(self, feature):
        ids = self.ids(feature)
        versions = pl.Series([self.dice.choice("uvw") for _ in range(ids.height)], dtype=pl.String)
        rows = ids.with_columns(data_version=pl.struct(default=versions))
        for name, kinds in OPTIONAL.items():
            if self.dice.random() < 0.5:
                values = self.dice.choice(kinds)
                column = pl.Series(values + [self.dice.choice(values) for _ in range(ids.height)])[2:]
                rows = rows.with_columns(column.alias(name))
        return rows


def increment(store, feature, samples):
    found = store.resolve_update(feature, samples=samples)
    return [found.new, found.stale, found.orphaned, found.waiting, found.counts]


def attempt(call):
    try:
        return call()
    except MetaxyError as error:
        return error


@contextmanager
def small_files():
    with tiny_pieces(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge, "LARGE_ROWS", 2)
        patch.setattr(merge, "BATCH_ROWS", 4)
        yield


@pytest.mark.parametrize("kind", ["local", "remote"])
@given(dice=st.randoms(use_true_random=False), mode=st.sampled_from(["feature", "sample"]))
@examples(2)
def test_files_answer_as_memory_does(tmp_path_factory, kind, dice, mode):
    if kind == "local":
        places = [tmp_path_factory.mktemp(name) for name in ("near", "far")]
    else:
        places = [MemoryStorage(wall=lambda: time.time_ns() // 1_000) for _ in range(2)]
    with small_files():
        twins = Twins(dice, places, mode)
        for _ in range(8):
            for _ in range(3):
                twins.step()
            twins.check()
