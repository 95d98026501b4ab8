"""Operating a root: the commands of the page run, in the order of its crontab."""

import re
from pathlib import Path

import polars as pl
import pytest

from metaxy_fs import Feature, FeatureGraph, FeatureKey, FeatureSpec, open_store
from metaxy_fs.cli.main import main

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "operate.md"
COMMANDS = re.findall(r"^[\d* ]+ metaxy-fs (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_page_has_commands() -> None:
    assert {command.split()[0] for command in COMMANDS} == {"compact", "vacuum", "verify"}


def test_every_command_of_the_crontab_succeeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FeatureGraph().use():

        class Recording(Feature, spec=FeatureSpec(key=FeatureKey(["recording"]))):
            pass

    store = open_store(tmp_path)
    for day in range(12):
        store.write_metadata(Recording, pl.DataFrame({"sample_id": [day], "data_version": [{"default": "w"}]}))
    for command in COMMANDS * 2:
        arguments = command.replace("s3://bucket/metadata", str(tmp_path)).split()
        assert main(arguments) == 0, capsys.readouterr()
    assert open_store(tmp_path).read_metadata(Recording).height == 12
