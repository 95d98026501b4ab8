"""Write what comes from others as HTML: names, ids and cells may hold anything, and all of it is escaped."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:  # who declares features alone does without Polars
    import polars as pl

_ROWS: Final = 10
_COLUMNS: Final = 30
_CELL: Final = 200
"""So many characters of a cell are shown; a frame may hold texts of megabytes."""
_STRUCT_DIGITS: Final = 12
_SPECIAL: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})
"""What `html.escape` escapes; its module takes longer to import than this one."""

_STYLE: Final = (
    ".metaxy-fs{font-family:system-ui,sans-serif;font-size:13px}"
    ".metaxy-fs table{border-collapse:collapse;margin:.4em 0;font-size:inherit;color:inherit}"
    ".metaxy-fs th,.metaxy-fs td{padding:.2em .7em;text-align:left;border-bottom:1px solid rgba(127,127,127,.3)}"
    ".metaxy-fs .number{text-align:right;font-variant-numeric:tabular-nums}"
    ".metaxy-fs .note{opacity:.75}"
    ".metaxy-fs .drawing{overflow:auto;max-height:40em}"
)
"""Inside the class alone, and in the colours of the page around it, be it light or dark."""


def printable(text: str) -> str:
    r"""Return a text with all that cannot be printed, such as an end of line, written as an escape.

    Examples:
        >>> printable("a\nb")
        'a\\nb'
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def escaped(text: str) -> str:
    """Return a text as HTML or XML shows it, be it between tags or in an attribute.

    Examples:
        >>> escaped("<b>'1' & 2")
        '&lt;b&gt;&#x27;1&#x27; &amp; 2'
    """
    return printable(text).translate(_SPECIAL)


def fragment(title: str, *parts: str) -> str:
    """Return a piece of HTML that stands in any page: a title, and what others of this module return, one by one."""
    return f'<div class="metaxy-fs"><style>{_STYLE}</style><b>{escaped(title)}</b>{"".join(parts)}</div>'


def table(frame: "pl.DataFrame", *, rows: int = _ROWS) -> str:
    """Return the first rows and columns of a frame as a table, with the number of those left out below it.

    Examples:
        >>> import polars as pl
        >>> "<td>&lt;b&gt;</td>" in table(pl.DataFrame({"name": ["<b>"]}))
        True
    """
    shown = frame.head(rows)[:, :_COLUMNS]
    kinds = [' class="number"' if dtype.is_numeric() else "" for dtype in shown.dtypes]
    body = "".join(f"<tr>{_cells('td', row, kinds)}</tr>" for row in shown.iter_rows())
    left_out = {"row": frame.height - shown.height, "column": frame.width - shown.width}
    counts = [count(number, f"more {what}") for what, number in left_out.items() if number]
    more = note(", ".join(counts)) if counts else ""
    return f"<table><thead><tr>{_cells('th', shown.columns, kinds)}</tr></thead><tbody>{body}</tbody></table>{more}"


def note(text: str) -> str:
    """Return a line of text."""
    return f'<div class="note">{escaped(text)}</div>'


def folded(summary: str, *parts: str) -> str:
    """Return parts that are shown once the reader opens them."""
    return f"<details><summary>{escaped(summary)}</summary>{''.join(parts)}</details>"


def counted(name: str, frame: "pl.DataFrame", *, count: int | None = None) -> str:
    """Return how many rows there are of a kind, which unfolds to the first of them; by default those of the frame."""
    label = f"{name}: {frame.height if count is None else count:,}"
    return folded(label, table(frame)) if frame.height else note(label)


def drawing(svg: str) -> str:
    """Return a picture that `metaxy_fs.drawing.to_svg` has drawn, which scrolls where it is too large."""
    return f'<div class="drawing">{svg}</div>'


def count(number: int, noun: str) -> str:
    """Return a number of things, as one says it.

    Examples:
        >>> count(1, "file"), count(1200, "row")
        ('1 file', '1,200 rows')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def cell(value: Any) -> str:
    """Return a value of a frame as a reader wants it in a table, on one line.

    Examples:
        >>> cell(1234567), cell(None), cell({"default": "a" * 64}), cell(["a", True])
        ('1,234,567', '', 'default=aaaaaaaaaaaa', 'a, yes')
    """
    match value:
        case None:
            text = ""
        case bool():
            text = "yes" if value else "no"
        case int():
            text = f"{value:,}"
        case datetime():
            text = re.sub(r"\+00:00$", "Z", value.isoformat(sep=" ", timespec="seconds"))
        case list():
            text = ", ".join(map(cell, value))
        case dict():
            text = " ".join(f"{name}={cell(part)[:_STRUCT_DIGITS]}" for name, part in value.items())
        case _:
            text = str(value)
    return printable(text)


def _cells(tag: str, values: Sequence[Any], kinds: Sequence[str]) -> str:
    return "".join(
        f"<{tag}{kind}>{escaped(_shortened(cell(value)))}</{tag}>" for value, kind in zip(values, kinds, strict=True)
    )


def _shortened(text: str) -> str:
    return text if len(text) <= _CELL else f"{text[: _CELL - 1]}…"
