"""The job of the page on schedulers runs as the command of each of them starts it."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from metaxy_fs import open_store

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "schedulers.md").read_text(encoding="utf-8")
JOB, AIRFLOW, PREFECT = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
[CRON] = re.findall(r"^0 2 \* \* \* (.*)$", PAGE, re.MULTILINE)
PLACE = "/srv/nightly"


def commands_of_airflow():
    [directory] = re.findall(r'"cwd": "([^"]*)"', AIRFLOW)
    return [f"cd {directory} && {command}" for command in re.findall(r'bash_command="([^"]*)"', AIRFLOW)]


def commands_of_prefect():
    ast.parse(PREFECT)
    return [
        f"cd {PLACE} && python nightly.py {feature}"
        for feature in re.findall(r'bring_up_to_date\("([^"]*)"\)', PREFECT)
    ]


@pytest.mark.parametrize(
    "commands",
    [[CRON.replace(r"\%", "%")], commands_of_airflow(), commands_of_prefect()],
    ids=["cron", "airflow", "prefect"],
)
def test_the_commands_of_a_scheduler_run_twice(commands, tmp_path):
    ast.parse(AIRFLOW)
    (tmp_path / "nightly.py").write_text(JOB, encoding="utf-8")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / "bin" / "python").chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    assert commands
    for command in [*commands, *commands]:  # cron and Airflow start them in a directory of their own
        here = command.replace(PLACE, str(tmp_path))
        subprocess.run(["bash", "-c", here], cwd=tmp_path / "bin", env={**os.environ, "PATH": path}, check=True)
    store = open_store(str(tmp_path / "metadata"))
    for feature in ("video", "video/faces"):
        assert store.history(feature)["rows"].to_list() == [3]  # the second run had nothing to do


@pytest.mark.parametrize("features", [[], ["vidoe"]])
def test_a_feature_that_is_missing_or_misspelt_ends_the_job(features, tmp_path):
    (tmp_path / "nightly.py").write_text(JOB, encoding="utf-8")
    command = [sys.executable, "nightly.py", *features]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "features" in ended.stderr
    assert not (tmp_path / "metadata").exists()
