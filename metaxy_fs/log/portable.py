"""What another process needs of a selection: what is done to rows, and its files, each in a few hundred bytes.

A manifest lists all files of its commits, and holds statistics of all their columns. A file that travels takes along
what its reader needs: where it is, how it is checked, whose rows it holds, and the bounds of its ids.
"""

import zlib
from collections.abc import Callable, Iterable
from typing import Any, Self

import msgspec
import polars as pl

from metaxy_fs.log.layout import Partition
from metaxy_fs.log.manifest import CommitKey, DataFile, Definition, Manifest
from metaxy_fs.log.scan import Selection
from metaxy_fs.log.seen import SeenCommits
from metaxy_fs.log.view import LiveFile, View
from metaxy_fs.storage.base import RootReference


class PortableSelection(msgspec.Struct, frozen=True, kw_only=True):
    """A selection without its files; the fields are those of `Selection`, and where it is."""

    root: RootReference
    seen: tuple[SeenCommits, ...]
    schema: pl.Schema
    predicate: pl.Expr | None
    partition_column: str | None
    with_commits: bool
    change: Callable[[pl.LazyFrame], pl.LazyFrame] | None

    @classmethod
    def of(cls, selection: Selection) -> Self:
        """Return what another process needs of a selection; one that is not restricted to a range."""
        return cls(
            root=selection.storage.reference,
            seen=tuple(SeenCommits.of(each) if isinstance(each, View) else each for each in selection.seen),
            schema=selection.schema,
            predicate=selection.predicate,
            partition_column=selection.partition_column,
            with_commits=selection.with_commits,
            change=selection.change,
        )


class _FileKind(msgspec.Struct, frozen=True, array_like=True):
    """What files of one partition, schema and set of left out commits have in common."""

    partition: Partition
    id_columns: tuple[str, ...]
    schema: bytes
    excluded: tuple[str, ...]


class _PortableFile(msgspec.Struct, frozen=True, array_like=True):
    kind: int
    commit: str
    file: DataFile
    first: CommitKey
    last: CommitKey
    offset: int


class _PortableFiles(msgspec.Struct, frozen=True, array_like=True):
    kinds: list[_FileKind]
    files: list[_PortableFile]


def encode_files(files: Iterable[LiveFile], *, with_split_points: bool) -> bytes:
    """Return files as bytes for another process.

    Args:
        files: In the order of a selection.
        with_split_points: Whether to keep where each can be divided.
    """
    kinds: dict[tuple[Any, ...], tuple[int, _FileKind]] = {}
    entries = []
    for live in files:
        manifest = live.manifest
        schema = manifest.schema_of(live.file)
        place = (live.partition, manifest.id_columns, schema, live.excluded)
        if place not in kinds:
            kind = _FileKind(live.partition, manifest.id_columns, schema, tuple(sorted(live.excluded)))
            kinds[place] = len(kinds), kind
        file = msgspec.structs.replace(
            live.file,
            statistics=tuple(leaf for leaf in live.file.statistics if leaf.path[0] in manifest.id_columns),
            split_points=live.file.split_points if with_split_points else (),
        )
        entries.append(_PortableFile(kinds[place][0], manifest.commit, file, live.first, live.last, live.offset))
    return zlib.compress(msgspec.msgpack.encode(_PortableFiles([kind for _, kind in kinds.values()], entries)), level=1)


def decode_files(data: bytes) -> list[LiveFile]:
    """Return what `encode_files` took; of manifests they have what readers of files ask for."""
    found = msgspec.msgpack.decode(zlib.decompress(data), type=_PortableFiles)
    excluded = [frozenset(kind.excluded) for kind in found.kinds]
    return [
        LiveFile(
            partition=found.kinds[each.kind].partition,
            manifest=_manifest(found.kinds[each.kind], each.commit, number=each.file.schema),
            file=each.file,
            first=each.first,
            last=each.last,
            offset=each.offset,
            excluded=excluded[each.kind],
        )
        for each in found.files
    ]


def _manifest(kind: _FileKind, commit: str, *, number: int) -> Manifest:
    schema = msgspec.Raw(kind.schema)
    return Manifest(
        format_version=1,
        commit=commit,
        time=0,
        feature=(),
        definition=Definition("", {}),
        id_columns=kind.id_columns,
        schema=schema,
        schemas=(schema,) * number,
        writer="",
        rows=0,
        digest="",
        files=(),
    )
