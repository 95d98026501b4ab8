"""What do all writes to one partition agree on?

`_definition.json` is written by the first writer of a partition and read once by each later one, which refuses to mix
its rows with those of a feature that is not its own: rows whose samples are named by other columns, or a key that
differs only in its case on a file system that does not tell cases apart. The graph of a root's features can be drawn
from these files alone.
"""

import msgspec

from metaxy_fs.errors import CorruptObjectError, MetadataSchemaError
from metaxy_fs.log.commit import get_or_put
from metaxy_fs.log.formats import refuse_other_format
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.manifest import FORMAT_VERSION, Definition
from metaxy_fs.storage.base import Storage


class PartitionInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of `_definition.json`.

    Attributes:
        feature: The full key of the feature, part by part.
        definition: The data versions of its declaration.
        id_columns: The columns that name a sample.
        spec: The whole declaration, as its first writer made it; for people and tools, never read back by the log.
    """

    format_version: int = FORMAT_VERSION
    feature: tuple[str, ...]
    definition: Definition
    id_columns: tuple[str, ...]
    spec: msgspec.Raw


def describe(storage: Storage, partition: Partition, info: PartitionInfo) -> None:
    """Make sure that a partition is described, and that it is the one that a writer means.

    Raises:
        MetadataSchemaError: Its rows name their samples by other columns, or belong to another feature.
        UnsupportedFormatError: A newer metaxy_fs made it.
        CorruptObjectError: `_definition.json` is something else.
    """
    held = get_or_put(storage, partition.definition_file, msgspec.json.encode(info))
    _check(held, info, name=f"{storage.location}/{partition.definition_file}")


def copy_description(source: Storage, target: Storage, partition: Partition) -> None:
    """Describe a partition of one root as it is described in another; raises what `describe` does."""
    data = source.get(partition.definition_file)
    info = decode_info(data, name=f"{source.location}/{partition.definition_file}")
    held = get_or_put(target, partition.definition_file, data)
    _check(held, info, name=f"{target.location}/{partition.definition_file}")


def decode_info(data: bytes, *, name: str) -> PartitionInfo:
    """Return the content of a `_definition.json`.

    Args:
        data: The object's bytes.
        name: The object as users would look it up, for messages.

    Raises:
        UnsupportedFormatError: A newer metaxy_fs made it.
        CorruptObjectError: It is something else.
    """
    refuse_other_format(data, name=name)
    try:
        return msgspec.json.decode(data, type=PartitionInfo)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise CorruptObjectError(f"{name} cannot be decoded: {error}.") from error


def _check(data: bytes, info: PartitionInfo, *, name: str) -> None:
    held = decode_info(data, name=name)
    if held.feature != info.feature:
        raise MetadataSchemaError(
            f"The rows of feature {list(info.feature)!r} would be kept with those of {list(held.feature)!r}, because "
            f"this root does not tell the two names apart, as {name} shows. Give one of the features another key."
        )
    if sorted(held.id_columns) != sorted(info.id_columns):
        raise MetadataSchemaError(
            f"Feature {'_'.join(info.feature)!r} names its samples by {list(info.id_columns)}, but rows that are "
            f"stored under the same data version name them by {list(held.id_columns)}, as {name} says. Give the "
            "feature another key."
        )
