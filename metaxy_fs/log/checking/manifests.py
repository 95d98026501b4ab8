"""Do the manifests that live hold what they say?"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from typing import NamedTuple

from metaxy_fs.errors import (
    CorruptObjectError,
    MetaxyError,
    ObjectNotFoundError,
    StorageError,
    UnsupportedFormatError,
)
from metaxy_fs.log.checking.compacted import Part, check_compaction
from metaxy_fs.log.checking.contents import Contents, check_commit, check_contents
from metaxy_fs.log.objects.findings import REPAIR, RESTORE, UNSEEN, UPGRADE, Finding
from metaxy_fs.log.objects.layout import Partition
from metaxy_fs.log.objects.manifest import CommitTable, DataFile, Manifest
from metaxy_fs.log.objects.second_look import fetched_anew
from metaxy_fs.log.objects.tolerant import Fetched, decode_each, fetch_each
from metaxy_fs.log.views.tables import decode_table
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
            yield _together(looks[0].manifest, looks, path=path_of(partition, looks[0].manifest))


def path_of(partition: Partition, manifest: Manifest) -> str:
    """Return where a manifest is."""
    place: Callable[[str], str] = partition.compaction_manifest if manifest.covers else partition.append_manifest
    return place(manifest.commit)


def unusable(path: str, error: MetaxyError, *, remedy: str) -> Finding:
    """Return the finding on an object that could not be got or decoded."""
    if isinstance(error, UnsupportedFormatError):
        return Finding(path, "error", f"was written by a newer metaxy_fs: {error}", UPGRADE)
    if isinstance(error, StorageError) and not isinstance(error, ObjectNotFoundError):
        return Finding(path, "error", f"cannot be read: {error}", UNSEEN)
    return Finding(path, "error", f"cannot be used: {error}", remedy)


class _Look(NamedTuple):
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
) -> _Look:
    (manifest, file), info, data = fetched
    if isinstance(data, bytes):
        return _Look(manifest, file, info.size, _settled_contents(storage, info, data, manifest, file))
    if isinstance(data, ObjectNotFoundError) and _is_gone(storage, path_of(partition, manifest)):
        return _Look(manifest, file, is_gone=True)
    return _Look(manifest, file, contents=Contents((_missing(info.path, data),)))


def _settled_contents(
    storage: Storage, info: ObjectInfo, data: bytes, manifest: Manifest, file: DataFile | CommitTable
) -> Contents:
    """Return what is in an object, which is looked at twice if something is wrong with it: the answer may be."""
    contents = _contents(data, manifest, file, path=info.path)
    if contents.findings:
        with suppress(StorageError, CorruptObjectError):
            return _contents(fetched_anew(storage, info), manifest, file, path=info.path)
    return contents


def _contents(data: bytes, manifest: Manifest, file: DataFile | CommitTable, *, path: str) -> Contents:
    if isinstance(file, DataFile):
        return check_contents(data, manifest=manifest, file=file, path=path)
    try:
        return Contents((), commits=decode_table(data, manifest=manifest, entry=file, name=path))
    except CorruptObjectError as error:
        return Contents((unusable(path, error, remedy=RESTORE),))


def _together(manifest: Manifest, looks: Sequence[_Look], *, path: str) -> Checked:
    findings = [finding for look in looks for finding in look.contents.findings]
    if not manifest.covers:
        findings += check_commit(manifest, [look.contents for look in looks], path=path)
    elif all(look.contents.commits is not None for look in looks):
        findings += _check_compaction(manifest, looks, path=path)
    return Checked(manifest, findings, sum(1 for look in looks if look.size), sum(look.size for look in looks))


def _check_compaction(manifest: Manifest, looks: Sequence[_Look], *, path: str) -> Iterator[Finding]:
    parts, table = [], None
    for look in looks:
        if isinstance(look.file, CommitTable):
            table = look.contents.commits
        elif look.contents.commits is not None:
            parts.append(Part(look.file, look.contents.commits, look.contents.ends))
    if table is not None:
        yield from check_compaction(manifest, table, parts, path=path)


def _is_gone(storage: Storage, path: str) -> bool:
    try:
        return storage.find([path], limit=0) == [None]
    except CorruptObjectError:  # it is there, and larger
        return False


def _missing(path: str, error: MetaxyError) -> Finding:
    if isinstance(error, ObjectNotFoundError):
        return Finding(path, "error", "is missing, though it is committed", RESTORE)
    if isinstance(error, CorruptObjectError):
        return Finding(path, "error", "has another size than was committed", RESTORE)
    return unusable(path, error, remedy=RESTORE)
