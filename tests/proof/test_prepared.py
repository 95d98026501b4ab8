"""Tasks that workers prepare are committed together and once, whoever dies, comes twice or comes late.

`PROOF_HISTORIES=1000` lives through 25 times as many histories by dice.
"""

import os

import pytest

from tests.proof.prepared_model import Role, Rules, compactor, driver, play, problem, repair, vacuum, worker

HISTORIES = int(os.environ.get("PROOF_HISTORIES", "12")) * 25
NAMED: tuple[Role, ...] = (
    *(worker(task) for task in "aabbc"),
    *(driver("job", "ab"), driver("job", "ab"), driver("job", "ab"), driver("job", "c")),
    *(compactor, vacuum, vacuum, repair),
)
UNNAMED: tuple[Role, ...] = (
    *(worker(task) for task in "abcd"),
    *(driver(None, "ab"), driver(None, "ab"), driver(None, "abc"), driver(None, "d")),
    *(compactor, vacuum, vacuum, repair),
)
MIXED: tuple[Role, ...] = (
    *(worker(task) for task in "abc"),
    *(driver("job", "abc"), driver("job", "abc"), driver(None, "a"), driver(None, "b")),
    *(compactor, vacuum),
)


@pytest.mark.parametrize("cast", [NAMED, UNNAMED, MIXED], ids=["named", "unnamed", "mixed"])
def test_no_history_breaks_a_promise(cast: tuple[Role, ...]) -> None:
    for seed in range(HISTORIES):
        played = play(cast, seed)
        assert problem(played) is None, (seed, played)


@pytest.mark.parametrize("rule", Rules._fields)
def test_no_rule_can_be_left_out(rule: str) -> None:
    rules = Rules(**{rule: False})
    assert any(problem(play(cast, seed, rules)) for seed in range(3000) for cast in (NAMED, UNNAMED, MIXED))
