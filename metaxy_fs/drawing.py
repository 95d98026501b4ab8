"""Draw a graph of labelled boxes as text, as Mermaid and as SVG.

What labels hold is escaped here: ids and versions are strings of others, and may hold anything.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import groupby

import msgspec

from metaxy_fs.markup import escaped, printable


class Emphasis(StrEnum):
    """How much a box stands out."""

    NONE = "same"
    DIFFERENT = "different"
    CAUSE = "cause"


class Box(msgspec.Struct, frozen=True, kw_only=True):
    """One box of a drawing; boxes are listed upstream before downstream.

    Attributes:
        title: Its name.
        lines: What else is written in it.
        emphasis: How much it stands out.
        upstream: The places in the list of the boxes that lead to it.
    """

    title: str
    lines: tuple[str, ...]
    emphasis: Emphasis
    upstream: tuple[int, ...]


def to_text(boxes: Sequence[Box], *, title: str) -> str:
    """Return trees of lines, one for each box that leads to no other; a box is unfolded where it is met first."""
    lines = [printable(title)]
    shown: set[int] = set()
    # A stack of its own: graphs are as deep as they please.
    waiting = [(place, "", "") for place in reversed(_last(boxes))]
    while waiting:
        place, branch, indent = waiting.pop()
        lines.append(branch + _text_line(boxes[place], shown_before=place in shown))
        if place not in shown:
            waiting += reversed(list(_branches(boxes[place].upstream, indent)))
        shown.add(place)
    return "\n".join(lines)


def to_mermaid(boxes: Sequence[Box], *, title: str) -> str:
    """Return a flowchart from upstream down."""
    lines = ["flowchart TD", f"  accTitle: {_mermaid(title)}"]
    for place, box in enumerate(boxes):
        label = "<br/>".join(map(_mermaid, (_mark(box) + box.title, *box.lines)))
        lines.append(f'  n{place}["{label}"]:::{box.emphasis}')
    lines += [f"  n{above} --> n{place}" for place, box in enumerate(boxes) for above in box.upstream]
    lines += [
        f"  classDef {emphasis} fill:{fill},stroke:{stroke},color:#1f2328"
        for emphasis, (fill, stroke) in _COLOURS.items()
    ]
    return "\n".join(lines)


def to_svg(boxes: Sequence[Box], *, title: str) -> str:
    """Return a picture from upstream down, its boxes in layers."""
    frames = _layout(boxes)
    width = max([frame.right for frame in frames], default=0) + _GAP
    height = max([frame.bottom for frame in frames], default=0) + _GAP
    edges = [_edge(frames[above], frames[place]) for place, box in enumerate(boxes) for above in box.upstream]
    drawn = [_drawn(box, frame) for box, frame in zip(boxes, frames, strict=True)]
    name = escaped(title)
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="monospace" font-size="12" role="img" aria-label="{name}">'
    )
    return "\n".join((opening, f"<title>{name}</title>", *edges, *drawn, "</svg>"))


_COLOURS = {
    Emphasis.NONE: ("#f6f8fa", "#8c959f"),
    Emphasis.DIFFERENT: ("#fff8c5", "#bf8700"),
    Emphasis.CAUSE: ("#ffebe9", "#cf222e"),
}
"""Fill and stroke; the text is dark on all of them."""


def _mark(box: Box) -> str:
    """Return what tells a cause from the others without colour."""
    return "▶ " if box.emphasis is Emphasis.CAUSE else ""


def _last(boxes: Sequence[Box]) -> list[int]:
    """Return the places of the boxes that lead to no other."""
    leading = {above for box in boxes for above in box.upstream}
    return [place for place in range(len(boxes)) if place not in leading]


def _text_line(box: Box, *, shown_before: bool) -> str:
    if shown_before:
        return printable(f"{_mark(box)}{box.title} (see above)")
    return printable(f"{_mark(box)}{box.title}: {'; '.join(box.lines)}")


def _branches(upstream: Sequence[int], indent: str) -> Iterator[tuple[int, str, str]]:
    """Yield the boxes upstream of one, each with what its own line and those below it begin with."""
    for number, place in enumerate(upstream, start=1):
        is_last = number == len(upstream)
        yield place, indent + ("└─ " if is_last else "├─ "), indent + ("   " if is_last else "│  ")


_MERMAID_SPECIAL = re.compile(r"[^\w .,:/=+…▶-]")


def _mermaid(text: str) -> str:
    """Write every character that Mermaid, Markdown or HTML could take for its own as a code."""
    return _MERMAID_SPECIAL.sub(lambda found: f"#{ord(found.group())};", printable(text))


# The layout: each box lies one layer below the lowest of those upstream of it. All lengths are in pixels.

_GAP = 24
_LAYER_GAP = 40
_PADDING = 10
_LINE_HEIGHT = 16
_CHARACTER_WIDTH = 7.3


class _Frame(msgspec.Struct, frozen=True):
    x: int
    y: int
    width: int
    height: int

    @property
    def right(self) -> int:
        return self.x + self.width

    @property
    def bottom(self) -> int:
        return self.y + self.height

    @property
    def middle(self) -> int:
        return self.x + self.width // 2


def _layout(boxes: Sequence[Box]) -> list[_Frame]:
    layers = _layers(boxes)
    frames: dict[int, _Frame] = {}
    y = _GAP
    for _, places in groupby(sorted(range(len(boxes)), key=layers.__getitem__), key=layers.__getitem__):
        x = _GAP
        for place in places:
            frames[place] = _Frame(x, y, *_size(boxes[place]))
            x = frames[place].right + _GAP
        y = max(frame.bottom for frame in frames.values()) + _LAYER_GAP
    return [frames[place] for place in range(len(boxes))]


def _layers(boxes: Sequence[Box]) -> list[int]:
    layers: list[int] = []
    for box in boxes:
        layers.append(1 + max((layers[above] for above in box.upstream), default=-1))
    return layers


def _size(box: Box) -> tuple[int, int]:
    lines = _label(box)
    width = round(max(map(_columns, lines)) * _CHARACTER_WIDTH) + 2 * _PADDING
    return width, len(lines) * _LINE_HEIGHT + 2 * _PADDING


def _label(box: Box) -> list[str]:
    return [printable(line) for line in (_mark(box) + box.title, *box.lines)]


def _columns(text: str) -> int:
    """Return how many columns of a monospaced font a text takes."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _edge(above: _Frame, below: _Frame) -> str:
    halfway = (above.bottom + below.y) // 2
    path = f"M{above.middle} {above.bottom}C{above.middle} {halfway} {below.middle} {halfway} {below.middle} {below.y}"
    return f'<path d="{path}" fill="none" stroke="#8c959f"/>'


def _drawn(box: Box, frame: _Frame) -> str:
    fill, stroke = _COLOURS[box.emphasis]
    shape = (
        f'<rect class="{box.emphasis}" x="{frame.x}" y="{frame.y}" width="{frame.width}" height="{frame.height}" '
        f'rx="6" fill="{fill}" stroke="{stroke}"/>'
    )
    lines = [
        f'<text x="{frame.x + _PADDING}" y="{frame.y + _PADDING + _LINE_HEIGHT * number - 4}" fill="#1f2328" '
        f'font-weight="{"bold" if number == 1 else "normal"}">{escaped(line)}</text>'
        for number, line in enumerate(_label(box), start=1)
    ]
    return "\n".join([shape, *lines])
