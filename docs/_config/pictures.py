"""Draw the Mermaid flowcharts of the pages as SVG while the site is built.

A reader of the source sees Mermaid, which forges draw themselves; a reader of the site sees a picture and needs no
script. Only what the pages use is understood: `id["title<br/>line"]`, and edges between ids that have a label.
"""

import re
from typing import TYPE_CHECKING, Any

from metaxy_fs.drawing import Box, Emphasis, to_svg

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

NODE = re.compile(r'^(\w+)\["([^"]+)"\](?::::(\w+))?$')
EDGE = re.compile(r"^(\w+) --> (\w+)$")
TITLE = re.compile(r"^accTitle: (.+)$")


def on_config(config: "MkDocsConfig") -> "MkDocsConfig":
    """Hand blocks of Mermaid to `draw`."""
    fence = {"name": "mermaid", "class": "mermaid", "format": draw}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    return config


def draw(source: str, *_: Any, **__: Any) -> str:
    """Return the picture of a flowchart."""
    labels: dict[str, tuple[list[str], Emphasis]] = {}
    edges: list[tuple[str, str]] = []
    title = ""
    for line in map(str.strip, source.strip().splitlines()[1:]):
        if node := NODE.match(line):
            emphasis = Emphasis.DIFFERENT if node[3] else Emphasis.NONE
            labels[node[1]] = (node[2].split("<br/>"), emphasis)
        elif edge := EDGE.match(line):
            edges.append((edge[1], edge[2]))
        elif named := TITLE.match(line):
            title = named[1]
        elif line and not line.startswith("classDef"):
            raise ValueError(f"the pictures of the pages have no line such as {line!r}")
    order = in_order(list(labels), edges)
    boxes = [
        Box(
            title=labels[name][0][0],
            lines=tuple(labels[name][0][1:]),
            emphasis=labels[name][1],
            upstream=tuple(order.index(above) for above, below in edges if below == name),
        )
        for name in order
    ]
    return f'<div class="picture" style="overflow-x: auto">{to_svg(boxes, title=title)}</div>'


def in_order(names: list[str], edges: list[tuple[str, str]]) -> list[str]:
    """Return the names with those upstream first."""
    order: list[str] = []
    while len(order) < len(names):
        ready = [n for n in names if n not in order and all(a in order for a, b in edges if b == n)]
        if not ready:
            raise ValueError(f"the edges of a picture form a circle: {edges}")
        order += ready
    return order
