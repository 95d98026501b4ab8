"""What is needed of data files, and where is it in a large one?"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import msgspec
import polars as pl

from metaxy_fs.log.files.columns import ColumnChunk, row_groups, sections
from metaxy_fs.log.files.commit_columns import COMMIT_COLUMNS
from metaxy_fs.log.files.footer import ENDING, Excerpt, Footer
from metaxy_fs.log.files.parquet import footer_digest
from metaxy_fs.log.files.thrift import MalformedError
from metaxy_fs.log.objects.statistics import FileStatistics
from metaxy_fs.log.pruning.matching import may_match
from metaxy_fs.log.views.live import LiveFile


class Need(msgspec.Struct, frozen=True):
    """What is needed of files.

    Attributes:
        columns: The columns that are read, those that a predicate names among them; None for all that a file has.
        predicate: Rows that do not satisfy it are not needed; None where all are.
        schema: The types in which the predicate is evaluated.
        of_commits: Whether it is needed which commit a row belongs to: columns of a file that a compaction has written
            tell, and in other files the place of the row.
    """

    columns: Collection[str] | None
    predicate: pl.Expr | None
    schema: pl.Schema
    of_commits: bool

    def of(self, live: LiveFile) -> list[str]:
        """Return the columns to read of a file; one at least, since without any there would be no rows."""
        held = live.stored_schema.names()
        if self.columns is None:
            return held
        of_commits = COMMIT_COLUMNS if self.of_commits or live.excluded else ()
        return [name for name in held if name in self.columns or name in of_commits] or held[:1]

    def predicate_on(self, live: LiveFile) -> pl.Expr | None:
        """Return what the rows of a file are needed for; None where all are."""
        return None if self.counts_rows(live) else self.predicate

    def counts_rows(self, live: LiveFile) -> bool:
        """Whether the place of a row in a file tells something."""
        return self.of_commits and not live.is_rewritten


class DividedFile(NamedTuple):
    """A large file of which parts are read.

    Attributes:
        live: The file.
        footer: Its footer.
        groups: The columns of each of its row groups.
    """

    live: LiveFile
    footer: Footer
    groups: list[list[ColumnChunk]]

    def statistics(self, need: Need) -> list[FileStatistics]:
        """Return what the footer says of the columns that matter in each row group."""
        return self.footer.statistics(self.live.schema, columns=need.columns or self.live.schema.names())

    def size_of(self, columns: Collection[str], group: int) -> int:
        """Return how many bytes some columns of a row group take."""
        return sum(chunk.end - chunk.start for chunk in self.groups[group] if chunk.column in columns)

    def excerpt(self, columns: Collection[str], groups: Sequence[int]) -> Excerpt:
        """Return some columns of some row groups, given in their order."""
        wanted = sections(chunk for place in groups for chunk in self.groups[place] if chunk.column in columns)
        return self.footer.excerpt(columns, groups=groups, sections=wanted)


def wanted_of(files: Collection[DividedFile], need: Need) -> list[list[int]]:
    """Return for each file the places of the row groups that may hold a needed row; it costs one look at all files."""
    tested = [file for file in files if need.predicate_on(file.live) is not None]
    statistics = [each for file in tested for each in file.statistics(need)]
    kept = iter(may_match(need.predicate, schema=need.schema, files=statistics) if need.predicate is not None else ())
    answers = {file.live.path: [next(kept) for _ in file.groups] for file in tested}
    everything = [[True] * len(file.groups) for file in files]
    return [
        [place for place, is_wanted in enumerate(answers.get(file.live.path, every)) if is_wanted]
        for file, every in zip(files, everything, strict=True)
    ]


def divided(live: LiveFile, end: bytes) -> DividedFile | None:
    """Return a file that is read in parts; None if its footer is not the one that its manifest gives or describes.

    Args:
        live: The file.
        end: Its footer, to the last byte.
    """
    if footer_digest(end) != live.file.footer:
        return None
    try:
        footer = Footer(end[:-ENDING], begin=live.file.bytes - len(end))
        found = footer.columns()
    except MalformedError:
        return None
    groups = row_groups(live.file, live.stored_schema.names())
    is_described = found == [[(chunk.column, chunk.start) for chunk in group] for group in groups]
    return DividedFile(live, footer, groups) if is_described and footer.rows == live.file.rows else None
