"""What an error tells somebody at a shell to do can be done at a shell."""

import ast
import re
from pathlib import Path

import polars as pl
import pytest

import metaxy_fs
from metaxy_fs import FeatureGraph, FeatureKey, FeatureSpec, FilesystemMetadataStore
from metaxy_fs.cli.main import main
from metaxy_fs.cli.wording import WORDS

PYTHON = re.compile(r"\w\(\w*\)|\w=|\b(?:store|pl)\.\w|list_snapshots|read_metadata|MetadataStore|Errno")
PACKAGE = Path(metaxy_fs.__file__).parent


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A root with a feature that no other engine takes, and one that has changed, in a directory without stores."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METAXY_FS_CONFIG", "")
    monkeypatch.setenv("METAXY_FS_STORE", "")
    store = FilesystemMetadataStore(tmp_path / "root")
    spec = FeatureSpec(key=FeatureKey(["video", "cut"]))
    with FeatureGraph.from_specs([spec]).use():
        rows = pl.DataFrame({"sample_id": [1], "data_version": [{"default": "v"}]})
        store.write_metadata(spec.key, rows.with_columns(length=pl.duration(days=1)))
    (tmp_path / "empty").mkdir()
    return store


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("diff --before misspelt", "keeps no snapshot 'misspelt'; it keeps 'cuts', 'train'."),
        ("snapshot drop misspelt", "it keeps 'cuts', 'train'"),
        ("restore video/cut --at misspelt", "it keeps 'cuts', 'train'"),
        ("fingerprint --at misspelt", "it keeps 'cuts', 'train'"),
        ("publish video/cut --yes", "of feature 'video/cut', so nothing was published. Publish the others with "),
        ("publish video/cut --yes", "--columns sample_id,data_version."),
        ("publish video/cut --columns a --yes", "Feature 'video/cut' has no column 'a'"),
        ("vacuum --grace 11m --retention 1h", "Python takes shorter ones"),
        ("check --against none.json", "cannot read the fingerprint none.json: No such file or directory. Correct the "),
        ("check --against empty", "cannot read the fingerprint empty: Is a directory. Name a file in it."),
        ("report --no-states -o none/x.html", "cannot write the report none/x.html: No such file or directory. Corre"),
        ("report --no-states -o empty", "cannot write the report empty: Is a directory. Name a file in it."),
        ("list --config none.toml", "none.toml: No such file or directory. Correct the path"),
        ("list --config empty", "empty: Is a directory. Name a file in it."),
        ("list --root s3://bucket/x?a=b", "give them as storage_options of a store in the configuration"),
    ],
)
def test_advice_is_for_the_shell(root, capsys, line, advice):
    for name in ("train", "cuts"):
        root.create_snapshot(name)
    place = [] if "--root" in line or "--config" in line else ["--root", "root"]
    assert main([*line.split(), *place]) in (1, 2)
    error = " ".join(capsys.readouterr().err.split("Error: ")[-1].split())
    assert advice in error.replace(f"{root.location}", "root")
    assert not PYTHON.search(re.sub(r"a=b|Duration.time_unit='us'.", "", error))


def messages():
    """Yield the texts of the package, with a placeholder for what is filled in."""
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "['x']" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and file.name != "wording.py":
                yield node.value


def test_all_that_the_shell_says_in_other_words_is_said():
    said = [*messages(), "seconds='x'"]
    assert [pattern for pattern, _ in WORDS if not any(re.search(pattern, text) for text in said)] == []
