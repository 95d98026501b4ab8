"""Does every reader see every commit once in histories that dice make?

`PROOF_HISTORIES=1000` lives through that many of each kind.
"""

import os

import pytest

from metaxy_fs.testing.stepped_storage import Bucket
from tests.proof.dice import Mix, outlast, overtake, roam

HISTORIES = int(os.environ.get("PROOF_HISTORIES", "12"))


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


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
def test_a_listing_that_is_overtaken_misses_no_commit(*, ordered: bool) -> None:
    for seed in range(HISTORIES):
        overtake(seed, ordered=ordered)


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
def test_a_compaction_that_comes_too_late_does_no_harm(*, ordered: bool) -> None:
    for seed in range(HISTORIES):
        outlast(seed, ordered=ordered)
