"""What takes long says so on a terminal, and nowhere else."""

import io
import sys
from importlib import import_module

import polars as pl
import pytest

from metaxy_fs import FeatureGraph, FeatureSpec, InMemoryMetadataStore, MetadataStore, open_store, progress
from metaxy_fs.cli.main import main
from metaxy_fs.spec import FeatureDep
from tests.support.patience import wait_until

ROWS = pl.DataFrame({"sample_id": [1, 2, 3], "data_version": [{"default": "v"}] * 3})


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(params=[Terminal, io.StringIO])
def begin(request, monkeypatch):
    """Makes stderr a terminal, or a pipe, that is told of steps at once."""
    monkeypatch.setattr(progress, "_PATIENCE", 0.0)
    monkeypatch.setattr(progress, "_PERIOD", 0.01)
    import_module("tqdm")  # takes its time

    def set_stderr():  # within the test: pytest sets its own before
        monkeypatch.setattr(sys, "stderr", request.param())
        return sys.stderr

    return set_stderr


@pytest.fixture
def graph():
    graph = FeatureGraph.from_specs(
        [FeatureSpec(key="video"), FeatureSpec(key="faces", deps=[FeatureDep(key="video")])]
    )
    with graph.use():
        yield graph


def is_shown(stderr, *parts):
    """Whether parts of a line are shown where they should be; a pipe gets nothing at all."""
    text = stderr.getvalue()
    return all(part in text for part in parts) if stderr.isatty() else not text


def test_steps_of_a_job_are_shown_if_that_is_wanted(begin, graph):
    stderr = begin()
    store = InMemoryMetadataStore()
    store.write_metadata("video", ROWS)
    store.resolve_update("faces")
    assert not stderr.getvalue()
    store.write_metadata("video", ROWS, progress=True)
    assert store.read_metadata("video").height == 6
    assert is_shown(stderr, "writing video")
    store.resolve_update("faces", progress=True)
    assert is_shown(stderr, "resolving faces")
    store.materialize("faces", lambda batch: batch)
    assert is_shown(stderr, "resolving faces", "faces: ")
    for call in (store.resolve_update, lambda feature, **options: store.write_metadata(feature, ROWS, **options)):
        with pytest.raises(TypeError, match="progress"):
            call("faces", progress="yes")


def test_a_command_says_from_the_first_second_on_what_it_is_at(begin, graph, tmp_path, monkeypatch, capsys):
    store = open_store(tmp_path / "root")
    store.write_metadata("video", ROWS)
    store.write_metadata("faces", store.resolve_update("faces").pending)
    was, shown = MetadataStore.plan, []

    def slow(*arguments, **options):
        found = was(*arguments, **options)
        wait_until(lambda: not stderr.isatty() or "faces" in stderr.getvalue())
        return found

    def noted(line, **options):
        shown.append(stderr.getvalue())
        written(line, **options)

    written = print
    monkeypatch.setattr(MetadataStore, "plan", slow)
    monkeypatch.setattr("builtins.print", noted)
    stderr = begin()
    assert main(["plan", "--root", store.location]) == 0
    assert is_shown(stderr, "plan 00:00", "faces")
    assert set(shown) == {stderr.getvalue()}  # the line was gone before anything was printed
    assert stderr.getvalue().rpartition("\r")[2].strip() == ""
    assert capsys.readouterr().out.startswith("Plan of 2 features")


def test_a_command_that_is_quick_says_nothing(begin, monkeypatch):
    stderr = begin()
    monkeypatch.setattr(progress, "_PATIENCE", 60.0)
    with progress.waiting("plan"):
        progress.at("faces")
    assert not stderr.getvalue()
