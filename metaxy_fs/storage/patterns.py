"""Match paths with the patterns of a shell, such as `videos/**/*.mp4`.

A pattern is a sequence of parts joined by `/`. Within a part, `*` stands for any characters, `?` for one and `[abc]`,
`[a-z]` or `[!a]` for one of a set; none of them for a slash. A part `**` stands for any number of parts, at the end of
a pattern for one or more. What stands between brackets stands for itself: `[*]` is an asterisk.
"""

import fnmatch
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

_WILDCARD = re.compile(r"[*?\[]")
_LITERAL = re.compile(r"[^*?]|\[[^!/]\]", re.DOTALL)
_TOKEN = re.compile(r"\*+|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)
_ANY_DEPTH = "**"


@dataclass(frozen=True)
class Pattern:
    """A pattern of paths; without a wildcard it is a path, and matches that and all paths below it.

    Attributes:
        text: The pattern.
        include_hidden: Whether wildcards match parts of paths that begin with a dot; where a part of the pattern begins
            with one, they are matched by that part anyway.

    Examples:
        >>> pattern = Pattern("videos/**/*.mp4")
        >>> [path for path in ("videos/a.mp4", "videos/b/c.mp4", "videos/.b/d.mp4") if pattern.matches(path)]
        ['videos/a.mp4', 'videos/b/c.mp4']
    """

    text: str
    include_hidden: bool = False

    @cached_property
    def is_plain(self) -> bool:
        """Whether it has no wildcard."""
        return all(map(_LITERAL.fullmatch, _TOKEN.findall(self.text)))

    @cached_property
    def prefix(self) -> str:
        """What all matching paths begin with; of a plain path the path."""
        literal = takewhile(_LITERAL.fullmatch, _TOKEN.findall(self.text))
        return "".join(glyph[len(glyph) // 2] for glyph in literal)

    @cached_property
    def directory(self) -> str:
        """The directory that all matching paths are below, `""` where there is no such; of a plain path the path."""
        if self.is_plain:
            return self.prefix.rstrip("/") or self.prefix[:1]
        return self.prefix.rpartition("/")[0] or self.prefix[: self.prefix.startswith("/")]

    @cached_property
    def is_recursive(self) -> bool:
        """Whether it may match paths at another depth than directly below `directory`."""
        return self.is_plain or len(self._parts) > self.prefix.count("/") + 1 or _ANY_DEPTH in self._parts

    def matches(self, path: str) -> bool:
        """Whether it matches the path of a file."""
        return bool(self._whole.match(path))

    def may_match_below(self, directory: str) -> bool:
        """Whether it may match a file at any depth below a directory; False is a proof that it does not."""
        parts = directory.split("/")
        for place, (part, expected) in enumerate(zip(parts, self._parts, strict=False)):
            if expected == _ANY_DEPTH:
                return all(self._may_be_within(each, self._parts[place:]) for each in parts[place:])
            if not re.fullmatch(_of_part(expected, self.include_hidden), part, re.DOTALL):
                return False
        return len(parts) < len(self._parts)

    @cached_property
    def _parts(self) -> list[str]:
        text = f"{self.text.rstrip('/')}/**" if self.is_plain else self.text
        parts = text.split("/")
        return [part for place, part in enumerate(parts) if parts[place - 1 : place] != [_ANY_DEPTH] or part != "**"]

    @cached_property
    def _whole(self) -> re.Pattern[str]:
        any_part = _of_part("*", self.include_hidden)
        last = f"(?:{any_part}/)*{any_part}" if self._parts[-1] == _ANY_DEPTH else self._of(self._parts[-1])
        before = (f"(?:{any_part}/)*" if part == _ANY_DEPTH else f"{self._of(part)}/" for part in self._parts[:-1])
        whole = "".join(before) + last
        is_the_path = f"{re.escape(self.prefix)}|" if self.is_plain else ""
        return re.compile(rf"(?:{is_the_path}{whole})\Z", re.DOTALL)

    def _of(self, part: str) -> str:
        return _of_part(part, self.include_hidden)

    def _may_be_within(self, part: str, expected: list[str]) -> bool:
        """Whether parts from `**` on may match a part of a directory."""
        return self.include_hidden or not part.startswith(".") or any(each.startswith(".") for each in expected)


def _of_part(part: str, include_hidden: bool) -> str:  # noqa: FBT001  # of this module alone
    """Return the regular expression of a part of a pattern."""
    is_plain = not _WILDCARD.match(part)
    visible = "" if include_hidden or is_plain else r"(?!\.)"
    return visible + "".join(map(_of_glyph, _TOKEN.findall(part)))


def _of_glyph(glyph: str) -> str:
    if glyph[0] == "*":
        return "[^/]*"
    if glyph == "?":
        return "[^/]"
    if len(glyph) > 1:
        return "(?!/)" + fnmatch.translate(glyph)[:-2]
    return re.escape(glyph)
