"""Flowcharts of the pages: drawn whole, or refused."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in sorted(DOCS.rglob("*.md"))
    for number, block in enumerate(
        re.findall(r"^```mermaid\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    )
]


@pytest.fixture(scope="module")
def pictures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pictures", DOCS / "_config" / "pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_pictures() -> None:
    assert len(BLOCKS) >= 4


@pytest.mark.parametrize("block", BLOCKS)
def test_a_picture_shows_every_box_and_every_edge(block: str, pictures: ModuleType) -> None:
    drawn = pictures.draw(block)
    assert drawn.count("<rect ") == len(re.findall(r'\["', block)) > 0
    assert drawn.count("<path ") == block.count("-->") > 0


def test_a_line_that_is_not_understood_is_refused(pictures: ModuleType) -> None:
    with pytest.raises(ValueError, match="no line such as"):
        pictures.draw("flowchart TD\n  a -.-> b\n")


def test_edges_in_a_circle_are_refused(pictures: ModuleType) -> None:
    with pytest.raises(ValueError, match="form a circle"):
        pictures.draw('flowchart TD\n  a["A"]\n  b["B"]\n  a --> b\n  b --> a\n')
