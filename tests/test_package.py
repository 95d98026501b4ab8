"""Every name is where it should be, modules state their subjects, and nothing is loaded before it is used."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import metaxy_fs
import metaxy_fs.testing
from metaxy_fs import log, metadata_store

PACKAGE = Path(metaxy_fs.__file__).parent
TESTS = Path(__file__).parent


def modules_after(code):
    """Return the names of all modules that a fresh process has loaded after some code."""
    script = f"{code}\nimport sys; print(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


def test_features_are_declared_without_polars():
    declare = "from metaxy_fs import Feature, FeatureKey, FeatureSpec, SpecError\n"
    declare += "class Video(Feature, spec=FeatureSpec(key=FeatureKey(['video']))): pass"
    loaded = modules_after(declare)
    assert "metaxy_fs.spec" in loaded
    assert not loaded & {"polars", "fsspec", "tqdm"}


def test_a_store_on_a_disk_is_opened_without_fsspec():
    loaded = modules_after("from metaxy_fs import open_store; open_store('/nowhere')")
    assert "polars" in loaded
    assert not loaded & {"fsspec", "tqdm"}


def test_a_store_is_opened_without_its_upkeep_and_its_questions():
    loaded = modules_after("from metaxy_fs import open_store; open_store('/nowhere')")
    assert "metaxy_fs.log.log" in loaded
    rooms = (
        "metaxy_fs.insight",
        "metaxy_fs.log.vacuum",
        "metaxy_fs.log.verify",
        "metaxy_fs.metadata_store.explain",
        "metaxy_fs.metadata_store.maintenance",
        "metaxy_fs.metadata_store.materialize",
    )
    assert not [name for name in loaded if name.startswith(rooms)]


def test_the_suites_name_the_extra_that_they_need(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytest", None)
    with pytest.raises(ImportError, match=r"pip install 'metaxy_fs\[testing\]'"):
        importlib.reload(metaxy_fs.testing)


def test_every_name_of_the_stores_is_found():
    for name in metadata_store.__all__:
        assert getattr(metadata_store, name) is not None
    assert set(metadata_store.__all__) <= set(dir(metadata_store))
    with pytest.raises(AttributeError, match=r"'metaxy_fs\.metadata_store' has no attribute 'vacuums'"):
        metadata_store.vacuums  # noqa: B018  # the access is the test


def test_every_name_of_the_log_is_found():
    assert {name for name in log.__all__ if getattr(log, name) is None} == set()
    assert not {"verify", "repair", "vacuum"} & set(log.__all__)  # modules have these names
    with pytest.raises(AttributeError, match=r"'metaxy_fs\.log' has no attribute 'vacuums'"):
        log.vacuums  # noqa: B018  # the access is the test


def test_every_public_name_is_found():
    for name in metaxy_fs.__all__:
        assert getattr(metaxy_fs, name) is not None
    assert set(metaxy_fs.__all__) <= set(dir(metaxy_fs))


def test_type_checkers_are_told_of_the_same_names():
    tree = ast.parse(Path(metaxy_fs.__file__).read_text())
    imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(set(imported) - {"import_module", "TYPE_CHECKING", "Any", "Final"}) == sorted(metaxy_fs.__all__)


@pytest.mark.parametrize("module", ["errors", "metadata_store", "spec"])
def test_the_modules_of_public_names_are_attributes(module):
    assert f"metaxy_fs.{module}" in modules_after(f"import metaxy_fs; metaxy_fs.{module}")


def test_a_name_that_there_is_not_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'metaxy_fs' has no attribute 'FeatureKeys'"):
        metaxy_fs.FeatureKeys  # noqa: B018  # the access is the test


def test_names_of_reserved_columns_are_spelled_in_one_module() -> None:
    spelled = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"_metaxy_\w*|data_version", node.value)
    }
    assert {path for path in spelled if not path.startswith("testing/")} == {"reserved.py"}


def test_one_module_reads_clocks_waits_and_asks_for_randomness() -> None:
    sources = {"time", "secrets", "random"}
    asking = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import) and not sources.isdisjoint(each.name for each in node.names)
    }
    assert {path for path in asking if not path.startswith("testing/")} == {"ids.py"}


def test_no_name_stands_for_two_types() -> None:
    defined: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                defined.setdefault(node.name.lstrip("_"), set()).add(f"{path.name}:{node.lineno}")
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(name := node.targets[0], ast.Name):
                value = ast.unparse(node.value)  # the same alias may be spelled in several modules
                if re.fullmatch(r"_?[A-Z][a-z]\w*", name.id) and "TypeVar" not in value:
                    defined.setdefault(name.id.lstrip("_"), set()).add(value)
    assert {name: places for name, places in defined.items() if len(places) > 1} == {}


def test_modules_state_their_subject() -> None:
    modules = [*PACKAGE.rglob("*.py"), *TESTS.rglob("*.py"), TESTS.parent / "noxfile.py"]
    lines = {path: (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "") for path in modules}
    asking = {path for path, docstring in lines.items() if "?" in docstring.partition("\n")[0]}
    assert sorted(asking) == []
    silent = {path for path, docstring in lines.items() if not docstring}
    assert {path.name for path in silent} <= {"__init__.py"}
