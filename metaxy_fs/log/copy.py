"""Copy the commits of a partition from one root into another, unchanged or without the rows of some samples.

Theory of operation. A commit is its manifest and the data files that this names; none of them says where the root is.
So they are put into the other root under the names that they have, byte for byte, the files of a manifest before it: as
the writer did, all or nothing. All puts are put-if-absent, and ids and names are the same in every root, so a copy can
be cut short, repeated, and run twice at once. What is there already is not put again, and not even looked at where the
target has the commit: kept in whichever files, because it was compacted there.

A commit is the same in two roots if its rows are. Random ids never meet, but two jobs of one `write_id` may have
written other rows to the two roots: the digests in manifests and tables tell, before anything is put.

Whole manifests are copied. One of a compaction brings all commits that it stands for. It also takes along what is known
of the named writes among them, because a retry in the target has to find them (see `metaxy_fs.log.commit`). A
job may write to the target under one of these names at the same moment: so the target is looked at once more when that
is there, and before the manifest is put (see `metaxy_fs.log.named_writes`).

A write that claims to be of a time far ahead counts as of its arrival, and that would be the time of the copy in the
target. So the target gets a compaction of it alone, which says at which time it counts in the source.

Rows that are left out are in no object of the target, and no bound or split point tells of them. So a manifest whose
files hold any is written anew: as a compaction of the same commits, which may have other rows than its writes had. Its
table keeps their ids, times, tags and digests, so a retry of a named write is recognised, and does nothing. What the
target has already is looked at first: rows that are to be left out cannot be taken away there.

Where one service keeps both roots, and can put a copy if a name is free, the bytes do not come through here. Nobody
looks at them then: a data file that is damaged in the source is as damaged in the target.

A vacuum of the target removes data files that no manifest has named for long. A file that an earlier copy has left
there is relied on while it is younger than a day, which no vacuum notes, and refused after that.
"""

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import TypeVar

import msgspec
import polars as pl

from metaxy_fs.errors import (
    CorruptObjectError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
)
from metaxy_fs.ids import AHEAD, shared_clock, wall_clock
from metaxy_fs.log.commit import MAX_AGE_SECONDS, NAMED_WRITE, SETTLED_AFTER
from metaxy_fs.log.commit_table import CommitTables, digests_of
from metaxy_fs.log.compact import compact_manifests
from metaxy_fs.log.copied_manifests import (
    CopiedManifest,
    NamedObject,
    RewrittenManifests,
    batches,
    commit_ids,
    copied_manifest,
    intact_bytes,
    present_objects,
    rewritten_manifests,
)
from metaxy_fs.log.copy_conflicts import (
    agree_on_copied_types,
    conflict,
    refuse_conflicts,
    refuse_other_rows,
    refuse_present_rows,
)
from metaxy_fs.log.layout import STORE_FILE, Partition, is_data_file_name, owners_of_data_file
from metaxy_fs.log.left_out import LEFT_OUT, rows_to_leave_out
from metaxy_fs.log.manifest import COPY_MARK, CommitTable, Manifest
from metaxy_fs.log.named_groups import copy_names
from metaxy_fs.log.named_writes import WriteName, keep_write
from metaxy_fs.log.verified_io import put_idempotent, storage_time
from metaxy_fs.log.view import View, ViewLoader, manifest_bytes, manifest_path, retry_listing
from metaxy_fs.parallel import ordered_map
from metaxy_fs.reserved import COMMIT, ORDINAL
from metaxy_fs.storage.base import ObjectInfo, Storage

AT_ONCE = 8
"""How many objects are copied side by side; each is held in memory meanwhile."""

_T = TypeVar("_T")

Advance = Callable[[int, int], object]
"""Called with the bytes of data files that are dealt with so far, and with those of all."""


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """What a copy has done.

    Attributes:
        commits: How many commits the chosen manifests stand for: all that were asked for, and those that are kept in
            one file with them.
        added: Those of them that the target lacked.
        files: How many data files were put.
        bytes: Their size.
        left_out: How many rows of them were left out.
        snapshots: How many snapshots of the source the target has.
    """

    commits: int = 0
    added: int = 0
    files: int = 0
    bytes: int = 0
    left_out: int = 0
    snapshots: int = 0

    def __add__(self, other: "Copied") -> "Copied":
        mine, theirs = msgspec.structs.astuple(self), msgspec.structs.astuple(other)
        return Copied(**dict(zip(self.__struct_fields__, map(sum, zip(mine, theirs, strict=True)), strict=True)))


def copy_partition(
    source: Storage,
    target: Storage,
    partition: Partition,
    *,
    commits: AbstractSet[str],
    advance: Advance,
    exclude: pl.DataFrame | None = None,
) -> Copied:
    """Copy some commits of a partition.

    Args:
        source: The root that has them.
        target: The root that gets them.
        partition: Where they are.
        commits: Which ones.
        advance: Called as data files are dealt with.
        exclude: The values of some id columns; rows that have those of one of its rows are left out.

    Raises:
        WriteConflictError: The target holds other rows under the id of one of them; nothing was copied.
        MetadataSchemaError: A column has a type that does not go with what is agreed on in the target, or with that
            of the samples to leave out; likewise.
        ObjectExistsError: The target holds another object under the name of one, or rows that are to be left out.
        CorruptObjectError: An object of the source is not what its manifest describes.
        StorageError: A root could not be read or written; what was copied stays, and a repetition goes on.
    """
    copy = partial(_copy, source, target, partition, commits=commits, advance=advance, exclude=exclude)
    return retry_listing(copy)


def _copy(
    source: Storage,
    target: Storage,
    partition: Partition,
    *,
    commits: AbstractSet[str],
    advance: Advance,
    exclude: pl.DataFrame | None,
) -> Copied:
    found, existing = _view(source, partition), _view(target, partition)
    if found is None:
        raise CorruptObjectError(f"The partition {source.location}/{partition} is gone while it was copied.")
    if existing is not None and exclude is not None:
        refuse_present_rows(target, existing, exclude)
    chosen = [manifest for manifest in found.manifests if commit_ids(manifest) & commits]
    brought = frozenset[str]().union(*map(commit_ids, chosen))
    there = frozenset[str]() if existing is None else existing.commits
    if existing is not None and brought & there:
        refuse_conflicts(source, target, found, existing)
    missing = [manifest for manifest in chosen if not commit_ids(manifest) <= there]
    left_out = [(manifest, _left_out(source, partition, exclude, manifest)) for manifest in missing]
    lacking = pl.concat([LEFT_OUT.to_frame(), *(rows for _, rows in left_out)])
    if existing is not None and missing:
        put = frozenset[str]().union(*map(commit_ids, missing))
        refuse_other_rows(source, target, found, existing, brought=put, left_out=lacking)
    items = [copied_manifest(found, manifest) for manifest, rows in left_out if not rows.height]
    rewrites = list(rewritten_manifests([(manifest, rows) for manifest, rows in left_out if rows.height]))
    run = _PartitionCopy(source, target, found, items=items, rewrites=rewrites, advance=advance)
    if missing:
        run.refuse_attempts()
        agree_on_copied_types(source, target, partition, missing)
        copy_names(source, target, partition, commits=brought)
        run.copy(present=present_objects(target, partition, existing, items))
        _follow(target, partition, missing)
    return Copied(
        commits=len(brought),
        added=len(brought - there),
        files=run.files,
        bytes=run.bytes,
        # What compactions that overlap both have is left out of each.
        left_out=lacking.n_unique([COMMIT, ORDINAL]),
    )


def _left_out(storage: Storage, partition: Partition, exclude: pl.DataFrame | None, manifest: Manifest) -> pl.DataFrame:
    if exclude is None:
        return LEFT_OUT.to_frame()
    return rows_to_leave_out(storage, partition, manifest, exclude)


class _PartitionCopy:
    """One copy of some manifests of a partition."""

    def __init__(
        self,
        source: Storage,
        target: Storage,
        found: View,
        *,
        items: Sequence[CopiedManifest],
        rewrites: Sequence[RewrittenManifests],
        advance: Advance,
    ) -> None:
        self._source = source
        self._target = target
        self._found = found
        self._partition = found.partition
        self._items = items
        self._rewrites = rewrites
        self._advance = advance
        self._done = 0
        self._total = sum(each.entry.bytes for item in items for each in item.objects)
        self._total += sum(rewrite.bytes for rewrite in rewrites)
        self.files = 0
        self.bytes = 0

    def copy(self, *, present: AbstractSet[str]) -> None:
        """Copy the manifests, each after what it names.

        Args:
            present: The paths of objects that are there already, and may be relied on if they are what is wanted.
        """

        def copy_objects(objects: Sequence[NamedObject]) -> None:
            copied = ordered_map(partial(self._copy_object, present), objects, workers=AT_ONCE)
            for each, is_new in zip(objects, copied, strict=True):
                self.files += is_new
                self.bytes += each.entry.bytes * is_new
                self._move_on(each.entry.bytes)

        for batch in batches(self._items):
            started = wall_clock()
            objects = [each for item in batch for each in item.objects]
            copy_objects([each for each in objects if not isinstance(each.entry, CommitTable)])
            named = {commit for item in batch for commit in item.named}
            self._run(partial(keep_write, self._source, self._target, self._partition), sorted(named))
            self._run(self._decide, self._unknown(named) if named else ())
            # Last of all, and marked: a table shows that there were its commits (see `metaxy_fs.log.repair`).
            self._run(self._mark, batch)
            copy_objects([each for each in objects if isinstance(each.entry, CommitTable)])
            self._refuse_stalled(started)
            self._run(self._copy_manifest, batch)
        for rewrite in self._rewrites:
            self._rewrite(rewrite)

    def refuse_attempts(self) -> None:
        """Refuse to begin beside writes under the names of what is copied, before anything is put."""
        items: Sequence[CopiedManifest | RewrittenManifests] = [*self._items, *self._rewrites]
        if named := {commit for item in items for commit in item.named}:
            self._unknown(named)

    def _rewrite(self, rewrite: RewrittenManifests) -> None:
        """Write some manifests anew as one; it is as large as what is merged at once, or as a compaction was."""
        keep = partial(keep_write, self._source, self._target, self._partition, with_values=False)
        self._run(keep, rewrite.named)
        self._run(self._decide, self._unknown(frozenset(rewrite.named)) if rewrite.named else ())
        done = compact_manifests(
            self._target,
            self._partition,
            rewrite.manifests,
            source=self._source,
            left_out=rewrite.left_out,
            clock=shared_clock(self._target.identity),
        )
        self.files += done.files_after
        self.bytes += done.bytes_after
        self._move_on(rewrite.bytes)

    def _move_on(self, size: int) -> None:
        self._done += size
        self._advance(self._done, self._total)

    def _run(self, function: Callable[[_T], object], items: Iterable[_T]) -> None:
        for _ in ordered_map(function, items, workers=AT_ONCE):
            pass

    def _copy_object(self, present: AbstractSet[str], wanted: NamedObject) -> bool:
        """Make sure that the target has an object, and return whether it was put."""
        if wanted.path in present:
            if intact_bytes(self._target, wanted) is None:
                raise ObjectExistsError(f"{self._target.location}/{wanted.path} already exists with other content.")
            return False
        if self._is_copied_within(wanted.path):
            return True
        data = intact_bytes(self._source, wanted)
        if data is None:
            raise CorruptObjectError(
                f"{self._source.location}/{wanted.path} does not have the checksum that its manifest gives. Look for "
                "the damage with `verify`."
            )
        put_idempotent(self._target, wanted.path, data)
        return True

    def _is_copied_within(self, path: str) -> bool:
        """Let the service copy an object, if one service keeps both roots; whatever fails is tried in the other way."""
        try:
            return self._target.copy_from(self._source, path, probe=STORE_FILE)
        except StorageError:
            return False

    def _refuse_stalled(self, started: int) -> None:
        if wall_clock() - started > MAX_AGE_SECONDS * 1_000_000:
            raise StorageError(
                f"Copying data files to {self._target.location}/{self._partition} took longer than {MAX_AGE_SECONDS} "
                "seconds, after which they may be vacuumed. Copy again."
            )

    def _unknown(self, named: AbstractSet[str]) -> list[tuple[str, str]]:
        """Return those of some named writes that the target does not have, each with the digest of its rows.

        Raises:
            WriteConflictError: The target has other rows under one of the names.
            StorageError: A write of one of them is under way there.
        """
        wanted = {each.path for item in self._items for each in item.objects}
        listed = list(self._target.list(str(self._partition)))
        existing = _view(self._target, self._partition)
        if existing is not None:
            refuse_conflicts(self._source, self._target, self._found, existing)
        unknown = named - (frozenset() if existing is None else existing.commits)
        for info in listed:
            name = info.path.removeprefix(f"{self._partition}/")
            if (
                info.path not in wanted
                and is_data_file_name(name)
                and not unknown.isdisjoint(owners_of_data_file(name))
            ):
                self._refuse_attempt(info)
        digests = digests_of(self._found, table_of=CommitTables(self._source).of)
        return [(commit, digests[commit]) for commit in sorted(unknown)]

    def _refuse_attempt(self, info: ObjectInfo) -> None:
        """Refuse to go on beside a write, unless its files are so old that its manifest must not be put any more."""
        if info.modified is None or storage_time(self._target) - info.modified < SETTLED_AFTER:
            raise StorageError(
                f"{self._target.location}/{info.path} shows that a write under the name of one of the commits is under "
                "way there, or was cut short. Its rows may be other ones. Nothing of these commits was copied: copy "
                "again once that write has ended or its job has run again, or a day later."
            )

    def _decide(self, wanted: tuple[str, str]) -> None:
        commit, digest = wanted
        WriteName(self._target, self._partition, commit).decide(digest)

    def _mark(self, item: CopiedManifest) -> None:
        """Say that a copy brings a compaction: until its manifest is there, its table shows no commit of the target."""
        if item.manifest.covers:
            put_idempotent(self._target, self._partition.copy_mark(item.manifest.commit), COPY_MARK)

    def _copy_manifest(self, item: CopiedManifest) -> None:
        partition, commit = self._partition, item.manifest.commit
        path = manifest_path(partition, item.manifest)
        data = manifest_bytes(self._source, partition, commit, path=path)
        if data is None:
            raise ObjectNotFoundError(f"{self._source.location}/{path} is gone since it was listed.")
        if commit in self._found.ahead:
            compact_manifests(self._target, partition, [item.manifest], clock=shared_clock(self._target.identity))
        elif commit.startswith(NAMED_WRITE) and not item.manifest.covers:
            self._put_named(item.manifest, path, data)
        else:
            put_idempotent(self._target, path, data)

    def _put_named(self, manifest: Manifest, path: str, data: bytes) -> None:
        """Put the manifest of a named write as its writer would, so that it stands for no other rows."""
        name = WriteName(self._target, self._partition, manifest.commit)
        standing = name.claim(manifest.digest)
        if standing is None:
            try:
                put_idempotent(self._target, path, data)
                is_put = True
            except ObjectExistsError:
                is_put = False
            standing = name.confirm(is_put=is_put)
        if standing is not None and standing.digest != manifest.digest:
            raise conflict([manifest.commit], self._source, self._target, self._partition)


def _view(storage: Storage, partition: Partition) -> View | None:
    return ViewLoader(storage, clock=shared_clock(storage.identity)).load(partition)


def _follow(target: Storage, partition: Partition, manifests: Iterable[Manifest]) -> None:
    """Set the clock to what was copied; where that is far ahead, a listing of the target tells whose clock is wrong."""
    latest = max(manifest.time for manifest in manifests)
    if latest <= wall_clock() + AHEAD:
        shared_clock(target.identity).observe(latest)
    else:
        _view(target, partition)
