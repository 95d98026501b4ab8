"""Statistics of the columns of a data file: bounds and counts of nulls.

Bounds and null counts, taken from the frame before it is written. Every value is one that JSON holds exactly: dates,
times and durations are their physical integers in the unit of the column. Whatever is absent is unknown, never wrong.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import polars as pl

from metaxy_fs.log.schema import Path, is_pattern

Bound = int | float | str | bool | None

MAX_CHARACTERS = 64
"""Of a string that is a bound, so many characters are kept."""
MAX_ID_CHARACTERS = 1_024
"""Of one of the first id column, by which files are divided into ranges: ids such as URIs begin alike."""
MAX_EXACT = 2**53


class ColumnStatistics(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """What is known of one leaf of a data file; a leaf is a column, or a field at any depth of a struct column.

    Attributes:
        path: The names from the column down to the leaf.
        nulls: Rows in which the leaf is null, those included in which a struct above it is.
        min: No value is less; a string may be cut short.
        max: No value is greater; a string may be cut and rounded up.
    """

    path: tuple[str, ...]
    nulls: int
    min: Bound = None
    max: Bound = None


class FileStatistics(msgspec.Struct, frozen=True, gc=False):
    """What pruning knows of one data file.

    Attributes:
        rows: How many rows it holds.
        schema: Its own schema; what the reading schema has and this lacks is null in every row, so a column that a scan
            adds must be in it. Files of equal schemas should share one object, as `decode_schema` gives it.
        columns: Statistics of its leaves, in the units and types of its own schema; a leaf without is unknown.
    """

    rows: int
    schema: pl.Schema
    columns: tuple[ColumnStatistics, ...]


def column_statistics(frame: pl.DataFrame, *, id_column: str | None = None) -> tuple[ColumnStatistics, ...]:
    """Return the statistics of every leaf of a frame, in the order of its columns and their fields.

    Of a long text the beginning is kept, which is longer of a column that names samples: files are divided by it.

    Floats have no bounds where a NaN or an infinity is among them; categoricals, enums, decimals, binaries and lists
    never have any. A field whose name Polars reads as a pattern (`*`, `^a.*$`) has no statistics.

    Example:
        >>> column_statistics(pl.DataFrame({"x": [3, None, 1]}))
        (ColumnStatistics(path=('x',), nulls=1, min=1, max=3),)
    """
    leaves = list(_leaves(frame))
    found = _asked(leaf for _, leaf in leaves)
    return tuple(
        ColumnStatistics(
            path,
            counted["nulls"],
            *_bounds(
                leaf.dtype,
                [counted.get(key) for key in _KEYS],
                characters=MAX_ID_CHARACTERS if path == (id_column,) else MAX_CHARACTERS,
            ),
        )
        for (path, leaf), counted in zip(leaves, found, strict=True)
    )


def unfounded(frame: pl.DataFrame, statistics: Sequence[ColumnStatistics]) -> list[Path]:
    """Return the leaves of which statistics claim something that does not hold of a frame."""
    leaves = dict(_leaves(frame))
    counted = dict(zip(leaves, _asked(leaves.values()), strict=True))
    return [
        claimed.path
        for claimed in statistics
        if claimed.path not in leaves or not _holds(claimed, leaves[claimed.path].dtype, counted[claimed.path])
    ]


def split_points(ids: pl.Series, *, every: int) -> tuple[Bound, ...]:
    """Return the value at each `every`-th row of a sorted column, but the first: where a file can be cut in parts.

    Of a long text the beginning is given, which is less than the text and all that follow it. Empty where nothing is
    known of the bounds of such a column.

    Example:
        >>> split_points(pl.Series([1, 3, 5, 7, 9]), every=2)
        (5, 9)
    """
    if not _has_bounds(ids.dtype) or len(ids) <= every:
        return ()
    values = ids.gather_every(every, offset=every)
    if ids.dtype.is_temporal():
        values = values.to_physical()
    bounds = [_bounds(ids.dtype, (value, value, False), characters=MAX_ID_CHARACTERS)[0] for value in values.to_list()]
    return tuple(bound for bound in bounds if bound is not None)


def exact_integers(statistics: Sequence[ColumnStatistics], *, rows: int) -> Callable[[Path], bool]:
    """Return a question about one file for `unify`: are all integers at this path proven to lie within +-2**53?

    A leaf that is null in all `rows` holds none. The index by path is made when it is first asked, which is seldom.
    """
    by_path: dict[Path, ColumnStatistics] = {}

    def is_exact(path: Path) -> bool:
        if not by_path:
            by_path.update((leaf.path, leaf) for leaf in statistics)
        if (leaf := by_path.get(path)) is None:
            return False
        return leaf.nulls == rows or all(isinstance(b, int) and abs(b) <= MAX_EXACT for b in (leaf.min, leaf.max))

    return is_exact


def exact_in(frame: pl.DataFrame) -> Callable[[Path], bool]:
    """Return the same question about the rows of a frame; its statistics are made when it is first asked."""
    found: list[Callable[[Path], bool]] = []

    def is_exact(path: Path) -> bool:
        if not found:
            found.append(exact_integers(column_statistics(frame), rows=frame.height))
        return found[0](path)

    return is_exact


_KEYS = ("min", "max", "nan")
_AT_ONCE = 128


def _leaves(frame: pl.DataFrame, path: Path = ()) -> Iterator[tuple[Path, pl.Series]]:
    """Yield the leaves of a frame, each taken out of its structs: queries look through a whole struct for a field."""
    for leaf in frame.get_columns():
        if not isinstance(leaf.dtype, pl.Struct):
            yield (*path, leaf.name), leaf
        else:
            fields = leaf.struct.unnest()
            named = [name for name in fields.columns if not is_pattern(name)]
            yield from _leaves(fields.select(named), (*path, leaf.name))


def _asked(leaves: Iterable[pl.Series]) -> list[dict[str, Any]]:
    """Return what the statistics of leaves are made of; not of thousands at once, for which plans take long to make."""
    columns = list(leaves)
    groups = (columns[start : start + _AT_ONCE] for start in range(0, len(columns), _AT_ONCE))
    return [found for group in groups for found in _asked_at_once(group)]


def _asked_at_once(leaves: Sequence[pl.Series]) -> Iterator[dict[str, Any]]:
    columns = [leaf.alias(str(index)) for index, leaf in enumerate(leaves)]
    queries = [query for index, leaf in enumerate(columns) for query in _queries(index, pl.col(str(index)), leaf.dtype)]
    found = pl.DataFrame(columns).select(queries).row(0, named=True)
    for index in range(len(columns)):
        yield {key: found.get(f"{index}.{key}") for key in ("nulls", *_KEYS)}


def _queries(index: int, leaf: pl.Expr, dtype: pl.DataType) -> Iterator[pl.Expr]:
    yield leaf.null_count().alias(f"{index}.nulls")
    if not _has_bounds(dtype):
        return
    least, greatest = leaf.min(), leaf.max()
    if dtype.is_temporal():
        least, greatest = least.to_physical(), greatest.to_physical()
    yield least.alias(f"{index}.min")
    yield greatest.alias(f"{index}.max")
    if dtype.is_float():
        yield leaf.is_nan().any().alias(f"{index}.nan")


def _has_bounds(dtype: pl.DataType) -> bool:
    return dtype.is_integer() or dtype.is_float() or dtype.is_temporal() or dtype in (pl.String, pl.Boolean)


def _bounds(dtype: pl.DataType, found: Sequence[Any], *, characters: int) -> tuple[Bound, Bound]:
    least, greatest, has_nan = found
    if least is None or has_nan:
        return None, None
    if isinstance(least, str):
        return least[:characters], _cut_up(greatest, characters=characters)
    if dtype.is_float() and not (math.isfinite(least) and math.isfinite(greatest)):
        return None, None
    # What msgspec reads back as an integer fits 64 bits, signed or not.
    if dtype.is_integer() and not -(2**63) <= least <= greatest < 2**64:
        return None, None
    return least, greatest


def _holds(claimed: ColumnStatistics, dtype: pl.DataType, found: Mapping[str, Any]) -> bool:
    """Whether what is claimed of a leaf is true of the values that were found."""
    if claimed.nulls != found["nulls"]:
        return False
    if claimed.min is None and claimed.max is None:
        return True
    least, greatest = found["min"], found["max"]
    if not _has_bounds(dtype) or found["nan"]:
        return False
    if least is None:
        return True
    if dtype.is_float() and not (math.isfinite(least) and math.isfinite(greatest)):
        return False
    return _is_at_most(claimed.min, least) and _is_at_most(greatest, claimed.max)


def _is_at_most(low: Bound, high: Bound) -> bool:
    """Whether two values are in order, where both are known; those of different kinds are not."""
    if low is None or high is None:
        return True
    kinds = {type(low), type(high)}
    return (len(kinds) == 1 or kinds == {int, float}) and low <= high  # type: ignore[operator]  # of one kind


def _cut_up(text: str, *, characters: int) -> str | None:
    """Return a short string that is no less than a long one, or None where there is none."""
    if len(text) <= characters:
        return text
    for end in range(characters, 0, -1):
        if (following := ord(text[end - 1]) + 1) <= 0x10FFFF:
            # Between U+D7FF and U+E000 lie the surrogates, which no string holds.
            return text[: end - 1] + chr(0xE000 if following == 0xD800 else following)
    return None
