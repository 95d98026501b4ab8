"""Hold the pages for contributors to the code: the files, functions, calls and sessions that they name exist."""

import ast
import re
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import FrameType

import polars as pl
import pytest

from metaxy_fs import Feature, FeatureDep, FeatureGraph, FeatureKey, FeatureSpec, __version__, open_store

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "CONTRIBUTING.md"
TEXTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / ".github").rglob("*.*")),
    ROOT / ".pre-commit-config.yaml",
    *sorted((ROOT / "docs").rglob("*.md")),
]
PACKAGE = ROOT / "metaxy_fs"
PLACE = re.compile(r"`((?:[\w.-]+/)+|(?:[\w.-]+/)*[\w.-]+\.(?:md|py|toml|yml|yaml))(?::([\w.]+))?`")
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)[^)]*\)")
SESSION = re.compile(r"nox -s ((?:[a-z]+ )*[a-z]+)")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def places(text: str) -> Iterator[tuple[Path, str]]:
    """Yield each file or directory that a text names, and the function in it, which may be empty."""
    for name, function in PLACE.findall(text):
        yield next((top / name for top in (ROOT, PACKAGE) if (top / name).exists()), ROOT / name), function


@cache
def functions_in(path: Path) -> frozenset[str]:
    """The functions and classes of a module, those of classes with the names of these."""

    def named(node: ast.AST, above: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                yield above + child.name
                yield from named(child, f"{above}{child.name}.")

    return frozenset(named(ast.parse(path.read_text(encoding="utf-8")), ""))


@pytest.mark.parametrize("page", [PAGE, ROOT / "docs" / "architecture.md"], ids=relative)
def test_every_file_and_function_that_is_named_exists(page: Path) -> None:
    named = list(places(page.read_text(encoding="utf-8")))
    assert len(named) > 40
    missing = [path for path, _ in named if not path.exists()]
    missing += [f"{relative(path)}:{name}" for path, name in named if name and name not in functions_in(path)]
    assert missing == []


@pytest.mark.parametrize("path", TEXTS, ids=relative)
def test_every_module_that_is_named_exists(path: Path) -> None:
    named = {name for name, _ in places(path.read_text(encoding="utf-8")) if name.suffix == ".py"}
    assert [relative(name) for name in sorted(named) if not name.exists() and name.parent != ROOT] == []


def test_the_map_has_a_place_for_every_part_of_the_package() -> None:
    parts = {path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py") if "__" not in path.name}
    named = [path for path, _ in places(PAGE.read_text(encoding="utf-8"))]
    shown = {path.relative_to(PACKAGE).parts[0] for path in named if path != PACKAGE and path.is_relative_to(PACKAGE)}
    assert parts - shown == set()


def steps(heading: str) -> list[tuple[Path, str, bool]]:
    """The functions that the numbered lines below a heading begin with, and whether this thread does not see them."""
    section = PAGE.read_text(encoding="utf-8").partition(f"### {heading}\n")[2].partition("\n#")[0]
    lines = re.findall(r"^\d+\. .+", section, re.MULTILINE)
    return [(*next(places(line)), "in a thread of Polars" in line) for line in lines]


def called(call: Callable[[], object]) -> list[tuple[Path, str]]:
    """The functions of the package that a call runs in this thread, in the order in which each was first called."""
    found: dict[tuple[Path, str], None] = {}

    def notice(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(f"{PACKAGE}/"):
            found.setdefault((Path(frame.f_code.co_filename), frame.f_code.co_qualname))

    threading.setprofile(notice)
    sys.setprofile(notice)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return list(found)


def rows(*ids: int) -> pl.DataFrame:
    return pl.DataFrame({"sample_id": ids, "data_version": [{"default": str(i)} for i in ids]})


@pytest.mark.parametrize("heading", ["A write", "A read", "An increment"])
def test_a_call_goes_the_way_that_the_page_shows(heading: str, tmp_path: Path) -> None:
    with FeatureGraph().use():

        class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]))):
            pass

        class Crop(Feature, spec=FeatureSpec(key=FeatureKey(["crop"]), deps=[FeatureDep(key=FeatureKey(["video"]))])):
            pass

    writer = open_store(tmp_path)
    writer.write_metadata(Video, rows(1, 2))
    writer.write_metadata(Crop, writer.resolve_update(Crop).pending)
    store = open_store(tmp_path)
    calls: dict[str, Callable[[], object]] = {
        "A write": lambda: store.write_metadata(Video, rows(3, 4)),
        "A read": lambda: store.read_metadata(Video, filters=pl.col("sample_id") > 1),
        "An increment": lambda: store.resolve_update(Crop),
    }
    found = called(calls[heading])
    shown = [(path, function) for path, function, unseen in steps(heading) if not unseen]
    assert len(shown) > 5
    assert [step for step in shown if step not in found] == []
    assert sorted(shown, key=found.index) == shown


@cache
def sessions() -> frozenset[str]:
    """The sessions that noxfile.py defines."""
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    return frozenset(
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and any("nox.session" in ast.unparse(each) for each in node.decorator_list)
    )


@pytest.mark.parametrize("path", TEXTS, ids=relative)
def test_every_session_that_is_named_exists(path: Path) -> None:
    named = {name for names in SESSION.findall(path.read_text(encoding="utf-8")) for name in names.split()}
    assert named <= sessions()


def test_workflows_call_nothing_but_nox() -> None:
    runs = [
        command
        for path in (ROOT / ".github" / "workflows").glob("*.yml")
        for command in re.findall(r"run: (.+)", path.read_text(encoding="utf-8"))
    ]
    assert {command for command in runs if not command.startswith("nox -s ")} == {"pip install nox"}


def test_workflows_run_the_pythons_that_the_classifiers_name() -> None:
    named = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    assert re.findall(r'"(3\.\d+)"', workflow.partition("matrix:")[2].partition("]")[0]) == named


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        waiting += [(page.parent / link).resolve() for link in LINK.findall(page.read_text(encoding="utf-8"))]
    pages = {*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")}
    assert [relative(page) for page in sorted(pages - reached)] == []
    assert [relative(page) for page in sorted(reached) if not page.is_file()] == []


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "decisions").glob("[!i]*.md")), ids=relative)
def test_a_decision_is_one_page_of_one_form(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("## ")] == [
        "## Context",
        "## Decision",
        "## Consequences",
        "## Alternatives",
    ]
    assert len(lines) <= 60


def test_the_changelog_begins_with_the_version_of_the_package() -> None:
    sections = re.findall(r"^## \[(.+?)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sections[0][0] == __version__
    assert [date for _, date in sections[1:] if not re.fullmatch(r"\d{4}-\d\d-\d\d", date)] == []
