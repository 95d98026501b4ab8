"""Order the pages of the site as a reader meets them.

A page that is not named here comes after those that are, by its name: a new one needs no entry.
"""

from pathlib import PurePosixPath

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


def position(page: str) -> tuple[int, bool, str]:
    """Sort by the place of the page or of its directory in ORDER, a directory's index first."""
    first = PurePosixPath(page).with_suffix("").parts[0]
    rank = ORDER.index(first) if first in ORDER else len(ORDER)
    return rank, PurePosixPath(page).stem != "index", page


def title(directory: str) -> str:
    """Name the section of a directory."""
    return TITLES.get(directory, directory.replace("-", " ").capitalize())
