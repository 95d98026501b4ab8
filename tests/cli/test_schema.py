"""What every command prints with --json is what its schema says, and the schemas allow nothing else."""

import json
import math
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from jsonschema import Draft202012Validator, FormatChecker, ValidationError
from typer.main import get_command

from metaxy_fs import (
    ContainerSpec,
    FeatureDep,
    FeatureGraph,
    FeatureKey,
    FeatureSpec,
    FilesystemMetadataStore,
)
from metaxy_fs.cli.app import make_app
from metaxy_fs.cli.main import main
from metaxy_fs.cli.schema import ANSWERS, schema

VIDEO = FeatureSpec(key=FeatureKey(["video", "raw"]), id_columns=["path", "day"])
FACES = FeatureSpec(
    key=FeatureKey(["video", "faces"]),
    id_columns=VIDEO.id_columns,
    deps=[FeatureDep(key=VIDEO.key)],
    containers=[ContainerSpec(key="boxes", code_version="v2"), ContainerSpec(key="crops", versioned_by="content")],
)
COUNT = FeatureSpec(key=FeatureKey(["count"]), id_columns=VIDEO.id_columns, deps=[FeatureDep(key=FACES.key)])
SAMPLE = "a,2026-11-01"

COMMANDS = """
    list
    list video/raw
    status
    show video/raw
    show video/faces --all --limit 1
    history video/raw
    definitions video/faces
    files video/faces
    graph
    graph video/faces
    plan
    plan --seconds seconds
    explain video/faces a,2026-11-01
    explain video/faces b,2026-11-01
    explain video/raw c,2026-11-01
    trace video/raw a,2026-11-01 b,2026-11-01
    trace video/faces a,2026-11-01 --up
    diff --before monday
    fingerprint
    check --against kept.json
    snapshot list
    compact
    vacuum
    copy --to-root other
    copy video/raw --to-root other --yes
    publish video/faces
    publish video/faces --yes
    publish
    compact video/faces --full --republish --yes
    vacuum --yes
    list
"""
"""Those that change something come last."""

OF_DAMAGE = ["verify", "verify video/raw", "repair", "repair --yes"]


def write_rich(store):
    """Write what answers depend on: content versions, retired samples, tags, odd values, snapshots, damage, strays."""
    ids = pl.DataFrame({"path": ["a", "b", "c"], "day": [date(2026, 11, 1)] * 3})
    odd = [
        pl.lit(math.nan).alias("seconds"),
        pl.lit(b"\xff").alias("bytes"),
        pl.lit(timedelta(days=400, microseconds=1)).alias("took"),
        pl.lit(datetime(2026, 1, 1, tzinfo=UTC)).alias("at"),
        pl.lit([1.5, math.inf]).alias("scores"),
    ]
    old, new = pl.struct(default="path").alias("data_version"), pl.struct(default=pl.lit("new")).alias("data_version")
    given = pl.struct(pl.col("data_version").struct.field("boxes"), crops=pl.lit("same")).alias("data_version")
    with FeatureGraph.from_specs([VIDEO, FACES, COUNT]).use():
        store.write_metadata(VIDEO.key, ids.with_columns(old, *odd), tags={"run": "1"}, write_id="first")
        for sample in ("a", "b"):
            pending = store.resolve_update(FACES.key).pending.filter(path=sample)
            store.write_metadata(FACES.key, pending.with_columns(given, seconds=2.5))
        store.create_snapshot("monday")
        store.fingerprint().save("kept.json")
        store.retire(VIDEO.key, ids.filter(path="c"), reason="lost")
        store.write_metadata(VIDEO.key, ids.filter(path="b").with_columns(new))
    return store


@pytest.fixture(scope="module")
def validators():
    return {name: Draft202012Validator(schema(name), format_checker=FormatChecker()) for name in ANSWERS}


@pytest.fixture
def printed(capsys):
    """Runs a command line with --json; gives its name and what it printed."""

    def run(line, *options):
        code = main([*line.split(), *options, "--json"])
        out, err = capsys.readouterr()
        assert (code in {0, 1}, err) == (True, ""), err
        [name] = [name for name in ANSWERS if line == name or line.startswith(f"{name} ")]
        return name, json.loads(out)

    return run


def test_all_answers_fit_their_schemas(tmp_path, monkeypatch, printed, validators):
    monkeypatch.chdir(tmp_path)
    root = write_rich(FilesystemMetadataStore("root")).location
    asked = {}
    for line in [*map(str.strip, COMMANDS.strip().splitlines()), *OF_DAMAGE]:
        if line == OF_DAMAGE[0]:
            max((tmp_path / "root").glob("video.raw/*/_manifests/appends/*.json")).write_bytes(b"{")
        name, document = printed(line, "--root", root)
        validators[name].validate(document)
        asked.setdefault(name, []).append(document)
    assert asked.keys() == ANSWERS.keys()
    for name, documents in asked.items():
        assert any(is_full(document.get("answers", [document])) for document in documents), name


def test_answers_about_several_roots_and_an_empty_one_fit_too(tmp_path, monkeypatch, printed, validators):
    monkeypatch.chdir(tmp_path)
    root = write_rich(FilesystemMetadataStore("root")).location
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "_store.json").write_bytes((tmp_path / "root" / "_store.json").read_bytes())
    for each in ("list", "status", "plan", "snapshot list", "verify", "compact", "vacuum", "repair", "fingerprint"):
        roots = ["empty"] if each == "fingerprint" else [root, "empty", root]
        name, document = printed(each, *(f"--root={place}" for place in roots))
        validators[name].validate(document)
        assert len(document.get("answers", roots)) == len(roots)


@pytest.mark.parametrize("name", ANSWERS)
def test_objects_have_the_fields_of_the_schema_and_no_others(name):
    Draft202012Validator.check_schema(schema(name))
    for described in objects(schema(name)):
        if "retired" in described["properties"] and name == "trace":
            continue  # rows with id columns of their own
        assert described["additionalProperties"] is False
        assert set(described["required"]) == set(described["properties"]) - {"left_out"}


@pytest.mark.parametrize("name", ANSWERS)
def test_descriptions_name_every_column(name):
    for definition in schema(name)["$defs"].values():
        columns = [
            part["items"]["properties"]
            for part in definition["properties"].values()
            if "items" in part and "properties" in part["items"]
        ]
        assert not [column for each in columns for column in each if f"`{column}`" not in definition["description"]]


@pytest.mark.parametrize("place", [[], ["answers", 0], ["answers", 0, "rows", 0]])
def test_a_field_too_many_or_too_few_is_seen(tmp_path, monkeypatch, printed, validators, place):
    monkeypatch.chdir(tmp_path)
    _, document = printed("history video/raw", "--root", write_rich(FilesystemMetadataStore("root")).location)
    found = document
    for step in place:
        found = found[step]
    found["other"] = None
    with pytest.raises(ValidationError, match="other"):
        validators["history"].validate(document)
    del found["other"], found[next(iter(found))]
    with pytest.raises(ValidationError, match="required"):
        validators["history"].validate(document)


def test_every_command_with_json_has_a_schema():
    with_json = set()
    for prefix, command in [*commands([]), *commands(["snapshot"])]:
        if any(option.name == "as_json" for option in command.params):
            with_json.add(f"{prefix}{command.name}")
    assert with_json == ANSWERS.keys()


def test_a_schema_is_printed_and_what_has_none_is_refused(capsys):
    assert main(["schema", "snapshot", "list"]) == 0
    assert json.loads(capsys.readouterr().out) == schema("snapshot list")
    assert main(["schema", "retire"]) == 2
    assert "these are: list, status" in capsys.readouterr().err


def commands(arguments):
    group = get_command(make_app(arguments))
    if arguments:
        group = group.commands[arguments[0]]
    return [(" ".join([*arguments, ""]).lstrip(), command) for command in group.commands.values()]


def objects(described):
    """Return the descriptions, at all depths, of objects that have fields of their own."""
    if isinstance(described, list):
        return [found for part in described for found in objects(part)]
    if not isinstance(described, dict):
        return []
    own = [described] if "properties" in described and "type" in described else []
    return own + [found for part in described.values() for found in objects(part)]


def is_full(value):
    """Whether a document has answers, and one of their lists or objects has anything."""
    return any(any(isinstance(part, list | dict) and part for part in answer.values()) for answer in value)
