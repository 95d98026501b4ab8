"""Commit a write: data files first, then the manifest.

Theory of operation. A writer puts the data files, then the manifest; both are put-if-absent under names that no other
writer uses. The manifest's appearance is the commit. Writers never look at each other's files, so they never wait and
never conflict.

A put that fails has an unknown outcome, which is found out (see `metaxy_fs.log.verified_io`). Nothing is deleted on
failure: a data file without a manifest is invisible, and is left to vacuum.

A `write_id` names the commit, so that every attempt of a retried job aims at the same manifest: the first attempt to
land wins, and the others find it. Data files are named at random even then, because the footer of each attempt
differs in its time. Once a compaction stands for the commit, vacuum deletes the manifest, and first keeps a copy in
`_writes`: an attempt that comes later, whose manifest nobody would read, finds that. What a name stands for beside a
copy of other rows under the same name is decided in `metaxy_fs.log.named_writes`.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from typing import Final

import msgspec
import polars as pl

from metaxy_fs.errors import (
    CommitStateUnknownError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageAccessError,
    StorageError,
    WriteConflictError,
    about,
)
from metaxy_fs.ids import AHEAD, LamportClock, random_token, timestamp_id, wall_clock
from metaxy_fs.log.chunks import Chunks, file_sized, have_equal_rows
from metaxy_fs.log.decoding import MAX_MANIFEST_BYTES
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.manifest import CommitHeader, DataFile, Definition, FileHeader, Manifest, encode_manifest
from metaxy_fs.log.named_writes import Standing, WriteName
from metaxy_fs.log.parquet import EncodedFile, content_digest, decode_rows, encode_rows
from metaxy_fs.log.schema import decode_schema, encode_schema
from metaxy_fs.log.verified_io import SilentRefusalError, decode_or_refetch, put_idempotent
from metaxy_fs.log.widening import conform, differ_in_order_alone
from metaxy_fs.markup import count
from metaxy_fs.parallel import beside, ordered_map
from metaxy_fs.storage.base import NoRoomError, ObjectInfo, Storage

MAX_AGE_SECONDS = 24 * 60 * 60
"""How old a data file may get before its manifest is put; vacuum spares orphans for longer than that."""

SETTLED_AFTER: Final = timedelta(seconds=MAX_AGE_SECONDS) + timedelta(hours=1)
"""How old the data files of a write are when its manifest is not put any more, a slow request reckoned in."""

NAMED_WRITE = "write-"
"""What the ids of commits with a `write_id` begin with."""


class CommitRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One write: rows in their final order, sorted by id, and what their manifest says of them."""

    partition: Partition
    feature: tuple[str, ...]
    definition: Definition
    id_columns: tuple[str, ...]
    rows: Chunks
    writer: str
    write_id: str | None = None
    tags: Mapping[str, str] = {}


def commit(
    storage: Storage,
    request: CommitRequest,
    *,
    clock: LamportClock,
    proof: Callable[[], object] | None = None,
    admit: Callable[[DataFile], object] = lambda _entry: None,
) -> Manifest:
    """Append rows to a partition and return the manifest of their commit.

    With a `write_id`, that may be the commit of an earlier attempt. The clock is set to it, unless it is far ahead.

    Args:
        storage: The root.
        request: The rows, and where they belong.
        clock: Gives the commit its time.
        proof: Called while the data files are put, and before the manifest is; what it raises ends the write.
        admit: Called with what is known of a data file before that is put; what it raises ends the write.

    Raises:
        WriteConflictError: The `write_id` was used for other rows.
        CommitStateUnknownError: The manifest's put failed, and so did the question whether it had landed.
        StorageError: The rows are not committed.
    """
    header = _header(request, time=clock.tick())
    with _about(storage, request, header):
        manifest = _put_files_in_time(storage, request, header, proof, admit)
        if request.write_id is None:
            _put_manifest(storage, request.partition.append_manifest(header.commit), manifest)
            return manifest
        standing = _put_named(storage, request, manifest)
    if standing.time <= wall_clock() + AHEAD:
        clock.observe(standing.time)
    return standing


def prepare(
    storage: Storage,
    request: CommitRequest,
    *,
    clock: LamportClock,
    proof: Callable[[], object] | None,
    admit: Callable[[DataFile], object],
) -> Manifest:
    """Put the data files of a write that others are going to commit; return what its manifest would say.

    The arguments and errors are those of `commit`.
    """
    header = _header(request, time=clock.tick())
    with _about(storage, request, header):
        return _put_files_in_time(storage, request, header, proof, admit)


def _about(storage: Storage, request: CommitRequest, header: CommitHeader) -> AbstractContextManager[None]:
    facts = {"feature": request.partition.feature, "root": storage.location, "commit": header.commit}
    return about(**facts, write_id=request.write_id)


def _put_files_in_time(
    storage: Storage,
    request: CommitRequest,
    header: CommitHeader,
    proof: Callable[[], object] | None,
    admit: Callable[[DataFile], object],
) -> Manifest:
    """Put the data files, unless that takes so long that they may be vacuumed."""
    started = wall_clock()
    with beside(proof, at_once=storage.is_remote):
        manifest = _put_files(storage, request, header, admit)
    if wall_clock() - started > MAX_AGE_SECONDS * 1_000_000:
        raise StorageError(
            f"Writing the data files of commit {header.commit} to {storage.location}/{request.partition} took "
            f"longer than {MAX_AGE_SECONDS} seconds, after which they may be vacuumed. Nothing was committed; "
            "write again."
        )
    return manifest


def _put_files(
    storage: Storage, request: CommitRequest, header: CommitHeader, admit: Callable[[DataFile], object]
) -> Manifest:
    """Put the data files and return the manifest that would commit them; few are encoded and held at a time."""
    stem = header.commit if request.write_id is None else f"{header.commit}-{random_token()}"

    def put(item: tuple[int, pl.DataFrame, int | None]) -> EncodedFile:
        part, rows, parts = item
        described = FileHeader(**msgspec.structs.asdict(header), part=part, parts=parts)
        file = encode_rows(rows, header=described, name=f"{stem}-{part}.parquet")
        admit(file.entry)
        put_idempotent(storage, request.partition.data_file(file.entry.name), file.data)
        return file._replace(data=b"")

    files = list(ordered_map(put, _counted(file_sized(request.rows))))
    return Manifest(
        **msgspec.structs.asdict(header),
        rows=sum(file.entry.rows for file in files),
        retired=sum(file.retired for file in files),
        digest=content_digest(bytes(header.schema), [file.pages for file in files]),
        files=tuple(file.entry for file in files),
    )


def _counted(frames: Iterator[pl.DataFrame]) -> Iterator[tuple[int, pl.DataFrame, int | None]]:
    """Yield each frame with its place and, the last one alone, how many there are: until then nobody knows."""
    frame = next(frames)
    part = 0
    for part, following in enumerate(frames, start=1):
        yield part - 1, frame, None
        frame = following
    yield part, frame, part + 1


def _put_manifest(storage: Storage, path: str, manifest: Manifest) -> None:
    """Put a manifest; here an outcome that stays unknown is what the caller has to know."""
    data = encode_manifest(manifest)
    if len(data) > MAX_MANIFEST_BYTES:
        raise StorageError(
            f"The manifest of {len(manifest.files)} data files in {storage.location} would have {len(data)} bytes, "
            f"more than the {MAX_MANIFEST_BYTES} that readers take. Nothing was committed; write the rows in several "
            "parts, and under a shorter write_id if it is long.",
            path=path,
        )
    try:
        put_idempotent(storage, path, data)
    except StorageError as error:
        if not may_be_put(error):
            raise
        raise CommitStateUnknownError(
            f"The rows were written, but whether they are committed is unknown: {error}. Before writing them again, "
            f"look whether the feature's history lists commit {manifest.commit}, which is so if "
            f"{storage.location}/{path} exists; or write with a write_id, which makes a repetition safe.",
            path=path,
        ) from error


def _put_named(storage: Storage, request: CommitRequest, attempt: Manifest) -> Manifest:
    """Put the manifest of a named write; return it, or that of the earlier attempt that is the commit."""
    name = WriteName(storage, request.partition, attempt.commit)
    standing = name.claim(attempt.digest)
    if standing is None:
        try:
            _put_manifest(storage, request.partition.append_manifest(attempt.commit), attempt)
            is_put = True
        except ObjectExistsError:
            is_put = False
        try:
            standing = name.confirm(is_put=is_put)
        except StorageError as error:
            raise CommitStateUnknownError(
                f"The rows were written, but whether an earlier attempt of write_id {request.write_id!r} had been is "
                f"unknown: {error} Write them again with the same write_id."
            ) from error
    return attempt if standing is None else _earlier_attempt(storage, request, attempt, standing)


def _earlier_attempt(storage: Storage, request: CommitRequest, attempt: Manifest, standing: Standing) -> Manifest:
    """Return the commit that holds the name of this one, if it holds the same rows."""
    is_same = standing.digest == attempt.digest
    if not is_same and (standing.manifest is None or not _same_rows(storage, request, standing.manifest, attempt)):
        raise WriteConflictError(
            f"The write_id {request.write_id!r} of feature {'/'.join(request.feature)!r} names a commit of "
            f"{count(standing.rows, 'row')} at {storage.location}/{standing.path}; the {attempt.rows} rows given now "
            "are not the same. Use another write_id for other rows.",
            path=standing.path,
        )
    return standing.manifest or attempt


def _same_rows(storage: Storage, request: CommitRequest, earlier: Manifest, attempt: Manifest) -> bool:
    """Compare rows themselves, in whichever order their columns come.

    Equal rows have other digests where another version of the encoder wrote them.
    """
    if earlier.rows != attempt.rows or not differ_in_order_alone(
        decode_schema(bytes(earlier.schema)), request.rows.schema
    ):
        return False
    rows = _in_order_of(request.rows, decode_schema(bytes(earlier.schema)))
    frames = (_stored_rows(storage, request.partition.data_file(file.name), file) for file in earlier.files)
    try:
        return _digest(rows, attempt) == earlier.digest or have_equal_rows(Chunks(rows.schema, lambda: frames), rows)
    except ObjectNotFoundError:  # rewritten by a compaction and vacuumed long ago: nothing proves that they are equal
        return False


def _in_order_of(rows: Chunks, schema: pl.Schema) -> Chunks:
    """Return rows with their columns and fields in the order of a schema."""
    return Chunks(
        schema, lambda: (conform(frame.lazy(), source=rows.schema, target=schema).collect() for frame in rows)
    )


def _digest(rows: Chunks, attempt: Manifest) -> str:
    """Return the digest that the manifest of some rows would have."""
    header = FileHeader(**{name: getattr(attempt, name) for name in CommitHeader.__struct_fields__}, part=0, parts=1)
    pages = [encode_rows(frame, header=header, name="").pages for frame in file_sized(rows)]
    return content_digest(encode_schema(rows.schema), pages)


def _stored_rows(storage: Storage, path: str, entry: DataFile) -> pl.DataFrame:
    info = ObjectInfo(path, entry.bytes)
    [data] = storage.get_many([info])
    return decode_or_refetch(storage, info, data, partial(decode_rows, entry=entry, name=f"{storage.location}/{path}"))


def _header(request: CommitRequest, *, time: int) -> CommitHeader:
    return CommitHeader(
        commit=timestamp_id(time, random_token()) if request.write_id is None else _named(request.write_id),
        time=time,
        feature=request.feature,
        definition=request.definition,
        id_columns=request.id_columns,
        schema=msgspec.Raw(encode_schema(request.rows.schema)),
        writer=request.writer,
        write_id=request.write_id,
        tags=dict(request.tags) or msgspec.UNSET,
    )


def _named(write_id: str) -> str:
    """Return the commit id that every attempt of a write has; a digest, since callers name writes as they like."""
    return f"{NAMED_WRITE}{hashlib.sha256(write_id.encode()).hexdigest()[:32]}"


def may_be_put(error: StorageError) -> bool:
    """Whether an object may be there although its put failed."""
    is_known = isinstance(error, ObjectExistsError | StorageAccessError | NoRoomError)
    return not is_known or isinstance(error, SilentRefusalError)
