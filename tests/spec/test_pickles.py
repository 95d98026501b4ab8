"""Carry functions that name features of `__main__` into workers, as joblib, Ray, Dask and Spark do."""

import pickle
import subprocess
import sys
import types

import pytest

from metaxy_fs.errors import SpecError
from metaxy_fs.metadata_store.features import require_declaration
from metaxy_fs.spec import Feature, FeatureGraph, FeatureKey, FeatureSpec

NOTEBOOK = """
import sys
from metaxy_fs import *
import polars as pl

class Take(Feature, spec=FeatureSpec(key=FeatureKey(["take"]))):
    pass

class Cut(Feature, spec=FeatureSpec(key=FeatureKey(["cut"]), deps=[FeatureDep(key=FeatureKey(["take"]))])):
    pass

def job(root):
    store = FilesystemMetadataStore(root)
    store.write_metadata(Take, pl.DataFrame({"sample_id": [1], "data_version": [{"default": "v"}]}))
    store.calculate_and_write_data_versions(Cut, pl.DataFrame({"sample_id": [1]}))
    return store.resolve_update(Cut).counts

"""
DUMP = {
    "cloudpickle": "import cloudpickle; sys.stdout.buffer.write(cloudpickle.dumps(job))",
    "dill": "import dill; sys.stdout.buffer.write(dill.dumps(job, recurse=True))",
}


def run(script, *arguments, given=b""):
    done = subprocess.run([sys.executable, "-c", script, *arguments], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.mark.parametrize("dump", DUMP.values(), ids=DUMP)
def test_function_of_main_runs_in_a_worker(dump, tmp_path):
    data = run(NOTEBOOK + dump)
    worker = "import pickle, sys; print(pickle.load(sys.stdin.buffer)(sys.argv[1]))"
    here = run(NOTEBOOK + "print(job(sys.argv[1]))", str(tmp_path / "here"))
    assert run(worker, str(tmp_path / "there"), given=data) == here


def test_function_of_main_runs_in_joblib(tmp_path):
    call = """
from joblib import Parallel, delayed
print(*Parallel(n_jobs=2, backend="loky")(delayed(job)(f"{sys.argv[1]}/{n}") for n in range(2)), sep="\\n")
"""
    first, second = run(NOTEBOOK + call, str(tmp_path)).decode().splitlines()
    assert first == second == run(NOTEBOOK + "print(job(sys.argv[1]))", str(tmp_path / "here")).decode().strip()


def test_class_of_main_is_carried_by_dill():
    data = run(NOTEBOOK + "import dill; sys.stdout.buffer.write(dill.dumps(Cut))")
    worker = "import dill, sys; cut = dill.load(sys.stdin.buffer); print(cut.spec.key, *map(str, cut.graph.specs))"
    assert run(worker, given=data).split() == [b"cut", b"take", b"cut"]


def test_function_that_returns_to_its_process_names_the_very_feature():
    script = """
import cloudpickle
again = cloudpickle.loads(cloudpickle.dumps(Cut))
print(again is Cut, again.graph is FeatureGraph.active())
"""
    assert run(NOTEBOOK + script).split() == [b"True", b"True"]


def test_graph_is_the_same_where_it_was_pickled_and_an_equal_one_elsewhere():
    graph = FeatureGraph.from_specs([FeatureSpec(key=FeatureKey(["a"])), FeatureSpec(key=FeatureKey(["b"]))])
    data = pickle.dumps(graph)
    assert pickle.loads(data) is graph  # noqa: S301 - made above
    graph.add(FeatureSpec(key=FeatureKey(["c"])))
    assert [str(key) for key in pickle.loads(data).specs] == ["a", "b"]  # noqa: S301


def test_empty_class_is_refused_where_it_is_used():
    empty = types.new_class("Empty", (Feature,))
    with pytest.raises(SpecError, match="class Empty"):
        require_declaration(empty)


def test_class_whose_base_has_a_hook_of_its_own_is_refused_without_a_spec():
    class Named:
        def __init_subclass__(cls, **kwargs):
            super().__init_subclass__(**kwargs)

    with pytest.raises(SpecError, match="class Video"):

        class Video(Named, Feature):
            pass
