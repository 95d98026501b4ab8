"""Print the outcome of a run of the demo."""

from pathlib import Path

import polars as pl

from metaxy_fs.cli.demo_texts import BINARY, TOO_LARGE
from metaxy_fs.markup import count, printable
from metaxy_fs.metadata_store import Materialization, Plan
from metaxy_fs.sources import FileUpdate

_EXAMPLES = 3
_WIDTH = 60
_TERMS = 8


def print_places(directory: Path, root: str) -> None:
    """Say where the files are, and where the features are kept."""
    print(f"directory  {printable(str(directory.absolute()))}")
    print(f"root       {printable(root)}")


def print_files(files: FileUpdate) -> None:
    """Say what is new, changed and gone among the files."""
    total = files.new.height + files.changed.height + files.touched.height + files.unchanged
    print(f"\ndemo/files: {count(total, 'file')}, {files.new.height:,} new, {files.changed.height:,} changed")
    _print_paths("new", files.new)
    _print_paths("changed", files.changed)
    _print_paths("touched, with the same content", files.touched)
    _print_paths("gone, retired", files.missing)
    _print_failed("cannot be read", files.failed)


def print_texts(plan: Plan, texts: Materialization) -> None:
    """Say what was planned, and what became of it."""
    print(f"\n{plan}\n")
    counts = texts.counts
    retired = f", {counts.retired:,} retired" if counts.retired else ""
    print(f"demo/texts: {counts.written:,} computed{retired} in {texts.seconds:.1f} s")
    _print_failed("left for the next run", texts.failed)


def print_totals(texts: pl.DataFrame) -> None:
    """Say what is in all the texts together, if there ever were any."""
    if "is_text" not in texts.columns:
        return
    counted = texts.filter("is_text")
    words, lines = int(counted["words"].sum()), int(counted["lines"].sum())
    print(f"\n{count(counted.height, 'text')}: {count(lines, 'line')}, {count(words, 'word')}{_others(texts)}")
    terms = counted.select(pl.col("terms").explode()).drop_nulls().unnest("terms") if words else None
    if terms is not None and terms.height:
        total = terms.group_by("term").agg(pl.len().alias("texts"), pl.col("count").sum())
        top = total.sort("texts", "count", "term", descending=[True, True, False]).head(_TERMS)
        shown_terms = ", ".join(f"{term} ({texts:,})" for term, texts, _ in top.iter_rows())
        print(f"terms, by the number of texts that have them in their top ten: {shown_terms}")


def _print_paths(what: str, paths: pl.DataFrame) -> None:
    if paths.height:
        examples = ", ".join(map(_shortened, paths["path"].sort().head(_EXAMPLES)))
        print(f"  {what} ({paths.height:,}): {examples}{_more(paths.height)}")


def _print_failed(what: str, failed: pl.DataFrame) -> None:
    if failed.height:
        examples = "; ".join(f"{_shortened(path)}: {printable(error)}" for path, error in failed.head(3).iter_rows())
        print(f"  {what} ({failed.height:,}): {examples}{_more(failed.height)}")


def _shortened(name: str) -> str:
    """Return a name without the middle, if it is long."""
    text = printable(name)
    half = _WIDTH // 2
    return text if len(text) <= _WIDTH else f"{text[: half - 2]}...{text[1 - half :]}"


def _more(count: int) -> str:
    return f" and {count - _EXAMPLES:,} more" if count > _EXAMPLES else ""


def _others(texts: pl.DataFrame) -> str:
    counts = {reason: texts.filter(pl.col("reason") == reason).height for reason in (BINARY, TOO_LARGE)}
    others = ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count)
    return f"; not counted: {others}" if others else ""
