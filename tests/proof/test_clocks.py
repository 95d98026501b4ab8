"""Check the rule for clocks that are far ahead in every history of three writes that there is, as a model.

A write takes its time when it begins, from a clock that may be wrong, and arrives later. Its process has seen some of
the commits that had arrived before it began, or none.
"""

import itertools
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from metaxy_fs.ids import AHEAD, MAX_TIME, LamportClock
from metaxy_fs.log.clock_skew import Arrivals

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOW = 1_800_000_000_000_000
SECOND = 1_000_000
HOUR = 3_600 * SECOND
YEAR = 366 * 24 * HOUR
SKEWS = {"right": 0, "fast": HOUR, "years behind": -50 * YEAR, "years ahead": 73 * YEAR, "the end": MAX_TIME - NOW}


class Commit(NamedTuple):
    """A write of the model: the name of its clock, when it began and arrived, what it claims, and what it had seen."""

    clock: str
    began: int
    arrived: int
    claimed: int
    seen: frozenset[int]


def histories() -> Iterator[list[Commit]]:
    """Yield every history: whose clocks are wrong how, how long each write takes, and who has seen what."""
    for clocks in itertools.product(SKEWS, repeat=3):
        for spans in itertools.product((SECOND, 2 * HOUR), repeat=3):
            for seen in itertools.product((False, True), repeat=3):
                yield history(clocks, spans, seen)


def history(clocks: tuple[str, ...], spans: tuple[int, ...], seen: tuple[bool, ...]) -> list[Commit]:
    """Return one history; a write that sees, sees all that has arrived when it begins."""
    commits: list[Commit] = []
    for place, (clock, span, sees) in enumerate(zip(clocks, spans, seen, strict=True)):
        began = NOW + place * HOUR
        known = frozenset(other for other, commit in enumerate(commits) if sees and commit.arrived < began)
        wall = min(began + SKEWS[clock], MAX_TIME - 3 + place)
        lamport = LamportClock(wall=lambda wall=wall: wall)  # type: ignore[misc]
        counts = counting(commits, now=wall)
        lamport.observe(max((counts[other] for other in known), default=0))
        commits.append(Commit(clock, began, began + span, lamport.tick(), known))
    return commits


def counting(commits: list[Commit], *, now: int) -> list[int]:
    """Return at which times commits count for a reader."""
    numbered = {str(place): commit for place, commit in enumerate(commits)}
    held: Mapping[str, Any] = {
        name: SimpleNamespace(commit=name, time=commit.claimed, covers="") for name, commit in numbered.items()
    }
    moments = {name: EPOCH + timedelta(microseconds=commit.arrived) for name, commit in numbered.items()}
    arrivals = Arrivals(moments, now)
    found = arrivals.times_that_count(held)
    return [found.get(str(place), commit.claimed) for place, commit in enumerate(commits)]


def test_all_readers_agree_whatever_their_clocks_say() -> None:
    for commits in histories():
        expected = counting(commits, now=NOW + 4 * HOUR)
        assert all(counting(commits, now=NOW + 4 * HOUR + skew) == expected for skew in SKEWS.values()), commits


def test_writer_of_a_right_clock_is_later_than_what_had_arrived_by_a_clock_far_ahead() -> None:
    for commits in histories():
        counts = counting(commits, now=NOW + 4 * HOUR)
        for earlier, later in itertools.combinations(range(3), 2):
            is_ahead = commits[earlier].claimed > commits[earlier].arrived + AHEAD
            if is_ahead and commits[later].clock == "right" and commits[earlier].arrived < commits[later].began:
                assert counts[earlier] < counts[later], commits


def test_writer_is_later_than_what_it_had_seen() -> None:
    for commits in histories():
        counts = counting(commits, now=NOW + 4 * HOUR)
        for place, commit in enumerate(commits):
            is_ahead = commit.claimed > commit.arrived + AHEAD
            for other in commit.seen:
                is_early = counts[other] > commits[other].arrived  # of a clock that is a little ahead, and believed
                assert counts[other] < counts[place] or (is_ahead and is_early), commits


def test_right_clock_that_has_seen_anything_stays_within_a_day_and_a_half() -> None:
    for commits in histories():
        for commit in commits:
            if commit.clock == "right":
                assert commit.claimed <= commit.arrived + AHEAD, commits


@pytest.mark.parametrize("breach", ["believed", "own clock"])
def test_model_notices_another_rule(monkeypatch: pytest.MonkeyPatch, breach: str) -> None:
    def believed(_arrivals: Arrivals, _held: Mapping[str, Any]) -> dict[str, int]:
        return {}

    def own_clock(arrivals: Arrivals, held: Mapping[str, Any]) -> dict[str, int]:
        return {commit: arrivals.now for commit, each in held.items() if each.time > arrivals.now + AHEAD}

    monkeypatch.setattr(Arrivals, "times_that_count", believed if breach == "believed" else own_clock)
    with pytest.raises(AssertionError):
        check_all()


def check_all() -> None:
    test_all_readers_agree_whatever_their_clocks_say()
    test_writer_of_a_right_clock_is_later_than_what_had_arrived_by_a_clock_far_ahead()
