"""Which samples a copy leaves out of each partition of a root."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import msgspec
import polars as pl

from metaxy_fs.errors import MetadataSchemaError
from metaxy_fs.log import Partition, PartitionInfo, find_info, known_schema, values_as_stored
from metaxy_fs.metadata_store.chain import not_found
from metaxy_fs.metadata_store.features import FeatureLike, key_of
from metaxy_fs.metadata_store.filesystem import FilesystemMetadataStore
from metaxy_fs.metadata_store.frames import FrameLike, to_frame
from metaxy_fs.metadata_store.sample_ids import SampleIds, as_frame
from metaxy_fs.parallel import asked
from metaxy_fs.spec import FeatureKey

Exclude = FrameLike | Mapping[FeatureLike, SampleIds]
"""Ids of samples to leave out: of every feature that has these id columns, or of each feature by itself."""


class _IdColumns(NamedTuple):
    """A partition, the columns that name its samples, and the types of its first write, as far as they are known."""

    partition: Partition
    columns: tuple[str, ...]
    types: pl.Schema


def exclusions(
    source: FilesystemMetadataStore, partitions: Sequence[Partition], exclude: Exclude
) -> dict[Partition, pl.DataFrame]:
    """Return the ids that are left out of each of some partitions, as a frame of some of its id columns.

    Args:
        source: The store that has them.
        partitions: What is copied.
        exclude: What the caller has given.

    Raises:
        MetadataSchemaError: A frame does not name samples of any of them.
        FeatureNotFoundError: The store lacks a feature that samples are given of.
    """
    described = _described(source, partitions)
    if isinstance(exclude, Mapping):
        found = _of_each(source, described, exclude)
    else:
        found = _of_all(described, _ids(exclude, what="exclude"))
    for partition, _, types in described:
        ids = found.get(partition)
        if ids is not None and set(ids.columns) <= types.keys():  # else the copy of the feature finds out
            values_as_stored(ids, types, feature=_text(partition))
    return found


def _of_all(described: Sequence[_IdColumns], ids: pl.DataFrame) -> dict[Partition, pl.DataFrame]:
    found = {partition: ids for partition, columns, _ in described if set(ids.columns) <= set(columns)}
    if not found:
        known = sorted({f"{list(columns)} ({_text(partition)})" for partition, columns, _ in described})
        raise MetadataSchemaError(
            f"exclude has the columns {ids.columns}, and no feature that is copied has them all among its id columns, "
            f"which are: {', '.join(known)}. Give a frame of id columns alone, or a frame for each feature: "
            'exclude={"video/frames": ids}.'
        )
    return found


def _of_each(
    source: FilesystemMetadataStore, described: Sequence[_IdColumns], exclude: Mapping[FeatureLike, SampleIds]
) -> dict[Partition, pl.DataFrame]:
    given = {key_of(feature): ids for feature, ids in exclude.items()}
    named = {key: ids if isinstance(ids, Sequence) else to_frame(ids) for key, ids in given.items()}
    stored = set(source.stored_features())
    for key, ids in named.items():
        if len(ids) and key not in stored:
            raise not_found(key, partition=None, store=source, fallback=False)
    by_feature = {key.dotted: ids for key, ids in named.items()}
    # Of a frame without rows, too: a trace that knows other id columns than the rows have does not find any.
    found = {
        partition: _ids_of(by_feature[partition.feature], partition, columns)
        for partition, columns, _ in described
        if partition.feature in by_feature
    }
    return {partition: ids for partition, ids in found.items() if ids.height}


def _ids_of(given: pl.DataFrame | Sequence[object], partition: Partition, columns: Sequence[str]) -> pl.DataFrame:
    frame = as_frame(given, columns, FeatureKey.parse(partition.feature))
    if missing := [name for name in columns if name not in frame.columns]:
        raise MetadataSchemaError(
            f"The frame that excludes samples of feature '{_text(partition)}' lacks the id columns {missing}; its "
            f"samples of data version {partition.version} are named by {list(columns)}.",
            feature=partition.feature,
            column=missing[0],
        )
    return _ids(frame.select(columns), what=f"The frame that excludes samples of feature '{_text(partition)}'")


def _ids(frame: FrameLike, *, what: str) -> pl.DataFrame:
    ids = to_frame(frame)
    if not ids.width:
        raise MetadataSchemaError(f"{what} has no columns: give the id columns of the samples to leave out.")
    nulls = [name for name in ids.columns if ids.get_column(name).null_count()]
    if nulls:
        raise MetadataSchemaError(f"{what} has nulls in {nulls}, and no sample has a null id.", column=nulls[0])
    return ids.unique()


def _described(source: FilesystemMetadataStore, partitions: Sequence[Partition]) -> list[_IdColumns]:
    infos = asked(partial(find_info, source.storage), partitions, is_remote=source.storage.is_remote)
    # A copy refuses what is not described.
    return [
        _IdColumns(partition, info.id_columns, _types(info))
        for partition, info in zip(partitions, infos, strict=True)
        if info is not None
    ]


def _types(info: PartitionInfo) -> pl.Schema:
    known = None if isinstance(info.columns, msgspec.UnsetType) else known_schema(info.columns)
    return known or pl.Schema()


def _text(partition: Partition) -> str:
    return partition.feature.replace(".", "/")
