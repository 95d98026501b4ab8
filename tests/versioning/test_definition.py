"""The versions of definitions are those of the formula, now and forever."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs.spec import (
    ALL,
    SAME_NAME,
    ContainerDep,
    ContainerKey,
    ContainerSpec,
    FeatureDep,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
)
from metaxy_fs.versioning.definition import definition_version
from tests.versioning import lineage_graph
from tests.versioning.reference import definition_versions, feature_graph, sha256, upstream_of
from tests.versioning.strategies import dep_options, graphs


def golden(name):
    return json.loads((Path(__file__).parent / "golden" / name).read_text(encoding="utf-8"))


GOLDEN, LINEAGE = golden("definitions.json"), golden("lineage_definitions.json")
VIDEO, AUDIO, FACES, REPORT = ("video", "processing"), ("audio",), ("faces",), ("report",)
GRAPH = {
    VIDEO: {"frames": (1, []), "audio": (2, [])},
    AUDIO: {"default": ("v1", [])},
    FACES: {
        "boxes": (3, [(VIDEO, "frames")]),
        "names": ("2026-11", [(VIDEO, "frames"), (VIDEO, "audio"), (AUDIO, "default")]),
    },
    REPORT: {"default": (1, [(FACES, "names"), (FACES, "boxes"), (AUDIO, "default")]), "fixed": (1, [])},
}


def computed(graph, **options):
    declared = feature_graph(graph, **options)
    found = {feature: definition_version(declared, FeatureKey(feature)) for feature in graph}
    return {feature: {"version": each.version, "containers": each.containers} for feature, each in found.items()}


def test_versions_of_a_fixed_graph_never_change():
    assert {".".join(feature): found for feature, found in computed(GRAPH).items()} == GOLDEN


def test_golden_versions_are_those_of_the_formula():
    assert {".".join(feature): found for feature, found in definition_versions(GRAPH).items()} == GOLDEN


def test_versions_of_a_fixed_graph_of_all_relations_never_change():
    found = computed(lineage_graph.GRAPH, deps=lineage_graph.DEPS, id_columns=lineage_graph.ID_COLUMNS)
    assert {".".join(feature): each for feature, each in found.items()} == LINEAGE


def test_golden_versions_of_all_relations_are_those_of_the_formula():
    found = definition_versions(lineage_graph.GRAPH, lineage_graph.DEPS, id_columns=lineage_graph.ID_COLUMNS)
    assert {".".join(feature): each for feature, each in found.items()} == LINEAGE


def test_what_a_dep_says_is_spelled_out():
    graph = {AUDIO: {"x": (1, []), "y": (1, [])}, FACES: {"all": (1, [(AUDIO, "x"), (AUDIO, "y")]), "none": (1, [])}}
    x, y, said = sha256("audio/x|1"), sha256("audio/y|1"), sha256('{"optional":true,"rename":{"é":"sample_id"}}')
    deps = {(FACES, AUDIO): {"where": "x > 'é'", "optional": True, "rename": {"é": "sample_id"}, "columns": ["y"]}}
    found = computed(graph, deps=deps, id_columns={AUDIO: ["é"]})
    assert found[FACES]["containers"] == {
        "all": sha256(f"faces/all|1|audio/x|{x}|audio/y|{y}|audio?|{said}"),
        "none": sha256("faces/none|1"),
    }


@pytest.mark.parametrize("said", [{"where": "x > 1"}, {"columns": ["y"]}, {"columns": ["y"], "rename": {"y": "z"}}])
def test_what_samples_are_not_made_from_is_no_part_of_a_definition(said):
    graph = {AUDIO: {"x": (1, [])}, FACES: {"all": (1, [(AUDIO, "x")])}}
    assert computed(graph, deps={(FACES, AUDIO): said}) == computed(graph)


def test_version_of_the_smallest_graph_is_spelled_out():
    container = sha256("video/default|1")
    found = definition_version(FeatureGraph.from_specs([FeatureSpec(key=FeatureKey(["video"]))]), FeatureKey(["video"]))
    assert (found.containers, found.version) == ({"default": container}, sha256(f"default|{container}"))
    assert found.partition == found.version[:16]


@given(graphs())
def test_versions_are_those_of_the_formula(drawn):
    graph, implicit = drawn
    assert computed(graph, implicit=implicit) == definition_versions(graph)


@given(graphs(), st.data())
def test_versions_are_those_of_the_formula_whatever_the_deps_say(drawn, data):
    graph, implicit = drawn
    pairs = [(feature, above) for feature, containers in graph.items() for above in upstream_of(containers)]
    deps = {pair: data.draw(dep_options) for pair in pairs}
    assert computed(graph, implicit=implicit, deps=deps) == definition_versions(graph, deps)


@given(graphs(), st.data())
def test_versions_say_what_is_versioned_by_content(drawn, data):
    graph, implicit = drawn
    content = data.draw(st.sets(st.sampled_from(parts_of_derived(graph)))) if parts_of_derived(graph) else set()
    assert computed(graph, implicit=implicit, content=content) == definition_versions(graph, content=content)


def parts_of_derived(graph):
    return [(feature, name) for feature, parts in graph.items() if upstream_of(parts) for name in parts]


def test_container_that_is_versioned_by_content_is_spelled_out():
    graph = {AUDIO: {"x": (1, [])}, FACES: {"boxes": (2, [(AUDIO, "x")]), "names": (2, [(AUDIO, "x")])}}
    x = sha256("audio/x|1")
    assert computed(graph, content={(FACES, "boxes")})[FACES]["containers"] == {
        "boxes": sha256(f"faces/boxes|2|content|audio/x|{x}"),
        "names": sha256(f"faces/names|2|audio/x|{x}"),
    }


def of_same_name(name):
    """The version of a container that is made from those of its name, and of one that names them."""
    graph = feature_graph({VIDEO: {"frames": (1, []), "audio": (2, [])}, AUDIO: {"left": (1, []), "right": (1, [])}})
    deps = [FeatureDep(key=FeatureKey(VIDEO)), FeatureDep(key=FeatureKey(AUDIO))]
    by_hand = [
        ContainerDep(feature_key=FeatureKey(VIDEO), containers=[ContainerKey([name])] if name == "audio" else ALL),
        ContainerDep(feature_key=FeatureKey(AUDIO), containers=ALL),
    ]
    found = []
    for containers in (SAME_NAME, by_hand):
        container = ContainerSpec(key=ContainerKey([name]), deps=containers)
        spec = FeatureSpec(key=FeatureKey(FACES), deps=deps, containers=[container])
        whole = FeatureGraph.from_specs([*graph.specs.values(), spec])
        found.append(definition_version(whole, spec.key))
    return found


@pytest.mark.parametrize("name", ["audio", "faces"])
def test_same_name_means_what_naming_the_containers_means(name):
    by_name, by_hand = of_same_name(name)
    assert by_name == by_hand


def test_same_name_is_not_all_where_an_upstream_has_the_name():
    (audio, _), (faces, _) = of_same_name("audio"), of_same_name("faces")
    frames, sound = sha256("video_processing/frames|1"), sha256("video_processing/audio|2")
    left_right = f"audio/left|{sha256('audio/left|1')}|audio/right|{sha256('audio/right|1')}"
    assert audio.containers == {"audio": sha256(f"faces/audio|1|{left_right}|video_processing/audio|{sound}")}
    above = f"video_processing/audio|{sound}|video_processing/frames|{frames}"
    assert faces.containers == {"faces": sha256(f"faces/faces|1|{left_right}|{above}")}


@given(graphs(), st.data())
def test_bumped_code_moves_exactly_what_is_made_from_it(drawn, data):
    graph, implicit = drawn
    feature = data.draw(st.sampled_from(list(graph)))
    container = data.draw(st.sampled_from(list(graph[feature])))
    code, sources = graph[feature][container]
    bumped = {**graph, feature: {**graph[feature], container: (f"{code}+", sources)}}
    moved = {(feature, container)}
    for each, containers in graph.items():
        moved |= {(each, name) for name, (_, above) in containers.items() if moved.intersection(above)}

    before, after = computed(graph, implicit=implicit), computed(bumped, implicit=implicit)
    assert moved == {
        (each, name)
        for each in graph
        for name in graph[each]
        if before[each]["containers"][name] != after[each]["containers"][name]
    }
    assert {each for each, _ in moved} == {each for each in graph if before[each]["version"] != after[each]["version"]}


def test_order_of_declaration_changes_nothing():
    reordered = {
        **{feature: GRAPH[feature] for feature in (AUDIO, VIDEO)},
        **{feature: dict(reversed(GRAPH[feature].items())) for feature in (FACES, REPORT)},
    }
    assert computed(reordered) == computed(GRAPH)


def test_deep_graph_needs_no_deep_recursion():
    graph = {("f", f"{at}"): {"default": (1, [(("f", f"{at - 1}"), "default")] if at else [])} for at in range(2000)}
    assert computed(graph) == definition_versions(graph)


def test_version_follows_a_declaration_that_is_replaced():
    def video(code_version):
        return FeatureSpec(key=FeatureKey(["video"]), containers=[ContainerSpec(code_version=code_version)])

    graph = FeatureGraph()
    graph.declare(video(1), by="cell.Video")
    frozen = graph.frozen()
    graph.declare(video(2), by="cell.Video")
    assert definition_version(graph, FeatureKey(["video"])).containers == {"default": sha256("video/default|2")}
    assert definition_version(frozen, FeatureKey(["video"])).containers == {"default": sha256("video/default|1")}


def test_feature_that_the_graph_lacks_has_no_version():
    with pytest.raises(KeyError):
        definition_version(FeatureGraph(), FeatureKey(["gone"]))


def test_pickled_declarations_have_the_same_version_in_another_process():
    keys = [FeatureKey(["a"]), FeatureKey(["b"])]
    spec = FeatureSpec(key=keys[1], deps=[FeatureDep(key=keys[0])])
    graph = FeatureGraph.from_specs([FeatureSpec(key=keys[0]), spec])
    # Where the graph was pickled, the pickle stands for itself.
    sent = subprocess.run(
        [sys.executable, "-c", _VERSION_OF_PICKLED], input=pickle.dumps(graph), capture_output=True, check=True
    )
    assert sent.stdout.decode() == definition_version(graph, keys[1]).version


_VERSION_OF_PICKLED = """
import pickle, sys
graph = pickle.load(sys.stdin.buffer)
from metaxy_fs.spec import FeatureKey
from metaxy_fs.versioning.definition import definition_version
print(definition_version(graph, FeatureKey(["b"])).version, end="")
"""
