"""Rebuild manifests from the footers of their data files.

The footer of each data file carries all that its manifest said of the commit, and which of how many files it is. So a
manifest can be made again, the same to the byte, from files that are all there. Whether there ever was such a manifest
is another question, which the files cannot answer (see `metaxy_fs.log.repair`). The manifest of a compaction
is in the footer of its commit table.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
import polars as pl

from metaxy_fs.errors import CorruptObjectError, MetaxyError, UnsupportedFormatError
from metaxy_fs.log.commit_table import rebuild_compaction
from metaxy_fs.log.decoding import decode_manifest
from metaxy_fs.log.layout import Inventory, Partition, compaction_of_table, owners_of_data_file
from metaxy_fs.log.manifest import CommitHeader, DataFile, FileHeader, Manifest, encode_manifest
from metaxy_fs.log.parquet import FOOTER_KEY, check_row_groups, content_digest, describe_file
from metaxy_fs.log.resolve import Covers
from metaxy_fs.log.verified_io import Fetched, decode_each, fetch_each
from metaxy_fs.log.verify_contents import Contents, check_commit, check_contents
from metaxy_fs.storage.base import ObjectInfo, Storage


class Fragment(NamedTuple):
    """A data file by itself: what it says of its commit, and what a manifest would say of it.

    Attributes:
        header: What its footer says.
        entry: Its entry in a manifest.
        contents: What was found in it.
    """

    header: FileHeader
    entry: DataFile
    contents: Contents


def read_fragment(data: bytes, *, name: str) -> Fragment:
    """Return what a data file tells by itself.

    Raises:
        CorruptObjectError: It is no Parquet file, or its footer does not tell its commit and its place in it.
    """
    try:
        check_row_groups(data, name=name)
        rows = pl.read_parquet(data)
        header = msgspec.json.decode(pl.read_parquet_metadata(data)[FOOTER_KEY], type=FileHeader)
        file = describe_file(data, rows, header=header, name=name)
    # A panic is no Exception, and whatever Polars makes of a hostile file must not end the process.
    except (Exception, pl.exceptions.PanicException) as error:
        reason = " ".join(str(error).split())[:200]
        raise CorruptObjectError(f"{name} does not tell whose rows it holds ({reason}).") from error
    alone = _manifest(header, [file.entry], digest="0" * 64)
    contents = check_contents(data, manifest=alone, file=file.entry, path=name)
    return Fragment(header, file.entry, contents)


def rebuild_manifest(fragments: Sequence[Fragment], *, partition: Partition) -> Manifest:
    """Return the manifest of the commit that data files belong to.

    Raises:
        CorruptObjectError: They are not all files of one commit, or not a commit of this partition.
    """
    ordered = sorted(fragments, key=lambda fragment: fragment.header.part)
    _refuse_incomplete(ordered)
    header, contents = ordered[0].header, [fragment.contents for fragment in ordered]
    digest = content_digest(bytes(header.schema), [found.pages for found in contents if found.pages is not None])
    manifest = _manifest(header, [fragment.entry for fragment in ordered], digest=digest)
    manifest = msgspec.structs.replace(manifest, retired=sum(found.retired for found in contents))
    findings = [finding for found in contents for finding in found.findings]
    for finding in [*findings, *check_commit(manifest, contents, path=f"the commit {header.commit}")]:
        raise CorruptObjectError(f"{finding.path} {finding.problem}")
    # A footer is as little to be trusted as a manifest.
    return decode_manifest(encode_manifest(manifest), partition=partition, commit=header.commit, name=header.commit)


def _refuse_incomplete(fragments: Sequence[Fragment]) -> None:
    commits = {msgspec.json.encode(CommitHeader(**_commit_fields(fragment.header))) for fragment in fragments}
    counts = {fragment.header.parts for fragment in fragments} - {None}
    if len(commits) > 1 or len(counts) > 1:
        raise CorruptObjectError("its data files do not agree on the commit that they belong to")
    parts = [fragment.header.part for fragment in fragments]
    if parts != list(range(len(parts))) or counts != {len(parts)}:
        known = f" of {counts.pop()}" if counts else ", which do not tell how many there were"
        raise CorruptObjectError(f"all that is left of its data files are the parts {parts}{known}")


def _commit_fields(header: CommitHeader) -> dict[str, Any]:
    return {name: getattr(header, name) for name in CommitHeader.__struct_fields__}


def _manifest(header: FileHeader, files: Sequence[DataFile], *, digest: str) -> Manifest:
    return Manifest(**_commit_fields(header), rows=sum(file.rows for file in files), digest=digest, files=tuple(files))


class AttemptFiles(NamedTuple):
    """Data files whose names begin alike, and the manifest of the write that they make, or why they make none."""

    name: str
    manifest: Manifest | None
    reason: str


class Table(NamedTuple):
    """A commit table that no manifest names, what it says of each commit, and the compaction that it makes."""

    manifest: Manifest
    rows: pl.DataFrame

    @property
    def digests(self) -> dict[str, str]:
        """The digest of each commit."""
        return dict(self.rows.select("commit", "digest").iter_rows())


class RecoveryInputs(NamedTuple):
    """What there is to go by in a partition.

    Attributes:
        partition: Where this is.
        damages: What is wrong with the manifests of writes that were there, by commit.
        remains: What is left of them, as far as it can be got.
        broken: What is wrong with the compactions that are there, by their ids.
        held: The commits that a manifest answers for which is right.
        pinned: The commits that snapshots name, and one that does.
        groups: Data files that no manifest names.
        tables: Commit tables that no manifest names, the latest first.
        unpublished: Those that prove nothing: of copies and prepared writes whose manifest may never have been put.
    """

    partition: Partition
    damages: dict[str, str]
    remains: dict[str, bytes]
    broken: dict[str, str]
    present: set[str]
    pinned: dict[str, str]
    groups: list[AttemptFiles]
    tables: list[Table]
    unpublished: list[Table]


def gather(storage: Storage, inventory: Inventory, *, pinned: dict[str, str]) -> RecoveryInputs:
    """Return what there is to go by.

    Args:
        storage: The root.
        inventory: What the partition holds.
        pinned: The commits that snapshots name, and one that does.

    Raises:
        UnsupportedFormatError: A newer metaxy_fs has compacted the partition.
        StorageError: A manifest could not be got, so nobody can tell whether it is damaged.
    """
    found = RecoveryInputs(inventory.partition, {}, {}, {}, set(), pinned, [], [], [])
    found.damages.update(dict.fromkeys(inventory.damaged, "its manifest was damaged, and its repair was not finished"))
    named = {*_of_compactions(storage, inventory, found)}
    named |= {*_of_appends(storage, inventory, found)}
    known = found.present | inventory.compactions.keys() - found.broken.keys()
    unnamed = [(name, info) for name, info in inventory.data.items() if name not in named]
    # What a copy or a driver that was cut short has left shows no commit of this root.
    marked = inventory.copies.keys() - found.broken
    tables = _read_tables(storage, unnamed, partition=found.partition)
    for table in sorted(tables, key=lambda table: table.manifest.commit, reverse=True):
        (found.unpublished if table.manifest.commit in marked else found.tables).append(table)
    known |= {table.manifest.commit for table in tables}
    orphans = [(name, info) for name, info in unnamed if known.isdisjoint(owners_of_data_file(name))]
    _read_groups(storage, orphans, found)
    return found


def _of_compactions(storage: Storage, inventory: Inventory, found: RecoveryInputs) -> Iterator[str]:
    """Yield the data files that compactions name, and note what is known of these."""
    for commit, manifest in _decoded(storage, inventory, inventory.compactions, found.broken, is_compaction=True):
        if isinstance(manifest, Manifest):
            found.present.update(Covers(manifest.covers).ids)
            yield from (file.name for file in manifest.named_files)
        elif manifest is None:
            raise UnsupportedFormatError(
                f"{storage.location}/{inventory.compactions[commit].path} was written by a newer metaxy_fs. Upgrade "
                "metaxy_fs."
            )


def _of_appends(storage: Storage, inventory: Inventory, found: RecoveryInputs) -> Iterator[str]:
    """Yield the data files that the manifests of writes name which count, and note what is known of these."""
    uncovered = {commit: info for commit, info in inventory.appends.items() if commit not in found.present}
    for commit, manifest in _decoded(storage, inventory, uncovered, found.damages, remains=found.remains):
        found.present.add(commit)
        if manifest is not None:
            yield from (file.name for file in manifest.files)
    for commit in found.present & found.damages.keys():
        del found.damages[commit]


def _decoded(
    storage: Storage,
    inventory: Inventory,
    listed: dict[str, ObjectInfo],
    damages: dict[str, str],
    *,
    is_compaction: bool = False,
    remains: dict[str, bytes] | None = None,
) -> Iterator[tuple[str, Manifest | None]]:
    """Yield the manifests that are right, None for one of a newer format, and note what is wrong with the others."""
    found = decode_each(storage, inventory.partition, listed, is_compaction=is_compaction)
    for commit, _, manifest, data in found:
        match manifest:
            case Manifest():
                yield commit, manifest
            case UnsupportedFormatError():
                yield commit, None
            case CorruptObjectError():
                damages[commit] = str(manifest)
                if remains is not None and data is not None:
                    remains[commit] = data
            case _:
                raise manifest


def _read_tables(storage: Storage, unnamed: Iterable[tuple[str, ObjectInfo]], *, partition: Partition) -> list[Table]:
    """Return the commit tables among objects that no manifest names, as far as they can be read."""
    tables = []
    for name, _, data in fetch_each(storage, [each for each in unnamed if compaction_of_table(each[0]) is not None]):
        with suppress(CorruptObjectError):
            if isinstance(data, bytes):
                tables.append(Table(*rebuild_compaction(data, name=name, partition=partition)))
    return tables


def _read_groups(storage: Storage, unnamed: Iterable[tuple[str, ObjectInfo]], found: RecoveryInputs) -> None:
    fragments: dict[str, list[Fragment | MetaxyError]] = {}
    for name, _, data in fetch_each(storage, unnamed):
        fragments.setdefault(name.rpartition("-")[0], []).append(_fragment(data, name=name))
    found.groups.extend(_group(name, parts, found.partition) for name, parts in fragments.items())


def _fragment(data: Fetched, *, name: str) -> Fragment | MetaxyError:
    if isinstance(data, Exception):
        return data
    try:
        return read_fragment(data, name=name)
    except CorruptObjectError as error:
        return error


def _group(name: str, found: Sequence[Fragment | MetaxyError], partition: Partition) -> AttemptFiles:
    parts = []
    for each in found:
        if isinstance(each, MetaxyError):
            return AttemptFiles(name, None, str(each))
        parts.append(each)
    try:
        return AttemptFiles(name, rebuild_manifest(parts, partition=partition), "")
    except MetaxyError as error:
        return AttemptFiles(name, None, str(error))
