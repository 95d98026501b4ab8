"""Every test that a page names exists under that name.

A page may shorten a name whose beginning was said before: `test_broken.py::test_x` where one file alone is called that,
`::test_x`, `...::test_x` and `test_x` of the file that was named last, `..._x` for a test there whose name ends so.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]

CODE = re.compile(r"`([^`\n]+)`")
FILE = r"tests/[\w/]+\.py|test_\w+\.py"
NAMED = re.compile(rf"(?P<file>{FILE})?(?:\.\.\.)?(?:::)?(?P<test>test_\w+|(?<=\.\.\.)_\w+)?")


@pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES])
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    assert list(misnamed(page.read_text(encoding="utf-8"))) == []


def test_the_page_on_reliability_names_tests() -> None:
    assert len(list(named((ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")))) > 60


@pytest.mark.parametrize(
    "text",
    [
        "`tests/docs/test_gone.py`",
        "`tests/docs/test_named_tests.py::test_gone`",
        "`test_named_tests.py::test_gone`",
        "`tests/docs/test_named_tests.py::test_every_test_that_a_page_names_exists`, `::test_gone`",
        "`tests/docs/test_named_tests.py::test_every_test_that_a_page_names_exists` and `..._gone`",
        "`tests/docs/test_named_tests.py` and `...::test_gone`",
        "`tests/docs/test_named_tests.py` and `test_gone`",
        "`test_every_test_that_a_page_names_exists` of a file that nobody named",
    ],
)
def test_a_name_of_nothing_is_seen(text: str) -> None:
    assert len(list(misnamed(text))) == 1


def test_a_name_may_be_shortened() -> None:
    full = "`tests/docs/test_named_tests.py::test_a_name_may_be_shortened`"
    text = f"{full}, `::test_a_name_of_nothing_is_seen`, `..._may_be_shortened`, `test_named_tests.py`; not `latest_x`"
    assert list(misnamed(text)) == []
    assert len(list(named(text))) == 4


def misnamed(text: str) -> Iterator[str]:
    """Yield what a text names that is not there."""
    for file, test in named(text):
        tests = names_in(file)
        if tests is None or (test and not any(name == test or fits(name, test) for name in tests)):
            yield f"{file}::{test}"


def named(text: str) -> Iterator[tuple[str, str]]:
    """Yield the files and tests that a text names, each test with its file; either may be empty."""
    last = ""
    for code in CODE.findall(text):
        match = NAMED.fullmatch(code)
        if match and (match["file"] or match["test"]):
            last = match["file"] or last
            yield last, match["test"] or ""


def fits(name: str, ending: str) -> bool:
    """Whether a name ends as a page says, which has left out its beginning."""
    return ending.startswith("_") and name.endswith(ending)


@cache
def names_in(file: str) -> frozenset[str] | None:
    """Return the names of the tests in a file, those in classes too; None if there is no such file, or several."""
    found = [path for path in (ROOT / "tests").rglob(Path(file).name) if path.as_posix().endswith(f"/{file}")]
    if len(found) != 1:
        return None
    nodes = ast.walk(ast.parse(found[0].read_text(encoding="utf-8")))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
