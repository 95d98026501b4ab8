"""Agents ask over stdio, with the SDK's own client: about configured stores, bounded, and nothing is written."""

import asyncio
import json
import sys

import polars as pl
import pytest
from jsonschema import Draft202012Validator

from metaxy_fs import FeatureGraph, FilesystemMetadataStore
from metaxy_fs.cli import mcp
from metaxy_fs.cli.main import main
from metaxy_fs.cli.schema import schema
from tests.cli.test_shell import VIDEO, fill

client = pytest.importorskip("mcp")

CODE = """
from metaxy_fs import Feature, FeatureDep, FeatureKey, FeatureSpec

class Video(Feature, spec=FeatureSpec(key=FeatureKey(["video"]))):
    pass

class Faces(Feature, spec=FeatureSpec(key=FeatureKey(["faces"]), deps=[FeatureDep(key="video")])):
    pass

print("what a module prints must not reach the agent")
"""
CONFIG = """
default = "dev"
entrypoints = ["features_of_agents"]
stores.dev.root = "./root"
stores.other.root = "./other"
stores.empty.root = "./nothing"
"""

ASKED = {
    "list": {"features": ["video"]},
    "status": {},
    "show": {"feature": "video", "ids": ["3", "1"], "where": "sample_id > 1", "columns": ["sample_id"]},
    "history": {"feature": "video", "store": "other"},
    "definitions": {"feature": "faces"},
    "files": {"feature": "faces"},
    "graph": {},
    "plan": {},
    "explain": {"feature": "faces", "sample": "1"},
    "trace": {"feature": "video", "ids": ["1"]},
    "diff": {"before_store": "other"},
    "fingerprint": {},
    "snapshot_list": {},
}
"""A call of each tool."""

REFUSED = {
    "a store that is not configured": ("list", {"store": "prod"}, "has no store 'prod'; there are dev, other, empty"),
    "a root in place of a store": ("list", {"store": "./root"}, "has no store './root'"),
    "a store without anything": ("list", {"store": "empty"}, "there is nothing at"),
    "a feature that is not there": ("history", {"feature": "videos"}, "holds nothing of a feature 'videos'"),
    "a feature that is none": ("history", {"feature": "../../etc"}, "etc"),
    "an argument of another name": ("list", {"root": "/"}, "unknown field `root`"),
    "an argument of another type": ("trace", {"feature": "video", "ids": "1"}, "Expected `array`"),
    "too large a limit": ("show", {"feature": "video", "limit": 201}, "<= 200"),
    "ids of another type": ("show", {"feature": "video", "ids": ["one"]}, "name no samples by sample_id"),
    "another file in SQL": (
        "show",
        {"feature": "video", "where": "EXISTS (SELECT * FROM read_csv('/no/such/file'))"},
        "a predicate reads no files",
    ),
    "a moment that is none": ("diff", {"before": "no%name"}, "no%name"),
    "nothing to compare with": ("diff", {}, "either `before`, a moment, or `before_store`"),
    "a tool that there is not": ("retire", {"feature": "video"}, "there is no tool 'retire'; there are list"),
}


def files(directory):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A configuration of two stores, of which the second holds one video more, and of one that is not there."""
    directory = tmp_path_factory.mktemp("project")
    (directory / "metaxy_fs.toml").write_text(CONFIG)
    (directory / "features_of_agents.py").write_text(CODE)
    fill(FilesystemMetadataStore(directory / "root"))
    other = fill(FilesystemMetadataStore(directory / "other"))
    with FeatureGraph.from_specs([VIDEO]).use():
        other.write_metadata(
            "video", pl.DataFrame({"sample_id": [4], "data_version": [{"default": "</script>\x1b[31m"}]})
        )
    return directory


@pytest.fixture(scope="module")
def session(project):
    """Ask everything in one session; gives the tools, the answers, and what the directory held before and after."""

    async def ask():
        command = client.StdioServerParameters(
            command=sys.executable, args=["-B", "-m", "metaxy_fs", "mcp"], cwd=str(project)
        )
        async with client.Client(command) as agent:
            tools = (await agent.list_tools()).tools
            answers = {name: await agent.call_tool(name, arguments) for name, arguments in ASKED.items()}
            refusals = {why: await agent.call_tool(name, given) for why, (name, given, _) in REFUSED.items()}
            return {tool.name: tool for tool in tools}, answers, refusals

    before = files(project)
    return *asyncio.run(ask()), before, files(project)


def test_every_question_is_a_tool_that_only_reads(session):
    tools, *_ = session
    assert tools.keys() == ASKED.keys()
    assert all(tool.annotations.read_only_hint for tool in tools.values())
    for tool in tools.values():
        Draft202012Validator.check_schema(tool.input_schema)
        assert tool.output_schema == schema(tool.name.replace("_", " "))


@pytest.mark.parametrize("name", ASKED)
def test_an_answer_is_the_document_of_the_command(session, name):
    _, answers, *_ = session
    answer = answers[name]
    assert not answer.is_error, answer.content
    Draft202012Validator(schema(name.replace("_", " "))).validate(answer.structured_content)
    assert json.loads(answer.content[0].text) == answer.structured_content


def test_answers_are_about_what_was_asked(session, project):
    _, answers, *_ = session
    found = {name: answer.structured_content.get("answers", [None])[0] for name, answer in answers.items()}
    assert found["show"]["rows"] == [{"sample_id": 3}]
    assert [row["rows"] for row in found["history"]["rows"]] == [1, 3]
    assert found["status"]["rows"][1]["new"] == 1
    assert found["diff"]["causes"][0] == {
        "feature": "video",
        "change": "removed",
        "cause": "video removed",
        "samples": 1,
    }
    assert found["explain"]["status"] == "up to date"
    assert answers["fingerprint"].structured_content["features"]["video"]["samples"] == 3


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_refused_is_an_error_of_the_tool(session, why):
    _, _, refusals, *_ = session
    assert refusals[why].is_error
    assert REFUSED[why][2] in refusals[why].content[0].text
    assert "stores.dev" not in refusals[why].content[0].text


def test_nothing_is_written(session):
    *_, before, after = session
    assert before == after


def test_rows_are_limited_and_counted(project, monkeypatch):
    monkeypatch.setattr(mcp, "ROWS", 2)
    config = str(project / "metaxy_fs.toml")
    shown = mcp.answer("show", {"feature": "video"}, config)
    [traced] = mcp.answer("trace", {"feature": "video", "ids": ["1", "2", "3"]}, config)["answers"]
    Draft202012Validator(schema("show")).validate(shown)
    assert len(shown["answers"][0]["rows"]) == 2
    assert shown["answers"][0]["left_out"] == {"rows": 1}
    assert traced["left_out"] == {"rows/video": 1}


def test_characters_are_limited(project, monkeypatch, capsys):
    config = str(project / "metaxy_fs.toml")
    monkeypatch.setattr(mcp, "BYTES", 250)
    [shown] = mcp.answer("show", {"feature": "video"}, config)["answers"]
    assert len(shown["rows"]) + shown["left_out"]["rows"] == 3
    monkeypatch.setattr(mcp, "BYTES", 10)
    with pytest.raises(Exception, match="ask for less at once"):
        mcp.answer("fingerprint", {}, config)


def test_a_configuration_that_is_wrong_is_said_at_once(tmp_path, capsys):
    (tmp_path / "metaxy_fs.toml").write_text("nonsense = 1")
    assert main(["mcp", "--config", str(tmp_path / "metaxy_fs.toml")]) == 1
    assert "nonsense" in capsys.readouterr().err


def test_without_its_extra_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mcp.server.lowlevel", None)
    assert main(["mcp"]) == 1
    assert "pip install 'metaxy_fs[mcp]'" in capsys.readouterr().err
