"""Hold the pages for contributors to the code: the files, functions, calls and sessions that they name exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "CONTRIBUTING.md"
TEXTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / ".github").rglob("*.*")),
    ROOT / ".pre-commit-config.yaml",
    *sorted((ROOT / "docs").rglob("*.md")),
]
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)[^)]*\)")
SESSION = re.compile(r"nox -s ((?:[a-z]+ )*[a-z]+)")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


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
