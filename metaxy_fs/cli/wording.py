"""Say in the words of the shell what an error says to those who call Python."""

import re
from collections.abc import Callable
from typing import Final

_Said = str | Callable[[re.Match[str]], str]


def _with_columns(found: re.Match[str]) -> str:
    names = re.findall(r"'([^']*)'", found[1])
    return f"Publish the others with --columns {','.join(names)}"


WORDS: Final[tuple[tuple[str, _Said], ...]] = (
    (
        r'keep its rows with store\.rebase if only code has changed, or read them with versions="all"',
        "keep its rows by a rebase, in Python, if only code has changed, or see them with `show`",
    ),
    (r"Publish the others with columns=\[(.*?)\]", _with_columns),
    (r"run compact\(store, feature, full=True\)", "run `compact --full --yes`"),
    (
        r"On a root that nobody else uses, pass unsafe=True",
        "On a root that nobody else uses, Python takes shorter ones",
    ),
    (r"\bseconds='([^']*)'", r"--seconds \1"),
    (r"Read with `columns=` that leave", "Show it with --columns that leave"),
    (r"; use os\.path\.expandvars\(root\)", "; let your shell replace them"),
    (r"(those go into|give them as) storage_options", r"\1 storage_options of a store in the configuration"),
    (
        r"Pass the Feature class, or make its graph active: `with graph\.use\(\):`",
        "Declare it in a module of `entrypoints`",
    ),
)
"""What Python says, as a pattern, and what the shell says in its place."""


def in_shell(text: str) -> str:
    """Return a message of an error with commands and options where it names functions and arguments.

    Examples:
        >>> in_shell("seconds='time' names a column of none of the features")
        '--seconds time names a column of none of the features'
    """
    for said, here in WORDS:
        text = re.sub(said, here, text)
    return text
