"""The tags of a commit: strings by name, with which its writer says what it belongs to."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

MAX_TAGS: Final = 32
MAX_VALUE: Final = 1_000
"""How many tags a commit has at most, and how many characters the value of one."""

_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"

TagName = Annotated[str, msgspec.Meta(pattern=rf"^{_NAME}\Z")]
TagValue = Annotated[str, msgspec.Meta(max_length=MAX_VALUE)]
Tags = Annotated[dict[TagName, TagValue], msgspec.Meta(min_length=1, max_length=MAX_TAGS)]


def check_tags(*tags: Mapping[str, str] | None) -> dict[str, str]:
    """Return the tags of several mappings together, of which a later one wins name by name.

    Raises:
        TypeError: One of them is no mapping.
        ValueError: The tags cannot be kept with a commit.
    """
    together: dict[Any, Any] = {}
    for some in tags:
        if some is not None and not isinstance(some, Mapping):
            raise TypeError(f'tags takes a mapping of strings by name, such as {{"run": "2026-11-28"}}, got {some!r}.')
        together.update(some or {})
    for name, value in together.items():
        if not isinstance(name, str) or not re.fullmatch(_NAME, name):
            raise ValueError(
                f"The name of a tag has 1 to 100 letters, digits, '.', '_' and '-', and begins with a letter or a "
                f"digit; got {name!r}."
            )
        if not isinstance(value, str) or len(value) > MAX_VALUE or not _is_encodable(value):
            shown = value if not isinstance(value, str) or len(value) <= MAX_VALUE else f"one of {len(value)}"
            raise ValueError(
                f"The value of the tag {name!r} is a string of at most {MAX_VALUE} characters that can be encoded as "
                f"UTF-8, got {shown!r}."
            )
    if len(together) > MAX_TAGS:
        raise ValueError(f"A commit has at most {MAX_TAGS} tags, got {len(together)}: {', '.join(sorted(together))}.")
    return together


def encode_tags(tags: Mapping[str, str]) -> str | None:
    """Return tags as one string, a JSON object with its names in order; None if there are none."""
    return msgspec.json.encode(dict(tags), order="sorted").decode() if tags else None


def are_tags(text: str) -> bool:
    """Whether a string is what `encode_tags` may have given."""
    try:
        msgspec.json.decode(text, type=Tags)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


def _is_encodable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
