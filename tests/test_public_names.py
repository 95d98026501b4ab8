"""Completion shows what users call and nothing else, and the API reference has each public name on one page."""

import ast
import re
from pathlib import Path

import polars as pl
import pytest

import metaxy_fs
from metaxy_fs import (
    Feature,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
    InMemoryMetadataStore,
    metadata_store,
    sources,
    storage,
    testing,
)
from metaxy_fs.cli.answers import DeclaredFeature
from metaxy_fs.cli.output import Answer
from metaxy_fs.cli.schema import ANSWERS
from metaxy_fs.metadata_store.backend import Backend

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
EXTENSIONS = sorted(Path(metaxy_fs.__file__).parent.glob("ext/[!_]*.py"))

STORE = """
    at buffered calculate_and_write_data_versions calculate_data_versions check commit_prepared create_snapshot diff
    drop_snapshot explain fallback_mode fallback_stores files fingerprint has_feature hash_algorithm history
    list_features list_snapshots location materialize plan plan_read plan_update prepare_write read_metadata
    read_upstream_metadata rebase resolve_update restore retire scan_metadata tags trace what_if write_metadata
"""

with FeatureGraph().use() as GRAPH:

    class Frames(Feature, spec=FeatureSpec(key=FeatureKey(["frames"]))):
        pass


ROWS = pl.DataFrame({"sample_id": [1], "data_version": [{"default": "a"}]})


def completed(thing):
    return " ".join(name for name in dir(thing) if not name.startswith("_"))


@pytest.fixture
def store(tmp_path):
    store = FilesystemMetadataStore(tmp_path)
    store.write_metadata(Frames, ROWS)
    return store


def test_stores_show_what_users_call(store):
    assert completed(store) == " ".join(sorted([*STORE.split(), "storage"]))
    assert set(completed(InMemoryMetadataStore()).split()) - {"storage"} == set(STORE.split())


def test_a_store_at_a_snapshot_shows_what_others_do(store):
    store.create_snapshot("monday")
    assert completed(store.at("monday")) == " ".join(sorted(STORE.split()))


def test_increments(store):
    increment = store.resolve_update(Frames, samples=ROWS)
    assert completed(increment) == "concat counts lazy new orphaned pending retired stale waiting"
    assert completed(increment.lazy()) == "collect counts new orphaned pending stale waiting"


def test_a_buffer(store):
    with store.buffered(Frames) as buffer:
        assert completed(buffer) == "flush write"


def test_declarations():
    assert completed(Frames) == "graph spec"
    assert completed(GRAPH) == "active add from_specs from_store notes specs use"
    assert completed(Frames.spec) == "container_names containers dep deps id_columns is_root key"
    assert completed(Frames.spec.key) == "dotted parse parts string"


def test_what_backends_implement_is_public_and_hidden(store):
    public = {name for name in dir(Backend) if not name.startswith("_")}
    assert public - set(STORE.split()) == {
        *("after_commits", "append_rows", "commit_prepared_rows", "has_version", "identity", "is_written"),
        *("prepare_rows", "refuse_types", "scan_rows"),
        *("list_files", "snapshot_storage"),
        *("stored_commits", "stored_features", "stored_holdings", "stored_specs", "stored_versions", "takes_chunks"),
    }
    assert all(hasattr(store, name) for name in public)


def named_in(module):
    """The names in the `__all__` of a module that need not be importable here; a part of another one has none."""
    body = ast.parse(module.read_text("utf-8")).body
    found = [each.value for each in body if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "__all__"]
    return [name for names in found for name in ast.literal_eval(names)]


def test_the_reference_has_each_public_name_on_one_page():
    pages = {path: re.findall(r"^::: (\S+)", path.read_text("utf-8"), re.MULTILINE) for path in REFERENCE.glob("*.md")}
    shown = [name for names in pages.values() for name in names]
    expected = [f"metaxy_fs.{name}" for name in metaxy_fs.__all__ if name != "__version__"]
    expected += [f"metaxy_fs.storage.{name}" for name in storage.__all__]
    expected += [f"metaxy_fs.sources.{name}" for name in sources.__all__]
    expected += [f"metaxy_fs.testing.{name}" for name in testing.__all__]
    expected += [f"metaxy_fs.ext.{module.stem}.{name}" for module in EXTENSIONS for name in named_in(module)]
    of_backends = sorted(set(metadata_store.__all__) - set(metaxy_fs.__all__))
    expected += [f"metaxy_fs.metadata_store.{name}" for name in [*of_backends, "backend.Backend"]]
    answers = [kind for kind in ANSWERS.values() if issubclass(kind, Answer)]
    expected += [f"{kind.__module__}.{kind.__name__}" for kind in [*answers, DeclaredFeature]]
    assert sorted(shown) == sorted(expected)
