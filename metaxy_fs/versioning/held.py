"""What do stores hold of a row, or of a group of rows, that a sample is made from?"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from metaxy_fs.versioning.definition import DefinitionVersion
from metaxy_fs.versioning.explanation import Versions
from metaxy_fs.versioning.groups import GroupState


class HeldRow(NamedTuple):
    """A stored row, and what it was written under."""

    versions: Versions
    definition: DefinitionVersion


class HeldRows(msgspec.Struct, frozen=True, kw_only=True):
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
    layers: Sequence[HeldRow] = ()
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

    def compared(self, expected: Versions, current: DefinitionVersion) -> "HeldRows":
        """Return the same with the row first that is as expected, if any is: then the sample is done."""
        wanted = HeldRow(dict(expected), current)
        is_done = len(self.layers) > 1 and wanted in self.layers
        return msgspec.structs.replace(self, layers=[wanted]) if is_done else self
