"""How does a frame become a commit of a store?"""

import polars as pl

from metaxy_fs.log.chunks import Chunks
from metaxy_fs.metadata_store.backend import Append, Backend
from metaxy_fs.metadata_store.features import Declared
from metaxy_fs.metadata_store.frames import FrameLike, check_write_id, rows_to_write


def write(store: Backend, feature: Declared, df: FrameLike, *, write_id: str | None) -> None:
    """Commit the rows of a frame, or say why they do not fit."""
    if write_id is not None:
        check_write_id(write_id)
    append(store, feature, rows_to_write(df, feature.spec), write_id=write_id)


def append(store: Backend, feature: Declared, rows: pl.DataFrame, *, write_id: str | None) -> None:
    """Commit rows that `rows_to_write` has returned, unless the types of their columns do not fit those seen."""
    partition = feature.definition.partition
    store.seen.check(feature.key, partition, rows.schema)
    store.append_rows(
        Append(spec=feature.spec, definition=feature.definition, chunks=Chunks.of(rows), write_id=write_id)
    )
    store.seen.add(feature.key, partition, rows.schema)
