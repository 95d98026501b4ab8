"""Write the report: one HTML file, which fetches nothing and runs nothing but its own scripts.

Facts go in as JSON in which no tag can end, and the scripts show them as text. A policy in the file names its scripts
and its style by their digests, so that a browser refuses anything else, whatever a root holds.
"""

import hashlib
import os
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final

import msgspec

from metaxy_fs._version import __version__
from metaxy_fs.ids import wall_clock
from metaxy_fs.metadata_store import MetadataStore
from metaxy_fs.report.facts import MOST_COMMITS, StoreFacts, store_facts
from metaxy_fs.spec import FeatureGraph
from metaxy_fs.system_errors import naming

_SCRIPTS: Final = ("d3-dag/d3-dag.js", "elements.js", "graph.js", "panel.js", "report.js")
_STYLE: Final = "report.css"
_ESCAPES: Final = str.maketrans({character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"})
"""What could end the element or a line of a script; in JSON these stand in strings alone."""


class _Report(msgspec.Struct, frozen=True):
    """What the scripts of the page are given: who wrote it, when, in milliseconds since 1970, and of which stores."""

    version: str
    made: int
    stores: Sequence[StoreFacts]


def write_report(
    stores: MetadataStore | Sequence[MetadataStore],
    path: str | os.PathLike[str],
    *,
    graph: FeatureGraph | None = None,
    states: bool = True,
) -> None:
    """Write an HTML file that shows what stores hold: the graph, and of each feature its code, commits, files and due.

    The file needs nothing beside it and fetches nothing, so it can be sent, archived, or put on any web server. It
    holds names, tags, times and counts of what is stored, and no row.

    Args:
        stores: One store, or several to see side by side, each with those that it falls back on.
        path: The file; one that is there is replaced.
        graph: The features as they are declared; by default the graph that each store holds.
        states: Whether to count the samples that are new, stale, waiting or orphaned, for which ids and versions are
            read, as by `plan`. Otherwise no data file is read: a few listings and the manifests are enough.

    Raises:
        StorageError: A store could not be asked.
        MetadataSchemaError: Stored rows do not fit the graph.
        OSError: The file could not be written.

    Examples:
        >>> from pathlib import Path
        >>> import polars as pl
        >>> from metaxy_fs import Feature, FeatureSpec, InMemoryMetadataStore
        >>> class Video(Feature, spec=FeatureSpec(key="video")):
        ...     pass
        >>> store = InMemoryMetadataStore()
        >>> store.write_metadata(Video, pl.DataFrame({"sample_id": [1], "data_version": [{"default": "v1"}]}))
        >>> write_report(store, "report.html")
        >>> "<title>metaxy_fs report</title>" in Path("report.html").read_text("utf-8")
        True
    """
    several = [stores] if isinstance(stores, MetadataStore) else list(stores)
    most = MOST_COMMITS // max(1, len(several))
    write_page([store_facts(each, graph=graph, states=states, most_commits=most) for each in several], path)


def write_page(facts: Sequence[StoreFacts], path: str | os.PathLike[str]) -> None:
    """Write the HTML file that shows the facts of some stores."""
    page = page_of(facts)
    with naming("write the report", path):
        Path(path).write_text(page, encoding="utf-8", newline="\n")


def page_of(facts: Sequence[StoreFacts]) -> str:
    """Return the HTML that shows the facts of some stores."""
    report = _Report(__version__, wall_clock() // 1_000, facts)
    scripts = [_asset(name) for name in _SCRIPTS]
    style = _asset(_STYLE)
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_digest, scripts))}; style-src {_digest(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return Template(_asset("page.html")).substitute(
        policy=policy,
        style=style,
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
        licences=escape(_asset("d3-dag/LICENSES.txt")),
        facts=msgspec.json.encode(report).decode().translate(_ESCAPES),
    )


def _asset(name: str) -> str:
    return files("metaxy_fs.report").joinpath("assets", *name.split("/")).read_text("utf-8")


def _digest(text: str) -> str:
    """Return what a policy calls an element of the page by."""
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
