"""Give the shell what it was not made for: each is refused in a few lines, and nothing from a root reaches a terminal.

No case may end in a traceback: what is wrong with the arguments exits with 2, everything else with 1.
"""

import json
import sys
from datetime import UTC, date, datetime

import polars as pl
import pytest

from metaxy_fs import FeatureGraph, FeatureKey, FeatureSpec, FilesystemMetadataStore
from metaxy_fs.cli.main import main
from metaxy_fs.spec import FeatureDep

HOSTILE = "\x1b[31m[red]x[/]\u202e\r\n\x07,'"
DAY = date(2026, 11, 28)
NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
CROPS = ["video", "side"]


def write(root, name, rows, *, id_columns=("sample_id",), tags=None):
    """Write rows of a feature of one container, under one version."""
    spec = FeatureSpec(key=FeatureKey.parse(name), id_columns=list(id_columns))
    store = FilesystemMetadataStore(root)
    with FeatureGraph.from_specs([spec]).use():
        frame = pl.DataFrame(rows).with_columns(data_version=pl.struct(default=pl.lit("v")))
        store.write_metadata(spec.key, frame, tags=tags)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A root with ids of all types, in a working directory without a configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METAXY_FS_CONFIG", "")
    monkeypatch.setenv("METAXY_FS_STORE", "")
    write("root", "numbers", {"sample_id": [1, -2]})
    write("root", "days", {"sample_id": [DAY]})
    write("root", "moments", {"sample_id": [NOON]})
    write("root", "plain/moments", {"sample_id": [NOON.replace(tzinfo=None)]})
    write("root", "bytes", {"sample_id": [b"abc"]})
    write("root", "names", {"sample_id": ["ü/é", "日本,x", "[red]", "-x", HOSTILE]}, tags={"job": HOSTILE})
    write("root", "crops", {"video": [17, 17], "side": ["left", "a,b"]}, id_columns=CROPS)
    return tmp_path / "root"


def shell(capsys, *arguments):
    """Run a command; return its exit code and what it printed."""
    capsys.readouterr()
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("feature", "text", "expected"),
    [
        ("numbers", "1", {"sample_id": 1}),
        ("numbers", "-2", {"sample_id": -2}),
        ("days", "2026-11-28", {"sample_id": "2026-11-28"}),
        ("moments", "2026-11-28T12:00:00Z", {"sample_id": "2026-11-28T12:00:00Z"}),
        ("moments", "2026-11-28 14:00:00+02:00", {"sample_id": "2026-11-28T12:00:00Z"}),
        ("plain.moments", "2026-11-28T12:00:00", {"sample_id": "2026-11-28T12:00:00"}),
        ("bytes", "abc", {"sample_id": "YWJj"}),
        ("names", "ü/é", {"sample_id": "ü/é"}),
        ("names", "日本,x", {"sample_id": "日本,x"}),
        ("names", "[red]", {"sample_id": "[red]"}),
        ("names", "-x", {"sample_id": "-x"}),
        ("names", HOSTILE, {"sample_id": HOSTILE}),
        ("crops", "17,left", {"video": 17, "side": "left"}),
        ("crops", '17,"a,b"', {"video": 17, "side": "a,b"}),
    ],
)
def test_ids_of_all_types_name_samples(root, capsys, feature, text, expected):
    code, out, err = shell(capsys, "show", feature, "--root", "root", "--json", "--", text)
    assert code == 0, err
    [row] = json.loads(out)["answers"][0]["rows"]
    assert {name: row[name] for name in expected} == expected
    assert out.isascii()
    assert shell(capsys, "explain", feature, "--root", "root", "--", text)[0] == 0


@pytest.mark.parametrize(
    ("feature", "text"),
    [
        ("numbers", "1.0"),
        ("numbers", ""),
        ("numbers", "9" * 20),
        ("days", "2026-13-01"),
        ("days", "yesterday"),
        ("moments", "noon"),
        ("crops", ""),
        ("crops", "17"),
        ("crops", "17,left,x"),
        ("crops", "17,a,b"),
        ("crops", '17,"a'),
        ("crops", "left,17"),
    ],
)
@pytest.mark.parametrize("command", ["show", "explain", "trace", "retire"])
def test_ids_of_no_sample_are_refused(root, capsys, command, feature, text):
    code, out, err = shell(capsys, command, feature, "--root", "root", "--", text)
    assert (code, out) == (2, "")
    assert "names no sample" in err or "name no samples" in err


@pytest.mark.parametrize(
    "where",
    ["", "sample_id", "sample_id = 'a'", "upper(sample_id)", "sample_id / 'a' > 1", "CAST('a' AS INT) = sample_id"],
)
def test_predicates_without_meaning_are_refused(root, capsys, where):
    code, out, err = shell(capsys, "show", "numbers", "--where", where, "--root", "root")
    assert (code, out) == (2, "")
    assert "--where / --columns" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["diff", "--before", ""],
        ["diff", "--before", "../x"],
        ["fingerprint", "--at", "last monday"],
        ["restore", "numbers", "--at", ""],
        ["snapshot", "create", ""],
        ["snapshot", "create", "../x"],
        ["snapshot", "drop", "../x"],
        ["snapshot", "create", "../x", "--yes"],
    ],
)
def test_moments_without_meaning_are_refused(root, capsys, arguments):
    code, out, err = shell(capsys, *arguments, "--root", "root")
    assert (code, out) == (2, "")
    assert "snapshot" in err


@pytest.mark.parametrize(
    "command",
    ["list", "show", "history", "definitions", "files", "status", "plan", "graph", "trace", "diff", "fingerprint",
     "retire", "restore", "explain", "compact", "vacuum", "verify", "repair", "copy", "publish",
     "snapshot create"],
)  # fmt: skip
def test_a_misspelt_feature_is_an_error_that_names_the_near_one(root, capsys, command):
    options = {"diff": ["--before", "monday"], "restore": ["--at", "monday"], "copy": ["--to-root", "x"]}
    ids = {"trace": ["1"], "explain": ["1"], "retire": ["1"]}.get(command, [])
    names = ["monday"] if command == "snapshot create" else []
    rest = [*names, "numbres", *ids, *options.get(command, []), "--root", "root"]
    code, out, err = shell(capsys, *command.split(), *rest)
    assert (code, out) == (1, "")
    assert "Did you mean 'numbers'" in err


@pytest.mark.parametrize(
    ("place", "hint"),
    [("nowhere", "there is nothing at"), (".", "There is a root in it: root"), ("root/numbers", "the root above it")],
)
def test_a_place_beside_the_root_is_an_error_that_names_it(root, capsys, place, hint):
    for command in ("list", "status", "verify"):
        code, out, err = shell(capsys, command, "--root", place)
        assert (code, out) == (1, "")
        assert hint in err


@pytest.mark.parametrize(
    "arguments",
    [["show", "names"], ["history", "names"], ["list"], ["status"], ["explain", "names", HOSTILE],
     ["trace", "names", HOSTILE], ["retire", "names", HOSTILE], ["show", "names", "--where", HOSTILE],
     ["show", "names", "--columns", HOSTILE], ["show", HOSTILE], ["diff", "--before", HOSTILE],
     ["snapshot", "create", HOSTILE], ["list", "--store", HOSTILE], [HOSTILE], ["list", HOSTILE]],
)  # fmt: skip
def test_nothing_hostile_reaches_a_terminal(root, capsys, arguments):
    _, out, err = shell(capsys, *arguments, *(["--root", "root"] if arguments[-2:] != ["--store", HOSTILE] else []))
    assert {each for each in out + err if not each.isprintable()} <= {"\n"}


@pytest.mark.parametrize("arguments", [["graph", "lost"], ["explain", "lost", "1"], ["retire", "lost", "1"]])
def test_a_feature_that_the_graph_leaves_out_is_an_error_that_says_why(root, capsys, arguments):
    upstream = FeatureSpec(key=FeatureKey(["never", "written"]))
    lost = FeatureSpec(key=FeatureKey(["lost"]), deps=[FeatureDep(key=upstream.key)])
    with FeatureGraph.from_specs([upstream, lost]).use():
        frame = pl.DataFrame({"sample_id": [1], "data_version": [{"default": "v"}]})
        FilesystemMetadataStore(root).write_metadata(lost.key, frame)
    code, out, err = shell(capsys, *arguments, "--root", "root")
    assert (code, out) == (1, "")
    assert "It is left out: 'lost' in" in err
    assert "depends on 'never/written'" in err


@pytest.mark.parametrize("yes", [[], ["--yes"]])
def test_a_snapshot_that_is_there_is_refused_without_yes_too(root, capsys, yes):
    FilesystemMetadataStore(root).create_snapshot("monday")
    code, out, err = shell(capsys, "snapshot", "create", "monday", "--root", "root", *yes)
    assert (code, out) == (2, "")
    assert "has a snapshot 'monday' already" in err


def test_a_sample_that_is_named_twice_counts_once(root, capsys):
    _, out, _ = shell(capsys, "retire", "numbers", "1", "01", "--root", "root")
    assert out.startswith("numbers: 1 sample would be retired, of which 1 had rows\n")


def test_values_that_json_has_no_form_for_have_one(root, capsys):
    rows = {
        "sample_id": [1],
        "nan": [float("nan")],
        "bytes": [[b"\xff"]],
        "large": pl.Series([1 << 63], dtype=pl.UInt64),
    }
    write("root", "odd", rows)
    _, out, _ = shell(capsys, "show", "odd", "--root", "root", "--json")
    [row] = json.loads(out, parse_constant=pytest.fail)["answers"][0]["rows"]
    assert (row["nan"], row["bytes"], row["large"]) == (None, ["/w=="], 1 << 63)


class TestModules:
    """Modules that the configuration says declare features, and that do something else."""

    @pytest.fixture
    def module(self, root, tmp_path, monkeypatch):
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setenv("METAXY_FS_CONFIG", str(tmp_path / "metaxy_fs.toml"))
        (tmp_path / "metaxy_fs.toml").write_text("entrypoints = ['broken_module']\nstores.dev.root = 'root'\n")
        yield tmp_path / "broken_module.py"
        sys.modules.pop("broken_module", None)

    @pytest.mark.parametrize(
        ("code", "expected"),
        [
            ("raise RuntimeError('no licence')", "RuntimeError: no licence ("),
            ("def f(:", "SyntaxError: invalid syntax (broken_module.py, line 1)"),
            ("raise SystemExit(3)", "SystemExit: 3 ("),
            ("\nimport nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all' ("),
            ("1 / 0", "broken_module.py, line 1)"),
            ("from metaxy_fs import FeatureKey\nFeatureKey([''])", "broken_module.py, line 2)"),
        ],
    )
    def test_one_that_fails_is_an_error_in_one_line(self, module, capsys, code, expected):
        module.write_text(code)
        found, out, err = shell(capsys, "status")
        assert (found, out, err.count("\n")) == (1, "", 1)
        assert "line 1: entrypoints: the module 'broken_module' cannot be imported" in err
        assert expected in err

    def test_what_one_prints_is_no_answer(self, module, capsys):
        module.write_text("print('loading')")
        code, out, err = shell(capsys, "status", "--json")
        assert (code, err) == (0, "loading\n")
        assert json.loads(out)["command"] == "status"
