"""The keys that name features and containers.

A key is a sequence of parts. Its string joins them with `_`; the string is what versions are hashed over and what
columns and dictionaries are keyed by. Two different keys may have one string (`["a_b"]` and `["a", "b"]`), so a graph
refuses to hold both.
"""

import re
from collections.abc import Iterable, Sequence
from typing import ClassVar, Self

import msgspec

from metaxy_fs.errors import SpecError

MAX_KEY_LENGTH = 200
"""Characters in a key's string; file systems hold names of 255 bytes."""

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class _Key(msgspec.Struct, frozen=True, order=True):
    """What both kinds of key have in common: parts that were checked when the key was made."""

    parts: Sequence[str]

    _kind: ClassVar[str] = "key"

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "parts", _checked_parts(self.parts, kind=self._kind))

    def __str__(self) -> str:
        return "_".join(self.parts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.parts)!r})"

    @classmethod
    def parse(cls, dotted: str) -> Self:
        """Return the key whose parts are joined by `.` in the text, as in the directories of a root."""
        return cls(tuple(dotted.split(".")))

    @property
    def dotted(self) -> str:
        """The parts joined by `.`, which no part can hold: unlike the string, it names one key only."""
        return ".".join(self.parts)


class FeatureKey(_Key, frozen=True, order=True):
    """The name of a feature.

    Args:
        parts: One or more names of letters, digits, `_` and `-` that start with a letter or digit.

    Raises:
        SpecError: There is no part, or one that breaks the rule.

    Examples:
        >>> key = FeatureKey(["video", "processing"])
        >>> str(key), key.dotted
        ('video_processing', 'video.processing')
    """

    _kind: ClassVar[str] = "feature key"


class ContainerKey(_Key, frozen=True, order=True):
    """The name of a container within its feature; the rules are those of `FeatureKey`.

    Examples:
        >>> str(ContainerKey(["frames"]))
        'frames'
    """

    _kind: ClassVar[str] = "container key"


def _checked_parts(parts: Iterable[str], *, kind: str) -> tuple[str, ...]:
    """Return the parts as a tuple, or say which of them is no name."""
    if isinstance(parts, str | bytes) or not isinstance(parts, Iterable):
        names = _PART.findall(str(parts)) or ["name"]
        raise SpecError(f"A {kind} is made from a list of parts, got {parts!r}; write for example {names!r}.")
    checked = tuple(parts)
    if not checked:
        raise SpecError(f"A {kind} needs at least one part, got none.")
    for part in checked:
        if not isinstance(part, str) or not _PART.fullmatch(part):
            raise SpecError(
                f"Invalid part {part!r} in the {kind} {list(checked)!r}: a part is made of the letters A-Z and a-z, "
                "digits, '_' and '-', and starts with a letter or a digit."
            )
    if len("_".join(checked)) > MAX_KEY_LENGTH:
        raise SpecError(f"The {kind} {list(checked)!r} is longer than {MAX_KEY_LENGTH} characters; shorten it.")
    return checked
