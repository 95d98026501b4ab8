"""How does a frame become a commit of a store?"""

from collections.abc import Mapping

import polars as pl

from metaxy_fs.log.objects.tags import check_tags
from metaxy_fs.log.writing.chunks import Chunks
from metaxy_fs.metadata_store.arguments.features import Declared
from metaxy_fs.metadata_store.arguments.frames import FrameLike, check_write_id, rows_to_write
from metaxy_fs.metadata_store.arguments.samples import SpooledSamples
from metaxy_fs.metadata_store.backends.backend import Append, Backend

Tags = Mapping[str, str] | None
"""What the caller says of a commit, beside what the store says of all."""


def write(store: Backend, feature: Declared, df: FrameLike, *, write_id: str | None, tags: Tags = None) -> None:
    """Commit the rows of a frame, or say why they do not fit; those of a LazyFrame need not fit into memory."""
    if write_id is not None:
        check_write_id(write_id)
    check_tags(store.tags, tags)
    if isinstance(df, pl.LazyFrame):
        spooled = SpooledSamples(df, feature.spec, check=lambda run: rows_to_write(run, feature.spec))
        append(store, feature, spooled.chunks(), write_id=write_id, tags=tags)
    else:
        append(store, feature, Chunks.of(rows_to_write(df, feature.spec)), write_id=write_id, tags=tags)


def append(store: Backend, feature: Declared, rows: Chunks, *, write_id: str | None = None, tags: Tags = None) -> None:
    """Commit rows that have been checked, and do what the store does after a commit."""
    commit(store, feature, rows, write_id=write_id, tags=tags)
    store.after_commits(feature.key, feature.definition.partition, commits=1)


def commit(store: Backend, feature: Declared, rows: Chunks, *, write_id: str | None = None, tags: Tags = None) -> None:
    """Commit rows that have been checked, unless the types of their columns do not fit those seen."""
    partition = feature.definition.partition
    rows = rows if store.takes_chunks else Chunks.of(rows.collect())
    store.seen.check(feature.spec, partition, rows)
    store.append_rows(
        Append(
            spec=feature.spec,
            definition=feature.definition,
            chunks=rows,
            write_id=write_id,
            tags=check_tags(store.tags, tags),
        )
    )
    store.seen.add(feature.key, partition, rows.schema)
