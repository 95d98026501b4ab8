"""Resolve which manifests count, and which of them holds each commit.

Theory of operation. A compaction stands for a set of appends; it holds all their rows. Nobody agrees on who compacts
what, so the sets of two compactions may overlap in any way. What a root holds is a function of the set of manifests
alone, in whatever order they were written:

- A manifest is dead if another one covers all that it does and more. Of two that cover the same, the one with the
  greater id lives; an append is dead as soon as any compaction covers it.
- Where compactions that live overlap, the one with the smallest id answers for what they have in common. The others
  leave the rows of those commits out, which they can because each row keeps the id of its commit.

So a commit is answered for once, and by a manifest that holds its rows.

Nearly all manifests of a partition have one schema, one definition and one list of columns. What is decoded of each
anew is most of what it takes in memory, where many are held.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from functools import cached_property
from typing import NamedTuple, TypeVar

import msgspec

from metaxy_fs.log.manifest import DataFile, Definition, Manifest

_FEW = 8
"""Up to so many ids are looked for in the text of a list, before it is taken apart."""


class Covers:
    """The commits that one compaction stands for, taken apart only where a question needs it.

    Args:
        text: Their ids, with a space between.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def ids(self) -> frozenset[str]:
        """All of them."""
        return frozenset(self._text.split(" "))

    def intersection(self, commits: AbstractSet[str]) -> AbstractSet[str]:
        """Return those of some commits that are among them."""
        if len(commits) > _FEW or "ids" in self.__dict__:
            return commits & self.ids
        padded = f" {self._text} "
        return {commit for commit in commits if f" {commit} " in padded}


class Resolution(NamedTuple):
    """What counts of a set of manifests.

    Attributes:
        appends: The appends that no compaction covers.
        compactions: The compactions that live, each with those of its commits that another one answers for.
    """

    appends: frozenset[str]
    compactions: dict[str, frozenset[str]]


def uncovered(appends: Iterable[str], compactions: Iterable[Covers]) -> frozenset[str]:
    """Return those appends that no compaction covers."""
    remaining = frozenset(appends)
    for covers in compactions:
        if not remaining:
            break
        remaining -= covers.intersection(remaining)
    return remaining


def resolve(appends: Iterable[str], compactions: Mapping[str, Covers]) -> Resolution:
    """Return what counts of all manifests of a partition, given by their ids."""
    return Resolution(uncovered(appends, compactions.values()), _shared(_living(compactions)))


def _living(compactions: Mapping[str, Covers]) -> dict[str, Covers]:
    """Return the compactions that are not dead.

    From the largest to the smallest, since only a larger one, or one that counts as such, makes another dead. One that
    covers all that a compaction does covers the first commit of it, so only those that do are compared.
    """
    if len(compactions) == 1:
        return dict(compactions)
    living: dict[str, Covers] = {}
    holders: dict[str, list[Covers]] = {}
    for name in sorted(compactions, key=lambda name: (len(compactions[name].ids), name), reverse=True):
        covers = compactions[name]
        rivals = holders.get(next(iter(covers.ids)), ())
        if any(covers.ids <= rival.ids for rival in rivals):
            continue
        living[name] = covers
        for commit in covers.ids:
            holders.setdefault(commit, []).append(covers)
    return living


def _shared(living: Mapping[str, Covers]) -> dict[str, frozenset[str]]:
    """Return for each compaction that lives the commits which one with a smaller id answers for."""
    if len(living) == 1:
        return dict.fromkeys(living, frozenset())
    answered: set[str] = set()
    left_out = {}
    for name in sorted(living):
        left_out[name] = living[name].ids & answered
        answered |= living[name].ids
    return left_out


_T = TypeVar("_T")

_MOST = 10_000
"""Values that are kept to be shared; a root whose manifests have nothing in common is no reason to keep more."""


class Shared:
    """Gives what is equal in several manifests as one object. Safe to share between threads."""

    def __init__(self) -> None:
        self._kept: dict[object, object] = {}

    def manifest(self, manifest: Manifest) -> Manifest:
        """Return an equal manifest, which also holds nothing of the bytes that it was decoded from."""
        if len(self._kept) > _MOST:
            self._kept = {}
        return msgspec.structs.replace(
            manifest,
            feature=self._one(manifest.feature),
            definition=self._definition(manifest.definition),
            id_columns=self._one(manifest.id_columns),
            schema=self._schema(manifest.schema),
            schemas=tuple(map(self._schema, manifest.schemas)),
            writer=self._one(manifest.writer),
            files=tuple(map(self._file, manifest.files)),
        )

    def _file(self, file: DataFile) -> DataFile:
        statistics = tuple(msgspec.structs.replace(leaf, path=self._one(leaf.path)) for leaf in file.statistics)
        return msgspec.structs.replace(file, statistics=statistics)

    def _schema(self, schema: msgspec.Raw) -> msgspec.Raw:
        text = bytes(schema)
        return self._under(text, msgspec.Raw(text))

    def _definition(self, definition: Definition) -> Definition:
        return self._under((definition.version, *definition.containers.items()), definition)

    def _one(self, value: _T) -> _T:
        return self._under(value, value)

    def _under(self, key: object, value: _T) -> _T:
        kept = self._kept.setdefault(key, value)
        return kept if type(kept) is type(value) else value
