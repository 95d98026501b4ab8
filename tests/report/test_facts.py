"""What the report knows of a store: counts as a plain model has them, of bounded size, without reading data files."""

from datetime import timedelta

import polars as pl
import pytest

from metaxy_fs import (
    ContainerSpec,
    FeatureDep,
    FeatureGraph,
    FeatureSpec,
    FilesystemMetadataStore,
    InMemoryMetadataStore,
    compact,
    vacuum,
)
from metaxy_fs.report import store_facts
from metaxy_fs.storage.base import ForwardingStorage
from metaxy_fs.storage.memory import MemoryStorage
from tests.report.roots import pipeline

VIDEO = FeatureSpec(key="video")
FACES = FeatureSpec(key="faces", deps=[FeatureDep(key="video")])
NEXT = FeatureSpec(key="faces", deps=[FeatureDep(key="video")], containers=[ContainerSpec(code_version="two")])


class Recorded(ForwardingStorage):
    """A storage in memory that notes what it is asked for."""

    def __init__(self):
        super().__init__(MemoryStorage())
        self.got, self.listed, self.put_paths = [], [], []

    def get(self, path):
        self.got.append(path)
        return super().get(path)

    def get_optional(self, paths, *, max_bytes):
        self.got += paths
        return super().get_optional(paths, max_bytes=max_bytes)

    def get_many(self, objects):
        self.got += [each.path for each in objects]
        return super().get_many(objects)

    def get_ranges(self, ranges):
        self.got += [each.path for each in ranges]
        return super().get_ranges(ranges)

    def list(self, directory, *, limit=None):
        self.listed.append(directory)
        return super().list(directory, limit=limit)

    def list_directories(self, directory):
        self.listed.append(directory)
        return super().list_directories(directory)

    def put(self, path, data):
        self.put_paths.append(path)
        super().put(path, data)


def rows(*ids):
    return pl.DataFrame({"sample_id": list(ids), "data_version": [{"default": f"v{each}"} for each in ids]})


def fact(facts, key):
    [found] = [each for each in facts.features if each.key == key]
    return found


@pytest.fixture
def store():
    """Two videos and their faces, one of which was then made under another code version."""
    store = InMemoryMetadataStore()
    with FeatureGraph.from_specs([VIDEO, FACES]).use():
        store.write_metadata("video", rows(1, 2, 3))
        store.write_metadata("faces", store.resolve_update("faces").pending, tags={"run": "a", "git": "b"})
    with FeatureGraph.from_specs([VIDEO, NEXT]).use():
        store.write_metadata("faces", store.resolve_update("faces").pending.head(1))
        store.create_snapshot("monday", features=["faces"])
        store.write_metadata("video", rows(4))
    return store


def test_counts_are_those_of_what_was_written(store):
    facts = store_facts(store, graph=None, states=False)
    video, faces = fact(facts, "video"), fact(facts, "faces")
    assert (video.rows, video.commits, faces.rows, faces.commits) == (4, 2, 4, 2)
    assert [each.rows for each in faces.newest] == [1, 3]
    assert faces.newest[1].tags == "git b, run a"
    assert [(each.code, each.commits, each.rows) for each in faces.definitions] == [
        ("default two", 1, 1),
        ("default 1", 1, 3),
    ]
    assert faces.upstream == ["video"]
    assert [(each.name, each.code) for each in faces.containers] == [("default", "two")]
    assert [(each.name, each.features, each.commits) for each in facts.snapshots] == [("monday", ["faces"], 2)]
    assert (video.states, facts.is_declared) == (None, False)


def test_states_are_those_that_an_increment_finds(store):
    with FeatureGraph.from_specs([VIDEO, NEXT]).use() as graph:
        counts = store.resolve_update("faces").counts
        states = fact(store_facts(store, graph=graph, states=True), "faces").states
    assert (states.new, states.stale, states.waiting, states.orphaned) == (1, 2, 0, 0)
    assert (counts.new, counts.stale, counts.waiting, counts.orphaned) == (1, 2, 0, 0)
    assert states.causes == [("code of faces/default 1 to two", 2)]


def test_a_feature_that_is_declared_and_not_written_is_there():
    with FeatureGraph.from_specs([VIDEO, FACES]).use() as graph:
        store = InMemoryMetadataStore()
        store.write_metadata("video", rows(1))
        faces = fact(store_facts(store, graph=graph, states=True), "faces")
    assert (faces.commits, faces.last, faces.timeline, faces.upkeep, faces.states.new) == (0, None, [], [], 1)


def test_upkeep_is_what_compaction_and_vacuum_find():
    store = InMemoryMetadataStore()
    with FeatureGraph.from_specs([VIDEO]).use():
        for number in range(12):
            store.write_metadata("video", rows(number))
    [before] = fact(store_facts(store, graph=None, states=False), "video").upkeep
    assert (before.files, before.manifests, before.due, before.removable) == (12, 12, 12, 0)
    [done] = compact(store)
    [after] = fact(store_facts(store, graph=None, states=False), "video").upkeep
    assert (before.due, before.bytes, after.files, after.bytes) == (
        *(done.commits, done.bytes_before),
        *(done.files_after, done.bytes_after),
    )
    assert (after.manifests, after.due) == (1, 0)
    at_once = {"grace": timedelta(0), "retention": timedelta(0), "unsafe": True, "dry_run": False}
    removals = [each for _ in range(2) for each in vacuum(store, **at_once).removals if each.state == "deleted"]
    sizes = [each.bytes for each in removals if "/_vacuum/" not in each.path]
    assert (after.removable, after.removable_bytes) == (len(sizes), sum(sizes))
    [empty] = fact(store_facts(store, graph=None, states=False), "video").upkeep
    assert (empty.files, empty.bytes, empty.removable) == (after.files, after.bytes, 0)


def test_without_states_a_few_requests_for_each_feature_do_and_no_data_file_is_read():
    storage = Recorded()
    with FeatureGraph.from_specs([VIDEO, FACES]).use():
        store = FilesystemMetadataStore(storage)
        store.write_metadata("video", rows(1, 2))
        for _ in range(12):
            store.write_metadata("faces", store.resolve_update("faces", samples=rows(1, 2)).pending)
            store.write_metadata("video", rows(1, 2))
        compact(store, "faces")
    asked = {}
    for fresh in ("cold", "again"):
        storage.got, storage.listed, storage.put_paths = [], [], []
        store_facts(FilesystemMetadataStore(storage), graph=None, states=False)
        assert [path for path in storage.got if path.endswith(".parquet")] == []
        assert storage.put_paths == []
        asked[fresh] = len(storage.listed), len(storage.got)
    listed, got = asked["cold"]
    assert asked["again"] == asked["cold"]
    assert listed <= 2 + 9 * 2
    assert got <= 13 + 1 + 10  # the manifests that count, and descriptions


def test_what_is_listed_is_bounded_and_what_is_counted_is_not():
    store = InMemoryMetadataStore(tags={"long": "x" * 1_000})
    code = "c" * 10_000
    spec = FeatureSpec(key="video", containers=[ContainerSpec(code_version=code)])
    with FeatureGraph.from_specs([spec]).use():
        for number in range(30):
            store.write_metadata("video", rows(number))
    video = fact(store_facts(store, graph=None, states=False, most_commits=7), "video")
    assert len(video.newest) == 7
    assert sum(each.commits for each in video.timeline) == sum(each.rows for each in video.timeline) == 30
    assert len(video.containers[0].code) == len(video.newest[0].tags) == 200
    assert video.definitions[0].code.endswith("…")


def test_a_feature_that_is_stored_and_fits_no_graph_is_there(store):
    with FeatureGraph.from_specs([VIDEO]).use() as graph:
        assert [each.key for each in store_facts(store, graph=graph, states=True).features] == ["video", "faces"]
    alone = InMemoryMetadataStore()
    with FeatureGraph.from_specs([VIDEO, FACES]).use():
        alone.write_metadata("faces", rows(1))
    facts = store_facts(alone, graph=None, states=True)
    assert [(each.key, each.rows, each.containers) for each in facts.features] == [("faces", 1, [])]
    assert "'faces'" in facts.notes[0]


@pytest.mark.parametrize(("mode", "counts"), [("feature", (1, 1, 1)), ("sample", (3, 2, 2))])
def test_a_chain_counts_the_stores_that_are_read(mode, counts):
    with FeatureGraph.from_specs([VIDEO]).use():
        production = FilesystemMetadataStore(MemoryStorage())
        production.write_metadata("video", rows(1, 2))
        branch = FilesystemMetadataStore(MemoryStorage(), fallback_stores=[production], fallback_mode=mode)
        branch.write_metadata("video", rows(3))
        facts = store_facts(branch, graph=None, states=False)
    assert len(facts.chain) == 2
    video = fact(facts, "video")
    assert (video.rows, len(video.definitions), len(video.upkeep)) == counts


def test_the_timeline_covers_all_of_a_pipeline():
    made = pipeline(5, rounds=4)
    for each in store_facts(made.store, graph=made.graph, states=False).features:
        assert sum(period.commits for period in each.timeline) == each.commits
        assert [period.start for period in each.timeline] == sorted({period.start for period in each.timeline})
