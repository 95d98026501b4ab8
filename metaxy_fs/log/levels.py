"""Choose the commits of a partition that are compacted together: as soon as a level is full.

Theory of operation. A manifest that counts stands for one commit, or for many. It is of level n if it stands for at
least `fan` to the power of n. When a level has `fan` members, these are compacted, with all of the levels below, into
one of a higher level. So a commit is rewritten at most once per level, and N commits have about log N levels: keeping
N writes compacted costs N log N. At any time fewer than `fan` manifests of a level count.

Compactions that overlap, because two compactors did not know of each other, are taken as one member.
"""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import msgspec

from metaxy_fs.log.manifest import Manifest
from metaxy_fs.log.resolve import Covers

FANOUT = 10
"""How many members of a level are compacted into one: fewer leave less to read, and rewrite more often."""

MAX_MEMBERS = 10_000
"""How many are compacted at once at most: enough to be done soon, since what is cut short has to begin again."""


def next_compaction(
    manifests: Iterable[Manifest],
    *,
    fan: int = FANOUT,
    full: bool = False,
    before: int,
    ahead: AbstractSet[str] = frozenset(),
    loose: AbstractSet[str] = frozenset(),
) -> tuple[Manifest, ...]:
    """Return the manifests that should become one now, none if all is well.

    What comes of it is to be planned again: that comes to an end.

    Args:
        manifests: All of a partition that count, in commit order.
        fan: How many members of a level are compacted.
        full: Compact everything into one, whatever its level.
        ahead: Single writes whose times a compaction is to write down (see `metaxy_fs.log.clock_skew`), even of one.
        loose: Manifests whose small files nobody has merged so far (see `metaxy_fs.log.merge`), even of one.
        before: Leave out writes of this time and later, so that writers cannot keep a compactor busy forever.
    """
    for members in _alike(_members(manifests)):
        old = [member for member in members if member.manifests[0].covers or member.manifests[0].time < before]
        unsettled = [member for member in old if member.manifests[0].commit in ahead | loose]
        chosen = old if full else _due(old, fan) or unsettled
        if len(chosen) > 1 or any(len(member.manifests) > 1 for member in chosen) or (unsettled and chosen):
            chosen = sorted(chosen, key=lambda member: _level(member.commits, fan))[:MAX_MEMBERS]
            return tuple(manifest for member in chosen for manifest in member.manifests)
    return ()


class _CompactionUnit(NamedTuple):
    """What is compacted as one: a manifest, or several that overlap; and how many commits it stands for."""

    manifests: tuple[Manifest, ...]
    commits: int


def _members(manifests: Iterable[Manifest]) -> list[_CompactionUnit]:
    singles, compactions = [], []
    for manifest in manifests:
        if manifest.covers:
            compactions.append(manifest)
        else:
            singles.append(_CompactionUnit((manifest,), 1))
    return singles + _overlapping(compactions)


def _overlapping(compactions: Sequence[Manifest]) -> list[_CompactionUnit]:
    """Put compactions together that have a commit in common, or are both together with a third one."""
    if len(compactions) == 1:
        return [_CompactionUnit((compactions[0],), compactions[0].covers.count(" ") + 1)]
    groups: list[tuple[list[Manifest], set[str]]] = []
    for manifest in compactions:
        joined, commits = [manifest], set(Covers(manifest.covers).ids)
        apart = []
        for group in groups:
            if commits.isdisjoint(group[1]):
                apart.append(group)
            else:
                joined = [*group[0], *joined]
                commits |= group[1]
        groups = [*apart, (joined, commits)]
    return [_CompactionUnit(tuple(joined), len(commits)) for joined, commits in groups]


def _alike(members: Iterable[_CompactionUnit]) -> list[list[_CompactionUnit]]:
    """Divide members by what one manifest can say but once."""
    found: dict[bytes, list[_CompactionUnit]] = {}
    for member in members:
        first = member.manifests[0]
        found.setdefault(msgspec.json.encode((first.feature, first.definition, first.id_columns)), []).append(member)
    return list(found.values())


def _due(members: Sequence[_CompactionUnit], fan: int) -> list[_CompactionUnit]:
    """Return the members of the levels that are full, and of all below; and those that overlap, which always are."""
    by_level: dict[int, list[_CompactionUnit]] = {}
    for member in members:
        by_level.setdefault(_level(member.commits, fan), []).append(member)
    due: list[_CompactionUnit] = []
    below: list[_CompactionUnit] = []
    for level in sorted(by_level):
        below += by_level[level]
        # What is due so far becomes one member, perhaps of this level.
        risen = 1 if due and _level(sum(member.commits for member in due), fan) >= level else 0
        if len(by_level[level]) + risen >= fan or (risen and _level(sum(m.commits for m in due), fan) > level):
            due = list(below)
    return due or [member for member in members if len(member.manifests) > 1][:1]


def _level(commits: int, fan: int) -> int:
    level = 0
    while commits >= fan:
        commits //= fan
        level += 1
    return level
