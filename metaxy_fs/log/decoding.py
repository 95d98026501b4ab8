"""Decode a manifest, and check that it belongs where it was found.

A root is shared, so a manifest is data from strangers: it is decoded strictly, its size is bounded before it is
fetched, and it must agree with the place that it was found in and with itself.
"""

from collections.abc import Iterable
from typing import Final

import msgspec
import polars as pl

from metaxy_fs.errors import CorruptObjectError
from metaxy_fs.log.layout import Partition, is_commit, is_data_file_name, is_table_name
from metaxy_fs.log.manifest import FORMAT_VERSION, DataFile, Manifest, refuse_other_format, unsealed
from metaxy_fs.log.schema import decode_schema
from metaxy_fs.reserved import RETIRED

MAX_MANIFEST_BYTES: Final = 64 * 1024 * 1024
MAX_COMPACTION_BYTES: Final = 256 * 1024 * 1024


_DECODER = msgspec.json.Decoder(Manifest)
_ID_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"


def decode_manifest(
    data: bytes, *, partition: Partition, commit: str, name: str, is_compaction: bool = False
) -> Manifest:
    """Return the manifest that an object holds, if it is one that can belong where it was found.

    Args:
        data: The object's bytes.
        partition: The partition that it was found in.
        commit: The commit that its file name gives.
        name: The object as users would look it up, for messages.
        is_compaction: Whether it was found among the compactions.

    Raises:
        UnsupportedFormatError: A newer metaxy_fs wrote it.
        CorruptObjectError: It is not a manifest, or not of this place.
    """
    data = unsealed(data, name=f"The manifest {name}")
    try:
        manifest = _DECODER.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        refuse_other_format(data, name=f"The manifest {name}")
        raise CorruptObjectError(f"The manifest {name} cannot be decoded: {error}.", commit=commit) from error
    if manifest.format_version != FORMAT_VERSION:
        refuse_other_format(data, name=f"The manifest {name}")
    problem = (
        _misplaced(manifest, partition=partition, commit=commit)
        or (_no_compaction(manifest) if is_compaction else _no_append(manifest))
        or _inconsistent(manifest)
    )
    if problem:
        raise CorruptObjectError(f"The manifest {name} {problem}.", commit=commit)
    return manifest


def refuse_oversized(size: int, *, name: str, is_compaction: bool = False) -> None:
    """Refuse to fetch a manifest that no writer makes."""
    limit = MAX_COMPACTION_BYTES if is_compaction else MAX_MANIFEST_BYTES
    if size > limit:
        raise CorruptObjectError(f"The manifest {name} has {size} bytes, more than the {limit} that one may have.")


def is_list_of_commits(covers: str) -> bool:
    """Whether a string can be a list of ids with a space between; letters alone are checked: no commit has odd ids."""
    if not covers.isascii() or covers.encode().translate(None, _ID_BYTES + b" "):
        return False
    return not (covers.startswith(" ") or covers.endswith(" ") or "  " in covers)


# Each of these returns what a manifest claims that cannot be, None where it is consistent.


def _misplaced(manifest: Manifest, *, partition: Partition, commit: str) -> str | None:
    if manifest.commit != commit:
        return f"says that it is commit {manifest.commit!r}"
    if ".".join(manifest.feature) != partition.feature:
        return f"says that it belongs to the feature {list(manifest.feature)!r}"
    if manifest.definition.version[:16] != partition.version:
        return f"says that it belongs to the data version {manifest.definition.version!r}"
    return None


def _no_append(manifest: Manifest) -> str | None:
    if manifest.covers:
        return "is that of one write and yet covers others"
    if manifest.commits is not None or manifest.schemas or any(map(_is_of_compaction, manifest.files)):
        return "is that of one write and yet says what only a compaction may"
    return None


def _is_of_compaction(file: DataFile) -> bool:
    return (file.commit, file.time, file.first, file.last) != (None,) * 4 or (
        file.offset + file.schema + file.repeats + file.ordered != 0
    )


def _no_compaction(manifest: Manifest) -> str | None:
    if not manifest.covers:
        return "is that of a compaction and yet covers nothing"
    if manifest.retired or manifest.tags is not msgspec.UNSET:
        return "is that of a compaction and yet says what only one write may"
    if not is_list_of_commits(manifest.covers):
        return "covers what can be no list of commits"
    table = manifest.commits
    if table is None or not is_table_name(table.name):
        return f"names no table of its commits, but {table.name if table else None!r}"
    if table.rows != manifest.covers.count(" ") + 1:
        return f"covers {manifest.covers.count(' ') + 1} commits, but has a table of {table.rows}"
    problems = (_compacted_file_problem(file, manifest) for file in manifest.files)
    return next((problem for problem in problems if problem), None)


def _compacted_file_problem(file: DataFile, manifest: Manifest) -> str | None:
    if file.schema > len(manifest.schemas):
        return f"gives the data file {file.name!r} schema {file.schema} of {len(manifest.schemas) + 1}"
    is_listed_again = file.commit is not None and file.time is not None and is_commit(file.commit)
    if is_listed_again == (file.first is not None and file.last is not None):
        return f"says of the data file {file.name!r} neither which one commit it holds, nor which first and last"
    if is_listed_again and (file.repeats or file.ordered):
        return f"says of the data file {file.name!r}, which holds one commit, what is said of many"
    last = (file.time, file.commit) if file.last is None else file.last
    if file.first is not None and file.last is not None and file.first > file.last:
        return f"says that the data file {file.name!r} ends before it begins"
    if last[0] is not None and last[0] >= manifest.time:
        return f"covers a commit that is not older than itself, in the data file {file.name!r}"
    return None


def _inconsistent(manifest: Manifest) -> str | None:
    for file in manifest.files:
        if not is_data_file_name(file.name):
            return f"names the data file {file.name!r}, which is not a plain name of a Parquet file in its partition"
    if manifest.rows != sum(file.rows for file in manifest.files):
        return f"counts {manifest.rows} rows, its files {sum(file.rows for file in manifest.files)}"
    try:
        schemas = [decode_schema(bytes(schema)) for schema in (manifest.schema, *manifest.schemas)]
    except CorruptObjectError as error:
        return f"has no schema that can be read: {error}"
    ids = set(manifest.id_columns)
    if not ids or len(ids) < len(manifest.id_columns) or not all(ids <= schema.keys() for schema in schemas):
        return f"names samples by the columns {list(manifest.id_columns)!r}, which are not in each schema, once each"
    return _retirement_problem(manifest, schemas)


def _retirement_problem(manifest: Manifest, schemas: Iterable[pl.Schema]) -> str | None:
    if manifest.retired > manifest.rows:
        return f"counts {manifest.retired} rows that retire a sample, and no more than {manifest.rows} in all"
    if any(schema.get(RETIRED, pl.Boolean()) != pl.Boolean() for schema in schemas):
        return f"has a column {RETIRED!r} that is not boolean"
    return None
