"""Say what a store is asked for and given: appends, prepared writes, moments and queries, and the frames it answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple

import msgspec
import polars as pl

from metaxy_fs.log.chunks import Chunks, count_retired
from metaxy_fs.log.manifest import FILES, HISTORY, encode_tags
from metaxy_fs.log.receipts import Receipt
from metaxy_fs.spec import FeatureKey, FeatureSpec
from metaxy_fs.versioning.definition import DefinitionVersion

COMMITS: Final = pl.Schema({**HISTORY, "time": pl.Datetime("us", "UTC")})
"""The columns of a frame of commits.

`rows` is how many rows a commit wrote, `retired` how many samples it retired, `bytes` what these take where they are
kept, `write_id` null where none was given, `writer` the library and version that wrote it, `compacted` whether its rows
are now kept with those of others, and `tags` a JSON object of strings, null where there is none.
"""

LISTED_FILES: Final = pl.Schema({**FILES, "min": pl.Struct([]), "max": pl.Struct([])})
"""The columns of a frame of data files; `min` and `max` have a field for each id column, of the type that this has."""


@dataclass(frozen=True, kw_only=True)
class Append:
    """One write that has been validated.

    Attributes:
        spec: The feature's declaration.
        definition: Its data version, which names the partition.
        chunks: The rows, sorted by the id columns, in frames that a store which `takes_chunks` has to take before
            `append_rows` returns; for others there is one. `data_version` has the containers as declared.
        write_id: If given, a later append to the partition under the same id and with the same rows must do nothing,
            and one with other rows must raise `WriteConflictError`.
        tags: What the commit is to say of itself, strings by name; they are no part of what `write_id` names.
    """

    spec: FeatureSpec
    definition: DefinitionVersion
    chunks: Chunks
    write_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def rows(self) -> pl.DataFrame:
        """All rows as one frame, those that retire a sample among them."""
        return self.chunks.collect()

    @property
    def retired(self) -> int:
        """How many of the rows retire a sample, as a frame of `COMMITS` has it."""
        return count_retired(self.rows)

    @property
    def tags_as_json(self) -> str | None:
        """The tags as a frame of `COMMITS` has them."""
        return encode_tags(self.tags)


@dataclass(frozen=True, kw_only=True)
class PreparedWrites:
    """Prepared writes that are to be committed together; what is said of them is said as of an `Append`."""

    spec: FeatureSpec
    definition: DefinitionVersion
    receipts: tuple[Receipt, ...]
    write_id: str | None
    tags: Mapping[str, str]


class StoredSpec(NamedTuple):
    """What a partition was first written under: the declaration of the feature, and the version of that then."""

    spec: FeatureSpec
    definition: DefinitionVersion


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """Which commits of a feature are seen.

    Attributes:
        until: Those whose time, in microseconds since 1970 (UTC), is no later; None for any time.
        commits: Those of these ids, by the version of the partition; None for any.
    """

    until: int | None = None
    commits: Mapping[str, frozenset[str]] | None = None

    def sees(self, *, partition: str, commit: str, time: int) -> bool:
        """Whether a commit is among them."""
        is_named = self.commits is None or commit in self.commits.get(partition, ())
        return is_named and (self.until is None or time <= self.until)


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows a store wants to see.

    Attributes:
        key: The feature.
        partition: The version of one partition (see `DefinitionVersion.partition`), None for all of them.
        without: Rows of these partitions are not needed; a backend may leave out any of them, or none.
        columns: The only columns to return, None for all; those that do not exist are left out.
        prune: Rows that do not satisfy this are not needed; a backend may leave out any of them, or none.
        with_partition: Add the column `_metaxy_partition`, text, that gives the partition of each row.
        with_commits: Add the columns `_metaxy_commit`, text, and `_metaxy_time`, Int64 in microseconds since 1970
            (UTC), that give the id and the time of the commit of each row.
        at: Answer as if there were no other commits than these; None for all that there are now.
        schema: What the rows of these commits were read as before, in the order of the columns; None for the narrowest
            types that are proven to hold all values. A backend whose proofs never change may pass over it.
    """

    key: FeatureKey
    partition: str | None
    columns: frozenset[str] | None = None
    prune: pl.Expr | None = None
    without: frozenset[str] = frozenset()
    with_partition: bool = False
    with_commits: bool = False
    at: Moment | None = None
    schema: pl.Schema | None = None
