"""Answer questions from the shell: about stores that a file names, several roots, as tables and as JSON."""

import inspect
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import termios
from importlib.metadata import EntryPoint
from pathlib import Path

import polars as pl
import pytest

from metaxy_fs import ContainerSpec, FeatureGraph, FeatureKey, FeatureSpec, FilesystemMetadataStore, MetadataStore
from metaxy_fs.cli.app import _GROUPS, _function
from metaxy_fs.cli.main import main
from metaxy_fs.spec import FeatureDep

VIDEO = FeatureSpec(key=FeatureKey(["video"]))
FACES = FeatureSpec(key=FeatureKey(["faces"]), deps=[FeatureDep(key=VIDEO.key)])
CODE = """
from metaxy_fs import ContainerSpec, Feature, FeatureDep, FeatureKey, FeatureSpec

class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]))):
    pass

containers = [ContainerSpec(code_version=2)]
spec = FeatureSpec(key=FeatureKey(["faces"]), deps=[FeatureDep(key="video")], containers=containers)

class Faces(Feature, spec=spec):
    pass
"""


def fill(store: MetadataStore) -> MetadataStore:
    """Write three videos and the faces of two of them."""
    with FeatureGraph.from_specs([VIDEO, FACES]).use():
        versions = [{"default": f"v{sample}"} for sample in (1, 2, 3)]
        store.write_metadata(VIDEO.key, pl.DataFrame({"sample_id": [1, 2, 3], "data_version": versions}))
        pending = store.resolve_update(FACES.key).pending
        store.write_metadata(FACES.key, pending.filter(pl.col("sample_id") < 3))
    return store


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A working directory with a configuration of one store, which is filled."""
    monkeypatch.delenv("METAXY_FS_CONFIG", raising=False)
    monkeypatch.delenv("METAXY_FS_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "metaxy_fs.toml").write_text("stores.dev.root = './root'\nstores.new.root = './new'\ndefault = 'dev'\n")
    return tmp_path


@pytest.fixture
def store(project):
    return fill(FilesystemMetadataStore(project / "root"))


@pytest.fixture
def ask(capsys):
    """Runs a command line of words; gives what it printed, if it ends with the code."""

    def run(line: str, *, code: int = 0) -> str:
        capsys.readouterr()
        found = main(line.split())
        captured = capsys.readouterr()
        assert found == code, captured
        return captured.out if code != 2 else captured.err

    return run


@pytest.fixture
def answers(ask):
    """Runs a command with `--json`; gives the answers."""

    def run(line: str, *, code: int = 0) -> list[dict]:
        document = json.loads(ask(f"{line} --json", code=code))
        assert line.startswith(document["command"])
        return document["answers"]

    return run


def test_help_fits_one_screen(ask):
    lines = ask("--help").splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines[1:] if line.endswith("...")]


@pytest.mark.parametrize(
    ("command", "words"), [("list", "[FEATURE]..."), ("demo", "[DIR]"), ("copy", "[FEATURE]"), ("show", "[ID]...")]
)
def test_help_of_a_command_says_what_stands_alone(ask, command, words):
    assert ask(f"{command} --help").splitlines()[0].endswith(f" {words}")


def test_the_page_has_every_command(ask):
    commands = re.findall(r"^  (\w+)  ", ask("--help").partition("What is stored:")[2], re.MULTILINE)
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "shell.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)", page, re.MULTILINE)) == set(commands)


def test_the_page_has_the_commands_that_answer_and_exit_with_one(ask):
    functions = {name: _function(place) for group in _GROUPS.values() for name, place in group.items()}
    source = {name: inspect.getsource(function) for name, function in functions.items()}
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "shell.md").read_text(encoding="utf-8")
    rows = page.partition("| Command | Answers, and exits with 1 |")[2].partition("\n\n")[0]
    named = {name for row in re.findall(r"^\| (`[^|]*) \|", rows, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert named == {name for name, text in source.items() if "typer.Exit(" in text}


@pytest.mark.parametrize(("line", "expected"), [("metaxy-fs ver", "verify"), ("metaxy-fs list --st", "--store")])
def test_a_shell_completes_words(line, expected, tmp_path):
    """In bash itself, with the script that is to be installed."""
    if (bash := shutil.which("bash")) is None:
        pytest.skip("needs bash")
    (tmp_path / "metaxy-fs").write_text(f'#!{bash}\nexec {sys.executable} -m metaxy_fs "$@"\n')
    (tmp_path / "metaxy-fs").chmod(0o755)
    words = " ".join(f"'{word}'" for word in line.split())
    script = f"""eval "$(_METAXY_FS_COMPLETE=source_bash metaxy-fs)"
        COMP_WORDS=({words}); COMP_CWORD={len(line.split()) - 1}; COMP_LINE='{line}'; COMP_POINT={len(line)}
        $(complete -p metaxy-fs | sed 's/.*-F \\([^ ]*\\).*/\\1/') metaxy-fs; echo "${{COMPREPLY[@]}}" """
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([bash, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == [expected]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize(("line", "expected"), [("metaxy-fs ver", "verify"), ("metaxy-fs list --st", "--store")])
def test_words_are_completed(shell, line, expected):
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1), "_TYPER_COMPLETE_ARGS": line}
    environment = os.environ | words | {"_METAXY_FS_COMPLETE": f"complete_{shell}"}
    code = "from metaxy_fs.cli.main import main; raise SystemExit(main([]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert expected in done.stdout


def test_a_command_loads_no_other(store):
    code = "import sys; from metaxy_fs.cli.main import main; main(sys.argv[1:]); print(*sys.modules)"
    command = [sys.executable, "-c", code, "list", "--root", store.location]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "metaxy_fs.cli.stored" in loaded
    assert not {"metaxy_fs.metadata_store.maintenance", "metaxy_fs.log.verify"} & set(loaded)
    assert not {"metaxy_fs.cli.upkeep", "metaxy_fs.cli.demo", "metaxy_fs.sources", "fsspec", "tqdm"} & set(loaded)


def test_the_command_line_without_its_extra_says_what_to_install(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("metaxy_fs.cli.") and name != "metaxy_fs.cli.main"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "typer", None)
    assert main(["list"]) == 1
    assert "pip install 'metaxy_fs[cli]'" in capsys.readouterr().err


class TestTargets:
    def test_the_default_store_is_meant_where_none_is_named(self, store, answers):
        [answer] = answers("list")
        assert answer["store"] == store.location
        assert [(row["feature"], row["rows"]) for row in answer["rows"]] == [("faces", 2), ("video", 3)]

    def test_stores_and_roots_stand_side_by_side(self, store, answers, ask, project):
        other = fill(FilesystemMetadataStore(project / "other"))
        line = f"list --store dev --root {other.location} --root {store.location}"
        assert [answer["store"] for answer in answers(line)] == [store.location, other.location, store.location]
        assert ask(line).count(other.location) == 1

    def test_no_store_at_all_is_an_argument_that_lacks(self, tmp_path, ask, monkeypatch):
        monkeypatch.setenv("METAXY_FS_CONFIG", "")
        monkeypatch.setattr("metaxy_fs.config_file._FILE", "nowhere.toml")
        monkeypatch.setattr("metaxy_fs.config_file._PROJECT_FILE", "nowhere-either.toml")
        assert "--root / --store" in ask("list", code=2)

    def test_a_store_that_the_file_does_not_name_is_refused(self, store, capsys):
        assert main(["list", "--store", "prod"]) == 1
        assert "no store 'prod'; there are dev, new" in capsys.readouterr().err

    def test_a_store_without_anything_is_refused(self, store, capsys):
        assert main(["list", "--store", "new"]) == 1
        assert "there is nothing at" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("kind", "place"),
        [("sql:SQLMetadataStore", "url = 'sqlite:///misspelt'"), ("delta:DeltaMetadataStore", "uri = 'misspelt'")],
    )
    def test_a_kind_without_anything_is_refused_and_not_made(self, project, monkeypatch, capsys, kind, place):
        pytest.importorskip(f"metaxy_fs.ext.{kind.partition(':')[0]}", reason="needs the extra")
        entry = EntryPoint("other", f"metaxy_fs.ext.{kind}", "metaxy_fs.stores")
        monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry] if group == entry.group else [])
        (project / "metaxy_fs.toml").write_text(f"stores.a.kind = 'other'\nstores.a.{place}")
        (project / "below").mkdir()
        monkeypatch.chdir(project / "below")
        before = sorted(project.rglob("*"))
        assert main(["list"]) == 1
        error = capsys.readouterr().err
        assert "there is nothing at" in error
        assert f"{project}/misspelt" in error
        assert sorted(project.rglob("*")) == before

    def test_a_chain_shows_which_store_holds_what(self, store, answers, project):
        (project / "metaxy_fs.toml").write_text(
            "stores.a.root = './a'\nstores.a.fallback = ['b']\nstores.b.root='root'"
        )
        [answer] = answers("list --store a")
        assert {row["store"] for row in answer["rows"]} == {store.location}

    def test_one_store_is_enough_for_some(self, store, ask):
        assert "about one store" in ask("restore faces --at now --store dev --store dev", code=2)
        assert "of one store" in ask("graph --format svg --store dev --store dev", code=2)
        assert "of one store" in ask("explain faces 1 --format svg --store dev --store dev", code=2)

    def test_what_only_looks_answers_for_several(self, store, ask, answers, project):
        other = fill(FilesystemMetadataStore(project / "other")).location
        for line in ("graph", "explain faces 1", "trace video 1", "status", "plan", "files video", "show faces"):
            assert [answer["store"] for answer in answers(f"{line} --store dev --root {other}")] == [
                store.location,
                other,
            ]
            assert ask(f"{line} --store dev --root {other}").count(f"\n{other}\n") == 1

    def test_buckets_are_asked_as_disks_are(self, store, answers, monkeypatch, s3_server, s3_bucket):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint)
        fill(FilesystemMetadataStore(s3_server.url(s3_bucket), storage_options=s3_server.storage_options))
        line = f"--store dev --root {s3_server.url(s3_bucket)}"
        for command in ("status", "definitions faces", "show video", "verify", "compact"):
            on_disk, in_bucket = answers(f"{command} {line}")
            assert keys(on_disk) == keys(in_bucket)


def keys(value):
    """Return the form of an answer: its keys, at all depths."""
    if isinstance(value, dict):
        return {name: keys(part) for name, part in value.items()}
    return [keys(part) for part in value] if isinstance(value, list) else None


class TestStored:
    def test_history_has_the_commits(self, store, answers):
        [answer] = answers("history video")
        assert [row["commit"] for row in answer["rows"]] == store.history("video")["commit"].to_list()

    def test_files_are_those_of_the_method(self, store, answers):
        [answer] = answers("files video")
        assert [row["path"] for row in answer["rows"]] == store.files("video", versions="all")["path"].to_list()
        assert (answer["rows"][0]["min"], answer["rows"][0]["rows"]) == ({"sample_id": 1}, 3)

    def test_definitions_have_code_versions(self, store, answers):
        [answer] = answers("definitions faces")
        assert [(row["code"], row["rows"]) for row in answer["rows"]] == [("default 1", 2)]

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("show video", [1, 2, 3]),
            ("show video 3 1", [1, 3]),
            ("show video --limit 1", [1]),
            ("show video --where sample_id>1", [2, 3]),
            ("show video --columns sample_id", [1, 2, 3]),
        ],
    )
    def test_rows_are_chosen(self, store, answers, line, expected):
        assert [row["sample_id"] for row in answers(line)[0]["rows"]] == expected

    @pytest.mark.parametrize(
        "line",
        [
            "show video --where )",
            "show video --where nope>1",
            "show video --where upper(sample_id)='A'",
            "show video --columns nope",
        ],
    )
    def test_what_no_row_has_is_refused(self, store, ask, line):
        assert "--where" in ask(line, code=2)

    @pytest.mark.parametrize("line", ["show video 99", "show video --where sample_id>9"])
    def test_no_row_is_said_beside_the_answer(self, store, capsys, line):
        assert main(line.split()) == 0
        captured = capsys.readouterr()
        assert captured.out.split() == ["sample_id", "data_version"]
        assert captured.err == "metaxy-fs: no such row is stored\n"
        assert main([*line.split(), "--json"]) == 0
        assert not capsys.readouterr().err

    def test_ids_of_another_type_are_refused(self, store, ask):
        assert "name no samples by sample_id" in ask("show video one", code=2)

    def test_retired_samples_show_only_among_all(self, store, ask, answers):
        ask("retire video 2 --yes")
        assert [row["sample_id"] for row in answers("show video")[0]["rows"]] == [1, 3]

    def test_a_graph_is_drawn(self, store, ask, answers):
        assert "faces: default 1\n└─ video: default 1\n" in ask("graph")
        assert ask("graph --format mermaid").startswith("flowchart TD")
        assert ask("graph --format svg").startswith("<svg")
        [video, faces] = answers("graph faces")[0]["features"]
        assert video == {"feature": "video", "containers": {"default": 1}, "upstream": []}
        assert faces == {"feature": "faces", "containers": {"default": 1}, "upstream": ["video"]}


class TestQuestions:
    def test_status_says_what_is_due(self, store, answers, ask):
        [answer] = answers("status")
        due = {row["feature"]: (row["rows"], row["new"], row["stale"]) for row in answer["rows"]}
        assert due == {"video": (3, 0, 0), "faces": (2, 1, 0)}
        ask("status --exit-code", code=1)
        ask("status video --exit-code")

    def test_status_is_of_the_present_code_where_there_is_some(self, store, ask, answers, project, monkeypatch):
        monkeypatch.setattr(sys, "path", list(sys.path))
        (project / "code_of_the_shell.py").write_text(CODE)
        text = (project / "metaxy_fs.toml").read_text()
        (project / "metaxy_fs.toml").write_text(f"entrypoints = ['code_of_the_shell']\n{text}")
        with FeatureGraph().use():
            due = {row["feature"]: (row["new"], row["stale"]) for row in answers("status")[0]["rows"]}
            causes = answers("plan")[0]["causes"]
            shown = ask("status")
        del sys.modules["code_of_the_shell"]
        assert due == {"video": (0, 0), "faces": (1, 2)}
        assert causes == [{"feature": "faces", "cause": "code of faces/default 1 to 2", "samples": 2}]
        assert re.search(r"stale by +samples\nfaces +code of faces/default 1 to 2 +2\n", shown)

    def test_a_damaged_declaration_hides_no_other_feature(self, store, project, capsys):
        with FeatureGraph.from_specs([other := FeatureSpec(key="other")]).use():
            store.write_metadata(other.key, pl.DataFrame({"sample_id": [1], "data_version": [{"default": "v"}]}))
        [file] = (project / "root" / "other").glob("*/_definition.json")
        file.write_text("{")
        for line, shown in (("status", "\nfaces +1 +0 "), ("plan", "\nfaces +1 +0 "), ("graph", "\n└─ video")):
            for options in ([], ["--json"]):
                assert main([line, *options]) == 1
                captured = capsys.readouterr()
                assert re.search('"faces"' if options else shown, captured.out)
                assert captured.err.startswith("metaxy-fs: unreadable: ")
                assert file.name in captured.err
        assert main(["explain", "faces", "1"]) == 0
        assert main(["trace", "video", "1"]) == 1  # it may lack what was made from the sample

    def test_a_damaged_earlier_declaration_changes_no_count(self, store, project, ask, answers):
        newer = FeatureSpec(key=FACES.key, deps=FACES.deps, containers=[ContainerSpec(code_version=2)])
        with FeatureGraph.from_specs([VIDEO, newer]).use():
            store.write_metadata(newer.key, store.resolve_update(newer.key).pending[:1])
        before = answers("status")[0]["rows"]
        for file in (project / "root" / "faces").glob("*/_definition.json"):
            if '"code_version":1' in file.read_text():
                file.write_text("{")
        assert answers("status")[0]["rows"] == before

    def test_plan_counts_with_an_exit_code(self, store, ask):
        assert ": 1 sample to compute" in ask("plan")
        ask("plan --exit-code", code=1)

    def test_a_sample_is_explained(self, store, ask, answers):
        assert "is up to date" in ask("explain faces 1")
        assert ask("explain faces 1 --format svg").startswith("<svg")
        assert answers("explain faces 1")[0]["reasons"].keys() == {"default"}

    def test_a_sample_of_a_feature_without_rows_is_explained(self, project, ask, monkeypatch):
        monkeypatch.setattr(sys, "path", list(sys.path))
        (project / "code_without_rows.py").write_text(CODE)
        (project / "metaxy_fs.toml").write_text("entrypoints = ['code_without_rows']\nstores.dev.root = 'root'\n")
        with FeatureGraph.from_specs([VIDEO]).use():
            rows = pl.DataFrame({"sample_id": [1], "data_version": [{"default": "v"}]})
            FilesystemMetadataStore(project / "root").write_metadata(VIDEO.key, rows)
        with FeatureGraph().use():
            said = ask("explain faces 1")
        del sys.modules["code_without_rows"]
        assert "is new" in said

    def test_samples_are_traced_down_and_up(self, store, answers):
        assert answers("trace video 1")[0]["rows"]["faces"][0]["sample_id"] == 1
        assert answers("trace faces 1 --up")[0]["rows"]["video"][0]["sample_id"] == 1

    def test_two_moments_or_two_stores_are_compared(self, store, ask, answers, project):
        ask("snapshot create monday --yes")
        assert "nothing differs" in ask("diff --before monday --exit-code")
        ask("retire video 1 --yes")
        assert answers("diff video --before monday --exit-code", code=1)[0]["causes"][0]["change"] == "removed"
        fill(FilesystemMetadataStore(project / "other"))
        assert answers("diff --root root --root other video")[0]["causes"][0]["change"] == "added"

    @pytest.mark.parametrize("line", ["diff", "diff --after monday", "diff --root root --root root --before monday"])
    def test_nothing_to_compare_with_is_refused(self, store, ask, line):
        assert "give two stores, or one and --before" in ask(line, code=2)

    @pytest.mark.parametrize(
        "line",
        [
            "diff --before no%name",
            "diff --before monday --after no%name",
            "fingerprint --at no%name",
            "restore video --at no%name",
            "snapshot create no%name --yes",
            "snapshot drop no%name",
        ],
    )
    def test_a_name_that_no_snapshot_can_have_is_refused(self, store, ask, line):
        ask("snapshot create monday --yes")
        assert "no%name" in ask(line, code=2)

    def test_a_time_needs_a_zone(self, store, ask):
        assert "has no time zone" in ask("diff --before 2026-01-01T00:00:00", code=2)

    def test_a_fingerprint_is_checked(self, store, ask, answers, project):
        (project / "kept.json").write_text(ask("fingerprint --json"))
        assert ask("check --against kept.json").startswith("the same")
        ask("retire video 1 --yes")
        [answer] = answers("check --against kept.json", code=1)
        assert {row["feature"]: row["status"] for row in answer["rows"]}["faces"] == "same"


class TestChanges:
    @pytest.mark.parametrize(
        "line",
        [
            "retire video 1",
            "restore video --at 2100-01-01T00:00:00Z",
            "snapshot create tuesday",
            "snapshot drop monday",
            "copy video --to-root other",
        ],
    )
    def test_nothing_is_changed_without_yes(self, store, ask, project, line):
        ask("snapshot create monday --yes")
        before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
        assert ask(line).endswith("Nothing was changed; --yes does it.\n")
        assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before

    def test_a_feature_is_restored(self, store, ask, answers):
        ask("snapshot create monday --yes")
        ask("retire video 1 2 --reason broken --yes")
        assert '"reason":"broken"' in answers("history video")[0]["rows"][-1]["tags"].replace(" ", "")
        ask("restore video --at monday --yes")
        assert {row["sample_id"] for row in answers("show video")[0]["rows"]} == {1, 2, 3}

    @pytest.mark.parametrize("yes", ["", " --yes"])
    def test_what_was_not_there_is_not_restored(self, store, capsys, yes):
        assert main(f"restore video --at 2000-01-01T00:00:00Z{yes}".split()) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "'video'" in captured.err

    def test_snapshots_are_listed_and_dropped(self, store, ask, answers):
        ask("snapshot create monday --yes")
        assert [row["name"] for row in answers("snapshot list")[0]["rows"]] == ["monday"]
        ask("snapshot drop monday --yes")
        assert answers("snapshot list")[0]["rows"] == []
        ask("snapshot drop monday", code=1)
        assert "NAME" in ask("snapshot create no%name --yes", code=2)

    def test_a_copy_goes_to_a_store_of_the_configuration(self, store, ask, answers):
        assert answers("copy video --to-store new")[0]["commits_missing"] == 1
        assert answers("copy video --to-store new --yes")[0]["copied"]["added"] == 1
        assert answers("copy video --to-store new")[0]["commits_missing"] == 0


class TestTerminal:
    def test_a_table_fits_the_terminal_and_has_no_colour_when_told_not_to(self, store):
        for columns in (60, 100):
            shown = on_terminal(columns, "history", "video", "--root", store.location, NO_COLOR="1")
            lines = re.sub(r"\x1b\[[01]?m", "", shown).splitlines()
            assert lines
            assert max(map(len, lines)) <= columns
            assert not re.search(r"\x1b\[[0-9;]*3[0-7]", shown)

    def test_a_terminal_that_can_do_nothing_gets_plain_lines(self, store):
        shown = on_terminal(100, "list", "video", "--root", store.location, TERM="dumb")
        assert shown.replace("\r\n", "").isprintable()

    def test_rows_that_do_not_fit_are_lists_of_what_their_columns_hold(self, store):
        shown = on_terminal(60, "history", "video", "--root", store.location)
        [commit] = store.history("video")["commit"]
        lines = [line.rstrip() for line in shown.splitlines()]
        assert f"commit     {commit}" in lines
        assert "rows       3" in lines
        assert re.search(r"\nvideo +1 +3 +", on_terminal(60, "list", "video", "--root", store.location))

    def test_a_name_cannot_speak_to_the_terminal(self, store, capsys):
        rows = pl.DataFrame({"sample_id": [9], "data_version": [{"default": "v"}], "note": ["a\n\x1b[31m[red]\u202e"]})
        with FeatureGraph.from_specs([VIDEO]).use():
            store.write_metadata("video", rows)
        for options in ([], ["--json"]):
            assert main(["show", "video", "9", *options]) == 0
            out = capsys.readouterr().out
            assert "[red]" in out
            assert out.replace("\n", "").isprintable()
        shown = on_terminal(200, "show", "video", "9", "--root", store.location)
        assert "a\\n\\x1b[31m[red]\\u202e" in shown


def on_terminal(columns: int, *arguments: str, **variables: str) -> str:
    """Return what a command prints on a terminal so wide."""
    reading, writing = pty.openpty()
    termios.tcsetwinsize(writing, (25, columns))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")} | variables
    command = [sys.executable, "-m", "metaxy_fs", *arguments]
    subprocess.run(command, stdin=writing, stdout=writing, stderr=writing, env=environment, check=True)
    os.set_blocking(reading, False)
    shown = os.read(reading, 1 << 16).decode()
    os.close(writing)
    os.close(reading)
    return shown
