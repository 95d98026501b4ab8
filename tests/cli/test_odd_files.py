"""Odd files in a directory neither stop the demo nor mislead it."""

import os
import socket
from threading import Event

import pytest

from metaxy_fs.cli import hashing
from metaxy_fs.cli.tree import from_id, to_id, walk
from tests.cli.conftest import LONG_AGO, table, write
from tests.patience import PATIENCE

ODD_NAMES = [
    b"caf\xe9",
    b"caf\\xe9",
    b"a\nb",
    b"*",
    b"[a-z]?",
    b"'\"",
    b"back\\slash\\\\",
    b" ",
    b"-n",
    b"\xf0\x9f\x90\x88",
    b"x" * 255,
    b"%s{0}",
]


@pytest.fixture
def out_of_reach(monkeypatch):
    """A function that makes one file fail to open, as a file without permission does for all users but root."""

    def deny(sample: str) -> None:
        def open_file(directory, name):
            if name == sample:
                raise PermissionError(13, "Permission denied", name)
            return was(directory, name)

        was = hashing.open_file
        monkeypatch.setattr(hashing, "open_file", open_file)

    return deny


def test_odd_names_are_samples_like_others(demo, notes, rows):
    for number, name in enumerate(ODD_NAMES):
        write(notes / os.fsdecode(name), b"word " * number)
    stored = table(demo())["demo/texts"]["stored"]
    assert stored == 2 + len(ODD_NAMES)
    words = {name: rows("texts")[to_id(os.fsdecode(name))]["words"] for name in ODD_NAMES}
    assert words == {name: number for number, name in enumerate(ODD_NAMES)}
    assert table(demo())["demo/files"] == {"stored": stored, "new": 0, "stale": 0, "orphaned": 0, "computed": 0}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_id_gives_its_path_back(name):
    assert from_id(to_id(os.fsdecode(name))) == os.fsdecode(name)


def test_a_name_cannot_speak_to_the_terminal(demo, notes):
    write(notes / "a\nb\x1b[31m\u202e", "")
    output = demo()
    assert "a\\nb\\x1b[31m\\u202e" in output
    assert "\x1b" not in output


def test_a_long_name_is_shortened_in_print(demo, notes):
    write(notes / ("a" * 100 + "b" * 100), "")
    assert "a" * 28 + "..." + "b" * 29 + "," in demo()


def test_a_path_longer_than_the_system_takes_is_out_of_reach(demo, notes):
    # Made from inside, a directory at a time.
    here = os.open(notes, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=here)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    output = demo()
    assert "cannot be read (1): dddd" in output
    assert "File name too long" in output
    assert table(output)["demo/files"]["stored"] == 2


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_computed(demo, out_of_reach):
    out_of_reach("eggs.txt")
    output = demo()
    assert "cannot be read (1): eggs.txt: Permission denied" in output
    assert table(output)["demo/texts"]["stored"] == 1


def test_a_file_that_can_no_longer_be_read_is_not_gone(demo, notes, out_of_reach):
    demo()
    out_of_reach("eggs.txt")
    os.utime(notes / "eggs.txt", (LONG_AGO + 1, LONG_AGO + 1))
    assert [row["orphaned"] for row in table(demo()).values()] == [0, 0]


def test_the_files_of_a_directory_that_can_no_longer_be_listed_are_not_gone(demo, notes, monkeypatch):
    write(notes / "subway.txt", "")
    demo()
    (notes / "subway.txt").unlink()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("/sub"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    output = demo()
    assert "cannot be read (1): sub/: Permission denied" in output
    assert output.count("gone, rows stay in the log (1): subway.txt") == 2


def test_a_link_that_leads_nowhere_is_named(demo, notes):
    (notes / "link").symlink_to(notes / "nothing")
    assert "cannot be read (1): link: No such file or directory" in demo()


def test_a_link_to_a_file_is_a_file(demo, notes, rows):
    (notes / "link").symlink_to(notes / "sub" / "ham.txt")
    demo()
    assert rows("files")["link"]["data_version"] == rows("files")["sub/ham.txt"]["data_version"]


def test_links_to_directories_are_not_followed(demo, notes):
    (notes / "sub" / "up").symlink_to(notes)
    output = demo()
    assert "link to a directory (1)" in output
    assert table(output)["demo/files"]["stored"] == 2


def test_pipes_and_sockets_are_left_out(demo, notes, monkeypatch):
    os.mkfifo(notes / "pipe")
    monkeypatch.chdir(notes)  # the address of a socket is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert "pipe, socket or device (2)" in demo()


def test_a_file_that_became_a_pipe_since_it_was_listed_is_not_waited_on(demo, notes, monkeypatch):
    monkeypatch.setattr("metaxy_fs.cli.demo.walk", lambda *a, **k: [walk(*a, **k), become_pipe(notes / "eggs.txt")][0])
    assert "cannot be read (1): eggs.txt: it is no regular file any more" in demo()


def test_a_file_that_vanishes_since_it_was_listed_is_named(demo, notes, monkeypatch):
    monkeypatch.setattr("metaxy_fs.cli.demo.walk", lambda *a, **k: [walk(*a, **k), (notes / "eggs.txt").unlink()][0])
    output = demo()
    assert "cannot be read (1): eggs.txt: No such file or directory" in output
    assert table(output)["demo/files"]["stored"] == 1


@pytest.mark.parametrize("name", [".git", ".hg", ".jj", ".svn"])
def test_version_control_is_left_out(demo, notes, name):
    write(notes / "sub" / name / "config", "")
    output = demo()
    assert "directory of a version control system (1)" in output
    assert table(output)["demo/files"]["stored"] == 2


@pytest.mark.parametrize("seconds", [-1, 0, 2**33])
def test_files_of_times_far_off_are_samples(demo, notes, rows, seconds):
    write(notes / "time", "", seconds=seconds)
    demo()
    assert rows("files")["time"]["modified"].timestamp() == seconds


def test_the_hashing_of_a_huge_file_ends_with_the_run(notes):
    def interrupt_after_ham(size: int) -> None:
        read.append(size)
        if size > len("ham"):
            has_begun.set()
        elif has_begun.wait(timeout=PATIENCE):
            raise KeyboardInterrupt

    read: list[int] = []
    has_begun = Event()
    with (notes / "huge").open("wb") as file:
        file.truncate(8 << 30)
    with pytest.raises(KeyboardInterrupt):
        hashing.hash_files(notes, ["sub/ham.txt", "huge"], advance=interrupt_after_ham)
    assert sum(read) < 8 << 30


def test_a_directory_without_files_has_nothing_to_do(demo, notes):
    (notes / "eggs.txt").unlink()
    (notes / "sub" / "ham.txt").unlink()
    output = demo()
    assert "0 files, 0 bytes" in output
    assert output.count("nothing to do") == 2


def test_a_directory_that_lost_all_its_files_has_them_gone(demo, notes):
    demo()
    (notes / "eggs.txt").unlink()
    (notes / "sub" / "ham.txt").unlink()
    output = demo()
    assert [row["orphaned"] for row in table(output).values()] == [2, 2]
    assert "0 texts: 0 lines, 0 words" in output


def become_pipe(path) -> None:
    path.unlink()
    os.mkfifo(path)
