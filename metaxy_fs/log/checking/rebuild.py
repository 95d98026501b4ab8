"""Which manifest do data files prove?

The footer of each data file carries all that its manifest said of the commit, and which of how many files it is. So a
manifest can be made again, the same to the byte, from files that are all there. Whether there ever was such a manifest
is another question, which the files cannot answer (see `metaxy_fs.log.checking.repair`). The manifest of a compaction
is in the footer of its commit table.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import polars as pl

from metaxy_fs.errors import CorruptObjectError
from metaxy_fs.log.checking.contents import Contents, check_commit, check_contents
from metaxy_fs.log.files.parquet import FOOTER_KEY, check_row_groups, checksums, content_digest, describe_file
from metaxy_fs.log.objects.decoding import decode_manifest
from metaxy_fs.log.objects.layout import Partition, compaction_of_table
from metaxy_fs.log.objects.manifest import CommitHeader, CommitTable, DataFile, FileHeader, Manifest, encode_manifest
from metaxy_fs.log.views.tables import decode_table


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


def rebuild_compaction(data: bytes, *, name: str, partition: Partition) -> tuple[Manifest, pl.DataFrame]:
    """Return the manifest of the compaction that a commit table belongs to, and the table.

    Raises:
        CorruptObjectError: It is no commit table, or not one of a compaction of this partition.
    """
    try:
        commits = pl.read_parquet(data).get_column("commit")
        manifest = msgspec.json.decode(pl.read_parquet_metadata(data)[FOOTER_KEY], type=Manifest)
        covers = " ".join(commits)
    # A panic is no Exception, and whatever Polars makes of a hostile file must not end the process.
    except (Exception, pl.exceptions.PanicException) as error:
        reason = " ".join(str(error).split())[:200]
        raise CorruptObjectError(f"{name} does not tell of which compaction it is ({reason}).") from error
    entry = CommitTable(name=name, rows=len(commits), bytes=len(data), sha256=checksums(data)[1])
    whole = encode_manifest(msgspec.structs.replace(manifest, covers=covers, commits=entry))
    commit = compaction_of_table(name) or ""
    rebuilt = decode_manifest(whole, partition=partition, commit=commit, name=name, is_compaction=True)
    return rebuilt, decode_table(data, manifest=rebuilt, entry=entry, name=name)


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
