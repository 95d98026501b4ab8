"""Declare a class again: cells that are run again, modules that are loaded again, and what is downstream of them."""

import importlib
import sys
import textwrap

import polars as pl
import pytest

from metaxy_fs import FilesystemMetadataStore
from metaxy_fs.errors import SpecError
from metaxy_fs.spec import ContainerSpec, Feature, FeatureDep, FeatureGraph, FeatureKey, FeatureSpec

CELL = """
class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]), containers=[
        ContainerSpec(key=ContainerKey([name]), code_version=version) for name in containers], deps=[
        FeatureDep(key=FeatureKey([name])) for name in deps])):
    pass
"""
CROP = """
class Crop(Feature, spec=FeatureSpec(key=FeatureKey(["crop"]), deps=[FeatureDep(key=FeatureKey(["video"]))],
        containers=[ContainerSpec(deps=[ContainerDep(feature_key=FeatureKey(["video"]),
        containers=[ContainerKey([made_from])])])])):
    pass
"""
THUMB = """
class Thumb(Feature, spec=FeatureSpec(key=FeatureKey(["thumb"]), deps=[FeatureDep(key=FeatureKey(["crop"]))])):
    pass
"""


@pytest.fixture
def graph():
    with FeatureGraph().use() as graph:
        yield graph


@pytest.fixture
def notebook(graph):
    """Runs cells in one module `__main__`, as a notebook does."""
    names = {"__name__": "__main__"}
    exec("from metaxy_fs import *", names)  # noqa: S102 - as a notebook does

    def run(cell, version=1, containers=("default",), made_from="default", deps=()):
        names.update(version=version, containers=containers, made_from=made_from, deps=deps)
        exec(cell, names)  # noqa: S102
        return names[cell.split()[1].partition("(")[0]]

    return run


def code_version(graph, name):
    return graph.specs[FeatureKey([name])].containers[0].code_version


def rows(**columns):
    return pl.DataFrame({"sample_id": [1], "data_version": [{"default": "v"}], **columns})


def test_cell_may_be_run_again(notebook, graph):
    notebook(CELL)
    assert notebook(CELL).spec == graph.specs[FeatureKey(["video"])]
    assert list(graph.specs) == [FeatureKey(["video"])]


def test_changed_cell_replaces_the_declaration(notebook, graph):
    notebook(CELL, 1)
    assert code_version(graph, "video") == 1
    notebook(CELL, 2)
    assert code_version(graph, "video") == 2


def test_what_is_downstream_is_made_from_the_new_declaration(notebook, tmp_path):
    notebook(CELL, 1)
    crop = notebook(CROP)
    store = FilesystemMetadataStore(tmp_path)
    store.write_metadata(FeatureKey(["video"]), rows())
    store.calculate_and_write_data_versions(crop, pl.DataFrame({"sample_id": [1]}))
    video = notebook(CELL, 2)
    store.write_metadata(video, rows())
    assert store.resolve_update(crop).stale.height == 1
    notebook(CELL, 1)
    assert store.resolve_update(crop).stale.height == 0


def test_new_upstream_comes_before_what_is_made_from_it(notebook, graph):
    notebook(CELL)
    notebook(CROP)
    graph.add(FeatureSpec(key=FeatureKey(["camera"])))
    notebook(CELL, deps=["camera"])
    assert [str(key) for key in graph.specs] == ["camera", "video", "crop"]


def test_declaration_that_closes_a_circle_is_refused(notebook, graph):
    notebook(CELL)
    notebook(CROP)
    with pytest.raises(SpecError, match="circle"):
        notebook(CELL, 2, deps=["crop"])
    assert code_version(graph, "video") == 1


def test_declaration_that_is_wrong_leaves_the_earlier_one(notebook, graph):
    notebook(CELL)
    with pytest.raises(SpecError, match="gone"):
        notebook(CELL, 2, deps=["gone"])
    assert code_version(graph, "video") == 1


# What no longer fits.


@pytest.fixture
def misfits(notebook):
    """Three features in a line, of which the first was declared again without the container that the second names."""
    notebook(CELL, containers=["old"])
    crop, thumb = notebook(CROP, made_from="old"), notebook(THUMB)
    notebook(CELL, containers=["new"])
    return crop, thumb


@pytest.mark.parametrize("place", [0, 1])
def test_feature_that_no_longer_fits_says_what_to_do(misfits, place, tmp_path):
    store = FilesystemMetadataStore(tmp_path)
    for feature in (misfits[place], misfits[place].spec.key):
        with pytest.raises(SpecError, match=r"'(crop|thumb)' no longer fits .*'video' was declared again.*Declare "):
            store.resolve_update(feature)


def test_feature_that_is_declared_again_fits(misfits, notebook, graph):
    notebook(CROP, made_from="new")
    assert [str(key) for key in graph.specs] == ["video", "crop", "thumb"]
    with pytest.raises(SpecError, match="earlier one"):
        FilesystemMetadataStore("/nowhere").resolve_update(misfits[0])


def test_feature_fits_again_with_its_old_upstream(misfits, notebook, graph):
    notebook(CELL, containers=["old"])
    assert [str(key) for key in graph.specs] == ["video", "crop", "thumb"]


def test_feature_on_top_of_one_that_no_longer_fits_is_refused(misfits, graph):
    spec = FeatureSpec(key=FeatureKey(["mask"]), deps=[FeatureDep(key=FeatureKey(["crop"]))])
    with pytest.raises(SpecError, match="Declare 'crop' again"):
        graph.add(spec)


# Old classes, and work that goes on.


def test_class_of_an_earlier_declaration_is_refused(notebook, tmp_path):
    earlier = notebook(CELL, 1)
    notebook(CELL, 2)
    with pytest.raises(SpecError, match=r"__main__\.Video was declared again .* Use the new class"):
        FilesystemMetadataStore(tmp_path).write_metadata(earlier, rows())


def test_class_of_an_equal_earlier_declaration_is_as_good(notebook, tmp_path):
    earlier = notebook(CELL)
    later = notebook(CELL)
    store = FilesystemMetadataStore(tmp_path)
    store.write_metadata(earlier, rows())
    assert store.read_metadata(later).height == 1


def test_open_buffer_goes_on_under_the_declaration_that_it_began_with(notebook, tmp_path):
    earlier, store = notebook(CELL, 1), FilesystemMetadataStore(tmp_path)
    with store.buffered(earlier) as buffer:
        later = notebook(CELL, 2)
        buffer.write(rows())
    assert not store.has_feature(later)
    assert store.has_feature(notebook(CELL, 1))


# Other classes.


def test_class_of_another_name_is_refused(notebook):
    notebook(CELL)
    with pytest.raises(SpecError, match=r"declared by class __main__\.Video"):
        notebook(CELL.replace("class Video", "class Film"))


def test_class_of_another_module_is_refused(notebook):
    notebook(CELL)
    with pytest.raises(SpecError, match=r"declared by class __main__\.Video"):

        class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]))):
            pass


def test_spec_that_was_added_is_not_replaced_by_a_class(notebook, graph):
    graph.add(FeatureSpec(key=FeatureKey(["video"])))
    with pytest.raises(SpecError, match="another key"):
        notebook(CELL)


def declare(key, code_version=1):
    class Made(Feature, spec=FeatureSpec(key=key, containers=[ContainerSpec(code_version=code_version)])):
        pass

    return Made


def test_function_may_declare_many_classes_of_one_name(graph):
    made = [declare(FeatureKey([name])) for name in "abca"]
    assert [str(key) for key in graph.specs] == ["a", "b", "c"]
    assert made[0].spec == made[3].spec


@pytest.mark.usefixtures("graph")
def test_two_classes_of_a_function_do_not_replace_each_other():
    declare(FeatureKey(["a"]), 1)
    with pytest.raises(SpecError, match="with another spec"):
        declare(FeatureKey(["a"]), 2)


def test_module_may_be_loaded_again(graph, tmp_path, monkeypatch):
    file = tmp_path / "pipeline_of_a_test.py"
    source = "from metaxy_fs import *\nversion, containers, deps, made_from = {}, ['{}'], [], '{}'\n" + textwrap.dedent(
        CELL + CROP + THUMB
    ).replace("{", "{{").replace("}", "}}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file.write_text(source.format(1, "old", "old"))
    module = importlib.import_module("pipeline_of_a_test")
    monkeypatch.setitem(sys.modules, "pipeline_of_a_test", module)
    file.write_text(source.format(22, "new", "new"))
    importlib.reload(module)
    assert [str(key) for key in graph.specs] == ["video", "crop", "thumb"]
    assert code_version(graph, "video") == 22


def test_frozen_graph_does_not_change(notebook, graph):
    notebook(CELL, 1)
    frozen = graph.frozen()
    assert graph.frozen() is frozen.frozen() is frozen
    notebook(CELL, 2)
    notebook(CROP)
    assert code_version(frozen, "video") == 1
    assert list(frozen.specs) == [FeatureKey(["video"])]
    assert list(graph.frozen().specs) == list(graph.specs)
