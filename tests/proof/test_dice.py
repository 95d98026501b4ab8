"""Does every reader see every commit once in histories that dice make?

`PROOF_HISTORIES=1000` lives through that many of each kind.
"""

import os

import pytest

from tests.proof.dice import Mix, outlast, overtake, roam

HISTORIES = int(os.environ.get("PROOF_HISTORIES", "12"))


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
def test_no_history_breaks_a_promise(*, ordered: bool) -> None:
    for seed in range(HISTORIES):
        roam(seed, ordered=ordered, mix=Mix())


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
def test_a_listing_that_is_overtaken_misses_no_commit(*, ordered: bool) -> None:
    for seed in range(HISTORIES):
        overtake(seed, ordered=ordered)


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
def test_a_compaction_that_comes_too_late_does_no_harm(*, ordered: bool) -> None:
    for seed in range(HISTORIES):
        outlast(seed, ordered=ordered)
