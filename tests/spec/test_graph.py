"""A graph holds only features that make sense together, and is active where it was asked to be."""

import asyncio
import itertools
import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs.errors import SpecError
from metaxy_fs.spec import (
    ContainerDep,
    ContainerKey,
    ContainerSpec,
    Feature,
    FeatureDep,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
)


def key(name):
    return FeatureKey(name.split("."))


def spec(name, *upstream, containers=("default",), **options):
    made = [each if isinstance(each, ContainerSpec) else ContainerSpec(key=ContainerKey([each])) for each in containers]
    return FeatureSpec(
        key=key(name), deps=[FeatureDep(key=key(above)) for above in upstream], containers=made, **options
    )


def made_from(feature, *containers):
    deps = [ContainerDep(feature_key=key(feature), containers=[ContainerKey([name]) for name in containers])]
    return ContainerSpec(key=ContainerKey(["made"]), deps=deps)


def refusal(*specs):
    graph = FeatureGraph.from_specs(specs[:-1])
    held = dict(graph.specs)
    with pytest.raises(SpecError) as caught:
        graph.add(specs[-1])
    assert graph.specs == held
    return str(caught.value)


# What a graph refuses.


def test_second_feature_of_a_key_is_refused():
    assert "FeatureKey(['a'])" in refusal(spec("a"), spec("a"))


def test_second_feature_of_a_key_string_is_refused():
    message = refusal(spec("a_b"), spec("a.b"))
    assert "FeatureKey(['a_b'])" in message
    assert "FeatureKey(['a', 'b'])" in message


def test_upstream_that_the_graph_lacks_is_refused():
    message = refusal(spec("a"), spec("b", "a", "gone"))
    assert "'b'" in message
    assert "'gone'" in message


def test_upstream_that_is_spelled_like_another_feature_is_refused():
    message = refusal(spec("a_b"), spec("c", "a.b"))
    assert "depends on 'a/b'" in message
    assert "it holds 'a_b'. Did you mean 'a_b'?" in message


def test_feature_that_depends_on_itself_is_refused():
    assert "'a' depends on itself" in refusal(spec("a", "a"))


def test_container_dep_on_a_feature_that_is_not_upstream_is_refused():
    message = refusal(spec("a"), spec("b"), spec("c", "a", containers=[made_from("b", "default")]))
    assert all(name in message for name in ("'made'", "'c'", "'b'", "['a']"))


def test_container_dep_on_the_upstream_of_an_upstream_is_refused():
    assert "'a'" in refusal(spec("a"), spec("b", "a"), spec("c", "b", containers=[made_from("a", "default")]))


def test_container_dep_on_a_container_that_the_upstream_lacks_is_refused():
    message = refusal(spec("a", containers=["x", "y"]), spec("b", "a", containers=[made_from("a", "x", "z")]))
    assert "ContainerKey(['z'])" in message
    assert "[ContainerKey(['x']), ContainerKey(['y'])]" in message


def test_id_columns_that_are_not_those_of_the_upstream_are_refused():
    message = refusal(spec("a", id_columns=["x", "y"]), spec("b", "a", id_columns=["x"]))
    assert "['x', 'y']" in message
    assert "'b'" in message


def test_id_columns_may_come_in_another_order():
    specs = [spec("a", id_columns=["x", "y"]), spec("b", "a", id_columns=["y", "x"])]
    assert list(FeatureGraph.from_specs(specs).specs) == [key("a"), key("b")]


# How the id columns of both sides fit together.

RELATIONS = [
    ("one_to_one", ["x", "y"], ["y", "x"], {}),
    ("one_to_one", ["a"], ["x"], {"a": "x"}),
    ("one_to_one", ["x", "y"], ["x", "y"], {"x": "y", "y": "x"}),
    ("aggregation", ["x", "y"], ["x"], {}),
    ("aggregation", ["y"], ["x"], {}),
    ("aggregation", ["a", "y"], ["x"], {"a": "x"}),
    ("aggregation", ["x", "y"], ["x", "z"], {}),
    ("aggregation", ["x"], ["x"], {"x": "z", "y": "x"}),
    ("expansion", ["x"], ["x", "y"], {}),
    ("expansion", ["x"], ["y", "x"], {"x": "y"}),
]


@pytest.mark.parametrize(("relation", "above", "own", "rename"), RELATIONS)
def test_id_columns_fit_the_relation(relation, above, own, rename):
    specs = [spec("a", id_columns=above), related("b", "a", relation, own, rename)]
    assert list(FeatureGraph.from_specs(specs).specs) == [key("a"), key("b")]


IMPOSSIBLE = {
    "fewer than upstream": ("one_to_one", ["x", "y"], ["x"], {}, 'relation="aggregation"'),
    "more than upstream": ("one_to_one", ["x"], ["x", "y"], {}, 'relation="expansion"'),
    "others after the renames": ("one_to_one", ["x"], ["x"], {"x": "y"}, r"\['y'\] after the renames"),
    "a group of one row": ("aggregation", ["x"], ["x"], {}, "several upstream rows"),
    "a group of one row that others name": ("aggregation", ["x"], ["x", "y"], {}, "several upstream rows"),
    "a group by what is renamed": ("aggregation", ["x", "y"], ["x"], {"x": "z"}, "groups the rows.*'x'.*'z'"),
    "an expansion that adds nothing": ("expansion", ["x"], ["x"], {}, "at least one more"),
    "an expansion that loses something": ("expansion", ["x", "y"], ["x", "z"], {}, "at least one more"),
    "two id columns of one name": ("expansion", ["x"], ["x", "y"], {"z": "x"}, "rename that one too"),
}


@pytest.mark.parametrize(("relation", "above", "own", "rename", "named"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_id_columns_that_do_not_fit_the_relation_are_refused(relation, above, own, rename, named):
    message = refusal(spec("a", id_columns=above), related("b", "a", relation, own, rename))
    assert re.search(named, message)
    assert "'a'" in message
    assert "'b'" in message


def related(name, above, relation, id_columns, rename):
    dep = FeatureDep(key=key(above), relation=relation, rename=rename)
    return FeatureSpec(key=key(name), deps=[dep], id_columns=id_columns)


# Declarations in any order.


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_specs_may_come_in_any_order(order):
    specs = [spec("a"), spec("b", "a"), spec("c", "a"), spec("d", "b", "c")]
    found = list(FeatureGraph.from_specs([specs[place] for place in order]).specs)
    assert sorted(found) == [each.key for each in specs]
    assert found[0] == key("a")
    assert found[-1] == key("d")


@given(st.lists(st.sets(st.integers(0, 7)), min_size=1, max_size=8))
def test_graph_is_refused_if_and_only_if_it_has_a_circle(upstream):
    names = [f"f{place}" for place in range(len(upstream))]
    above = [{place for place in places if place < len(names)} for places in upstream]
    specs = [spec(name, *(names[place] for place in sorted(above[at]))) for at, name in enumerate(names)]
    if not is_orderable(above):
        with pytest.raises(SpecError, match="circle"):
            FeatureGraph.from_specs(specs)
        return
    seen = set()
    for each in FeatureGraph.from_specs(specs).specs:
        at = names.index(str(each))
        assert above[at] <= seen
        seen.add(at)
    assert len(seen) == len(names)


def is_orderable(above):
    """Take away what has nothing above it until nothing is left, or nothing can be taken."""
    left = set(range(len(above)))
    while ready := {place for place in left if not above[place] & left}:
        left -= ready
    return not left


def test_circle_is_spelled_out():
    with pytest.raises(SpecError) as caught:
        FeatureGraph.from_specs([spec("top"), spec("a", "c", "top"), spec("b", "a"), spec("c", "b")])
    circle = str(caught.value).partition("circle: ")[2].partition(".")[0].split(" -> ")
    assert circle[0] == circle[-1]
    assert set(circle) == {"a", "b", "c"}


def test_second_spec_of_a_key_is_refused_among_many():
    with pytest.raises(SpecError, match="'a'"):
        FeatureGraph.from_specs([spec("a"), spec("b", "a"), spec("a")])


def test_missing_upstream_is_named_among_many():
    with pytest.raises(SpecError, match=r"'b'.*'gone'"):
        FeatureGraph.from_specs([spec("b", "gone"), spec("a")])


def test_upstream_is_sorted_by_key_string():
    graph = FeatureGraph.from_specs([spec("b"), spec("a_c"), spec("a.b"), spec("leaf", "b", "a_c", "a.b")])
    assert [str(above.key) for above in graph.upstream(graph.specs[key("leaf")])] == ["a/b", "a_c", "b"]


def test_specs_cannot_be_changed_from_outside():
    with pytest.raises(TypeError):
        FeatureGraph().specs[key("a")] = spec("a")


# Classes.


def test_class_without_a_spec_is_refused():
    with pytest.raises(SpecError, match="class Video"):

        class Video(Feature):
            pass


def test_refused_class_leaves_the_graph_as_it_was():
    graph = FeatureGraph()
    with graph.use(), pytest.raises(SpecError, match="gone"):

        class Video(Feature, spec=spec("video", "gone")):
            pass

    assert graph.specs == {}


def test_class_joins_the_graph_that_is_active_where_it_is_declared():
    outer, inner = FeatureGraph(), FeatureGraph()
    with outer.use():
        with inner.use():

            class Inner(Feature, spec=spec("inner")):
                pass

        class Outer(Feature, spec=spec("outer")):
            pass

    assert (Inner.graph, Outer.graph) == (inner, outer)
    assert (list(inner.specs), list(outer.specs)) == ([key("inner")], [key("outer")])


# Which graph is active.


def test_graph_is_active_inside_its_block_only():
    graph, before = FeatureGraph(), FeatureGraph.active()
    with graph.use() as used:
        assert used is graph
        assert FeatureGraph.active() is graph
    assert FeatureGraph.active() is before


def test_graph_is_no_longer_active_after_an_error():
    before = FeatureGraph.active()
    with pytest.raises(ZeroDivisionError), FeatureGraph().use():
        _ = 1 // 0
    assert FeatureGraph.active() is before


def test_threads_do_not_see_each_others_graph():
    shared, gate, seen = FeatureGraph.active(), threading.Barrier(3), {}

    def run(name):
        graph = FeatureGraph()
        with graph.use():
            gate.wait()
            seen[name] = FeatureGraph.active() is graph
            gate.wait()

    threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    gate.wait()
    outside = FeatureGraph.active() is shared
    gate.wait()
    for thread in threads:
        thread.join()
    assert (seen, outside) == ({"a": True, "b": True}, True)


def test_tasks_do_not_see_each_others_graph():
    async def run(graph):
        with graph.use():
            await asyncio.sleep(0)
            return FeatureGraph.active() is graph

    async def both():
        return await asyncio.gather(run(FeatureGraph()), run(FeatureGraph()))

    assert asyncio.run(both()) == [True, True]


def test_task_sees_the_graph_that_was_active_where_it_was_started():
    async def active():
        return FeatureGraph.active()

    async def start(graph):
        with graph.use():
            task = asyncio.create_task(active())
        return await task

    graph = FeatureGraph()
    assert asyncio.run(start(graph)) is graph


def test_feature_of_a_graph_is_found_by_its_text():
    graph = FeatureGraph.from_specs([spec("video.frames"), spec("crop", "video.frames")])
    assert graph["video/frames"] is graph[key("video.frames")] is graph.specs[key("video.frames")]
    assert "video/frames" in graph
    assert "video_frames" not in graph
    with pytest.raises(
        SpecError, match=r"no feature 'video_frames'; it has 'crop', 'video/frames'\. Did you mean 'vid"
    ):
        graph["video_frames"]
