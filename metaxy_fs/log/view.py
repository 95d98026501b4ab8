"""The view of a partition: which data files it reads, and which of their rows.

Theory of operation. A view is made from one listing of a partition's manifests and a get of those that count. The
listing is ordered so that appends are seen before the compactions that stand for them (see
`metaxy_fs.log.layout`): an append that is deleted once a compaction covers it is seen, or that compaction is.
Appends that a listed compaction covers are not fetched. The view is a function of the set of manifests, whatever the
order in which they arrived (see `metaxy_fs.log.resolve`).

A manifest that is gone when it is fetched was superseded after the listing of it, so the listing is made again.
Manifests are immutable, so those of the last view of a partition are kept, and the next view gets only the new ones.
A root may be removed and made again, though, and the id of a named write comes again with its name: so the listing has
to show the object that was fetched.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from typing import TypeVar

import msgspec
import polars as pl

from metaxy_fs.errors import CorruptObjectError, MetaxyError, ObjectNotFoundError
from metaxy_fs.ids import LamportClock, wall_clock
from metaxy_fs.log.chunks import COMMIT_COLUMNS
from metaxy_fs.log.clock_skew import Arrivals, counting_at, warn_once
from metaxy_fs.log.decoding import MAX_COMPACTION_BYTES, MAX_MANIFEST_BYTES, decode_manifest, refuse_oversized
from metaxy_fs.log.layout import Partition, commit_of_append, commit_of_compaction, is_stray
from metaxy_fs.log.manifest import CommitKey, DataFile, Manifest
from metaxy_fs.log.resolve import Covers, Shared, resolve, uncovered
from metaxy_fs.log.schema import decode_schema
from metaxy_fs.log.verified_io import decode_each, decode_or_refetch, get_checked
from metaxy_fs.storage.base import ObjectInfo, Storage


class LiveFile(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A data file that is to be read.

    Attributes:
        partition: Where it is.
        manifest: The one that lists it.
        file: Its entry there.
        first: The first commit that it may hold rows of.
        last: The last one.
        offset: How many rows of its commit come before it; of no meaning in a file of many commits.
        excluded: Commits whose rows in this file do not count: others answer for them.
    """

    partition: Partition
    manifest: Manifest
    file: DataFile
    first: CommitKey
    last: CommitKey
    offset: int = 0
    excluded: frozenset[str] = frozenset()

    @property
    def path(self) -> str:
        """The file's path below the root."""
        return self.partition.data_file(self.file.name)

    @property
    def schema(self) -> pl.Schema:
        """The file's own columns, but for those of commits; files of equal schemas share one object."""
        return decode_schema(self.manifest.schema_of(self.file))

    @property
    def stored_schema(self) -> pl.Schema:
        """All columns that are in the file."""
        encoded = self.manifest.schema_of(self.file)
        return _with_commit_columns(encoded) if self.is_rewritten else decode_schema(encoded)

    @property
    def is_rewritten(self) -> bool:
        """Whether a compaction has written it, so that each row says whose it is."""
        return self.file.first is not None


def place(live: LiveFile) -> tuple[CommitKey, CommitKey, int]:
    """Return what the files of a view are ordered by."""
    return live.first, live.last, live.offset


def files_of(partition: Partition, manifest: Manifest, *, excluded: frozenset[str] = frozenset()) -> Iterator[LiveFile]:
    """Yield the data files that a manifest has read.

    Args:
        partition: Where it is.
        manifest: One that lives.
        excluded: Commits that others answer for.
    """
    offset = 0
    for file in manifest.files:
        if file.first is not None and file.last is not None:
            yield LiveFile(
                partition=partition,
                manifest=manifest,
                file=file,
                first=file.first,
                last=file.last,
                excluded=excluded,
            )
        else:
            commit, time = (manifest.commit, manifest.time) if file.commit is None else (file.commit, file.time or 0)
            if commit not in excluded:
                key, start = (time, commit), file.offset if manifest.covers else offset
                yield LiveFile(partition=partition, manifest=manifest, file=file, first=key, last=key, offset=start)
            offset += file.rows


@lru_cache(maxsize=1024)
def _with_commit_columns(encoded: bytes) -> pl.Schema:
    return pl.Schema({**decode_schema(encoded), **COMMIT_COLUMNS})


_T = TypeVar("_T")

ATTEMPTS = 5
"""How often a listing is made, or a plan of files, before one that is gone is an error."""


class View(msgspec.Struct, frozen=True):
    """The commits of one partition at one moment.

    Attributes:
        partition: Whose commits these are.
        manifests: Those that count, ordered by `(time, commit)`; at least one, since a partition without a commit does
            not exist.
        files: What they have read, ordered by the first commit of each file.
        only: The ids of the commits, if they are not all that the manifests stand for.
        ahead: The ids of single writes that claim another time than the one at which they count, which is the one in
            `manifests`.
    """

    partition: Partition
    manifests: tuple[Manifest, ...]
    files: tuple[LiveFile, ...]
    only: frozenset[str] | None = None
    ahead: frozenset[str] = frozenset()

    @property
    def last_commit(self) -> tuple[CommitKey, Manifest]:
        """The latest commit, and the manifest that answers for it."""
        ends = [(live.last, live.manifest) for live in self.files]
        ends += [((manifest.time, manifest.commit), manifest) for manifest in self.manifests if not manifest.covers]
        last = self.manifests[-1]
        return max(ends, key=lambda end: end[0], default=((last.time, last.commit), last))

    @property
    def commits(self) -> frozenset[str]:
        """The ids of all commits."""
        if self.only is not None:
            return self.only
        appends = {manifest.commit for manifest in self.manifests if not manifest.covers}
        return frozenset(
            appends.union(*(Covers(manifest.covers).ids for manifest in self.manifests if manifest.covers))
        )


class ViewLoader:
    """Loads views of the partitions of one root. Safe to share between threads.

    Args:
        storage: The root.
        clock: Shown the time at which every commit counts that is seen.
    """

    def __init__(self, storage: Storage, *, clock: LamportClock) -> None:
        self._storage = storage
        self._clock = clock
        self._kept: dict[Partition, _Manifests] = {}
        self._shared = Shared()
        self._lock = threading.Lock()

    def load(self, partition: Partition) -> View | None:
        """Return a view of what is committed now, None if nothing is.

        Raises:
            CorruptObjectError: A manifest is not to be trusted; no row is left out in silence.
        """
        return retry_listing(partial(self._load, partition))

    def has_commit(self, partition: Partition) -> bool:
        """Whether a partition holds any commit; costs one listing of one name."""
        first = self._storage.list(partition.manifests, limit=1)
        if any(is_stray(info.path, partition, size=info.size) for info in first):
            return any(self._list(partition))
        return bool(first)

    def has_uncovered(self, partition: Partition, *, more_than: int, exactly: bool) -> bool:
        """Whether a partition holds more appends than so many that no compaction covers.

        Costs one listing.

        Args:
            partition: Where to look.
            more_than: So many may be uncovered.
            exactly: Get the compactions too, if it takes that to know. Without them only appends that were written
                after the last compaction count, which are uncovered for sure.
        """
        return retry_listing(partial(self._has_uncovered, partition, more_than, exactly=exactly))

    def _has_uncovered(self, partition: Partition, more_than: int, *, exactly: bool) -> bool:
        appends, compactions = self._list(partition)
        if len(appends) <= more_than:
            return False
        if not exactly:
            return _written_after(appends, compactions) > more_than
        fingerprints = _fingerprints(compactions)
        kept = self._loaded(partition).of(fingerprints)
        loaded = self._compactions(partition, compactions, kept)
        with self._lock:
            self._kept[partition] = _Manifests(
                kept.appends, loaded.compactions, loaded.covers, kept.fingerprints | fingerprints
            )
        return len(uncovered(appends, loaded.covers.values())) > more_than

    def _loaded(self, partition: Partition) -> "_Manifests":
        with self._lock:
            return self._kept.get(partition, _Manifests({}, {}, {}, {}))

    def _load(self, partition: Partition) -> View | None:
        appends, compactions = self._list(partition)
        fingerprints = _fingerprints(appends | compactions)
        kept = self._loaded(partition).of(fingerprints)
        loaded = self._compactions(partition, compactions, kept)
        counting = uncovered(appends, loaded.covers.values())
        wanted = {commit: info for commit, info in appends.items() if commit in counting}
        known = {commit: kept.appends[commit] for commit in wanted if commit in kept.appends}
        loaded = _Manifests(
            known | self._fetch(partition, wanted, known), loaded.compactions, loaded.covers, fingerprints
        )
        with self._lock:
            self._kept[partition] = loaded
        return _view(partition, *self._counting(partition, loaded, appends | compactions))

    def _counting(
        self, partition: Partition, loaded: "_Manifests", listed: Mapping[str, ObjectInfo]
    ) -> tuple["_Manifests", frozenset[str]]:
        """Return what is held with the times that count, and which commits claim others; show them to the clock."""
        arrivals = Arrivals.of(listed, now=wall_clock())
        times = arrivals.times_that_count(loaded.appends | loaded.compactions)
        for commit, time in times.items():
            warn_once(partition, loaded.appends[commit], counts=time, location=self._storage.location)
        appends = {commit: counting_at(manifest, times.get(commit)) for commit, manifest in loaded.appends.items()}
        seen = [manifest.time for manifest in appends.values()]
        self._clock.observe(max([*seen, *map(arrivals.bound, loaded.compactions.values())], default=0))
        return msgspec.structs.replace(loaded, appends=appends), frozenset(times)

    def _compactions(self, partition: Partition, listed: dict[str, ObjectInfo], kept: "_Manifests") -> "_Manifests":
        known = {commit: kept.compactions[commit] for commit in listed if commit in kept.compactions}
        manifests = known | self._fetch(partition, listed, known, is_compaction=True)
        covers = {commit: kept.covers.get(commit) or Covers(manifest.covers) for commit, manifest in manifests.items()}
        return _Manifests({}, manifests, covers, {})

    def _list(self, partition: Partition) -> tuple[dict[str, ObjectInfo], dict[str, ObjectInfo]]:
        """Return the manifests of single writes, and those of compactions, by commit."""
        appends, compactions = {}, {}
        for info in self._storage.list(partition.manifests):
            name = f"{self._storage.location}/{info.path}"
            if (commit := commit_of_append(info.path, partition)) is not None:
                refuse_oversized(info.size, name=name)
                appends[commit] = info
            elif (commit := commit_of_compaction(info.path, partition)) is not None:
                refuse_oversized(info.size, name=name, is_compaction=True)
                compactions[commit] = info
            elif not is_stray(info.path, partition, size=info.size):
                raise CorruptObjectError(
                    f"{name} is no manifest, and nothing else belongs there. Remove it if you know it.",
                    feature=partition.feature,
                    root=self._storage.location,
                    path=info.path,
                )
        return appends, compactions

    def _fetch(
        self,
        partition: Partition,
        listed: Mapping[str, ObjectInfo],
        known: Mapping[str, Manifest],
        *,
        is_compaction: bool = False,
    ) -> dict[str, Manifest]:
        wanted = {commit: info for commit, info in listed.items() if commit not in known}
        fetched = self._storage.get_many(list(wanted.values())) if wanted else []
        manifests = {}
        for (commit, info), data in zip(wanted.items(), fetched, strict=True):
            name = f"{self._storage.location}/{info.path}"
            decode = partial(
                decode_manifest, partition=partition, commit=commit, name=name, is_compaction=is_compaction
            )
            manifests[commit] = self._shared.manifest(decode_or_refetch(self._storage, info, data, decode))
        return manifests


def manifest_path(partition: Partition, manifest: Manifest) -> str:
    """Return where a manifest is."""
    return (partition.compaction_manifest if manifest.covers else partition.append_manifest)(manifest.commit)


def manifest_bytes(storage: Storage, partition: Partition, commit: str, *, path: str) -> bytes | None:
    """Return the bytes of a manifest or a copy of one, None if there is none at a path; raises if it is not right."""
    is_compaction = path == partition.compaction_manifest(commit)
    limit = MAX_COMPACTION_BYTES if is_compaction else MAX_MANIFEST_BYTES
    name = f"{storage.location}/{path}"
    check = partial(decode_manifest, partition=partition, commit=commit, name=name, is_compaction=is_compaction)
    return get_checked(storage, path, limit=limit, check=check)


def read_manifests(
    storage: Storage, partition: Partition, listed: Mapping[str, ObjectInfo], *, is_compaction: bool = False
) -> Iterator[tuple[str, Manifest]]:
    """Yield listed manifests by their commits; raises what is wrong with one that cannot be got or trusted."""
    for commit, _, found, _ in decode_each(storage, partition, listed, is_compaction=is_compaction):
        if isinstance(found, MetaxyError):
            raise found
        yield commit, found


def retry_listing(look: Callable[[], _T]) -> _T:
    """Return what looking into a root gives, and look anew where something is gone that was listed.

    Raises:
        ObjectNotFoundError: That was done often enough.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return look()
        except ObjectNotFoundError:
            continue
    return look()


def live_files(views: Iterable[View]) -> list[LiveFile]:
    """Return the data files of all views, ordered by the first commit of each."""
    return sorted((live for view in views for live in view.files), key=place)


def _written_after(appends: Mapping[str, ObjectInfo], compactions: Mapping[str, ObjectInfo]) -> int:
    """Return how many appends were surely written after all compactions, by the times of the storage."""
    if not compactions:
        return len(appends)
    times = [info.modified for info in compactions.values() if info.modified is not None]
    if len(times) < len(compactions):
        return 0
    last = max(times)
    return sum(info.modified is not None and info.modified > last for info in appends.values())


class _Manifests(msgspec.Struct, frozen=True):
    """What is kept of a partition: the manifests that counted, and the commits that compactions stand for.

    Attributes:
        appends: Those of single writes, by commit.
        compactions: Those that stand for many.
        covers: The commits that the latter stand for.
        fingerprints: What told each object from others that may have its name.
    """

    appends: dict[str, Manifest]
    compactions: dict[str, Manifest]
    covers: dict[str, Covers]
    fingerprints: dict[str, int]

    def of(self, fingerprints: Mapping[str, int]) -> "_Manifests":
        """Return what is kept of objects that are listed, unless others have their names now."""
        others = {
            commit
            for commit, fingerprint in self.fingerprints.items()
            if fingerprints.get(commit, fingerprint) != fingerprint
        }
        if not others:
            return self
        fields = msgspec.structs.astuple(self)
        return _Manifests(*({commit: each for commit, each in one.items() if commit not in others} for one in fields))


def _fingerprints(listed: Mapping[str, ObjectInfo]) -> dict[str, int]:
    """Return what tells each listed object from others of its name; one number takes less room than all of it."""
    return {commit: hash((info.size, info.modified, info.tag)) for commit, info in listed.items()}


def _view(partition: Partition, loaded: _Manifests, ahead: frozenset[str]) -> View | None:
    """Return what the manifests come to; the appends are those that no compaction covers."""
    if not loaded.appends and not loaded.compactions:
        return None
    counting = resolve(loaded.appends, loaded.covers)
    files = [live for commit in counting.appends for live in files_of(partition, loaded.appends[commit])]
    for commit, excluded in counting.compactions.items():
        if not excluded or len(excluded) < len(loaded.covers[commit].ids):
            files += files_of(partition, loaded.compactions[commit], excluded=excluded)
    manifests = [loaded.appends[commit] for commit in counting.appends]
    manifests += [loaded.compactions[commit] for commit in counting.compactions]
    manifests.sort(key=lambda manifest: (manifest.time, manifest.commit))
    return View(partition, tuple(manifests), tuple(sorted(files, key=place)), ahead=ahead)
