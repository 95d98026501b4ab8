"""Every example that a reader can copy runs.

The Python blocks of a page run in their order, in one namespace, as a reader would type them: in an empty working
directory, with a feature graph of the page's own, and then once more where the first run has left its files. The
examples of a docstring run alone. `s3://` and `gs://` reach the
servers on loopback, where the buckets that a page names exist and are empty.

A block that cannot run has `<!-- not run: the reason -->` on the line before it, which a reader of the source sees.
"""

import doctest
import importlib
import logging
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest
from sybil import Document, Example
from sybil.parsers.markdown import PythonCodeBlockParser

from metaxy_fs import MetadataStore
from metaxy_fs.spec import FeatureGraph

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FIRST_PAGES = [ROOT / name for name in ("README.md", "docs/quickstart.md", "docs/tutorial.md")]
MODULES = sorted((ROOT / "metaxy_fs").rglob("*.py"))

[SHARED] = [
    found
    for found in doctest.DocTestFinder(recurse=False).find(MetadataStore, globs={"__name__": "metaxy_fs.example"})
    if found.examples
]
"""The example of MetadataStore, whose names those of its methods, and of maintenance, use."""

PYTHON_FENCE = re.compile(r"^[ \t]*(?:`{3,}|~{3,})[ \t]*(?:py|python)\b.*$", re.MULTILINE | re.IGNORECASE)
NOT_RUN = re.compile(r"<!--\s*not run\b")
NOT_RUN_WITH_REASON = re.compile(r"<!-- not run: \S[^\n]* -->\n[ \t]*\Z")
BUCKET = re.compile(r"\b(s3|gs)://([a-z0-9][a-z0-9._-]+)")


def holding(paths: list[Path], pattern: str) -> list[pytest.param]:
    """The files that hold the pattern, as parameters with readable ids."""
    files = [path for path in paths if path.is_file()]
    found = [path for path in files if re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)]
    return [pytest.param(path, id=path.relative_to(ROOT).as_posix()) for path in found]


@pytest.fixture
def reader(request, tmp_path, monkeypatch):
    """A context manager that puts the code of a text into a reader's place."""

    @contextmanager
    def place(text: str) -> Iterator[None]:
        monkeypatch.chdir(tmp_path)
        buckets = sorted(set(BUCKET.findall(text)))
        for scheme, name in buckets:
            server = request.getfixturevalue({"s3": "s3_server", "gs": "gcs_server"}[scheme])
            monkeypatch.setitem(fsspec.config.conf, scheme, server.storage_options)
            server.create_bucket(name)
        before = signal.getsignal(signal.SIGTERM)
        level = logging.getLogger("metaxy_fs").level
        try:
            yield
        finally:
            logging.getLogger("metaxy_fs").setLevel(level)
            signal.signal(signal.SIGTERM, before)
            for scheme, name in buckets:
                # The servers outlive the page, and moto's buckets even its server: the next page finds none of this.
                fsspec.filesystem(scheme, skip_instance_cache=True, use_listings_cache=False).rm(name, recursive=True)

    return place


@pytest.mark.parametrize("page", holding(PAGES, PYTHON_FENCE.pattern))
def test_a_page_runs_twice_in_one_directory(page, reader):
    with reader(code_of(page)):
        for _ in range(2):
            run_page(page)


def test_pages_run_one_after_the_other_in_one_directory(reader, soak):
    pages = [param.values[0] for param in holding(PAGES, PYTHON_FENCE.pattern)] if soak else FIRST_PAGES
    with reader("\n".join(map(code_of, pages))):
        for page in [*pages, *reversed(pages)]:
            run_page(page)


@pytest.mark.parametrize("page", holding(PAGES, PYTHON_FENCE.pattern))
def test_every_python_block_is_seen(page):
    # A fence in other words, such as "py" or "python title=...", would be passed over in silence.
    fences = PYTHON_FENCE.findall(page.read_text(encoding="utf-8"))
    assert [fence.strip(" \t`~") for fence in fences] == ["python"] * len(fences)
    assert len({block.region.start for block in parse(page).examples()}) >= len(fences)


@pytest.mark.parametrize("page", holding(PAGES, NOT_RUN.pattern))
def test_a_block_that_is_not_run_has_a_reason(page):
    marked = [block for block in parse(page).examples() if is_marked(block)]
    assert len(marked) == len(NOT_RUN.findall(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", holding(MODULES, r"^\s*>>> "))
def test_examples_of_docstrings_run(path, reader, monkeypatch):
    name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    examples = [found for found in doctest.DocTestFinder().find(importlib.import_module(name)) if found.examples]
    assert examples, f"{name} holds >>> where no docstring is"
    report: list[str] = []
    for example in examples:
        with reader(example.docstring), FeatureGraph().use():
            Path(example.name).mkdir()
            monkeypatch.chdir(example.name)
            if path.parent.name == "metadata_store" and example.docstring != SHARED.docstring:
                run(SHARED, report, names := dict(SHARED.globs))
                example.globs = names | example.globs
            run(example, report, example.globs)
    assert not report, "".join(report)


def run(example: doctest.DocTest, report: list[str], names: dict[str, object]) -> None:
    """Run the examples of a docstring in a namespace, which keeps what they define."""
    example.globs = names
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    doctest.DocTestRunner(verbose=False, optionflags=flags).run(example, out=report.append, clear_globs=False)


def test_the_readme_shows_python():
    assert PYTHON_FENCE.search((ROOT / "README.md").read_text(encoding="utf-8"))


def run_page(page: Path) -> None:
    """Run the Python blocks of a page in one namespace and graph of their own."""
    document = parse(page)
    document.namespace["__name__"] = "__main__"
    with FeatureGraph().use():
        for block in document.examples():
            if not is_marked(block):
                block.evaluate()
    for name in [path.stem for path in Path().glob("*.py")]:
        sys.modules.pop(name, None)  # the next run is another process


def code_of(page: Path) -> str:
    """The Python blocks of a page that are run."""
    return "\n".join(str(block.parsed) for block in parse(page).examples() if not is_marked(block))


def parse(page: Path) -> Document:
    """Parse a page into its Python blocks."""
    return Document.parse(str(page), PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS))


def is_marked(block: Example) -> bool:
    """Whether the line before a block says why it is not run."""
    before = block.document.text[: block.region.start]
    return NOT_RUN_WITH_REASON.search(before) is not None
