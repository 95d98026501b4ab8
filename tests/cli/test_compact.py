"""`metaxy-fs compact`: its output, and what is left when it is stopped."""

import os
import pty
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from metaxy_fs import FilesystemMetadataStore, verify
from metaxy_fs.cli import upkeep as module
from metaxy_fs.cli.main import main
from metaxy_fs.log import merge as relisting
from metaxy_fs.testing.store_cases import pipeline, videos

VIDEO, _ = pipeline()
COMMAND = "import sys; from metaxy_fs.cli.main import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def store(tmp_path):
    """A store of 20 writes in one partition."""
    store = FilesystemMetadataStore(tmp_path / "root")
    for start in range(0, 60, 3):
        store.write_metadata(VIDEO, videos(range(start, start + 5)))
    return store


@pytest.fixture
def interrupted(monkeypatch):
    """Press Ctrl-C when a compaction has told of so many rows."""

    def press_at(rows: int) -> None:
        @contextmanager
        def growing(_what: str, *, unit: str) -> Iterator[object]:
            def advance(done: int, _known: int) -> None:
                if done >= rows:
                    signal.raise_signal(signal.SIGINT)

            yield advance

        monkeypatch.setattr(module, "growing", growing)

    yield press_at
    monkeypatch.undo()


def test_it_says_what_it_did(store, capsys):
    assert main(["compact", "--yes", "--root", store.location, "--full"]) == 0
    captured = capsys.readouterr()
    assert "20 commits, 100 rows: 20 files" in captured.out
    assert captured.err == ""
    assert main(["compact", "--yes", "--root", store.location]) == 0
    assert capsys.readouterr().out == "nothing to compact\n"


@pytest.mark.parametrize("options", [[], ["--full"], ["--cluster"]])
def test_without_yes_it_says_what_yes_does(store, capsys, options):
    for _ in range(2):
        assert main(["compact", "--root", store.location, *options]) == 0
        said = capsys.readouterr().out
        assert main(["compact", "--root", store.location, *options, "--yes"]) == 0
        done = capsys.readouterr().out
        promised = sum(map(int, re.findall(r"^(\d+) commits? would be", said)))
        assert promised == sum(map(int, re.findall(r": (\d+) commits?, ", done)))
        assert ("--yes does it" in said) == (done != "nothing to compact\n")


def test_a_terminal_sees_a_bar(store):
    reading, writing = pty.openpty()
    termios.tcsetwinsize(writing, (25, 80))
    os.set_blocking(reading, False)
    arguments = [sys.executable, "-c", COMMAND, "compact", "--root", store.location, "--full", "--yes"]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=writing, check=True)
    shown = os.read(reading, 1 << 16)
    os.close(writing)
    os.close(reading)
    assert b"compacting" in shown
    assert b"20 files" in done.stdout


def test_the_bar_is_told_of_every_row_twice(store, monkeypatch):
    """Once as it is read, and once as it is written."""
    told = []

    @contextmanager
    def growing(_what: str, *, unit: str) -> Iterator[object]:
        yield lambda done, known: told.append((done, known))

    monkeypatch.setattr(module, "growing", growing)
    assert main(["compact", "--yes", "--root", store.location]) == 0
    assert told[-1] == (200, 200)


@pytest.mark.parametrize("rows", [100, 200])
def test_one_that_is_stopped_is_run_again(store, interrupted, capsys, rows):
    before = store.read_metadata(VIDEO)
    interrupted(rows)
    assert main(["compact", "--yes", "--root", store.location]) == 130
    assert not store.history(VIDEO)["compacted"].any()
    assert store.read_metadata(VIDEO).equals(before)
    # What it had put names nothing: orphans, which are no damage.
    assert all(finding.severity == "note" for finding in verify(store).findings)


@pytest.mark.parametrize("rows", [100, 200])
def test_the_second_run_does_all(store, interrupted, monkeypatch, capsys, rows):
    before = store.read_metadata(VIDEO)
    interrupted(rows)
    assert main(["compact", "--yes", "--root", store.location]) == 130
    monkeypatch.undo()
    assert main(["compact", "--yes", "--root", store.location]) == 0
    assert store.history(VIDEO)["compacted"].all()
    assert store.read_metadata(VIDEO).equals(before)


def test_files_of_overlapping_ids_are_clustered(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(relisting, "LARGE_ROWS", 1)
    store = FilesystemMetadataStore(tmp_path / "root")
    for ids in ([1, 3, 5], [2, 4, 6]):
        store.write_metadata(VIDEO, videos(ids))
    assert main(["compact", "--yes", "--root", store.location, "--full"]) == 0
    assert "2 files" in capsys.readouterr().out
    assert main(["compact", "--yes", "--root", store.location, "--cluster"]) == 0
    assert "are now 1 (" in capsys.readouterr().out


def test_one_of_a_kind_is_in_the_singular(tmp_path, capsys):
    store = FilesystemMetadataStore(tmp_path / "root")
    for _ in range(2):
        store.write_metadata(VIDEO, videos([]))
        store.write_metadata(VIDEO, videos([1]))
    assert main(["compact", "--yes", "--root", store.location, "--full"]) == 0
    store.check(store.fingerprint([VIDEO]))
    main(["graph", "--root", store.location, "--format", "svg"])
    main(["verify", "--root", store.location])
    said = capsys.readouterr().out
    assert "1 feature" in said
    assert not re.findall(r"\b1 (?:features|files|commits|manifests|rows)\b|\b1 data files", said)
