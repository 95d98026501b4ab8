"""One manifest answers for each commit, whatever compactions there are."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaxy_fs.log import resolve as resolve_module
from metaxy_fs.log.resolve import Covers, Resolution, resolve

APPENDS = [f"{letter}{digit}" for letter in "aw" for digit in range(5)]
SETS = st.frozensets(st.sampled_from(APPENDS), min_size=1)
COMPACTIONS = st.dictionaries(st.sampled_from([f"m{n}" for n in range(8)]), SETS, max_size=8)


def resolved(appends: frozenset[str], compactions: Mapping[str, frozenset[str]]) -> Resolution:
    return resolve(appends, {name: Covers(" ".join(sorted(covers))) for name, covers in compactions.items()})


def owners_by_definition(appends: frozenset[str], compactions: Mapping[str, frozenset[str]]) -> dict[str, str]:
    """The rules as they are written down: who is dead, and who answers."""
    everything = {name: frozenset([name]) for name in appends} | dict(compactions)

    def is_dead(name: str) -> bool:
        mine = everything[name]
        return any(
            mine < theirs or (mine == theirs and (other > name or name in appends))
            for other, theirs in compactions.items()
            if other != name
        )

    living = sorted(name for name in everything if not is_dead(name))
    owners: dict[str, str] = {}
    for name in living:
        for commit in everything[name]:
            owners.setdefault(commit, name)
    return owners


@given(appends=st.frozensets(st.sampled_from(APPENDS)), compactions=COMPACTIONS)
def test_commits_are_answered_for_as_the_rules_say(
    appends: frozenset[str], compactions: dict[str, frozenset[str]]
) -> None:
    resolution = resolved(appends, compactions)
    answers = {append: append for append in resolution.appends}
    for name, left_out in resolution.compactions.items():
        for commit in compactions[name] - left_out:
            assert commit not in answers
            answers[commit] = name
    assert answers == owners_by_definition(appends, compactions)


@pytest.mark.parametrize("few", [0, 100])
def test_ids_are_found_in_the_text_and_in_the_set_alike(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve_module, "_FEW", few)
    covers = Covers("a-1 a-10 b-2")
    assert covers.intersection({"a-1", "b-2", "a-", "1", "b", ""}) == {"a-1", "b-2"}


def test_many_compactions_that_are_dead_cost_little() -> None:
    """Ten thousand that one covers are each compared with that one alone."""
    parts = {f"m{n:05}": Covers(f"a{n:05} b{n:05}") for n in range(10_000)}
    whole = Covers(" ".join(f"a{n:05} b{n:05}" for n in range(10_000)))
    assert list(resolve((), parts | {"n": whole}).compactions) == ["n"]
