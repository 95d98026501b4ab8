"""Show notebooks as pages of the site: their text, their code, and what they show as it is stored in them."""

import json
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files


def on_files(files: "Files", *, config: "MkDocsConfig") -> "Files":
    """Add a page for each notebook."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        page = str(PurePosixPath(file.src_uri).with_suffix(".md"))
        notebook = json.loads(Path(str(file.abs_src_path)).read_text(encoding="utf-8"))
        files.append(type(file).generated(config, page, content=to_markdown(notebook)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to notebooks lead to their pages; in the source they lead to the notebooks."""
    return markdown.replace(".ipynb)", ".md)")


def to_markdown(notebook: dict[str, Any]) -> str:
    """Return a notebook as Markdown."""
    return "\n\n".join(part for cell in notebook["cells"] for part in _parts(cell))


def _parts(cell: dict[str, Any]) -> list[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [source]
    return [f"```python\n{source}\n```", *(_shown(output) for output in cell["outputs"])]


def _shown(output: dict[str, Any]) -> str:
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "text/html" in data:
        return f"<div>\n{''.join(data['text/html'])}\n</div>"
    return f"```text\n{''.join(data['text/plain'])}\n```"
