"""Compacting costs in proportion to the writes, and leaves their logarithm to read."""

import math
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs.log import levels
from metaxy_fs.log.levels import next_compaction
from metaxy_fs.log.manifest import CommitTable, Definition, Manifest

DIGEST = "0" * 64


def manifest(commit: str, time: int, covers: str = "", **changed: object) -> Manifest:
    """A manifest of which nothing counts but who it stands for."""
    made = Manifest(
        format_version=1,
        commit=commit,
        time=time,
        feature=("f",),
        definition=Definition(DIGEST, {}),
        id_columns=("id",),
        schema=msgspec.Raw(b"[]"),
        writer="",
        rows=0,
        digest=DIGEST,
        files=(),
        covers=covers,
        commits=CommitTable(name="", rows=covers.count(" ") + 1, bytes=0, sha256=DIGEST) if covers else None,
    )
    return msgspec.structs.replace(made, **changed)


class Log:
    """A partition that is compacted as planned; counts how often each commit is rewritten."""

    def __init__(self) -> None:
        self.time = 0
        self.live: list[Manifest] = []
        self.rewritten: Counter[str] = Counter()
        self.taken = 0

    def append(self) -> None:
        self.time += 1
        self.live.append(manifest(f"a{self.time:06}", self.time))

    def compact(self, *, fan: int, full: bool = False) -> bool:
        self.time += 1
        chosen = next_compaction(self.live, fan=fan, full=full, before=self.time)
        covers = [commit for held in chosen for commit in (held.covers or held.commit).split(" ")]
        assert len(set(covers)) == len(covers)
        if not chosen:
            return False
        self.rewritten.update(covers)
        self.taken += len(chosen)
        names = {held.commit for held in chosen}
        self.live = [held for held in self.live if held.commit not in names]
        self.time += 1
        self.live.append(manifest(f"c{self.time:06}", self.time, " ".join(sorted(covers))))
        return True


@pytest.mark.parametrize(("writes", "fan", "every"), [(1000, 10, 1), (1000, 4, 7), (3000, 10, 100), (500, 2, 1)])
def test_keeping_writes_compacted_costs_a_rewrite_a_tier(writes: int, fan: int, every: int) -> None:
    log = Log()
    for count in range(1, writes + 1):
        log.append()
        if count % every == 0:
            while log.compact(fan=fan):
                pass
    depth = math.ceil(math.log(writes, fan)) + 1
    assert max(log.rewritten.values()) <= depth
    assert len(log.live) <= (fan - 1) * depth + every
    assert log.taken <= 2 * writes + writes / (fan - 1)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=30), st.integers(2, 5))
def test_nothing_is_due_after_a_while_whenever_one_compacts(bursts: list[int], fan: int) -> None:
    log = Log()
    for burst in bursts:
        for _ in range(burst):
            log.append()
        steps = 0
        while log.compact(fan=fan):
            steps += 1
            assert steps < 10
        by_level = Counter(levels._level(held.covers.count(" ") + 1, fan) for held in log.live)
        assert max(by_level.values()) < fan


def test_all_become_one_on_demand_and_then_nothing_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "MAX_MEMBERS", 20)
    log = Log()
    for _ in range(95):
        log.append()
    while log.compact(fan=10, full=True):
        pass
    assert len(log.live) == 1
    assert max(log.rewritten.values()) == 2


def test_what_came_later_is_left_for_the_next_time() -> None:
    held = [manifest(f"a{n}", n) for n in range(20)]
    assert len(next_compaction(held, fan=10, before=10)) == 10
    assert next_compaction(held, fan=10, before=9) == ()


def test_compactions_that_overlap_are_taken_together_at_once() -> None:
    held = [manifest("c1", 10, "a b"), manifest("c2", 11, "b c"), manifest("c3", 12, "c d"), manifest("c4", 13, "e")]
    assert [found.commit for found in next_compaction(held, fan=10, before=99)] == ["c1", "c2", "c3"]
    assert len(next_compaction(held, fan=10, full=True, before=99)) == 4


def test_commits_that_name_samples_otherwise_are_kept_apart() -> None:
    held = [manifest(f"a{n}", n, id_columns=("id", "x") if n % 2 else ("x", "id")) for n in range(20)]
    chosen = next_compaction(held, fan=10, before=99)
    assert len({found.id_columns for found in chosen}) == 1
    assert len(chosen) == 10
