"""`metaxy-fs copy`: its output and exit codes."""

import pytest

from metaxy_fs import FeatureKey, FilesystemMetadataStore
from metaxy_fs.cli.main import main

TEXTS = FeatureKey(["demo", "texts"])


def test_a_feature_is_copied_and_a_repetition_finds_it(notes, demo, capsys, tmp_path):
    demo()
    source, target = str(notes / ".metaxy"), str(tmp_path / "target")
    capsys.readouterr()
    for expected in ("1 commit copied in 1 data file (", "0 commits copied in 0 data files (0 bytes)"):
        assert main(["copy", "--root", source, "--to-root", target, "demo/texts", "--yes"]) == 0
        told = capsys.readouterr().out
        assert told.startswith(expected)
        assert told.endswith(f"{target} has 1 commit of {source}\n")
    copied = FilesystemMetadataStore(target)
    assert copied.list_features() == [TEXTS]
    assert copied.read_metadata(TEXTS).equals(FilesystemMetadataStore(source).read_metadata(TEXTS))


def test_a_snapshot_and_latest_rows_are_copied(notes, demo, capsys, tmp_path):
    demo()
    store = FilesystemMetadataStore(notes / ".metaxy")
    store.create_snapshot("s")
    copy = ["copy", "--root", store.location, "--to-root", str(tmp_path / "target"), "--yes"]
    assert main([*copy, "demo.texts", "--latest", "--snapshot", "s"]) == 0
    capsys.readouterr()
    assert main([*copy, "demo.texts", "--snapshot", "other"]) == 1
    assert "no snapshot 'other'" in capsys.readouterr().err


def test_a_whole_root_is_copied_with_its_snapshots(notes, demo, capsys, tmp_path):
    demo()
    store, target = FilesystemMetadataStore(notes / ".metaxy"), FilesystemMetadataStore(tmp_path / "target")
    store.create_snapshot("s")
    capsys.readouterr()
    assert main(["copy", "--root", store.location, "--to-root", target.location, "--yes"]) == 0
    assert capsys.readouterr().out.endswith(f"of {store.location} and 1 snapshot\n")
    assert target.list_features() == store.list_features()
    assert target.at("s").read_metadata(TEXTS).equals(store.at("s").read_metadata(TEXTS))


@pytest.mark.parametrize("arguments", [["no key!"], ["demo/texts", "--snapshot", "no name!"]])
def test_arguments_without_a_meaning_are_told(notes, demo, capsys, tmp_path, arguments):
    demo()
    target = str(tmp_path / "target")
    assert main(["copy", "--root", str(notes / ".metaxy"), "--to-root", target, *arguments, "--yes"]) == 2


def test_a_feature_that_is_not_there_fails(notes, demo, capsys, tmp_path):
    demo()
    assert main(["copy", "--root", str(notes / ".metaxy"), "--to-root", str(tmp_path / "target"), "demo/nothing"]) == 1
    assert "demo/nothing" in capsys.readouterr().err
