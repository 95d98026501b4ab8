"""The notebook of the docs runs, also again in the same place, and shows what it shows today.

`python -m tests.docs.test_tour DIRECTORY` runs it in a directory, and keeps what it shows.
"""

import importlib.util
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.patience import PATIENCE

TOUR = Path(__file__).parents[2] / "docs" / "tour.ipynb"
SHOWN = "text/html"


def run(notebook, directory):
    """Run a notebook in a directory; its outputs are then in it."""
    seconds, place = int(PATIENCE), {"metadata": {"path": str(directory)}}
    NotebookClient(notebook, timeout=seconds, startup_timeout=seconds, resources=place).execute()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_tour_runs_twice_in_one_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    stored = nbformat.read(TOUR, as_version=4)
    for _ in range(2):
        notebook = nbformat.read(TOUR, as_version=4)
        run(notebook, tmp_path)
        assert kinds(notebook) == kinds(stored)
    assert (tmp_path / "tour-files" / "report.html").is_file()


def test_what_the_tour_shows_is_stored_and_comes_from_nobodys_machine():
    text = TOUR.read_text(encoding="utf-8")
    assert sum(SHOWN in kind for cell in kinds(nbformat.read(TOUR, as_version=4)) for kind in cell) > 12
    assert "/tmp" not in text  # noqa: S108  # a place that is looked for
    assert "stderr" not in text


def test_the_page_of_the_site_has_all_text_code_and_what_is_shown():
    spec = importlib.util.spec_from_file_location("notebooks", TOUR.parent / "_config" / "notebooks.py")
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    notebook = nbformat.read(TOUR, as_version=4)
    page = hook.to_markdown(notebook)
    shown = [
        output.data[SHOWN] for cell in notebook.cells for output in cell.get("outputs", []) if SHOWN in output.data
    ]
    assert all(part in page for part in [cell.source for cell in notebook.cells] + shown)
    assert hook.on_page_markdown("[Tour](tour.ipynb)") == "[Tour](tour.md)"


def kinds(notebook):
    """Return the forms of the outputs of each cell of code."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [[sorted(output.get("data", {})) or output.get("name") for output in cell.outputs] for cell in cells]


if __name__ == "__main__":
    tour = nbformat.read(TOUR, as_version=4)
    run(tour, sys.argv[1])
    for each in tour.cells:
        each.metadata.pop("execution", None)
    nbformat.write(tour, TOUR)
