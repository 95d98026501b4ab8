"""Restrict a view to some of its commits.

A view of the commits that there were at some moment gives what a read at that moment gave: the same rows in the same
order, and no column that only later commits have. Files of single commits are kept or left out whole. A file that a
compaction has written is kept if it may hold rows of a wanted commit, and its other rows are filtered out; which
columns it brings, and where they come in, is decided by the first wanted commit of its schema, so the table of the
compaction's commits is looked into. Where a view has nothing but wanted commits, nothing is looked into.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet

import msgspec
import polars as pl

from metaxy_fs.errors import CorruptObjectError
from metaxy_fs.log.manifest import CommitKey, Manifest
from metaxy_fs.log.resolve import Covers
from metaxy_fs.log.view import LiveFile, View, place

ReadTable = Callable[[Manifest], pl.DataFrame]
"""Gives the commit table of a compaction."""


def restrict(view: View, commits: AbstractSet[str], *, table_of: ReadTable) -> View:
    """Return what a view has of some commits, at least one.

    Raises:
        CorruptObjectError: It lacks some of them.
        ObjectNotFoundError: A commit table is gone, since a larger compaction has replaced this one.
    """
    all_commits = view.commits
    if missing := sorted(commits - all_commits):
        raise CorruptObjectError(
            f"The commits {missing[:3]} of {view.partition} are gone, {len(missing)} in all; nothing that this library "
            "does removes one. Look for lost manifests with `verify`."
        )
    if len(commits) == len(all_commits):
        return view
    unwanted = all_commits - commits
    listed: dict[str, list[LiveFile]] = {manifest.commit: [] for manifest in view.manifests}
    for live in view.files:
        listed[live.manifest.commit].append(live)
    manifests, files = [], []
    for manifest in view.manifests:
        kept = list(_kept(listed[manifest.commit], manifest, unwanted, table_of))
        if kept or manifest.commit in commits:
            manifests.append(manifest)
            files += kept
    return View(view.partition, tuple(manifests), tuple(sorted(files, key=place)), frozenset(commits))


def outside(commits: pl.DataFrame, *, after: CommitKey | None, until: CommitKey | None) -> frozenset[str]:
    """Return those of some commits, with `time` and `commit`, that do not come after one and up to another."""
    keys: Iterator[CommitKey] = commits.select("time", "commit").iter_rows()
    return frozenset(key[1] for key in keys if (after and key <= after) or (until and key > until))


def _kept(
    files: Sequence[LiveFile], manifest: Manifest, unwanted: AbstractSet[str], table_of: ReadTable
) -> Iterator[LiveFile]:
    """Yield the files of one manifest that may hold rows of commits that are wanted."""
    yield from (live for live in files if not live.is_rewritten and live.first[1] not in unwanted)
    rewritten = [live for live in files if live.is_rewritten]
    left_out = Covers(manifest.covers).ids & unwanted if rewritten else frozenset()
    if not left_out:
        yield from rewritten
        return
    excluded = rewritten[0].excluded | left_out
    table = table_of(manifest)
    elsewhere = excluded | _listed_again(manifest, table)
    wanted = table.filter(~pl.col("commit").is_in(sorted(elsewhere)))
    for (schema,), commits in wanted.partition_by("schema", as_dict=True).items():
        of_schema = [live for live in rewritten if live.file.schema == schema]
        if of_schema:
            yield from _narrowed(of_schema, commits.select("time", "commit").rows(), excluded)


def _listed_again(manifest: Manifest, table: pl.DataFrame) -> frozenset[str]:
    """Return the commits that have all of their rows in files of their own; of a large one the end may be merged."""
    rows: dict[str, int] = {}
    for file in manifest.files:
        if file.commit is not None:
            rows[file.commit] = rows.get(file.commit, 0) + file.rows
    counts = table.filter(pl.col("commit").is_in(sorted(rows))).select("commit", "rows").iter_rows()
    return frozenset(commit for commit, count in counts if count == rows[commit])


def _narrowed(files: Sequence[LiveFile], commits: Sequence[CommitKey], excluded: frozenset[str]) -> list[LiveFile]:
    """Return the files of one schema that may hold rows of some commits; one at least, which brings the columns.

    Args:
        files: Those of a compaction, in its order.
        commits: Those of this schema that are wanted, in commit order.
        excluded: Those of the compaction that are not.
    """
    kept = []
    for live in files:
        within = commits[bisect_left(commits, live.first) : bisect_right(commits, live.last)]
        if within:
            kept.append(msgspec.structs.replace(live, first=within[0], last=within[-1], excluded=excluded))
    if not kept:  # none of them has a row
        kept = [msgspec.structs.replace(files[0], last=commits[-1], excluded=excluded)]
    return [msgspec.structs.replace(kept[0], first=commits[0]), *kept[1:]]
