"""`metaxy-fs verify`: what it prints of a damaged root."""

import pytest

from metaxy_fs.cli.main import main


@pytest.fixture
def root(notes, demo):
    """The root of a demo, which has run twice."""
    demo()
    (notes / "more.txt").write_text("more")
    demo()
    return notes / ".metaxy"


def test_a_sound_root_exits_with_0(root, capsys):
    assert main(["verify", "--root", str(root)]) == 0
    assert capsys.readouterr().out.startswith("2 partitions, 4 commits, 4 data files, ")


def test_a_damaged_root_exits_with_1_and_names_the_object(root, capsys):
    file = next(root.glob("demo.texts/*/*.parquet"))
    file.write_bytes(b"")
    assert main(["verify", "--root", str(root)]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"error    {file.relative_to(root)} has another size")
    assert last.endswith(": 1 error")


def test_a_lost_description_exits_with_1(root, capsys):
    (root / "_store.json").unlink()
    assert main(["verify", "--root", str(root)]) == 1
    assert capsys.readouterr().out.startswith("warning  _store.json is missing")


def test_an_orphan_exits_with_0(root, capsys):
    next(root.glob("demo.texts/*")).joinpath("x-0.parquet").write_bytes(b"")
    assert main(["verify", "--root", str(root)]) == 0
    assert "note " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["demo/files", "demo.files"])
def test_one_feature_is_verified_alone(root, capsys, name):
    next(root.glob("demo.texts/*/*.parquet")).write_bytes(b"")
    assert main(["verify", "--root", str(root), name]) == 0
    assert capsys.readouterr().out.startswith("1 partition, 2 commits")


def test_a_feature_that_is_not_there_exits_with_1(root, capsys):
    assert main(["verify", "--root", str(root), "demo/file"]) == 1
    assert "holds nothing of a feature 'demo/file'" in capsys.readouterr().err


def test_a_feature_that_none_can_have_exits_with_2(root, capsys):
    assert main(["verify", "--root", str(root), "demo//files"]) == 2
    assert "FEATURE" in capsys.readouterr().err


def test_a_root_that_none_can_have_exits_with_2(capsys):
    assert main(["verify", "--root", "nope://x"]) == 2
    assert "--root" in capsys.readouterr().err


def test_a_bucket_is_verified(bucket, notes, capsys):
    assert main(["demo", str(notes), "--root", bucket]) == 0
    assert main(["verify", "--root", bucket]) == 0
    assert "2 partitions, 2 commits" in capsys.readouterr().out
