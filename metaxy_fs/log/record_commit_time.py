"""Write down at which time a write counts: a compaction of this write alone, which lists its files as they are."""

from typing import Final

import msgspec

from metaxy_fs._version import WRITER
from metaxy_fs.ids import LamportClock, random_token, timestamp_id
from metaxy_fs.log.commit_table import covers_of, digest_of, encode_table, rows_of
from metaxy_fs.log.layout import Partition, commit_table
from metaxy_fs.log.manifest import CommitHeader, DataFile, Manifest, encode_manifest
from metaxy_fs.log.verified_io import put_idempotent
from metaxy_fs.log.view import LiveFile, files_of
from metaxy_fs.storage.base import Storage

COPY_MARK: Final = b'{"format_version":1}'
"""What says that a table shows no commit of a root until there is the manifest that names it."""


def put_alone(storage: Storage, partition: Partition, append: Manifest, *, clock: LamportClock) -> None:
    """Put a compaction of one write whose data files are there.

    Args:
        storage: The root.
        partition: Where the files are.
        append: The manifest of the write, with the time at which it counts.
        clock: That of the root in this process.

    Raises:
        StorageError: The root failed.
    """
    clock.observe(append.time)
    time = clock.tick()
    commit = timestamp_id(time, random_token())
    # A table shows that there were its commits, unless this says that it need not yet be true here.
    put_idempotent(storage, partition.copy_mark(commit), COPY_MARK)
    table = rows_of([append], [0])
    header = CommitHeader(
        commit=commit,
        time=time,
        feature=append.feature,
        definition=append.definition,
        id_columns=append.id_columns,
        schema=append.schema,
        writer=WRITER,
    )
    unlisted = Manifest(
        **msgspec.structs.asdict(header),
        rows=append.rows,
        digest=digest_of(table),
        files=tuple(map(_listed_again, files_of(partition, append))),
    )
    data, described = encode_table(table, manifest=unlisted, name=commit_table(commit))
    put_idempotent(storage, partition.data_file(described.name), data)
    manifest = msgspec.structs.replace(unlisted, covers=covers_of(table), commits=described)
    put_idempotent(storage, partition.compaction_manifest(commit), encode_manifest(manifest))


def _listed_again(live: LiveFile) -> DataFile:
    time, commit = live.first
    return msgspec.structs.replace(live.file, commit=commit, time=time, offset=live.offset)
