"""Print answers: tables that fit a terminal, plain lines in a pipe, or JSON.

What comes from a root may hold anything; all of it is escaped.
"""

import json
import shutil
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any, Final

import msgspec
import polars as pl
import typer

from metaxy_fs.markup import cell, printable
from metaxy_fs.progress import waiting

Json = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]

_KINDS: Final[dict[Any, dict[str, str]]] = {
    pl.String: {"type": "string"},
    pl.Int64: {"type": "integer"},
    pl.Float64: {"type": "number"},
    pl.Boolean: {"type": "boolean"},
    pl.Datetime: {"type": "string", "format": "date-time"},
}
_UNBOUNDED = 1_000_000


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a command answers about one store; `metaxy_fs.cli.schema` makes the JSON Schemas of all of them.

    Attributes:
        store: The location of the store.
        left_out: How many rows are left out, by field; absent if none are. The shell leaves none out.
    """

    store: str
    left_out: dict[str, int] | msgspec.UnsetType = msgspec.UNSET


@contextmanager
def line_of_progress(command: str) -> Iterator[None]:
    """Show on a terminal how long a command takes, until it prints something or ends."""
    with waiting(command) as end:
        _ENDS.append(end)
        try:
            yield
        finally:
            _ENDS.remove(end)


_ENDS: Final[list[Callable[[], object]]] = []


def _end_line() -> None:
    for end in _ENDS:
        end()


def _print(line: str) -> None:
    _end_line()
    print(line)


def frame_of(columns: Mapping[str, pl.DataType], *, nullable: Container[str] = ()) -> msgspec.Meta:
    """Return what a schema says of a field that is a frame: its rows are objects of these columns and of no others.

    Args:
        columns: The types of the columns.
        nullable: Those in which there may be nulls.
    """
    kinds = {
        name: {"anyOf": [_kind(dtype), {"type": "null"}]} if name in nullable else _kind(dtype)
        for name, dtype in columns.items()
    }
    rows = {"type": "object", "properties": kinds, "required": list(kinds), "additionalProperties": False}
    return msgspec.Meta(extra_json_schema={"items": rows})


def document(command: str, answers: Sequence[Answer]) -> Any:
    """Return the answers of a command, one for each store, as what JSON can hold."""
    return json.loads(msgspec.json.encode({"command": command, "answers": answers}, enc_hook=_encoded))


def print_json(command: str, answers: Sequence[Answer]) -> None:
    """Print the answers of a command, one for each store, as one JSON document of ASCII."""
    _print(json.dumps(document(command, answers), indent=2))


def print_table(rows: pl.DataFrame, *, is_stored: bool = False) -> None:
    """Print the rows of a frame below a header, with the very names of columns that are stored."""
    cells = [[cell(value) for value in row] for row in rows.iter_rows()]
    header = rows.columns if is_stored else [name.replace("_", " ") for name in rows.columns]
    numeric = [dtype.is_numeric() for dtype in rows.dtypes]
    if sys.stdout.isatty():
        _print_fitting(header, cells, numeric)
        return
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    for line in (header, *cells):
        padded = (
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(line, widths, numeric, strict=True)
        )
        _print("  ".join(padded).rstrip())


def print_title(location: str, *, of: int) -> None:
    """Print which store the following is about, where there are several."""
    if of > 1:
        _print(f"\n{printable(location)}")


def print_lines(lines: Iterable[str]) -> None:
    """Print lines that may hold names of others, each on one line."""
    for line in lines:
        _print(printable(line))


def print_text(text: str) -> None:
    """Print a text of several lines, which has escaped the names of others."""
    print_lines(text.split("\n"))


def size(number: float) -> str:
    """Return a number of bytes in the unit that suits it."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:,.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} TiB"


def ask_for_yes(*, is_done: bool) -> None:
    """Say that nothing was changed, if that is so."""
    if not is_done:
        _print("Nothing was changed; --yes does it.")


def _kind(dtype: pl.DataType) -> dict[str, Any]:
    if isinstance(dtype, pl.Struct):
        return {"type": "object"}
    if isinstance(dtype, pl.List):
        return {"type": "array", "items": _KINDS[dtype.inner]}
    return _KINDS[dtype.base_type()]


def _encoded(value: Any) -> Any:
    return value.to_dicts() if isinstance(value, pl.DataFrame) else str(value)


def _print_fitting(header: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool]) -> None:
    """Print a table no wider than the terminal: if its rows do not fit, each row as a list of what its columns hold.

    rich is imported here, since pipes do without it.
    """
    _end_line()
    console = import_module("rich.console").Console(width=shutil.get_terminal_size().columns, highlight=False)
    table = _table(header, cells, numeric)
    unbounded = console.options.update(max_width=_UNBOUNDED)
    if console.measure(table, options=unbounded).maximum <= console.width:
        console.print(table)
        return
    for row in cells:
        console.print(_table(("", ""), list(zip(header, row, strict=True)), (False, False), has_header=False))
        console.print()


def _table(
    header: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool], *, has_header: bool = True
) -> Any:
    table = import_module("rich.table").Table(box=None, pad_edge=False, header_style="bold", show_header=has_header)
    text = import_module("rich.text").Text
    for name, is_number in zip(header, numeric, strict=True):
        table.add_column(text(name), justify="right" if is_number else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(text, row))
    return table
