"""Agree on the types of columns with all other writers to a partition, before anything is stored.

What `_definition.json` settles costs nothing more. A column that it lacks, or a type that widens one of its, is put as
`_types/<n>.json`: the first free number. If another writer has taken it, what that one says is agreed on from then on,
and what is still missing goes under the next number. So all writers go through the same types in the same order.
"""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from functools import partial

import msgspec
import polars as pl

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.log.commit import Chunks
from metaxy_fs.log.descriptions import PartitionInfo
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.schema import Path
from metaxy_fs.log.types import AgreedTypes, decode_columns, decode_further, encode_further, large_in
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


def settle(
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


def settle_rows(
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
    [held] = ensure_shared(storage, [SharedObject(path, encode_further(columns, unknown), decode)])
    return types.added(*decode(held), number=number)


def fitting(rows: Chunks, types: AgreedTypes, *, feature: str) -> Chunks:
    """Return rows in types that fit those that are agreed on: ids in the agreed ones.

    Raises:
        MetadataSchemaError: Some column does not fit; of ids in later chunks, when these are made.
    """
    target = types.fitted(rows.schema)
    if conflicts := types.conflicts(target):
        if any(frame.height for frame in rows):
            types.refuse_conflicts(target, feature=feature)
        target = pl.Schema({**target, **dict.fromkeys(conflicts, pl.Null())})
    if list(target.items()) == list(rows.schema.items()):
        return rows
    return Chunks(target, lambda: (_brought(frame, target, feature=feature) for frame in rows))


def refuse_unfit(rows: Chunks, types: AgreedTypes, *, feature: str) -> None:
    """Refuse rows in memory that do not fit what is agreed on.

    Raises:
        MetadataSchemaError: Some column does not.
    """
    for frame in fitting(rows, types, feature=feature):
        if types.added(frame.schema).is_mixed:
            large = large_in(frame, id_columns=types.id_columns)
            types.refuse_conflicts(frame.schema, large, feature=feature)


def _brought(frame: pl.DataFrame, target: pl.Schema, *, feature: str) -> pl.DataFrame:
    if not frame.height:
        return target.to_frame()
    return frame.with_columns(_cast(frame, target, feature=feature))


def _cast(frame: pl.DataFrame, target: pl.Schema, *, feature: str) -> Iterator[pl.Series]:
    """Yield the ids whose type is another one; casts of Polars round and wrap in silence, so they are cast back."""
    for ids in frame.get_columns():
        agreed = target[ids.name]
        if ids.dtype != agreed:
            cast = ids.cast(agreed, strict=False)
            is_wrong = cast.is_null() | (cast.cast(ids.dtype, strict=False) != ids)
            if is_wrong.any():
                raise MetadataSchemaError(
                    f"The id column {ids.name!r} of feature '{feature}' is {agreed} in the rows that are stored, which "
                    f"does not hold {ids.filter(is_wrong)[0]!r}, the first of {is_wrong.sum()} such {ids.dtype} ids "
                    "here. Leave them out, or write them to another feature or under another code_version.",
                    column=ids.name,
                )
            yield cast
