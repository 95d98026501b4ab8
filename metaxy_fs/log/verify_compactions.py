"""Verify that a compaction holds every row of the commits that it covers, once.

Each row of a file that a compaction has written says whose it is, and the commit table says how many rows each commit
has. So the files of a compaction can be counted against the table, without what they were made from.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

import polars as pl

from metaxy_fs.log.columns import COMMIT, COMMIT_COLUMNS, ORDINAL, RETIRED, TIME, count_retired
from metaxy_fs.log.manifest import DataFile, Manifest
from metaxy_fs.log.schema import column
from metaxy_fs.log.verified_io import FOREIGN, Finding

COUNTS: Final = pl.Schema(
    {
        COMMIT: pl.String(),
        TIME: pl.Int64(),
        "rows": pl.Int64(),
        "retired": pl.Int64(),
        "first": pl.Int64(),
        "last": pl.Int64(),
    }
)
"""What a file holds of a commit: how many rows, how many of them retire a sample, the first and the last ordinal."""

Ends = tuple[tuple[Any, ...], tuple[Any, ...]]


def is_rewritten(file: DataFile) -> bool:
    """Whether a compaction has written a file, so that each row says whose it is."""
    return file.first is not None


def rewritten_problems(rows: pl.DataFrame, id_columns: Sequence[str], file: DataFile) -> Iterator[str]:
    """Yield what is wrong with the commits of the rows of a file that a compaction has written."""
    places = rows.select(*COMMIT_COLUMNS)
    if any(places.null_count().row(0)):
        yield "has rows that do not say whose they are"
        return
    if places.select(COMMIT, ORDINAL).is_duplicated().any():
        yield "has several rows of one place in their commit"
    keys = places.select(TIME, COMMIT).unique().sort(TIME, COMMIT)
    if keys.height and not (file.first <= keys.row(0) and keys.row(-1) <= file.last):  # type: ignore[operator]
        yield f"has rows of other commits than those from {file.first} to {file.last}"
    ordered = rows.select(*map(column, id_columns), TIME, COMMIT, ORDINAL)
    if not ordered.equals(ordered.sort(pl.all())):
        yield "has rows of one id that are not in commit order"
    in_order = places.select(TIME, COMMIT, ORDINAL)
    if file.ordered and not in_order.equals(in_order.sort(pl.all())):
        yield "has rows that are not in commit order, as its manifest claims"


def commits_in(rows: pl.DataFrame, file: DataFile) -> pl.DataFrame:
    """Return what a file that a compaction lists holds of each commit (see `COUNTS`)."""
    if not is_rewritten(file):
        ends = (file.offset, file.offset + rows.height - 1)
        whole = (file.commit, file.time, rows.height, count_retired(rows), *ends)
        return pl.DataFrame([whole] if rows.height else [], schema=COUNTS, orient="row")
    ordinal = pl.col(ORDINAL).cast(pl.Int64)
    retired = pl.col(RETIRED).sum().cast(pl.Int64) if RETIRED in rows.columns else pl.lit(0, pl.Int64)
    return rows.group_by(COMMIT, TIME).agg(
        pl.len().cast(pl.Int64).alias("rows"),
        retired.alias("retired"),
        ordinal.min().alias("first"),
        ordinal.max().alias("last"),
    )


class CheckedPart(NamedTuple):
    """What was found in one file of a compaction."""

    file: DataFile
    commits: pl.DataFrame
    ends: Ends | None


def check_compaction(
    manifest: Manifest, table: pl.DataFrame, parts: Sequence[CheckedPart], *, path: str
) -> Iterator[Finding]:
    """Yield what is wrong with a compaction as a whole, given its commit table and all of its files."""
    for problem in [*_miscounts(table, parts), *_overlaps(parts)]:
        yield Finding(path, "error", problem, FOREIGN)
    digests = "".join(sorted(table.get_column("digest")))
    if hashlib.sha256(digests.encode()).hexdigest() != manifest.digest:
        yield Finding(path, "error", "gives another digest than its commits have", FOREIGN)


def _miscounts(table: pl.DataFrame, parts: Sequence[CheckedPart]) -> Iterator[str]:
    counted = pl.concat([COUNTS.to_frame(), *(part.commits for part in parts)])
    counted = counted.group_by(COMMIT, TIME).agg(
        pl.col("rows", "retired").sum(), pl.col("first").min(), pl.col("last").max()
    )
    names = {"commit": COMMIT, "time": TIME, "rows": "said", "retired": "said_retired"}
    said = table.select(*names).rename(names)
    both = said.join(counted, on=[COMMIT, TIME], how="full", coalesce=True).with_columns(
        pl.col("rows", "retired").fill_null(0), pl.col("first").fill_null(0), pl.col("last").fill_null(-1)
    )
    is_whole = (pl.col("rows") == pl.col("said")) & (pl.col("first") == 0) & (pl.col("last") == pl.col("rows") - 1)
    wrong = both.filter(~is_whole.fill_null(value=False)).sort(TIME, COMMIT)
    if wrong.height:
        first = wrong.row(0, named=True)
        said_of = "it does not cover" if first["said"] is None else f"has {first['said']} by its table"
        yield f"has {first['rows']} rows of commit {first[COMMIT]}, which {said_of}; {wrong.height} are wrong in all"
        return
    wrong = both.filter(pl.col("retired") != pl.col("said_retired")).sort(TIME, COMMIT)
    if wrong.height:
        first = wrong.row(0, named=True)
        yield (
            f"has {first['retired']} rows of commit {first[COMMIT]} that retire a sample, which has "
            f"{first['said_retired']} by its table; {wrong.height} are wrong in all"
        )


def _overlaps(parts: Sequence[CheckedPart]) -> Iterator[str]:
    """Yield where two files of one schema, both written by the compaction, may share a sample."""
    for schema in sorted({part.file.schema for part in parts}):
        ends = [part.ends for part in parts if part.file.schema == schema and is_rewritten(part.file) and part.ends]
        if any(not before[1] < after[0] for before, after in pairwise(ends)):
            yield "lists data files of its own whose ids are not in order from one to the next"
