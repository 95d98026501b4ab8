"""Each run of the demo computes what changed, all of it and no more."""

import hashlib
import itertools
import os
from contextlib import contextmanager
from types import SimpleNamespace

import polars as pl
import pytest

from metaxy_fs.cli import demo as steps
from metaxy_fs.cli import hashing, update
from metaxy_fs.cli.main import main
from metaxy_fs.errors import StorageError
from metaxy_fs.metadata_store import FilesystemMetadataStore, InMemoryMetadataStore
from tests.cli.conftest import LONG_AGO, table, write


def counts(output: str, *columns: str) -> list[tuple[int, ...]]:
    """The cells of some columns, first of the files, then of the texts."""
    return [tuple(row[column] for column in columns) for row in table(output).values()]


@pytest.fixture
def opened(monkeypatch):
    """The samples whose files were opened, first to be hashed, then to be counted."""
    seen = SimpleNamespace(hashed=[], counted=[])
    for module, log in ((hashing, seen.hashed), (update, seen.counted)):
        monkeypatch.setattr(
            module, "open_file", lambda d, s, log=log, was=module.open_file: [log.append(s), was(d, s)][1]
        )
    return seen


def test_the_first_run_computes_everything(demo):
    assert counts(demo(), "stored", "new", "stale", "orphaned", "computed") == [(2, 2, 0, 0, 2)] * 2


def test_a_file_is_a_sample_with_its_hash_and_its_stat(demo, rows, notes):
    demo()
    row = rows("files")["sub/ham.txt"]
    assert row["data_version"]["content"] == hashlib.sha256(b"ham").hexdigest()
    mode = (notes / "sub/ham.txt").stat().st_mode & 0o7777
    assert row["data_version"]["stat"] == f"3 bytes, mode {mode:04o}, modified {LONG_AGO}000000000 ns"


def test_a_text_is_counted(demo, rows):
    demo()
    row = rows("texts")["eggs.txt"]
    assert (row["is_text"], row["lines"], row["words"]) == (True, 2, 6)
    assert row["terms"] == [{"term": "eggs", "count": 2}, {"term": "green", "count": 2}]


def test_the_totals_are_those_of_all_texts(demo):
    assert "2 texts: 3 lines, 7 words\n" in demo()


def test_the_second_run_has_nothing_to_do(demo, opened):
    demo()
    opened.hashed.clear(), opened.counted.clear()
    output = demo()
    assert counts(output, "stored", "new", "stale", "orphaned", "computed") == [(2, 0, 0, 0, 0)] * 2
    assert output.count("nothing to do") == 2
    assert (opened.hashed, opened.counted) == ([], [])


def test_an_edited_file_is_computed_in_both_features(demo, notes, rows, opened):
    demo()
    opened.hashed.clear(), opened.counted.clear()
    write(notes / "sub/ham.txt", "spam spam", seconds=LONG_AGO + 1)
    output = demo()
    assert counts(output, "new", "stale", "computed") == [(0, 1, 1)] * 2
    assert output.count("stale, other content (1): sub/ham.txt") == 2
    assert (opened.hashed, opened.counted) == (["sub/ham.txt"], ["sub/ham.txt"])
    assert rows("texts")["sub/ham.txt"]["words"] == 2


def test_a_touched_file_is_computed_in_the_root_feature_alone(demo, notes, rows, opened):
    demo()
    opened.counted.clear()
    os.utime(notes / "eggs.txt", (LONG_AGO + 1, LONG_AGO + 1))
    output = demo()
    assert counts(output, "stale", "computed") == [(1, 1), (0, 0)]
    assert "1 file was touched: its `stat` is noted; `content` is the same, so demo/texts has nothing to do" in output
    assert opened.counted == []
    assert rows("files")["eggs.txt"]["data_version"]["stat"].endswith(f"modified {LONG_AGO + 1}000000000 ns")
    assert counts(demo(), "stale") == [(0,), (0,)]


def test_a_new_mode_is_a_new_stat(demo, notes):
    (notes / "eggs.txt").chmod(0o644)
    demo()
    (notes / "eggs.txt").chmod(0o600)
    assert counts(demo(), "stale") == [(1,), (0,)]


def test_a_deleted_file_is_orphaned_in_both_features_and_its_rows_stay(demo, notes, rows):
    demo()
    (notes / "eggs.txt").unlink()
    output = demo()
    assert counts(output, "stored", "orphaned", "computed") == [(2, 1, 0)] * 2
    assert output.count("gone, rows stay in the log (1): eggs.txt") == 2
    assert "1 text: 1 line, 1 word\n" in output
    assert "eggs.txt" in rows("texts")


def test_a_change_without_another_size_or_time_shows_when_rehashed(demo, notes):
    demo()
    write(notes / "sub/ham.txt", "MAH")
    assert counts(demo(), "stale") == [(0,), (0,)]
    assert counts(demo("--rehash"), "stale") == [(1,), (1,)]


def test_a_file_hashed_right_after_its_modification_is_hashed_again(demo, notes, opened, monkeypatch):
    monkeypatch.setattr(hashing, "wall_clock", lambda: (LONG_AGO + 1) * 1_000_000)
    demo()
    write(notes / "sub/ham.txt", "MAH")
    assert counts(demo(), "stale") == [(1,), (1,)]


def test_the_root_in_the_directory_is_not_walked(demo, rows, notes):
    demo("--root", str(notes / "sub" / "kept"))
    assert "root of a store (1)" in demo("--root", str(notes / "sub" / "kept"))
    assert set(rows("files", str(notes / "sub" / "kept"))) == {"eggs.txt", "sub/ham.txt"}


def test_a_file_that_changes_before_it_is_counted_is_left_for_the_next_run(demo, notes, rows, monkeypatch):
    def change_then_open(directory, sample):
        write(notes / sample, f"other {sample}", seconds=LONG_AGO + 1)
        return open_file(directory, sample)

    open_file = update.open_file
    with monkeypatch.context() as patch:
        patch.setattr(update, "open_file", change_then_open)
        output = demo()
    assert "left for the next run (2): eggs.txt: it changed since it was hashed" in output
    assert counts(output, "stored", "computed") == [(2, 2), (0, 0)]
    assert counts(demo(), "computed") == [(2,), (2,)]
    assert rows("texts")["sub/ham.txt"]["words"] == 4


def test_a_file_that_changes_while_it_is_hashed_is_left_for_the_next_run(demo, notes, monkeypatch):
    @contextmanager
    def touching(what, *, total):
        times = itertools.count(LONG_AGO + 1)
        yield lambda size: os.utime(notes / "eggs.txt", (LONG_AGO, next(times)))

    with monkeypatch.context() as patch:
        patch.setattr(update, "progress", touching)
        output = demo()
    assert "cannot be read (1): eggs.txt: it changed while it was read" in output
    assert counts(output, "stored") == [(1,), (1,)]
    assert counts(demo(), "stored") == [(2,), (2,)]


def test_a_run_killed_between_commits_is_taken_up_there(demo, notes, monkeypatch, capsys):
    for number in range(5):
        write(notes / f"{number}.txt", f"text {number}")
    monkeypatch.setattr(update, "FILES_PER_COMMIT", 3)
    monkeypatch.setattr(update, "TEXTS_PER_COMMIT", 2)
    with monkeypatch.context() as patch:
        # Three commits of files, then two of texts.
        patch.setattr(FilesystemMetadataStore, "append_rows", failing_after(5))
        assert main(["demo", str(notes)]) == 1
    assert capsys.readouterr().err == "metaxy-fs: the disk is gone\n"
    assert counts(demo(), "stored", "new", "computed") == [(7, 0, 0), (7, 3, 3)]


def test_files_hashed_before_a_run_was_killed_are_not_hashed_again(demo, notes, monkeypatch, opened):
    monkeypatch.setattr(update, "FILES_PER_COMMIT", 1)
    with monkeypatch.context() as patch:
        patch.setattr(FilesystemMetadataStore, "append_rows", failing_after(1))
        assert main(["demo", str(notes)]) == 1
    opened.hashed.clear()
    assert counts(demo(), "new") == [(1,), (2,)]
    assert opened.hashed == ["sub/ham.txt"]


def test_commits_are_bounded_by_the_bytes_of_their_files(demo, monkeypatch):
    monkeypatch.setattr(update, "BYTES_PER_COMMIT", 1)
    monkeypatch.setattr(FilesystemMetadataStore, "append_rows", failing_after(4))
    assert counts(demo(), "stored") == [(2,), (2,)]
    with pytest.raises(StorageError):
        FilesystemMetadataStore.append_rows(None, None)


def test_versions_are_those_of_the_files_as_this_run_saw_them(demo, notes, rows, monkeypatch):
    def interfere(store, features, files, *, out_of_reach):
        version = {"content": "what another run saw", "stat": "then"}
        store.write_metadata(
            features.files, files.with_columns(data_version=pl.struct(**{k: pl.lit(v) for k, v in version.items()}))
        )
        return resolve_texts(store, features, files, out_of_reach=out_of_reach)

    resolve_texts = steps.resolve_texts
    monkeypatch.setattr(steps, "resolve_texts", interfere)
    demo()
    preimage = f"default|1|demo_files/content|{hashlib.sha256(b'ham').hexdigest()}"
    assert rows("texts")["sub/ham.txt"]["data_version"]["default"] == hashlib.sha256(preimage.encode()).hexdigest()


def test_a_root_in_a_bucket_works_the_same(demo, notes, rows, bucket):
    root = f"{bucket}/features"
    assert counts(demo("--root", root), "new", "computed") == [(2, 2), (2, 2)]
    write(notes / "sub/ham.txt", "spam spam", seconds=LONG_AGO + 1)
    os.utime(notes / "eggs.txt", (LONG_AGO + 1, LONG_AGO + 1))
    assert counts(demo("--root", root), "new", "stale", "computed") == [(0, 2, 2), (0, 1, 1)]
    assert counts(demo("--root", root), "stale") == [(0,), (0,)]
    assert rows("texts", root)["sub/ham.txt"]["words"] == 2
    assert not (notes / ".metaxy").exists()


def failing_after(commits: int):
    """`append_rows` of a store whose disk is lost after some commits."""
    append, left = FilesystemMetadataStore.append_rows, iter(range(commits))

    def append_rows(store, request):
        if not isinstance(store, InMemoryMetadataStore) and next(left, None) is None:
            raise StorageError("the disk is gone")
        append(store, request)

    return append_rows
