"""Agree on the types of columns with all other writers to a partition, before anything is stored.

What `_definition.json` settles costs nothing more. A column that it lacks, or a type that widens one of its, is put as
`_types/<n>.json`: the first free number. If another writer has taken it, what that one says is agreed on from then on,
and what is still missing goes under the next number. So all writers go through the same types in the same order.
"""

from collections.abc import Set as AbstractSet
from functools import partial

import msgspec
import polars as pl

from metaxy_fs.log.chunks import Chunks
from metaxy_fs.log.descriptions import PartitionInfo
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.schema import Path
from metaxy_fs.log.types import AgreedTypes, decode_columns, decode_further, encode_further, fitting
from metaxy_fs.log.verified_io import SharedObject, ensure_shared
from metaxy_fs.storage.base import Storage


def types_of(info: PartitionInfo, *, name: str) -> AgreedTypes | None:
    """Return the types that a description settles; None if it says nothing of columns.

    Raises:
        CorruptObjectError: It says what can be no columns.
    """
    if isinstance(info.columns, msgspec.UnsetType):
        return None
    return AgreedTypes(info.id_columns).added(decode_columns(bytes(info.columns), name=name))


def agree_on_types(
    storage: Storage,
    partition: Partition,
    types: AgreedTypes,
    schema: pl.Schema,
    large: AbstractSet[Path] = frozenset(),
    *,
    feature: str,
) -> AgreedTypes:
    """Return what is agreed on, with the types of some columns among it.

    Args:
        storage: The root.
        partition: Where the columns are to be written.
        types: What is known to be agreed on.
        schema: The columns.
        large: The leaves that hold integers beyond +-2**53.
        feature: Whose rows they are, for messages.

    Raises:
        MetadataSchemaError: A column does not fit what others have agreed on.
        StorageError: They could not be asked.
    """
    while (more := _one_more(storage, partition, types, schema, large, feature=feature)) is not types:
        types = more
    return types


def agree_on_rows(
    storage: Storage, partition: Partition, types: AgreedTypes, rows: Chunks, *, feature: str
) -> tuple[AgreedTypes, Chunks]:
    """Return what is agreed on, with the types of some rows among it, and the rows in types that fit it.

    Raises:
        MetadataSchemaError: A column does not fit what others have agreed on.
        StorageError: They could not be asked.
    """
    while True:
        fitted = fitting(rows, types, feature=feature)
        more = _one_more(storage, partition, types, fitted.schema, frozenset(), feature=feature)
        if more is types:
            return types, fitted
        types = more  # what others have agreed on may ask for other types of ids, or of columns without a value


def _one_more(
    storage: Storage,
    partition: Partition,
    types: AgreedTypes,
    schema: pl.Schema,
    large: AbstractSet[Path],
    *,
    feature: str,
) -> AgreedTypes:
    """Return what is known to be agreed on and the object of `_types` that follows; the former if none is needed."""
    types.refuse_conflicts(schema, large, feature=feature)
    columns, unknown = types.further(schema, large), large - types.large
    if not columns and not unknown:
        return types
    number = types.number + 1
    path = partition.types_file(number)
    decode = partial(decode_further, name=f"{storage.location}/{path}")
    [agreed] = ensure_shared(storage, [SharedObject(path, encode_further(columns, unknown), decode)])
    return types.added(*decode(agreed), number=number)
