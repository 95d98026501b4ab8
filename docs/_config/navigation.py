"""Order the pages of the site as a reader meets them.

The pages of a directory come as its index lists them. A page that is named neither there nor here comes after those
that are, by its name: a new one needs no entry.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files

ORDER = (
    "index",
    "quickstart",
    "tour",
    "tutorial",
    "how-to",
    "versioning",
    "architecture",
    "decisions",
    "format",
    "reliability",
    "threat-model",
    "benchmarks",
    "comparison",
    "scale",
    "errors",
    "glossary",
    "reference",
)
DOCS = Path(__file__).parents[1]
INDICES = {
    "how-to/": (DOCS / "index.md").read_text("utf-8").split("## Do one thing")[1],
    "decisions/": (DOCS / "decisions/index.md").read_text("utf-8"),
    "reference/": (DOCS / "reference/index.md").read_text("utf-8"),
}
LISTED = [
    f"{directory}{name}"
    for directory, index in INDICES.items()
    for name in re.findall(rf"\((?:{directory})?([a-z0-9_-]+\.md)\)", index)
]
TITLES = {"how-to": "How to", "reference": "API reference"}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Write the navigation from the pages that exist."""
    pages = sorted((file.src_uri for file in files.documentation_pages()), key=position)
    nav: list[str | dict[str, list[str]]] = []
    for page in pages:
        directory = PurePosixPath(page).parent.name
        if not directory:
            nav.append(page)
        elif isinstance(nav[-1], dict) and title(directory) in nav[-1]:
            nav[-1][title(directory)].append(page)
        else:
            nav.append({title(directory): [page]})
    config.nav = nav
    return files


def position(page: str) -> tuple[int, bool, int, str]:
    """Sort by the place of the page or of its directory in ORDER, a directory's index first, then by that in LISTED."""
    first = PurePosixPath(page).with_suffix("").parts[0]
    return place(first, ORDER), PurePosixPath(page).stem != "index", place(page, LISTED), page


def place(name: str, names: Sequence[str]) -> int:
    """Return where a name is, which is the end if it is not there."""
    return names.index(name) if name in names else len(names)


def title(directory: str) -> str:
    """Name the section of a directory."""
    return TITLES.get(directory, directory.replace("-", " ").capitalize())
