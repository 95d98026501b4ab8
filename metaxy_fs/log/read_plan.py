"""Plan what a read needs of data files: which columns, which row groups, and where the bytes of these are.

A small file, and one of which everything is wanted, is read whole. Of a large one the footer tells where its columns
are and between which bounds their values lie, so that it is enough to have the columns that are wanted of those row
groups that may hold wanted rows. They are put at their own places into a file of zeros, which Polars reads.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from io import BytesIO
from typing import NamedTuple

import msgspec
import polars as pl

from metaxy_fs.errors import CorruptObjectError, MetaxyError, add_facts
from metaxy_fs.log.chunks import COMMIT_COLUMNS
from metaxy_fs.log.footer import ENDING, MAGIC, Footer, MalformedError
from metaxy_fs.log.parquet import ColumnChunk, Section, footer_digest, row_groups, sections
from metaxy_fs.log.prune import may_match
from metaxy_fs.log.statistics import FileStatistics
from metaxy_fs.log.view import LiveFile
from metaxy_fs.markup import count

FileSource = str | bytes
"""A data file as Polars takes it: its path, or its bytes."""

READ_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What Polars raises where it cannot read a file; a panic is no Exception, and must not end the process either."""


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
        names = live.stored_schema.names()
        if self.columns is None:
            return names
        of_commits = COMMIT_COLUMNS if self.of_commits or live.excluded else ()
        return [name for name in names if name in self.columns or name in of_commits] or names[:1]

    def predicate_on(self, live: LiveFile) -> pl.Expr | None:
        """Return what the rows of a file are needed for; None where all are."""
        return None if self.counts_rows(live) else self.predicate

    def counts_rows(self, live: LiveFile) -> bool:
        """Whether the place of a row in a file tells something."""
        return self.of_commits and not live.is_rewritten


class Excerpt(NamedTuple):
    """Some row groups and columns of a large file, each at its own place, and nothing between them.

    Attributes:
        sections: The bytes that it needs, in order.
        footer: What stands at its end, and lists these row groups.
        begin: Where the footer begins.
    """

    sections: Sequence[Section]
    footer: bytes
    begin: int

    @property
    def size(self) -> int:
        """How many bytes it needs."""
        return sum(section.end - section.start for section in self.sections)

    def file(self, fill: Callable[[Section, memoryview], object]) -> bytes:
        """Return it as a Parquet file.

        Zeros that nobody writes over or reads take no memory: the system gives pages that are used.

        Args:
            fill: Puts the bytes of a section where they belong.
        """
        file = BytesIO(bytes(self.begin + len(self.footer) + ENDING))
        with file.getbuffer() as view:
            view[: len(MAGIC)] = MAGIC
            for section in self.sections:
                with view[section.start : section.end] as part:
                    fill(section, part)
            view[self.begin :] = b"".join((self.footer, len(self.footer).to_bytes(4, "little"), MAGIC))
        return file.getvalue()


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
        return Excerpt(wanted, self.footer.listing(groups), self.footer.begin)


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


class about_file(AbstractContextManager[None]):  # noqa: N801  # as `about`, which costs ten times as much
    """Add to every error that leaves the block which data file it is about.

    Args:
        live: The file.
    """

    def __init__(self, live: LiveFile) -> None:
        self._live = live

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, MetaxyError):
            add_facts(error, feature=self._live.partition.feature, path=self._live.path)


def refuse_unreadable(source: FileSource, live: LiveFile, *, name: str) -> None:
    """Read a data file by itself, and say what is wrong with it.

    Args:
        source: Its path, or its bytes.
        live: What its manifest says of it.
        name: What to call it.

    Raises:
        CorruptObjectError: It cannot be read, or holds other columns or another number of rows than were committed.
    """
    with about_file(live):
        try:
            rows = pl.read_parquet(source, glob=False, hive_partitioning=False)
        except READ_ERRORS as error:
            reason = " ".join(str(error).split())[:200]
            raise CorruptObjectError(f"The data file {name} is no Parquet file that can be read: {reason}.") from error
        if rows.schema != live.stored_schema:
            raise CorruptObjectError(
                f"The data file {name} has other columns than its manifest gives: {dict(rows.schema)}."
            )
        if rows.height != live.file.rows:
            raise CorruptObjectError(
                f"The data file {name} has {count(rows.height, 'row')}, its manifest says {live.file.rows}."
            )
