"""The keys that name features and containers.

A key is a sequence of parts. People write and read a feature's key as text with `/` between them, which names one key
only. Its string joins them with `_`; the string is what versions are hashed over and what columns and dictionaries are
keyed by. Two different keys may have one string (`["a_b"]` and `["a", "b"]`), so a graph refuses to hold both.
"""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import ClassVar, Self, TypeVar

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

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.parts)!r})"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the key whose parts are joined by `/` in a text, or by `.` as in the directories of a root."""
        return cls(tuple(text.replace(".", "/").split("/")))

    @property
    def string(self) -> str:
        """The parts joined by `_`: what versions are hashed over, and what columns are called."""
        return "_".join(self.parts)

    @property
    def dotted(self) -> str:
        """The parts joined by `.`, as in the directories of a root; like the text, it names one key only."""
        return ".".join(self.parts)


class FeatureKey(_Key, frozen=True, order=True):
    """The name of a feature.

    Args:
        parts: One or more names of letters, digits, `_` and `-` that start with a letter or digit.

    Raises:
        SpecError: There is no part, or one that breaks the rule.

    Examples:
        >>> key = FeatureKey(["video", "processing"])
        >>> str(key), key.string, key.dotted
        ('video/processing', 'video_processing', 'video.processing')
        >>> FeatureKey.parse("video/processing") == key
        True
    """

    _kind: ClassVar[str] = "feature key"

    def __str__(self) -> str:
        return "/".join(self.parts)


class ContainerKey(_Key, frozen=True, order=True):
    """The name of a container within its feature; the rules are those of `FeatureKey`.

    Examples:
        >>> str(ContainerKey(["frames"]))
        'frames'
    """

    _kind: ClassVar[str] = "container key"

    def __str__(self) -> str:
        return self.string


_K = TypeVar("_K", bound=_Key)


def named_key(kind: type[_K], named: _K | str, *, what: str) -> _K:
    """Return the key that a caller named, by itself or by text.

    Args:
        kind: The kind of key.
        named: What was given.
        what: What it was given as, to begin a sentence with.

    Raises:
        SpecError: It is neither, or a text that names none.
    """
    if isinstance(named, str):
        return kind.parse(named)
    if not isinstance(named, kind):
        raise SpecError(f"{what} takes a {kind.__name__} or a text such as 'video', got {named!r}.")
    return named


def did_you_mean(key: FeatureKey, known: Iterable[FeatureKey]) -> str:
    """Return a sentence that names the known keys which are most like one that is not, or nothing.

    Examples:
        >>> did_you_mean(FeatureKey.parse("video_procesing"), [FeatureKey.parse("video/processing")])
        " Did you mean 'video/processing'?"
    """
    by_string = {other.string.lower(): str(other) for other in known}
    near = get_close_matches(key.string.lower(), by_string, n=3, cutoff=0.7)
    return f" Did you mean {' or '.join(repr(by_string[name]) for name in near)}?" if near else ""


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
