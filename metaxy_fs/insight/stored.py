"""The stored versions of rows and groups that an explanation compares.

A sample may have been made from the group as it was after any commit. So its rows are gone through in commit order, and
what it was is kept: as its members, and as the digests that stood for it (see `metaxy_fs.versioning.relations`).
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import msgspec

from metaxy_fs.hashing import hash_strings
from metaxy_fs.insight.explanation import Versions
from metaxy_fs.versioning.definition import DefinitionVersion

_MAX_MEMBERS = 200_000
"""How many members of all states together are looked at."""

_SHOWN = 5


class Member(NamedTuple):
    """One row of a group, as it was written.

    Attributes:
        text: Its ids, as they are hashed.
        name: Its ids, for people.
        commit: What it was written in.
        is_kept: Whether the predicate of the dep holds for it.
        versions: Its versions.
    """

    text: str
    name: str
    commit: str
    is_kept: bool
    versions: Versions


class GroupState(NamedTuple):
    """A group as it was after a commit.

    Attributes:
        digests: What stands for it in preimages, by container; nothing where it has no rows.
        members: The versions of its rows by name, in the order in which they are hashed.
    """

    digests: Versions
    members: Mapping[str, Versions]


def group_states(rows: Sequence[Member], *, algorithm: str) -> list[GroupState]:
    """Return what a group has been, the latest first: its present state, and as many before as can be told in time.

    Args:
        rows: All rows of it in commit order.
        algorithm: What groups are hashed with.
    """
    states = list(_states(rows))
    several = [{name: _text(state, name) for name in _containers(state)} for state in states]
    strings = list(dict.fromkeys(text for strings in several for text in strings.values()))
    digests = dict(zip(strings, hash_strings(strings, algorithm=algorithm), strict=True))
    return [
        GroupState({name: digests[text] for name, text in strings.items()}, {row.name: row.versions for row in state})
        for state, strings in zip(states, several, strict=True)
    ][::-1]


def listed(members: Mapping[str, Versions]) -> str:
    """Return how many rows a group has, and which, in words."""
    return f"{len(members)} row{'s' if len(members) != 1 else ''}: {_some(list(members))}" if members else "no rows"


def compared(then: Mapping[str, Versions], now: Mapping[str, Versions], container: str) -> str:
    """Return which rows of a group have changed in a container, in words."""
    kinds = {
        "changed": [n for n in now if n in then and then[n].get(container) != now[n].get(container)],
        "added": [name for name in now if name not in then],
        "gone": [name for name in then if name not in now],
    }
    return "; ".join(f"{kind} {_some(names)}" for kind, names in kinds.items() if names)


def _states(rows: Sequence[Member]) -> Iterator[list[Member]]:
    """Yield the rows that a group had after each of the last commits, in the order in which they are hashed."""
    commits = [list(written) for _, written in groupby(rows, key=lambda row: row.commit)]
    first = max(0, len(commits) - max(1, _MAX_MEMBERS // max(1, len(rows))))
    latest: dict[str, Member] = {}
    for place, written in enumerate(commits):
        latest.update((row.text, row) for row in written)
        if place >= first:
            yield sorted((row for row in latest.values() if row.is_kept), key=lambda row: row.text.encode())


def _containers(state: Sequence[Member]) -> list[str]:
    """Return the containers that every row has."""
    return [name for name in (state[0].versions if state else ()) if all(name in row.versions for row in state)]


def _text(state: Sequence[Member], container: str) -> str:
    versions = ((row.text, row.versions[container]) for row in state)
    return "".join(f"{text}|{len(version.encode())}:{version}" for text, version in versions)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


class StoredRow(NamedTuple):
    """A stored row, and what it was written under."""

    versions: Versions
    definition: DefinitionVersion


class StoredVersions(msgspec.Struct, frozen=True, kw_only=True):
    """What stores hold of one row of a feature, or of a group of rows.

    Attributes:
        current: The latest row under the current definition: what is read, and what downstream features are made from;
            of a group, the digests that stand for it.
        layers: The row that an increment compares with in each store, the nearest first: the latest under the current
            definition, or else under any.
        history: All that the row, or the digests of the group, have been, in any store, latest first.
        definitions: All that any rows of the feature were written under.
        code_versions: The code versions that each container had under other definitions, by its name.
        is_excluded: Whether there are current rows, and each is retired or excluded by the predicate of the dep.
        is_retired: Whether the row to compare with retires the sample.
        pending: Of a group, what of it, or of what it is made from, has to be computed, in words; nothing if none has.
        states: Of a group, its rows as they were, latest first: the digests that stood for it, and its members.
    """

    current: Versions | None = None
    layers: Sequence[StoredRow] = ()
    history: Sequence[Versions] = ()
    definitions: Sequence[DefinitionVersion] = ()
    code_versions: Mapping[str, Sequence[int | str]] = msgspec.field(default_factory=dict)
    is_excluded: bool = False
    is_retired: bool = False
    pending: str = ""
    states: Sequence[GroupState] = ()

    @property
    def stored(self) -> Versions | None:
        """The row that an increment compares with."""
        return self.layers[0].versions if self.layers else None

    @property
    def definition(self) -> DefinitionVersion | None:
        """What it was written under."""
        return self.layers[0].definition if self.layers else None

    def compared(self, expected: Versions, current: DefinitionVersion) -> "StoredVersions":
        """Return the same with the row first that is as expected, if any is: then the sample is done."""
        wanted = StoredRow(dict(expected), current)
        is_done = len(self.layers) > 1 and wanted in self.layers
        return msgspec.structs.replace(self, layers=[wanted]) if is_done else self
