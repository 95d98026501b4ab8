"""What a month over a root asks of a bucket per commit, held against docs/scale.md, which multiplies it."""

import re
from pathlib import Path

import pytest

from tests.benchmarks.month import run

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
DAYS, COMMITS, COMPACTIONS = 10, 24, 6
ROW = re.compile(r"^\| (writer|compaction|vacuum): ([a-z, ]+) \|.* ([\d.]+) \|$", re.MULTILINE)
NAMES = {"writer": "write", "compaction": "compact", "vacuum": "vacuum"}


@pytest.fixture(scope="module")
def month():
    return run(commits_per_day=COMMITS, days=DAYS, compactions_per_day=COMPACTIONS)


def test_no_work_asks_for_more_than_the_page_says(month):
    limits = {
        f"{NAMES[work]} {verb}": float(most)
        for work, verbs, most in ROW.findall(PAGE.read_text(encoding="utf-8"))
        for verb in verbs.split(", ")
    }
    asked = {name: count for name, count in month.items() if name.split()[0] in NAMES.values() and "bytes" not in name}
    assert asked.keys() <= limits.keys()
    assert {name: count for name, count in asked.items() if count > limits[name]} == {}
    assert {name for name, most in limits.items() if asked.get(name, 0) < most / 20} <= {
        "writer get",
        "write get",
        "write list",
    }


def test_old_objects_go_with_the_retention(month):
    twice = run(commits_per_day=COMMITS, days=2 * DAYS, compactions_per_day=COMPACTIONS)
    assert twice["objects"] <= 1.1 * month["objects"]


def test_a_cold_read_grows_with_the_levels_of_compaction(month):
    # At most nine members of each of three levels, each with a manifest, a table of commits and a file; and the rest.
    assert month["read requests"] <= 9 * 3 * 3 + 4
