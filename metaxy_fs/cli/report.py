"""Print the outcome of a run of the demo."""

from collections.abc import Iterable, Sequence
from itertools import islice

import polars as pl

from metaxy_fs.cli.texts import BINARY, TOO_LARGE
from metaxy_fs.cli.tree import OutOfReach, Skip, Tree
from metaxy_fs.cli.update import Outcome
from metaxy_fs.metadata_store import Increment

FILES = "demo/files"
TEXTS = "demo/texts"

_EXAMPLES = 3
_WIDTH = 60
_TERMS = 8
_HEADER = ("feature", "stored", "new", "stale", "orphaned", "computed", "seconds")


def print_tree(directory: str, root: str, tree: Tree) -> None:
    """Say what there is, and what of it is left out."""
    print(f"directory  {shown(directory)}: {count(tree.files.height, 'file')}, {size(int(tree.files['size'].sum()))}")
    print(f"root       {shown(root)}")
    left_out = ", ".join(f"{skip} ({tree.skipped[skip]:,})" for skip in Skip if tree.skipped[skip])
    if left_out:
        print(f"left out   {left_out}")


def print_files(outcome: Outcome) -> None:
    """Say what is new, stale and gone among the files, and what is not worth computing again."""
    _print_increment(FILES, outcome.increment, content=_by_container(outcome.increment, "content"))
    _print_left("cannot be read", outcome.left)
    touched = outcome.increment.stale.height - _by_container(outcome.increment, "content").height
    if touched:
        were, their, them = ("was", "its", "it") if touched == 1 else ("were", "their", "them")
        print(
            f"  {count(touched, 'file')} {were} touched: {their} `stat` is noted; `content` is the same, "
            f"so {TEXTS} has nothing to do for {them}."
        )


def print_texts(increment: Increment) -> None:
    """Say what there is to count."""
    _print_increment(TEXTS, increment, content=increment.stale.select("path"))


def print_uncounted(outcome: Outcome) -> None:
    """Say which texts are left for the next run."""
    _print_left("left for the next run", outcome.left)


def print_table(rows: Iterable[tuple[str, int, Outcome]]) -> None:
    """Print one line a feature: its name, the number of samples that the root holds, and what happened."""
    table: list[Sequence[str]] = [_HEADER]
    for name, stored, outcome in rows:
        increment = outcome.increment
        counts = (stored, increment.new.height, increment.stale.height, increment.orphaned.height, outcome.computed)
        table.append((name, *(f"{count:,}" for count in counts), f"{outcome.seconds:.1f}"))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    print()
    for first, *rest in table:
        cells = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        print("  ".join([first.ljust(widths[0]), *cells]))


def print_totals(texts: pl.DataFrame) -> None:
    """Say what is in all the texts together, given the rows of the files that there are."""
    counted = texts.filter(pl.col("is_text"))
    words, lines = int(counted["words"].sum()), int(counted["lines"].sum())
    print(f"\n{count(counted.height, 'text')}: {count(lines, 'line')}, {count(words, 'word')}{_others(texts)}")
    terms = counted.select(pl.col("terms").explode()).drop_nulls().unnest("terms") if words else None
    if terms is not None and terms.height:
        total = terms.group_by("term").agg(pl.len().alias("texts"), pl.col("count").sum())
        top = total.sort("texts", "count", "term", descending=[True, True, False]).head(_TERMS)
        shown_terms = ", ".join(f"{term} ({texts:,})" for term, texts, _ in top.iter_rows())
        print(f"terms, by the number of texts that have them in their top ten: {shown_terms}")


def shown(name: str) -> str:
    """Return a name that is safe to print on one line: control characters are escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in name)


def _shortened(name: str) -> str:
    """Return a name without the middle, if it is long."""
    text = shown(name)
    half = _WIDTH // 2
    return text if len(text) <= _WIDTH else f"{text[: half - 2]}...{text[1 - half :]}"


def _print_increment(feature: str, increment: Increment, *, content: pl.DataFrame) -> None:
    touched = increment.stale.join(content, on="path", how="anti")
    if not increment:
        print(f"\n{feature}: nothing to do")
    else:
        print(f"\n{feature}: {increment.new.height:,} new, {increment.stale.height:,} stale")
    _print_paths("new", increment.new["path"])
    _print_paths("stale, other content", content["path"])
    _print_paths("stale, only `stat` differs", touched["path"])
    _print_paths("gone, rows stay in the log", increment.orphaned["path"])


def _by_container(increment: Increment, container: str) -> pl.DataFrame:
    return increment.stale.filter(pl.col("changed_containers").list.contains(container)).select("path")


def _print_paths(what: str, paths: pl.Series) -> None:
    if paths.len():
        examples = ", ".join(map(_shortened, paths.head(_EXAMPLES)))
        print(f"  {what} ({paths.len():,}): {examples}{_more(paths.len())}")


def _print_left(what: str, left: Sequence[OutOfReach]) -> None:
    if left:
        examples = "; ".join(f"{_place(each)}: {each.reason}" for each in islice(left, _EXAMPLES))
        print(f"  {what} ({len(left):,}): {examples}{_more(len(left))}")


def _place(each: OutOfReach) -> str:
    return _shortened(f"{each.path}/" if each.is_directory and each.path else each.path or ".")


def _more(count: int) -> str:
    return f" and {count - _EXAMPLES:,} more" if count > _EXAMPLES else ""


def _others(texts: pl.DataFrame) -> str:
    counts = {reason: texts.filter(pl.col("reason") == reason).height for reason in (BINARY, TOO_LARGE)}
    others = ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count)
    return f"; not counted: {others}" if others else ""


def count(number: int, noun: str) -> str:
    """Return a number of things, as one says it."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(number: float) -> str:
    """Return a number of bytes in the unit that suits it."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:,.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} TiB"
