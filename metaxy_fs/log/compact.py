"""Compact many commits into one manifest, while others write, read, compact and vacuum.

Theory of operation. A compactor lists and resolves the partition as any reader does, and picks whole manifests that
count. Their small data files are merged into few; large ones are listed again as they are. It puts the new files, then
the table of commits, then the manifest, whose appearance is the compaction: before it nobody sees any of it, and what
is left of a compaction that was cut short are orphans. Nothing is taken away, so readers, writers and other compactors
are not disturbed: what two of them make of the same commits is distinguished by every reader alike (see
`metaxy_fs.log.resolve`).

The time of the compaction is above that of all that it has read, and the clock of the process stands at it, so later
commits of this process come after it. Vacuum deletes what a compaction has superseded, after a while: so a compactor
that finds a file gone plans again, and one that took longer than a day since it listed refuses to put its manifest.
Before it does, it counts: the rows that it lists must be as many as its commits have had.
"""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import partial

from metaxy_fs._version import WRITER
from metaxy_fs.ids import MAX_TIME, LamportClock, wall_clock
from metaxy_fs.log.compactor import Compaction, Compactor, Options
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.left_out import LeftOut
from metaxy_fs.log.levels import next_compaction
from metaxy_fs.log.manifest import COPY_MARK, Manifest
from metaxy_fs.log.merge import (
    Division,
    divide,
    is_loose,
    overlap,
)
from metaxy_fs.log.verified_io import put_idempotent
from metaxy_fs.log.view import LiveFile, View, ViewLoader, files_of, place, retry_listing
from metaxy_fs.storage.base import Storage


def compact_partition(
    storage: Storage, loader: ViewLoader, partition: Partition, *, clock: LamportClock, options: Options
) -> Iterator[Compaction]:
    """Compact what is due in a partition, and yield what was done, step by step; nothing is due after the last.

    Raises:
        CorruptObjectError: Something that is stored cannot be trusted. Nothing is compacted.
        StorageError: The root failed, or the work took longer than a day.
    """
    before = MAX_TIME
    while (done := _next(storage, loader, partition, clock, options, before=before)) is not None:
        yield done
        before = min(before, clock.tick())
    clustered: set[str] = set()
    while options.cluster and (done := _next(storage, loader, partition, clock, options, clustered=clustered)):
        clustered.add(done.commit)
        yield done


def commits_due(loader: ViewLoader, partition: Partition, options: Options) -> int:
    """Return how many commits the next step of `compact_partition` compacts.

    Raises:
        CorruptObjectError: Something that is stored cannot be trusted.
        StorageError: The root failed.
    """

    def look() -> int:
        view = loader.load(partition)
        if view is None:
            return 0
        clustered = _overlapping(view, but=set()) if options.cluster else ()
        manifests = _due(view, options, MAX_TIME) or clustered
        return len({commit for each in manifests for commit in each.covers.split() or [each.commit]})

    return retry_listing(look)


def compact_view(storage: Storage, view: View, *, clock: LamportClock, options: Options) -> Compaction:
    """Compact all that a view has, which may be some commits of its manifests alone, into files of its own.

    Raises:
        CorruptObjectError: Something that is stored cannot be trusted. Nothing is compacted.
        StorageError: The root failed.
    """
    for manifest in view.manifests:
        clock.observe(manifest.time)
    return Compactor(storage, view, view.manifests, options, time=clock.tick(), divide=_merge_all).run(wall_clock())


def compact_manifests(
    target: Storage,
    partition: Partition,
    manifests: Sequence[Manifest],
    *,
    source: Storage | None = None,
    left_out: LeftOut | None = None,
    clock: LamportClock,
) -> Compaction:
    """Bring commits into a root as one compaction, where their manifests cannot be copied as they are.

    Args:
        target: The root.
        partition: Where they go.
        manifests: Appends, with the times at which they count, or one compaction. Their files are listed again, and
            are there; with `left_out` they are read from the source, and written anew.
        source: The root that has them, if it is another one.
        left_out: The rows that are not brought.
        clock: That of the target in this process.

    Raises:
        ObjectNotFoundError: A file of the source is gone.
        CorruptObjectError: Something that is stored cannot be trusted.
        StorageError: A root failed, or the work took longer than a day.
    """
    for manifest in manifests:
        clock.observe(manifest.time)
    files = [live for manifest in manifests for live in files_of(partition, manifest)]
    view = View(partition, tuple(manifests), tuple(sorted(files, key=place)))
    divide = _list_all if left_out is None else _merge_all
    compactor = Compactor(
        target,
        view,
        manifests,
        Options(writer=WRITER),
        time=clock.tick(),
        divide=divide,
        source=source,
        left_out=left_out,
    )
    # A table shows that there were its commits, unless this says that it need not yet be true here.
    put_idempotent(target, partition.copy_mark(compactor.commit), COPY_MARK)
    return compactor.run(wall_clock())


def _next(
    storage: Storage,
    loader: ViewLoader,
    partition: Partition,
    clock: LamportClock,
    options: Options,
    *,
    before: int = MAX_TIME,
    clustered: AbstractSet[str] | None = None,
) -> Compaction | None:
    """Do the next step, and return what was done; None if nothing is due.

    Writes of `before` and later are left out. With `clustered`, a compaction whose files overlap is rewritten, if it is
    none of these.
    """

    def step() -> Compaction | None:
        started = wall_clock()
        view = loader.load(partition)
        if view is None:
            return None
        manifests = _due(view, options, before) if clustered is None else _overlapping(view, but=clustered)
        if not manifests:
            return None
        rewrites = partial(divide, clusters=clustered is not None)
        return Compactor(storage, view, manifests, options, time=clock.tick(), divide=rewrites).run(started)

    return retry_listing(step)  # what was listed may be superseded and vacuumed by now: then the step is planned anew


def _due(view: View, options: Options, before: int) -> tuple[Manifest, ...]:
    few = 2 if options.full else options.fan
    return next_compaction(
        view.manifests,
        fan=options.fan,
        full=options.full,
        before=before,
        ahead=view.ahead,
        loose=frozenset(each.commit for each in view.manifests if is_loose(each, files=few)),
    )


def _overlapping(view: View, *, but: AbstractSet[str]) -> tuple[Manifest, ...]:
    """Return a compaction that lists files of overlapping ids, if there is one."""
    for manifest in view.manifests:
        files: dict[bytes, list[LiveFile]] = {}
        for live in view.files:
            if live.manifest is manifest:
                files.setdefault(manifest.schema_of(live.file), []).append(live)
        if manifest.covers and manifest.commit not in but and any(map(overlap, files.values())):
            return (manifest,)
    return ()


def _list_all(files: Sequence[LiveFile]) -> Division:
    return Division(list(files), [])


def _merge_all(files: Sequence[LiveFile]) -> Division:
    return Division([], [list(files)])
