"""Snapshots: named sets of commits that stay readable.

A snapshot is one small object below the root that names commits. It pins no file: a commit never vanishes, it is only
kept in other files after a compaction, and every reader can tell its rows from those of others (see
`metaxy_fs.log.view_subset`). So nothing has to know of a snapshot: neither vacuum, which removes what other files
hold, nor compaction. There is no race between making one and either of them, and it keeps no space in use.

Theory of operation. The ids are taken from a view, which is a function of the manifests that a listing showed: all
commits that were acknowledged before it began, and no half of one. The object is put if its name is free, and never
changed. Reading at it makes a view of what there is now and leaves out every other commit; a commit that is missing is
an error, never a gap.

A root is shared, so a snapshot is data from strangers: it is decoded strictly, its size is bounded before it is
fetched, and all that it can name is a commit of a partition, which is looked for by name alone.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec
import polars as pl

from metaxy_fs.errors import CorruptObjectError, MetaxyError, ObjectExistsError, ObjectNotFoundError, StorageError
from metaxy_fs.log.decoding import is_list_of_commits
from metaxy_fs.log.descriptions import open_for_writing, refuse_overwriting_storage
from metaxy_fs.log.layout import (
    SNAPSHOTS,
    Partition,
    is_feature_directory,
    is_partition_directory,
    is_snapshot_name,
    snapshot_file,
    snapshot_of,
)
from metaxy_fs.log.manifest import FORMAT_VERSION, Time, decode_object, sealed, unsealed
from metaxy_fs.log.schema import decode_schema
from metaxy_fs.log.verified_io import decode_or_refetch, fetch_each, get_checked, put_idempotent
from metaxy_fs.parallel import batched
from metaxy_fs.storage.base import ObjectInfo, Storage

UNKNOWN_SCHEMA: Final = msgspec.Raw(b"null")

MAX_SNAPSHOT_BYTES: Final = 256 * 1024 * 1024
"""Enough for six million commits."""
_BATCH_BYTES = 2**24
"""What is got at once to list snapshots, or one that is larger."""


class PinnedPartition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The commits of one partition.

    Attributes:
        version: The version of the partition.
        commits: The ids in commit order, with a space between.
        schema: What their rows were read as, as `metaxy_fs.log.schema` writes it; null where they could not be.
            Kept because the type in which integers and floats meet depends on the values of all rows of a file.
    """

    version: str
    commits: str
    schema: msgspec.Raw

    @property
    def ids(self) -> frozenset[str]:
        """The ids of the commits."""
        return frozenset(self.commits.split(" "))


class PinnedFeature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The commits of one feature.

    Attributes:
        feature: Its key, part by part.
        partitions: Its partitions.
        schema: What the rows of all partitions together were read as.
    """

    feature: tuple[str, ...]
    partitions: tuple[PinnedPartition, ...]
    schema: msgspec.Raw


class PinnedStore(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The commits of one store of the chain.

    Attributes:
        location: Where it is; null for the store below whose root the snapshot is, which may be moved.
        features: What it held.
    """

    location: str | None
    features: tuple[PinnedFeature, ...]


class Snapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The commits of some features, in every store of a chain that held any.

    Attributes:
        name: What it is called.
        time: When it was made, in microseconds since 1970 (UTC).
        writer: The library and version that made it.
        stores: In the order in which they are asked.
    """

    format_version: int = FORMAT_VERSION
    name: str
    time: Time
    writer: str
    stores: tuple[PinnedStore, ...]


def known_schema(schema: msgspec.Raw) -> pl.Schema | None:
    """Return what rows were read as, None where that is not known."""
    return None if bytes(schema) == bytes(UNKNOWN_SCHEMA) else decode_schema(bytes(schema))


def put_snapshot(storage: Storage, snapshot: Snapshot, *, hash_algorithm: str) -> None:
    """Keep a snapshot.

    Args:
        storage: Below which root.
        snapshot: What to keep.
        hash_algorithm: That of the root, if this is its first object.

    Raises:
        ObjectExistsError: There is one of that name.
        StorageError: It could not be kept, it is too large, or the storage would overwrite one of that name.
    """
    data = sealed(msgspec.json.encode(snapshot))
    if len(data) > MAX_SNAPSHOT_BYTES:
        raise StorageError(
            f"The snapshot {snapshot.name!r} would have {len(data)} bytes, more than the {MAX_SNAPSHOT_BYTES} that "
            "readers take. Nothing was kept; make several, of some features each."
        )
    root = open_for_writing(storage, hash_algorithm=hash_algorithm)
    refuse_overwriting_storage(storage, root, hence="a snapshot could be replaced by another one of its name")
    try:
        put_idempotent(storage, snapshot_file(snapshot.name), data)
    except ObjectExistsError as error:
        raise ObjectExistsError(
            f"{storage.location} has a snapshot {snapshot.name!r} already, and snapshots are never changed. Choose "
            "another name, or drop that one first if nobody needs it."
        ) from error


def find_snapshot(storage: Storage, name: str) -> Snapshot | None:
    """Return the snapshot of a name, None if there is none.

    Raises:
        CorruptObjectError: It is not to be trusted.
    """
    path = snapshot_file(name)
    decode = partial(decode_snapshot, storage=storage, path=path)
    data = get_checked(storage, path, limit=MAX_SNAPSHOT_BYTES, check=decode)
    return None if data is None else decode(data)


def snapshots_of(storage: Storage) -> Iterator[Snapshot]:
    """Yield all snapshots, by name; memory holds a few at a time, for each may list every commit that there ever was.

    Raises:
        CorruptObjectError: One of them is not to be trusted.
    """
    named = {name: info for info in storage.list(SNAPSHOTS) if (name := snapshot_of(info.path)) is not None}
    listed = (info for _, info in sorted(named.items()))
    for batch in batched(listed, (attrgetter("size"), _BATCH_BYTES)):
        try:
            yield from _fetch(storage, batch)
        except ObjectNotFoundError:  # one of them was dropped after it was listed
            found = (find_snapshot(storage, snapshot_of(info.path) or "") for info in batch)
            yield from (snapshot for snapshot in found if snapshot is not None)


def snapshot_names(storage: Storage) -> list[str]:
    """Return the names of all snapshots, sorted; none of them is read."""
    return sorted(name for info in storage.list(SNAPSHOTS) if (name := snapshot_of(info.path)) is not None)


def drop_snapshot(storage: Storage, name: str) -> bool:
    """Remove a snapshot, and return whether there was one; no commit is touched."""
    exists = name in snapshot_names(storage)
    if exists:
        storage.delete(snapshot_file(name))
    return exists


def _fetch(storage: Storage, infos: list[ObjectInfo]) -> list[Snapshot]:
    for info in infos:
        if info.size > MAX_SNAPSHOT_BYTES:
            raise CorruptObjectError(
                f"The snapshot {storage.location}/{info.path} has {info.size} bytes, more than the "
                f"{MAX_SNAPSHOT_BYTES} that one may have.",
                root=storage.location,
                path=info.path,
            )
    fetched = storage.get_many(infos) if infos else []
    return [
        decode_or_refetch(storage, info, data, partial(decode_snapshot, storage=storage, path=info.path))
        for info, data in zip(infos, fetched, strict=True)
    ]


def decode_snapshot(data: bytes, storage: Storage, path: str) -> Snapshot:
    """Return the snapshot that an object holds.

    Args:
        data: The object's bytes.
        storage: Where it is, for messages.
        path: Its path below the root.

    Raises:
        UnsupportedFormatError: A newer metaxy_fs made it.
        CorruptObjectError: It is no snapshot, or not of this name.
    """
    where = f"The snapshot {storage.location}/{path}"
    data = unsealed(data, name=where)
    snapshot = decode_object(data, Snapshot, name=where)
    if problem := _problem(snapshot, path):
        raise CorruptObjectError(f"{where} {problem}.")
    return snapshot


def _problem(snapshot: Snapshot, path: str) -> str | None:
    """Return what a snapshot says that cannot be, None where it is consistent."""
    if not is_snapshot_name(snapshot.name) or path != snapshot_file(snapshot.name):
        return f"says that it is called {snapshot.name!r}"
    if [store.location is None for store in snapshot.stores] != [True] + [False] * (len(snapshot.stores) - 1):
        return "does not begin with what the store saw that keeps it, or has that twice"
    features = [feature for store in snapshot.stores for feature in store.features]
    problems = (_feature_problem(feature) for feature in features)
    if problem := next((problem for problem in problems if problem), None):
        return problem
    is_twice = any(_repeats([feature.feature for feature in store.features]) for store in snapshot.stores)
    return "names a feature of one store twice" if is_twice else None


def _feature_problem(feature: PinnedFeature) -> str | None:
    if not is_feature_directory(".".join(feature.feature)) or any("." in part for part in feature.feature):
        return f"names the feature {list(feature.feature)!r}, which no feature can be called"
    for partition in feature.partitions:
        if not is_partition_directory(partition.version):
            return f"names the data version {partition.version!r}, which is not 16 hex digits"
        if not partition.commits or not is_list_of_commits(partition.commits):
            return f"has a list of commits of feature {'.'.join(feature.feature)!r} that can be none"
    try:
        for schema in (feature.schema, *(partition.schema for partition in feature.partitions)):
            known_schema(schema)
    except CorruptObjectError as error:
        return f"has no schema of feature {'.'.join(feature.feature)!r} that can be read: {error}"
    versions = [partition.version for partition in feature.partitions]
    return f"names a data version of feature {'.'.join(feature.feature)!r} twice" if _repeats(versions) else None


def _repeats(items: Sequence[object]) -> bool:
    return len(set(items)) < len(items)


class SnapshotRefs(NamedTuple):
    """What the snapshots of a root name of its own commits.

    Attributes:
        commits: The commits of each partition, by the snapshot that names them.
        damaged: The snapshots that cannot be read, and why.
    """

    commits: dict[Partition, dict[str, frozenset[str]]]
    damaged: list[tuple[ObjectInfo, MetaxyError]]

    def naming(self, partition: Partition) -> dict[str, str]:
        """Return each commit of a partition that is named, and a snapshot that names it."""
        found = self.commits.get(partition, {})
        return {commit: name for name, commits in found.items() for commit in commits}


def read_snapshot_refs(storage: Storage) -> SnapshotRefs:
    """Return what the snapshots of a root name; those that are dropped meanwhile are left out."""
    refs = SnapshotRefs({}, [])
    listed = [info for info in storage.list(SNAPSHOTS) if snapshot_of(info.path) and info.size <= MAX_SNAPSHOT_BYTES]
    for _, info, data in fetch_each(storage, ((None, info) for info in listed)):
        try:
            if isinstance(data, Exception):
                raise data
            decode = partial(decode_snapshot, storage=storage, path=info.path)
            _add(refs, decode_or_refetch(storage, info, data, decode))
        except ObjectNotFoundError:
            continue
        except MetaxyError as error:
            refs.damaged.append((info, error))
    return refs


def _add(refs: SnapshotRefs, snapshot: Snapshot) -> None:
    own = [feature for store in snapshot.stores if store.location is None for feature in store.features]
    for feature in own:
        for pinned in feature.partitions:
            partition = Partition(".".join(feature.feature), pinned.version)
            refs.commits.setdefault(partition, {})[snapshot.name] = pinned.ids
