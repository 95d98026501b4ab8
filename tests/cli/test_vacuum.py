"""`metaxy-fs vacuum`: what it prints, deletes and leaves."""

import os

import pytest

from metaxy_fs.cli.main import main

LONG_AGO = 1_600_000_000


@pytest.fixture
def orphan(notes, demo):
    """A data file that no manifest names, from long ago."""
    demo()
    [partition] = (notes / ".metaxy").glob("demo.texts/*")
    path = partition / "lost-0.parquet"
    path.write_bytes(b"12345")
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def vacuum(orphan, *options):
    return main(["vacuum", "--root", str(orphan.parents[2]), *options])


def age_notes(orphan):
    """Let what the last vacuum has noted be eight days old."""
    [record] = orphan.parent.glob("_vacuum/*.json")
    time = record.stat().st_mtime - 8 * 24 * 60 * 60
    os.utime(record, (time, time))


def test_an_orphan_is_removed_once_it_was_noted(orphan, capsys):
    assert vacuum(orphan, "--yes") == 0
    first, counts = capsys.readouterr().out.splitlines()
    assert first == f"waiting    {orphan.relative_to(orphan.parents[2])} (5 bytes): no manifest names it, for 0:00:00"
    assert counts == "1 object waiting (5 bytes)"
    age_notes(orphan)

    assert vacuum(orphan) == 0
    assert orphan.exists()
    first, counts, hint = capsys.readouterr().out.splitlines()
    assert first.startswith("deletable ")
    assert "for 8 days, " in first
    assert hint == "Nothing was changed; --yes does it."

    assert vacuum(orphan, "--yes") == 0
    assert not orphan.exists()
    assert capsys.readouterr().out.startswith("deleted ")


def test_a_dry_run_notes_nothing(orphan, capsys):
    assert vacuum(orphan) == 0
    assert not (orphan.parent / "_vacuum").exists()


def test_a_retention_of_ones_own_counts(orphan, capsys):
    vacuum(orphan, "--yes")
    age_notes(orphan)
    assert vacuum(orphan, "demo/texts", "--retention", "9d") == 0
    assert vacuum(orphan, "demo/files", "--retention", "7d") == 0
    assert "deletable " not in capsys.readouterr().out
    assert vacuum(orphan, "--retention", "100h") == 0
    assert "deletable " in capsys.readouterr().out


def test_what_is_not_understood_exits_with_1(orphan, capsys):
    (orphan.parent / "_manifests" / "appends" / "x.json").write_bytes(b"")
    assert vacuum(orphan, "--yes") == 1
    first, counts = capsys.readouterr().out.splitlines()
    assert first.startswith(
        f"skipped    {orphan.parent.relative_to(orphan.parents[2])} was left as it is: The manifest "
    )
    assert counts == "nothing to remove"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--retention", "1d"], "retention is at least 2 days"),
        (["--grace", "1m"], "grace is at least 0:10:00"),
        (["--grace", "soon"], "'soon' is no duration: expected one such as 30m, 12h or 7d"),
        (["--grace", "7"], "'7' is no duration"),
        (["--grace", "nand"], "no duration"),
    ],
)
def test_durations_that_make_no_sense_exit_with_2(orphan, capsys, options, message):
    assert vacuum(orphan, *options) == 2
    assert message in capsys.readouterr().err
