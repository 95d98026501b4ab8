"""The code of a page, to be run on another root than the page's own."""

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs" / "how-to"


def run(page: str, *, naming: str, language: str = "python", **names: Any) -> dict[str, Any]:
    """Run the one Python block of a page that has a text, and return what it has named."""
    namespace: dict[str, Any] = dict(names)
    exec(block(page, naming=naming, language=language), namespace)  # noqa: S102  # it is the project's own
    return namespace


def block(page: str, *, naming: str, language: str) -> str:
    """Return the one block of a page, in a language, that has a text."""
    text = (DOCS / page).read_text("utf-8")
    [found] = [each for each in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if naming in each]
    return str(found)
