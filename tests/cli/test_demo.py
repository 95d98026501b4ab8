"""Each run of the demo computes what changed, all of it and no more."""

import hashlib
import os

import pytest

from metaxy_fs.cli import demo_texts as texts
from metaxy_fs.cli.main import main
from metaxy_fs.errors import StorageError
from metaxy_fs.metadata_store import FilesystemMetadataStore
from metaxy_fs.storage import tree
from tests.cli.conftest import LONG_AGO, write

NOTHING = "demo/files: 2 files, 0 new, 0 changed\n\nPlan of 2 features: 0 samples to compute"


@pytest.fixture
def opened(monkeypatch):
    """The files that were opened, to be hashed or counted."""
    seen = []
    was = tree._opened
    monkeypatch.setattr(tree, "_opened", lambda path: [seen.append(os.path.basename(path)), was(path)][1])  # noqa: PTH119  # of the text
    return seen


def test_the_first_run_computes_everything(demo):
    output = demo()
    assert "demo/files: 2 files, 2 new, 0 changed\n  new (2): eggs.txt, sub/ham.txt\n" in output
    assert "Plan of 2 features: 2 samples to compute" in output
    assert "demo/texts: 2 computed in " in output


def test_a_file_is_a_sample_with_its_hash(demo, rows):
    demo()
    row = rows("files")["sub/ham.txt"]
    assert row["data_version"]["content"] == hashlib.sha256(b"ham").hexdigest()
    assert (row["bytes"], row["modified"].timestamp()) == (3, LONG_AGO)


def test_a_text_is_counted(demo, rows):
    demo()
    row = rows("texts")["eggs.txt"]
    assert (row["is_text"], row["lines"], row["words"]) == (True, 2, 6)
    assert row["terms"] == [{"term": "eggs", "count": 2}, {"term": "green", "count": 2}]


def test_the_totals_are_those_of_all_texts(demo):
    assert "2 texts: 3 lines, 7 words\n" in demo()


def test_the_second_run_has_nothing_to_do(demo, opened):
    demo()
    opened.clear()
    output = demo()
    assert NOTHING in output
    assert "demo/texts: 0 computed in " in output
    assert opened == []


def test_an_edited_file_is_computed_in_both_features(demo, notes, rows, opened):
    demo()
    opened.clear()
    write(notes / "sub/ham.txt", "spam spam", seconds=LONG_AGO + 1)
    output = demo()
    assert "changed (1): sub/ham.txt" in output
    assert "1 stale by demo/files/content" in output
    assert "demo/texts: 1 computed in " in output
    assert opened == ["ham.txt", "ham.txt"]
    assert rows("texts")["sub/ham.txt"]["words"] == 2


def test_a_touched_file_is_read_once_and_counted_no_more(demo, notes, opened):
    demo()
    opened.clear()
    os.utime(notes / "eggs.txt", (LONG_AGO + 1, LONG_AGO + 1))
    output = demo()
    assert "touched, with the same content (1): eggs.txt" in output
    assert "demo/texts: 0 computed in " in output
    assert opened == ["eggs.txt"]
    assert NOTHING in demo()


def test_a_deleted_file_is_retired_in_both_features(demo, notes, rows):
    demo()
    (notes / "eggs.txt").unlink()
    output = demo()
    assert "gone, retired (1): eggs.txt" in output
    assert "demo/texts: 0 computed, 1 retired in " in output
    assert "1 text: 1 line, 1 word\n" in output
    assert set(rows("files")) == set(rows("texts")) == {"sub/ham.txt"}


def test_a_change_without_another_size_or_time_shows_when_rehashed(demo, notes):
    demo()
    write(notes / "sub/ham.txt", "MAH")
    assert NOTHING in demo()
    assert "changed (1): sub/ham.txt" in demo("--rehash")


def test_a_directory_of_any_name_is_walked(demo, notes, capsys):
    directory = notes.rename(notes.parent / "n [1] *?")
    assert main(["demo", str(directory)]) == 0
    assert "2 files, 2 new" in capsys.readouterr().out


def test_an_empty_directory_has_nothing(tmp_path, capsys):
    assert main(["demo", str(tmp_path)]) == 0
    assert "demo/files: 0 files, 0 new, 0 changed" in capsys.readouterr().out


def test_a_file_that_changes_before_it_is_counted_is_left_for_the_next_run(demo, notes, rows, monkeypatch):
    def changed(path):
        write(notes / "sub/ham.txt", "other", seconds=LONG_AGO + 1)
        return describe_file(path)

    describe_file = texts.describe_file
    with monkeypatch.context() as patch:
        patch.setattr(texts, "describe_file", changed)
        output = demo()
    assert "left for the next run (1): sub/ham.txt: StorageError: 'sub/ham.txt' changed since it was hashed" in output
    assert set(rows("texts")) == {"eggs.txt"}
    assert "changed (1): sub/ham.txt" in demo()
    assert rows("texts")["sub/ham.txt"]["words"] == 1


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_computed(demo, monkeypatch):
    def refuse(path):
        if path.endswith("eggs.txt"):
            raise PermissionError(13, "Permission denied", path)
        return was(path)

    was = tree._opened
    monkeypatch.setattr(tree, "_opened", refuse)
    output = demo()
    assert "cannot be read (1): eggs.txt: cannot read" in output
    assert "Permission denied" in output
    assert "demo/texts: 1 computed in " in output


def test_a_name_cannot_speak_to_the_terminal(demo, notes):
    write(notes / "a\nb\x1b[31m\u202e", "")
    output = demo()
    assert "a\\nb\\x1b[31m\\u202e" in output
    assert "\x1b" not in output


def test_a_long_name_is_shortened_in_print(demo, notes):
    write(notes / ("a" * 100 + "b" * 100), "")
    assert "a" * 28 + "..." + "b" * 29 + "," in demo()


def test_hidden_files_are_left_out(demo, notes, rows):
    write(notes / ".git" / "config", "")
    demo()
    assert set(rows("files")) == {"eggs.txt", "sub/ham.txt"}


def test_a_run_that_ends_early_is_taken_up_there(demo, notes, rows, monkeypatch, capsys):
    append, left = FilesystemMetadataStore.append_rows, iter(range(1))

    def failing(store, request):
        if next(left, None) is None:
            raise StorageError("the disk is gone")
        append(store, request)

    with monkeypatch.context() as patch:
        patch.setattr(FilesystemMetadataStore, "append_rows", failing)
        assert main(["demo", str(notes)]) == 1
    assert capsys.readouterr().err == "metaxy-fs: the disk is gone\n"
    output = demo()
    assert "demo/files: 2 files, 0 new, 0 changed" in output
    assert "demo/texts: 2 computed in " in output


def test_a_root_in_a_bucket_works_the_same(demo, notes, rows, bucket):
    root = f"{bucket}/features"
    assert "demo/texts: 2 computed" in demo("--root", root)
    write(notes / "sub/ham.txt", "spam spam", seconds=LONG_AGO + 1)
    assert "demo/texts: 1 computed" in demo("--root", root)
    assert NOTHING in demo("--root", root)
    assert rows("texts", root)["sub/ham.txt"]["words"] == 2
    assert not (notes / ".metaxy").exists()


def test_a_directory_that_lost_all_its_files_ends_the_run(demo, notes, capsys):
    demo()
    (notes / "eggs.txt").unlink()
    (notes / "sub" / "ham.txt").unlink()
    assert main(["demo", str(notes)]) == 1
    assert "no file is left below" in capsys.readouterr().err
