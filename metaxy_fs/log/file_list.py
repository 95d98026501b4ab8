"""The live data files of some views as a frame, for engines that take a list of files."""

from collections.abc import Iterable, Sequence
from typing import Final

import polars as pl

from metaxy_fs.log.manifest import FILES
from metaxy_fs.log.prune import bounds
from metaxy_fs.log.scan import reading_schema
from metaxy_fs.log.statistics import FileStatistics
from metaxy_fs.log.view import LiveFile, View, live_files
from metaxy_fs.storage.base import Storage


def list_files(storage: Storage, views: Sequence[View], *, id_columns: Sequence[str]) -> pl.DataFrame:
    """Return the live files of some views, ordered by their first commits, as a frame of `FILES` with bounds.

    Args:
        storage: The root.
        views: Of one feature.
        id_columns: The columns whose bounds are given.

    Raises:
        MetadataSchemaError: Two files hold types of an id column that have no type in common.
    """
    files = live_files(views)
    schema = reading_schema(files, location=storage.location, columns=id_columns)
    described = [FileStatistics(live.file.rows, live.schema, live.file.statistics) for live in files]
    found = {name: bounds(described, path=(name,), dtype=dtype) for name, dtype in schema.items()}
    said = pl.DataFrame(map(_row, files, location_of(storage, files)), schema=FILES, orient="row")
    ends = [pl.struct(*(series[end].alias(name) for name, series in found.items())) for end in (0, 1)]
    return said.with_columns(min=ends[0], max=ends[1]).select(*_COLUMNS)


def location_of(storage: Storage, files: Iterable[LiveFile]) -> Iterable[str]:
    """Return where files are, as engines take it: paths of a local file system, or URLs."""
    return (storage.local_path(live.path) or f"{storage.location}/{live.path}" for live in files)


_COLUMNS: Final = ("path", "rows", "bytes", "min", "max", *list(FILES)[3:])


def _row(live: LiveFile, path: str) -> tuple[object, ...]:
    commit = None if live.is_rewritten else live.first[1]
    file, partition, excluded = live.file, live.partition.version, sorted(live.excluded)
    schema = live.manifest.schema_of(file).decode()
    return path, file.rows, file.bytes, file.sha256, partition, commit, live.first[0], live.last[0], excluded, schema
