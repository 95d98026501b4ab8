"""The graph that is read from a store is the one that was declared."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs import (
    ContainerDep,
    ContainerSpec,
    FeatureDep,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    InMemoryMetadataStore,
    StorageError,
    open_store,
)
from metaxy_fs.versioning.definition import definition_version
from tests.golden.compacted import Clip, ClipBefore
from tests.golden.content import Scan
from tests.golden.contents import Video
from tests.golden.prepared import Tile
from tests.golden.retired import Take
from tests.support.examples import examples
from tests.versioning.lineage_strategies import histories

ROOTS = sorted((Path(__file__).parents[1] / "golden").glob("format-*"))


def spec(name, *upstream, code=1, container="default", **options):
    made = ContainerSpec(key=container, code_version=code, **options)
    return FeatureSpec(key=name, deps=[FeatureDep(key=above) for above in upstream], containers=[made])


def write(store, graph, *names):
    """One row, of versions that do not matter."""
    for name in names:
        versions = [dict.fromkeys(graph[name].container_names, "v")]
        with graph.use():
            store.write_metadata(name, pl.DataFrame({"sample_id": [1], "data_version": versions}))


def kinds(graph):
    return {(note.kind, str(note.feature)) for note in graph.notes}


@given(histories())
@examples(40)
def test_graph_of_a_store_is_the_declared_one(history):
    store = InMemoryMetadataStore()
    history.replay(store)
    declared, read = history.model.graph, FeatureGraph.from_store(store)
    assert dict(read.specs) == {key: declared.specs[key] for key in read.specs}
    assert {note.kind for note in read.notes} <= {"left out"}
    written = set(store.list_features())
    assert {note.feature for note in read.notes} == written.difference(read.specs)
    for key in written.difference(read.specs):
        assert not all(dep.key in read.specs for dep in declared.specs[key].deps)


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: root.name)
def test_graph_of_a_golden_root_is_the_declared_one(root):
    # The last commit of clips is one under their first definition. So shots are half migrated, and scenes with them,
    # whose definitions also hold the `where` of their deps, as they did in earlier versions of metaxy_fs.
    clip = {**Clip.graph.specs, ClipBefore.spec.key: ClipBefore.spec}
    declared = next(
        specs
        for specs in (Video.graph.specs, Take.graph.specs, Scan.graph.specs, Tile.graph.specs, clip)
        if root.joinpath(next(iter(specs)).dotted).exists()
    )
    read = FeatureGraph.from_store(FilesystemMetadataStore(root))
    assert read.specs == declared
    assert {str(note.feature) for note in read.notes} == ({"shot", "scene"} if declared is clip else set())


@st.composite
def runs(draw):
    """A graph of features 0, 1, ..., each made from some before it, and which of them run after which code changes."""
    count = draw(st.integers(1, 5))
    upstream = [draw(st.lists(st.integers(0, at - 1), unique=True, max_size=2)) if at else [] for at in range(count)]
    steps = draw(
        st.lists(st.tuples(st.integers(0, count - 1), st.integers(1, 3), st.integers(0, count - 1)), max_size=8)
    )
    return upstream, steps


@given(runs())
@examples(30)
def test_feature_is_half_migrated_where_its_upstream_was_run_under_other_code_since(drawn):
    upstream, steps = drawn
    code, store = [1] * len(upstream), InMemoryMetadataStore()

    def meaning(at, codes):
        """What a definition says, spelled out."""
        return codes[at], [meaning(above, codes) for above in upstream[at]]

    def graph():
        return FeatureGraph.from_specs(
            spec(f"f/{at}", *(f"f/{above}" for above in upstream[at]), code=code[at]) for at in range(len(upstream))
        )

    written = {}
    for feature, to, run in [*((at, 1, at) for at in range(len(upstream))), *steps]:
        code[feature] = to
        write(store, graph(), f"f/{run}")
        written[run] = (code[run], meaning(run, code))

    last = [written[at][0] for at in range(len(upstream))]
    expected = {f"f/{at}" for at in range(len(upstream)) if written[at][1] != meaning(at, last)}
    read = FeatureGraph.from_store(store)
    assert {str(key): each.containers[0].code_version for key, each in read.specs.items()} == {
        f"f/{at}": last[at] for at in range(len(upstream))
    }
    assert {str(note.feature) for note in read.notes} == expected


def test_note_names_the_upstream_definition_that_was_replaced():
    store = InMemoryMetadataStore()
    before = FeatureGraph.from_specs([spec("video"), spec("audio"), spec("crop", "video", "audio")])
    write(store, before, "video", "audio", "crop")
    after = FeatureGraph.from_specs(
        [spec("video", code=2, container="other"), spec("audio"), spec("crop", "video", "audio")]
    )
    write(store, after, "video")

    [note] = FeatureGraph.from_store(store).notes
    assert (note.kind, note.feature, note.upstream) == ("half migrated", FeatureKey(["crop"]), (FeatureKey(["video"]),))
    assert definition_version(before, FeatureKey(["video"])).partition in str(note)


def test_partition_of_the_last_commit_counts():
    store = InMemoryMetadataStore()
    old, new = (FeatureGraph.from_specs([spec("video", code=code)]) for code in (1, 2))
    for graph in (old, new, old):
        write(store, graph, "video")
    assert FeatureGraph.from_store(store).specs == old.specs


def test_nearest_store_counts_and_disagreement_is_named():
    production, branch = InMemoryMetadataStore(), InMemoryMetadataStore()
    old = FeatureGraph.from_specs([spec("video"), spec("crop", "video")])
    new = FeatureGraph.from_specs([spec("video"), spec("crop", "video", code=2)])
    write(branch, new, "crop")
    write(production, old, "video", "crop")
    chained = InMemoryMetadataStore(fallback_stores=[production])
    write(chained, new, "crop")

    read = FeatureGraph.from_store(chained)
    assert read.specs == new.specs
    assert kinds(read) == {("disagreement", "crop")}
    assert read.notes[0].stores == (chained.location, production.location)
    assert "of different declarations" in str(read.notes[0])


def test_what_does_not_fit_is_left_out_with_the_reason():
    store = InMemoryMetadataStore()
    dep = ContainerDep(feature_key="video", containers=["frames"])
    before = FeatureGraph.from_specs([spec("video", container="frames"), spec("crop", "video", deps=[dep])])
    write(store, before, "video", "crop")
    write(store, FeatureGraph.from_specs([spec("video", container="pixels")]), "video")

    read = FeatureGraph.from_store(store)
    assert [str(key) for key in read.specs] == ["video"]
    assert kinds(read) == {("left out", "crop")}
    assert "ContainerKey(['frames'])" in str(read.notes[0])


def test_circle_of_two_moments_is_broken_at_what_was_written_first():
    store = InMemoryMetadataStore()
    write(store, FeatureGraph.from_specs([spec("a"), spec("b", "a")]), "a", "b")
    write(store, FeatureGraph.from_specs([spec("b"), spec("a", "b")]), "a")
    read = FeatureGraph.from_store(store)
    assert kinds(read) == {("left out", "b"), ("left out", "a")}


def test_moment_has_the_graph_of_then():
    store = InMemoryMetadataStore()
    old, new = (FeatureGraph.from_specs([spec("video", code=code)]) for code in (1, 2))
    write(store, old, "video")
    store.create_snapshot("then")
    write(store, new, "video")
    assert FeatureGraph.from_store(store.at("then")).specs == old.specs
    assert FeatureGraph.from_store(store).specs == new.specs


def test_place_where_nothing_was_written_has_no_graph(tmp_path):
    with pytest.raises(StorageError, match="Nothing was ever written to"):
        FeatureGraph.from_store(open_store(tmp_path / "nothing"))
    chained = open_store(tmp_path / "nothing", tmp_path / "root")
    write(open_store(tmp_path / "root"), FeatureGraph.from_specs([spec("video")]), "video")
    assert list(map(str, FeatureGraph.from_store(chained).specs)) == ["video"]


def test_graph_that_was_read_can_be_used():
    store = InMemoryMetadataStore()
    graph = FeatureGraph.from_specs([spec("video"), spec("crop", "video")])
    write(store, graph, "video")
    write(store, graph, "crop")
    with FeatureGraph.from_store(store).use():
        assert store.resolve_update("crop").counts.stale == 1
