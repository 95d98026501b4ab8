"""The benchmarks still run, and give what their tables are made from."""

import json
import subprocess
import sys

import pytest

from tests.benchmarks.report import tables
from tests.benchmarks.runner import OURS, REPOSITORY, Job, Result, Runner, ratios, require_agreement
from tests.benchmarks.sections import SECTIONS
from tests.support.patience import PATIENCE


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    """What a run in sizes of nothing writes, without peers."""
    output = tmp_path_factory.mktemp("benchmarks") / "results.json"
    command = [sys.executable, "-m", "tests.benchmarks", "--smoke", "--output", str(output)]
    done = subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return json.loads(output.read_text())


def test_every_section_has_a_result(document):
    assert list(dict.fromkeys(result["section"] for result in document["results"])) == list(SECTIONS)


def test_every_contender_of_every_case_has_a_time_and_a_peak_of_memory(document):
    for result in document["results"]:
        assert result.keys() == {"section", "case", "contenders", "ratios"}
        assert OURS in result["contenders"]
        for measured in result["contenders"].values():
            assert measured["peak_mib"] > 10
            assert measured.keys() & {"seconds", "cycle_seconds", "write_ms", "has_ms"}
            assert measured.pop("failures", 0) == 0
            assert all(value > 0 for value in measured.values() if isinstance(value, float))


def test_ours_is_set_against_the_limit_of_each_work(document):
    compared = {result["section"] for result in document["results"] if result["ratios"]}
    assert compared == {
        "imports",
        "local",
        "remote",
        "network",
        "formats",
        "hashes",
        "latest",
        "cycle",
        "resolve",
        "materialize",
        "questions",
        "carried",
        "sql",
        "many-machines",
    }


def test_the_versions_of_packages_are_told(document):
    assert {"metaxy_fs", "polars"} <= document["environment"]["packages"].keys()


def test_a_case_is_a_line_and_a_contender_a_column():
    contenders = {"metaxy_fs": {"seconds": 0.25, "rows": 3}, "other": {"seconds": 0.5, "rows": 3}}
    result = Result(section="s", case={"rows": 1_000}, contenders=contenders, ratios=ratios(contenders))
    assert tables([result]).splitlines()[-1] == "| 1,000 | 0.25 | 0.5 | 0.5 |"


def test_ours_is_compared_with_the_best_of_the_others():
    contenders = {"metaxy_fs": {"seconds": 2.0}, "slow": {"seconds": 8.0}, "fast": {"seconds": 4.0}}
    assert ratios(contenders) == {"seconds": 0.5}


def test_contenders_that_did_other_work_are_refused():
    with pytest.raises(AssertionError, match="disagree on 'rows'"):
        require_agreement([{"seconds": 1.0, "rows": 3}, {"seconds": 2.0, "rows": 4}], {})


def test_a_job_runs_in_a_process_of_its_own():
    measured = Runner(repeats=1).run(Job("worker:import_module", {"name": "json"}))
    assert measured.keys() == {"seconds", "peak_mib"}


def test_a_job_that_fails_says_why():
    with pytest.raises(RuntimeError, match="no_such_module"):
        Runner(repeats=1).run(Job("worker:import_module", {"name": "no_such_module"}))
