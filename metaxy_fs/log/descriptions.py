"""The files that describe a root and its partitions, on which all writers agree.

`_store.json` is written by the first writer and read once by every later one, and by those who calculate versions.
Readers need not read it: every manifest states its format, and a later format keeps manifests where this one has them,
so that an older reader meets one that it refuses.

`_definition.json` is written by the first writer of a partition and read once by each later one, which refuses to mix
its rows with those of a feature that is not its own: rows whose samples are named by other columns, or a key that
differs only in its case on a file system that does not tell cases apart. It has the types of the columns of the first
write too, which `metaxy_fs.log.types` compares. The graph of a root's features can be drawn from these files
alone.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from metaxy_fs.errors import (
    CorruptObjectError,
    MetadataSchemaError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
)
from metaxy_fs.hashing import ALGORITHMS, DEFAULT_ALGORITHM
from metaxy_fs.log.layout import STORE_FILE, Partition
from metaxy_fs.log.manifest import FORMAT_VERSION, Definition, Manifest, decode_object
from metaxy_fs.log.types import AgreedTypes, decode_columns
from metaxy_fs.log.verified_io import MAX_SHARED_BYTES, SharedObject, ensure_shared, get_checked
from metaxy_fs.storage.base import Storage


class RootInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of `_store.json`."""

    format_version: int = FORMAT_VERSION
    hash_algorithm: str = DEFAULT_ALGORITHM


class Root(NamedTuple):
    """A root that there is: its `_store.json`, and the algorithm that it records."""

    data: bytes
    hash_algorithm: str


def open_for_writing(storage: Storage, *, hash_algorithm: str = DEFAULT_ALGORITHM) -> Root:
    """Return a root that this library may write to; made with an algorithm, if there is none.

    Raises:
        UnsupportedFormatError: A newer metaxy_fs made the root.
        CorruptObjectError: `_store.json` is something else.
    """
    [data] = ensure_shared(storage, [shared_root_file(storage, hash_algorithm=hash_algorithm)])
    return decode_root(data, name=f"{storage.location}/{STORE_FILE}")


def shared_root_file(
    storage: Storage, *, hash_algorithm: str, check: Callable[[Root], object] = lambda _root: None
) -> SharedObject:
    """Return what writers to a root have to agree on.

    Args:
        storage: Where the root is.
        hash_algorithm: What to make it with, if there is none.
        check: Called with the root that there is; raises if it must not be written to.
    """
    name = f"{storage.location}/{STORE_FILE}"
    wanted = msgspec.json.encode(RootInfo(hash_algorithm=hash_algorithm))
    return SharedObject(STORE_FILE, wanted, lambda data: check(decode_root(data, name=name)))


def find_root(storage: Storage) -> Root | None:
    """Return a root, None if nobody has written to it; raises what `open_for_writing` does."""
    decode = partial(decode_root, name=f"{storage.location}/{STORE_FILE}")
    data = get_checked(storage, STORE_FILE, limit=MAX_SHARED_BYTES, check=decode)
    return None if data is None else decode(data)


def refuse_overwriting_storage(storage: Storage, root: Root, *, hence: str) -> None:
    """Find out whether a storage honours put-if-absent, by putting `_store.json` again with the bytes that it has.

    Where the storage ignores the condition, this replaces an object by its equal, so the question itself does no harm.

    Args:
        storage: Where the root is.
        root: What is there.
        hence: What would come of it, for the message.

    Raises:
        StorageError: It does not, so a guarantee that needs it cannot be given.
    """
    if storage.put_is_conditional:
        return
    try:
        storage.put(STORE_FILE, root.data)
    except ObjectExistsError:
        return
    raise StorageError(
        f"{storage.location} overwrites objects although it was asked not to, so {hence}. Use a storage that supports "
        "conditional writes.",
        root=storage.location,
    )


def decode_root(data: bytes, *, name: str) -> Root:
    """Return the root that a `_store.json` describes, if it is one that this library knows.

    Raises:
        UnsupportedFormatError: A newer metaxy_fs made it.
        CorruptObjectError: It is something else.
    """
    info = decode_object(data, RootInfo, name=name, advice=" Is this the root of a store?")
    if info.hash_algorithm not in ALGORITHMS:
        raise CorruptObjectError(
            f"{name} asks for {info!r}, which this metaxy_fs does not know; it knows format version {FORMAT_VERSION} "
            f"and the algorithms {', '.join(ALGORITHMS)}. A newer metaxy_fs may know it."
        )
    return Root(data, info.hash_algorithm)


class PartitionInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of `_definition.json`.

    Attributes:
        feature: The full key of the feature, part by part.
        definition: The data versions of its declaration.
        id_columns: The columns that name a sample.
        spec: The whole declaration, as its first writer made it; for people, tools and explanations; the log does
            not look into it.
        columns: The types of the columns of the first write, which later ones have to fit; roots of earlier versions
            lack it.
    """

    format_version: int = FORMAT_VERSION
    feature: tuple[str, ...]
    definition: Definition
    id_columns: tuple[str, ...]
    spec: msgspec.Raw
    columns: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def shared_partition_file(
    storage: Storage, partition: Partition, info: PartitionInfo, *, before_put: Callable[[], object] = lambda: None
) -> SharedObject:
    """Return what writers to a partition have to agree on.

    Args:
        storage: The root.
        partition: The partition.
        info: What to describe it as, if nobody has.
        before_put: Called before that is put; what it raises ends the write.

    Its check raises:
        MetadataSchemaError: The rows there name their samples by other columns, or belong to another feature.
        UnsupportedFormatError: A newer metaxy_fs made it.
        CorruptObjectError: `_definition.json` is something else.

    Raises:
        MetadataSchemaError: The declaration is too large to be kept.
    """
    data = msgspec.json.encode(info)
    if len(data) > MAX_SHARED_BYTES:
        raise MetadataSchemaError(
            f"The declaration of feature {'/'.join(info.feature)!r} takes {len(data)} bytes as JSON, more than the "
            f"{MAX_SHARED_BYTES} that may be kept with its rows. Declare fewer containers or dependencies."
        )
    return _shared_file(storage, partition, info, data)._replace(before_put=before_put)


def find_info(storage: Storage, partition: Partition) -> PartitionInfo | None:
    """Return what a partition is described as, None if it is not; raises what `decode_info` does."""
    decode = partial(decode_info, name=f"{storage.location}/{partition.definition_file}")
    data = get_checked(storage, partition.definition_file, limit=MAX_SHARED_BYTES, check=decode)
    return None if data is None else decode(data)


def copy_description(source: Storage, target: Storage, partition: Partition, *, manifest: Manifest) -> PartitionInfo:
    """Describe a partition of one root as it is described in another, and return how it is described there now.

    Args:
        source: The other root.
        target: The root.
        partition: The partition.
        manifest: One of its commits, which says whose rows these are: a description has no checksum.

    Raises:
        ObjectNotFoundError: The other root does not describe it.
        MetadataSchemaError: The rows there name their samples by other columns, or belong to another feature.
        CorruptObjectError: `_definition.json` is something else.
    """
    name = f"{source.location}/{partition.definition_file}"

    def check(found: bytes) -> None:
        info = decode_info(found, name=name)
        check_info(info, feature=manifest.feature, id_columns=manifest.id_columns, name=name)

    data = get_checked(source, partition.definition_file, limit=MAX_SHARED_BYTES, check=check)
    if data is None:
        raise ObjectNotFoundError(
            f"{name} is missing. The next write to the partition puts it there again.",
            feature=partition.feature,
            root=source.location,
            path=partition.definition_file,
        )
    [agreed] = ensure_shared(target, [_shared_file(target, partition, decode_info(data, name=name), data)])
    return decode_info(agreed, name=f"{target.location}/{partition.definition_file}")


def decode_info(data: bytes, *, name: str) -> PartitionInfo:
    """Return the content of a `_definition.json`.

    Args:
        data: The object's bytes.
        name: The object as users would look it up, for messages.

    Raises:
        UnsupportedFormatError: A newer metaxy_fs made it.
        CorruptObjectError: It is something else.
    """
    info = decode_object(data, PartitionInfo, name=name)
    if not isinstance(info.columns, msgspec.UnsetType):
        decode_columns(bytes(info.columns), name=name)
    return info


def types_of(info: PartitionInfo, *, name: str) -> AgreedTypes | None:
    """Return the types that a description settles; None if it says nothing of columns.

    Raises:
        CorruptObjectError: It says what can be no columns.
    """
    if isinstance(info.columns, msgspec.UnsetType):
        return None
    return AgreedTypes(info.id_columns).added(decode_columns(bytes(info.columns), name=name))


def _shared_file(storage: Storage, partition: Partition, info: PartitionInfo, data: bytes) -> SharedObject:
    name = f"{storage.location}/{partition.definition_file}"
    return SharedObject(partition.definition_file, data, lambda stored: _check(stored, info, name=name))


def _check(data: bytes, info: PartitionInfo, *, name: str) -> None:
    check_info(decode_info(data, name=name), feature=info.feature, id_columns=info.id_columns, name=name)


def check_info(info: PartitionInfo, *, feature: Sequence[str], id_columns: Sequence[str], name: str) -> None:
    """Refuse a description that is not of the rows that a writer means.

    Args:
        info: What is there.
        feature: The key of the feature whose rows they are, part by part.
        id_columns: The columns that name their samples.
        name: The object as users would look it up, for messages.

    Raises:
        MetadataSchemaError: It belongs to another feature, or names samples by other columns.
    """
    if info.feature != tuple(feature):
        raise MetadataSchemaError(
            f"The rows of feature {list(feature)!r} would be kept with those of {list(info.feature)!r}, because "
            f"this root does not tell the two names apart, as {name} shows. Give one of the features another key.",
            feature=".".join(feature),
        )
    if sorted(info.id_columns) != sorted(id_columns):
        raise MetadataSchemaError(
            f"Feature {'/'.join(feature)!r} names its samples by {list(id_columns)}, but rows that are "
            f"stored under the same data version name them by {list(info.id_columns)}, as {name} says. Give the "
            "feature another key.",
            feature=".".join(feature),
        )
