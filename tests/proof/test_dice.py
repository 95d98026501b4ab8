"""Every reader sees every commit once in random histories.

`PROOF_HISTORIES=1000` lives through that many of each kind.
"""

import os
import random
from datetime import timedelta

import pytest

from tests.proof import dice, world
from tests.proof.dice import Mix, outlast, overtake, roam
from tests.support.stepped_storage import Bucket

HOUR = 3_600_000_000
HISTORIES = int(os.environ.get("PROOF_HISTORIES", "8"))


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
def test_one_seed_is_one_history(monkeypatch: pytest.MonkeyPatch, *, ordered: bool) -> None:
    """Without that, what Hypothesis and dice find could not be found again."""
    put = Bucket.put
    seen: list[tuple[str, bytes]] = []

    def remembered(bucket: Bucket, path: str, data: bytes) -> bool:
        seen.append((path, data))
        return put(bucket, path, data)

    monkeypatch.setattr(Bucket, "put", remembered)
    histories = []
    for _ in range(2):
        seen.clear()
        roam(1, ordered=ordered, mix=Mix())
        histories.append(list(seen))
    assert histories[0] == histories[1]


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
def test_no_history_breaks_a_promise(*, ordered: bool) -> None:
    for seed in range(HISTORIES):
        roam(seed, ordered=ordered, mix=Mix())


def test_no_history_breaks_a_promise_where_clocks_are_wrong_by_days(monkeypatch: pytest.MonkeyPatch) -> None:
    hours = (0, -72, 48, 1, -168)
    monkeypatch.setattr(world, "SKEWS", tuple(each * HOUR for each in hours))
    for seed in range(HISTORIES // 2):
        roam(seed, ordered=False, mix=Mix())


def test_no_history_breaks_a_promise_where_clocks_are_wrong_by_years(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "SKEWS", world.YEARS)
    for seed in range(HISTORIES):
        roam(seed, ordered=seed % 2 == 0, mix=Mix())


def test_no_history_breaks_a_promise_where_clocks_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    act = dice._act

    def jump_and_act(here: world.World, chance: random.Random, mix: Mix, newest: world.Station) -> world.Station:
        for station in here.stations:
            if chance.random() < 0.1:
                station.host.skew = chance.choice((0, -8 * HOUR, 8 * HOUR))
        return act(here, chance, mix, newest)

    monkeypatch.setattr(dice, "_act", jump_and_act)
    for seed in range(HISTORIES // 2):  # a process for which a day passes may give up
        roam(seed, ordered=False, mix=Mix(spans=(timedelta(minutes=40), timedelta(hours=2))))


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
def test_a_listing_that_is_overtaken_misses_no_commit(*, ordered: bool) -> None:
    for seed in range(HISTORIES):
        overtake(seed, ordered=ordered)


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
def test_a_compaction_that_comes_too_late_does_no_harm(*, ordered: bool) -> None:
    for seed in range(HISTORIES):
        outlast(seed, ordered=ordered)
