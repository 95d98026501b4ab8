"""What keeps commits from being copied into a root: other rows of their names, other types, rows to be left out.

All of it is looked at before anything is put.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import polars as pl

from metaxy_fs.errors import MetadataSchemaError, ObjectExistsError, WriteConflictError
from metaxy_fs.log.commit_table import CommitTables, commits_of, digests_of
from metaxy_fs.log.descriptions import copy_description, types_of
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.left_out import rows_to_leave_out
from metaxy_fs.log.manifest import Manifest
from metaxy_fs.log.types import agree_on_types, types_of_files
from metaxy_fs.log.view import View
from metaxy_fs.markup import count
from metaxy_fs.reserved import COMMIT, ORDINAL
from metaxy_fs.storage.base import Storage


def agree_on_copied_types(
    source: Storage, target: Storage, partition: Partition, manifests: Sequence[Manifest]
) -> None:
    """Agree with the writers to the target on the types of what is copied, before any of it is."""
    info = copy_description(source, target, partition, manifest=manifests[0])
    types = types_of(info, name=f"{target.location}/{partition.definition_file}")
    if types is None:
        return
    try:
        for schema, large in types_of_files(manifests):
            types = agree_on_types(target, partition, types, schema, large, feature="/".join(info.feature))
    except MetadataSchemaError as error:
        raise MetadataSchemaError(
            f"{partition} of {source.location} does not go with what {target.location} holds, so nothing was copied. "
            f"{error}"
        ) from error


def refuse_conflicts(source: Storage, target: Storage, found: View, existing: View) -> None:
    """Refuse commits whose ids stand for other rows in the target."""
    digests = digests_of(existing, table_of=CommitTables(target).of)
    ours = digests_of(found, table_of=CommitTables(source).of)
    others = sorted(commit for commit, digest in ours.items() if digests.get(commit, digest) != digest)
    if others:
        raise conflict(others, source, target, found.partition)


def refuse_other_rows(
    source: Storage, target: Storage, found: View, existing: View, *, brought: AbstractSet[str], left_out: pl.DataFrame
) -> None:
    """Refuse to bring commits to a target that has them, but lacks other samples: these would come back, or others go.

    Args:
        source: The root that has the commits.
        target: The root that gets them.
        found: What there is in the source.
        existing: What there is in the target.
        brought: The commits of the manifests that are put.
        left_out: The rows that these lack, as a frame of `LEFT_OUT`.
    """
    common = brought & existing.commits
    if not common:
        return
    fewer = left_out.unique([COMMIT, ORDINAL]).group_by(pl.col(COMMIT).alias("commit")).agg(fewer=pl.len())
    ours, theirs = _row_counts(source, found), _row_counts(target, existing)
    both = ours.filter(pl.col("commit").is_in(sorted(common))).join(fewer, on="commit", how="left")
    both = both.with_columns(pl.col("rows") - pl.col("fewer").fill_null(0)).join(theirs, on="commit", suffix="_there")
    others = both.filter(pl.col("rows") != pl.col("rows_there")).get_column("commit").sort()
    if len(others):
        raise WriteConflictError(
            f"{len(others)} commits of {source.location}/{found.partition} have another number of rows in "
            f"{target.location}: {', '.join(others[:3])}. One of the two was copied with another `exclude`. Nothing "
            "was copied: give the `exclude` that was given before, or copy into a new root.",
            feature=found.partition.feature,
            root=target.location,
            commit=others[0],
        )


def _row_counts(storage: Storage, view: View) -> pl.DataFrame:
    commits = commits_of([view], table_of=CommitTables(storage).of)
    return commits.select("commit", rows=pl.col("rows") + pl.col("retired"))


def conflict(commits: Sequence[str], source: Storage, target: Storage, partition: Partition) -> WriteConflictError:
    """Return the error that says whose ids stand for other rows in the target."""
    return WriteConflictError(
        f"{len(commits)} commits of {source.location}/{partition} have ids that stand for other rows in "
        f"{target.location}: {', '.join(commits[:3])}. They were written to both under one write_id; history tells "
        "which. They were not copied. Read those rows, and write what is missing under another write_id."
    )


def refuse_present_rows(target: Storage, existing: View, exclude: pl.DataFrame) -> None:
    """Refuse to go on where the target has rows that are to be left out: no copy takes them away."""
    rows = sum(
        rows_to_leave_out(target, existing.partition, manifest, exclude).height for manifest in existing.manifests
    )
    if rows:
        raise ObjectExistsError(
            f"{target.location}/{existing.partition} has {count(rows, 'row')} of samples that are to be left out, from "
            "a copy with another `exclude` or from a write. A copy takes away nothing that is there: copy into a new "
            "root.",
            feature=existing.partition.feature,
            root=target.location,
        )
