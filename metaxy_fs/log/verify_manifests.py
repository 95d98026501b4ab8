"""Verify the manifests that count, and the files that they name.

Writers agree on types before they write, so a conflict is from a version that did not, or from somebody else.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import combinations, groupby
from typing import NamedTuple

import polars as pl

from metaxy_fs.errors import (
    CorruptObjectError,
    MetaxyError,
    ObjectNotFoundError,
    StorageError,
    UnsupportedFormatError,
)
from metaxy_fs.log.commit_table import decode_table
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.manifest import CommitTable, DataFile, Manifest
from metaxy_fs.log.schema import decode_schema
from metaxy_fs.log.types import AgreedTypes, decode_further, large_integers
from metaxy_fs.log.verified_io import (
    MAX_SHARED_BYTES,
    REPAIR,
    RESTORE,
    UNSEEN,
    UPGRADE,
    Fetched,
    Finding,
    decode_each,
    fetch_each,
    get_checked,
    refetch,
)
from metaxy_fs.log.verify_contents import Contents, check_commit, check_compaction, check_contents
from metaxy_fs.log.view import manifest_path
from metaxy_fs.log.widening import join
from metaxy_fs.parallel import ordered_map
from metaxy_fs.storage.base import ObjectInfo, Storage


class Checked(NamedTuple):
    """What was found of one manifest.

    Attributes:
        manifest: It is there, but for the findings.
        findings: What is not as it should be with it and its data files.
        files: How many of these were read.
        bytes: The size of those.
    """

    manifest: Manifest
    findings: list[Finding]
    files: int
    bytes: int


def read_manifests(
    storage: Storage,
    partition: Partition,
    listed: Mapping[str, ObjectInfo],
    *,
    damaged: dict[str, Finding],
    is_compaction: bool = False,
) -> Iterator[tuple[str, Manifest | None]]:
    """Yield each manifest by its commit, None if it is gone since it was listed.

    Those that cannot be used are noted in `damaged`.
    """
    for commit, info, found, _ in decode_each(storage, partition, listed, is_compaction=is_compaction):
        if isinstance(found, Manifest):
            yield commit, found
        elif isinstance(found, ObjectNotFoundError):
            yield commit, None
        else:
            damaged[commit] = unusable(info.path, found, remedy=REPAIR)


def check_manifests(storage: Storage, partition: Partition, manifests: Iterable[Manifest]) -> Iterator[Checked]:
    """Yield what was found of each manifest that lives, and of all data files that it names.

    Those that are deleted meanwhile, because others stand for their commits, are left out.
    """
    wanted = (
        ((manifest, file), ObjectInfo(partition.data_file(file.name), file.bytes))
        for manifest in manifests
        for file in manifest.named_files
    )
    looked_at = ordered_map(partial(_look, storage, partition), fetch_each(storage, wanted))
    for _, found in groupby(looked_at, key=lambda look: look.manifest.commit):
        looks = list(found)
        if not any(look.is_gone for look in looks):
            yield _together(looks[0].manifest, looks, path=manifest_path(partition, looks[0].manifest))


def unusable(path: str, error: MetaxyError, *, remedy: str) -> Finding:
    """Return the finding on an object that could not be got or decoded."""
    if isinstance(error, UnsupportedFormatError):
        return Finding(path, "error", f"was written by a newer metaxy_fs: {error}", UPGRADE)
    if isinstance(error, StorageError) and not isinstance(error, ObjectNotFoundError):
        return Finding(path, "error", f"cannot be read: {error}", UNSEEN)
    return Finding(path, "error", f"cannot be used: {error}", remedy)


class _CheckedFile(NamedTuple):
    """What was found in a data file, or in a commit table."""

    manifest: Manifest
    file: DataFile | CommitTable
    size: int = 0
    contents: Contents = Contents(())
    is_gone: bool = False


def _look(
    storage: Storage,
    partition: Partition,
    fetched: tuple[tuple[Manifest, DataFile | CommitTable], ObjectInfo, Fetched],
) -> _CheckedFile:
    (manifest, file), info, data = fetched
    if isinstance(data, bytes):
        return _CheckedFile(manifest, file, info.size, _verified_contents(storage, info, data, manifest, file))
    if isinstance(data, ObjectNotFoundError) and _is_gone(storage, manifest_path(partition, manifest)):
        return _CheckedFile(manifest, file, is_gone=True)
    return _CheckedFile(manifest, file, contents=Contents((_missing(info.path, data),)))


def _verified_contents(
    storage: Storage, info: ObjectInfo, data: bytes, manifest: Manifest, file: DataFile | CommitTable
) -> Contents:
    """Return what is in an object, which is looked at twice if something is wrong with it: the answer may be."""
    contents = _contents(data, manifest, file, path=info.path)
    if contents.findings:
        with suppress(StorageError, CorruptObjectError):
            return _contents(refetch(storage, info), manifest, file, path=info.path)
    return contents


def _contents(data: bytes, manifest: Manifest, file: DataFile | CommitTable, *, path: str) -> Contents:
    if isinstance(file, DataFile):
        return check_contents(data, manifest=manifest, file=file, path=path)
    try:
        return Contents((), commits=decode_table(data, manifest=manifest, entry=file, name=path))
    except CorruptObjectError as error:
        return Contents((unusable(path, error, remedy=RESTORE),))


def _together(manifest: Manifest, looks: Sequence[_CheckedFile], *, path: str) -> Checked:
    findings = [finding for look in looks for finding in look.contents.findings]
    if not manifest.covers:
        findings += check_commit(manifest, [look.contents for look in looks], path=path)
    elif all(look.contents.commits is not None for look in looks):
        findings += _check_compaction(manifest, looks, path=path)
    return Checked(manifest, findings, sum(1 for look in looks if look.size), sum(look.size for look in looks))


def _check_compaction(manifest: Manifest, looks: Sequence[_CheckedFile], *, path: str) -> Iterator[Finding]:
    parts = [(look.file, look.contents) for look in looks if isinstance(look.file, DataFile)]
    for table in (look.contents.commits for look in looks if isinstance(look.file, CommitTable)):
        if table is not None:
            yield from check_compaction(manifest, table, parts, path=path)


def _is_gone(storage: Storage, path: str) -> bool:
    try:
        return storage.get_optional([path], max_bytes=0) == [None]
    except CorruptObjectError:  # it is there, and larger
        return False


def _missing(path: str, error: MetaxyError) -> Finding:
    if isinstance(error, ObjectNotFoundError):
        return Finding(path, "error", "is missing, though it is committed", RESTORE)
    if isinstance(error, CorruptObjectError):
        return Finding(path, "error", "has another size than was committed", RESTORE)
    return unusable(path, error, remedy=RESTORE)


_REMEDY = (
    "Reads have to leave the column out; where it names samples, they can have neither latest rows nor increments. "
    "Write the rows again in types of one kind, to another feature or under another code_version."
)


class TypesFound:
    """The types of all columns of a partition, and where each was found first."""

    def __init__(self, partition: Partition) -> None:
        self._partition = partition
        self._types = AgreedTypes()
        self._places: dict[tuple[str, pl.DataType], str] = {}

    def add(self, manifest: Manifest) -> None:
        """Take note of the types of the data files of a manifest."""
        for file in manifest.files:
            schema = decode_schema(manifest.schema_of(file))
            large = large_integers(schema, file.statistics, rows=file.rows, id_columns=())
            new = pl.Schema({name: dtype for name, dtype in schema.items() if (name, dtype) not in self._places})
            if new or large - self._types.large:
                self._types = self._types.added(new, large)
            self._places |= dict.fromkeys(new.items(), self._partition.data_file(file.name))

    def conflicts(self) -> Iterator[Finding]:
        """Yield the columns whose types are in conflict."""
        for name, dtypes in self._types.types.items():
            if self._types.of(name) is None:
                pairs = (pair for pair in combinations(dtypes, 2) if self._join(name, *pair) is None)
                first, second = next(pairs, dtypes[:2])
                problem = (
                    f"holds the column {name!r} as {first} in {self._places[name, first]} and as {second} in "
                    f"{self._places[name, second]}, and no type holds the values of both exactly"
                )
                yield Finding(str(self._partition), "error", problem, _REMEDY)

    def _join(self, name: str, *dtypes: pl.DataType) -> pl.DataType | None:
        return join(dtypes, name=name, is_exact=lambda path: path not in self._types.large)


def check_further(storage: Storage, partition: Partition, listed: Mapping[int, ObjectInfo]) -> Iterator[Finding]:
    """Yield the objects of `_types` that writers cannot use, and those that are lost.

    Args:
        storage: The root.
        partition: Where they are.
        listed: Those that there are, by number.
    """
    for number in range(1, max(listed, default=0) + 1):
        path = partition.types_file(number)
        if number not in listed:
            yield Finding(path, "warning", "is missing, though later ones are there", RESTORE)
            continue

        def check(data: bytes, path: str = path) -> object:
            return decode_further(data, name=f"{storage.location}/{path}")

        try:
            get_checked(storage, path, limit=MAX_SHARED_BYTES, check=check)
        except MetaxyError as error:
            yield unusable(path, error, remedy=f"Writers that need it are refused. {RESTORE}")
