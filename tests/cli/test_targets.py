"""Refuse, in every command, a place that is no root and a feature that is not there."""

import shutil
import subprocess
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from metaxy_fs import (
    FeatureKey,
    FeatureNotFoundError,
    FeatureSpec,
    FilesystemMetadataStore,
    compact,
    copy_metadata,
    repair,
    vacuum,
    verify,
)
from metaxy_fs.cli.main import main
from metaxy_fs.cli.targets import Target, sample_frame
from metaxy_fs.spec import FeatureDep, FeatureGraph

COMMANDS = {
    "verify": ["verify", "--root", "{root}", "{feature}"],
    "repair": ["repair", "--root", "{root}", "{feature}"],
    "repair --yes": ["repair", "--root", "{root}", "{feature}", "--yes"],
    "compact": ["compact", "--root", "{root}", "{feature}"],
    "compact --full": ["compact", "--root", "{root}", "{feature}", "--full", "--yes"],
    "vacuum": ["vacuum", "--root", "{root}", "{feature}"],
    "vacuum --yes": ["vacuum", "--root", "{root}", "{feature}", "--yes"],
    "copy": ["copy", "--root", "{root}", "--to-root", "{target}", "{feature}"],
    "publish": ["publish", "--root", "{root}", "{feature}", "--yes"],
    "copy --latest": ["copy", "--root", "{root}", "--to-root", "{target}", "{feature}", "--latest", "--yes"],
    "copy into": ["copy", "--root", "{target}", "--to-root", "{root}", "{feature}", "--yes"],
    "list": ["list", "--root", "{root}", "{feature}"],
    "status": ["status", "--root", "{root}", "{feature}"],
    "show": ["show", "--root", "{root}", "{named}"],
    "history": ["history", "--root", "{root}", "{named}"],
    "definitions": ["definitions", "--root", "{root}", "{named}"],
    "files": ["files", "--root", "{root}", "{named}"],
    "graph": ["graph", "--root", "{root}", "{feature}"],
    "report": ["report", "--root", "{root}", "-o", "{directory}/report.html"],
    "plan": ["plan", "--root", "{root}", "{feature}"],
    "explain": ["explain", "--root", "{root}", "{named}", "1"],
    "trace": ["trace", "--root", "{root}", "{named}", "1"],
    "diff": ["diff", "--root", "{root}", "--before", "2100-01-01T00:00:00Z", "{feature}"],
    "fingerprint": ["fingerprint", "--root", "{root}", "{feature}"],
    "retire": ["retire", "--root", "{root}", "{named}", "1", "--yes"],
    "restore": ["restore", "--root", "{root}", "{named}", "--at", "2100-01-01T00:00:00Z", "--yes"],
    "snapshot create": ["snapshot", "create", "s", "--root", "{root}", "{feature}", "--yes"],
    "demo": ["demo", "{directory}", "--root", "{root}"],
}
"""Every command, with the root that it is about, and the feature if there is one."""


@pytest.fixture
def root(tmp_path):
    """A root that holds `video/frames`."""
    root = tmp_path / "above" / "root"
    graph = FeatureGraph.from_specs([FeatureSpec(key=FeatureKey(["video", "frames"]))])
    with graph.use():
        rows = pl.DataFrame({"sample_id": [1], "data_version": [{"default": "v"}]})
        FilesystemMetadataStore(root).write_metadata(FeatureKey(["video", "frames"]), rows)
    return root


@pytest.fixture
def run(tmp_path, root, capsys):
    """Runs a command on a place; gives the exit code, and what it printed in all."""
    (tmp_path / "files").mkdir()
    shutil.copytree(root, tmp_path / "target")

    def run(command, place, feature=""):
        feature = feature or ("video/frames" if command.startswith("copy") else "")
        words = {"root": place, "target": tmp_path / "target", "directory": tmp_path / "files", "feature": feature}
        words["named"] = feature or "video/frames"
        arguments = [word.format(**words) for word in COMMANDS[command]]
        before = sorted(tmp_path.rglob("*"))
        code = main([argument for argument in arguments if argument])
        captured = capsys.readouterr()
        return code, captured.out, captured.err, sorted(tmp_path.rglob("*")) == before

    return run


def clone_of_git(place: Path) -> None:
    subprocess.run(["git", "init", "-q", place], check=True)
    (place / "src" / "package").mkdir(parents=True)
    (place / "README.md").write_text("# A project")


def directory_of_others(place: Path) -> None:
    (place / "pictures" / "2024").mkdir(parents=True)
    (place / "pictures" / "2024" / "cat.jpg").write_bytes(b"cat")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("make", [clone_of_git, directory_of_others])
def test_place_that_holds_something_else_is_refused(run, tmp_path, command, make):
    make(tmp_path / "other")
    code, out, error, is_unchanged = run(command, tmp_path / "other")
    assert (code, out, is_unchanged) == (1, "", True)
    assert "is no root of metadata" in error


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("place", "hint"),
    [
        ("..", r"There is a root in it: root"),
        ("video.frames", "the root above it"),
        ("video.frames/{version}", "two directories above it"),
        ("video.frames/{version}/_manifests", "no root of metadata"),
    ],
)
def test_place_above_or_below_a_root_is_refused_with_a_hint(run, root, command, place, hint):
    version = next((root / "video.frames").iterdir()).name
    code, out, error, is_unchanged = run(command, (root / place.format(version=version)).resolve())
    assert (code, out, is_unchanged) == (1, "", True)
    assert hint in error


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("demo", "copy into")])
def test_place_at_which_there_is_nothing_is_refused(run, tmp_path, command):
    (tmp_path / "empty").mkdir()
    for place in ("empty", "gone"):
        code, out, error, is_unchanged = run(command, tmp_path / place)
        assert (code, out, is_unchanged) == (1, "", True)
        assert "there is nothing at" in error


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("demo", "report")])
def test_feature_that_is_not_there_is_refused(run, root, command):
    code, out, error, is_unchanged = run(command, root, "video/framse")
    assert (code, out, is_unchanged) == (1, "", True)
    assert "framse" in error


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("demo", "report")])
def test_feature_that_is_there_is_taken(run, root, command):
    assert run(command, root, "video/frames")[0] == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_root_without_its_store_file_is_one_all_the_same(run, root, command):
    (root / "_store.json").unlink()
    code, out, error, is_unchanged = run(command, root)
    if command.startswith("vacuum"):  # what deletes does not guess
        assert (code, is_unchanged) == (1, True)
        assert "is no root of metaxy_fs: it has no _store.json. Nothing was deleted." in error
        return
    assert "is no root" not in error
    assert code == (1 if command == "verify" else 0), (out, error)


@pytest.mark.parametrize(
    "call",
    [
        compact,
        lambda store, feature: vacuum(store, feature, dry_run=True),
        lambda store, feature: repair(store, feature, dry_run=True),
        verify,
        lambda store, feature: copy_metadata(feature, source=store, target=store),
    ],
    ids=["compact", "vacuum", "repair", "verify", "copy_metadata"],
)
def test_call_names_a_feature_that_is_not_there(root, call):
    with pytest.raises(FeatureNotFoundError, match="framse"):
        call(FilesystemMetadataStore(root), FeatureKey(["video", "framse"]))


def test_verification_of_something_else_is_not_sound(tmp_path):
    directory_of_others(tmp_path)
    [finding] = verify(FilesystemMetadataStore(tmp_path)).findings
    assert (finding.severity, finding.path) == ("error", "_store.json")


def test_ids_of_features_without_rows_have_the_types_of_the_upstream(tmp_path):
    video = FeatureSpec(key="video", id_columns=["day", "number"])
    frames = FeatureSpec(
        key="frames", id_columns=["on", "number"], deps=[FeatureDep(key="video", rename={"day": "on"})]
    )
    dep = FeatureDep(key="frames", relation="expansion")
    faces = FeatureSpec(key="faces", id_columns=["on", "number", "face"], deps=[dep])
    store = FilesystemMetadataStore(tmp_path)
    graph = FeatureGraph.from_specs([video, frames, faces])
    with graph.use():
        days = [date(2026, 11, 29)]
        store.write_metadata("video", pl.DataFrame({"day": days, "number": [7], "data_version": [{"default": "v"}]}))
    found = sample_frame(Target(store), graph, faces.key, ["2026-11-29,7,left"])
    assert found.rows() == [(*days, 7, "left")]
