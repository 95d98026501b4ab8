"""The name of a write stands for the same rows everywhere, also while others write and copy under it.

`PROOF_HISTORIES=1000` lives through that many histories by dice.
"""

import os

import pytest

from tests.proof.names_model import Cast, Rules, by_dice, compactor, copier, problem, schedules, vacuum, writer

HISTORIES = int(os.environ.get("PROOF_HISTORIES", "12")) * 100
CROWD: Cast = (
    (writer, "a", 1),
    (writer, "a", 2),
    (writer, "b", 3),
    (copier, "b", 10),
    (copier, "c", 11),
    (compactor, "", 5),
    (compactor, "", 20),
    (vacuum, "", 0),
    (vacuum, "", 0),
)


@pytest.mark.parametrize(
    ("cast", "deaths"),
    [
        (((writer, "a", 1), (copier, "b", 10)), 2),
        (((writer, "a", 1), (copier, "a", 10)), 2),
        (((writer, "a", 1), (writer, "b", 2)), 2),
        (((copier, "a", 10), (copier, "b", 11)), 0),
        (((writer, "a", 1), (compactor, "", 10), (vacuum, "", 0)), 0),
    ],
)
def test_every_order_of_two(cast: Cast, deaths: int) -> None:
    for played in schedules(cast, deaths=deaths):
        assert problem(cast, played) is None, played


def test_many_at_once() -> None:
    for seed in range(HISTORIES):
        played = by_dice(CROWD, seed)
        assert problem(CROWD, played) is None, (seed, played)


@pytest.mark.parametrize("rule", Rules._fields)
def test_no_rule_can_be_left_out(rule: str) -> None:
    rules = Rules(**{rule: False})
    assert any(problem(CROWD, by_dice(CROWD, seed, rules), rules) for seed in range(600))
