"""Decide which group of prepared writes a name stands for.

Drivers that commit prepared writes under one name agree before the manifest: an object that is put if it is absent and
never deleted names the group, and tells its rows. A group that was decided on and not published within a day never will
be, since its data files may be gone, and its name is used up.
"""

import hashlib
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Final, Self

import msgspec

from metaxy_fs.errors import ObjectExistsError, WriteConflictError
from metaxy_fs.log.commit import MAX_AGE_SECONDS, CommitRequest
from metaxy_fs.log.commit_table import group_digest
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.manifest import FORMAT_VERSION, Digest, Manifest, decode_object
from metaxy_fs.log.verified_io import get_checked, put_idempotent
from metaxy_fs.storage.base import Storage

_MAX_DECISION_BYTES: Final = 4096
_GROUP: Final = "group-"


class GroupDecision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which group a name stands for.

    Attributes:
        digest: What tells its rows.
        commit: The id of its manifest.
        first: One of the writes in it, which tells for all once the table is gone.
    """

    format_version: int
    digest: Digest
    commit: str
    first: str


class GroupName:
    """The name that a driver gives to a group.

    Args:
        storage: The root.
        partition: Where it is given.
        write_id: The name.
        digest: What tells the rows that the driver wants to commit under it, however often its tasks were run.
    """

    def __init__(self, storage: Storage, partition: Partition, write_id: str, *, digest: str) -> None:
        self._storage = storage
        self._partition = partition
        self._write_id = write_id
        self._digest = digest
        self._path = partition.decided_write(f"{_GROUP}{hashlib.sha256(write_id.encode()).hexdigest()[:32]}")

    @classmethod
    def of(cls, storage: Storage, request: CommitRequest, writes: Sequence[Manifest]) -> Self | None:
        """Return the name of a group, None if it has none."""
        if request.write_id is None:
            return None
        return cls(storage, request.partition, request.write_id, digest=group_digest(write.digest for write in writes))

    def find(self) -> GroupDecision | None:
        """Return which group the name stands for, None if that is not decided."""
        data = get_checked(self._storage, self._path, limit=_MAX_DECISION_BYTES, check=self._decoded)
        return None if data is None else self._decoded(data)

    def decide(self, manifest: Manifest, *, first: str) -> GroupDecision:
        """Return which group the name stands for: this one, unless another driver has come before."""
        mine = GroupDecision(FORMAT_VERSION, self._digest, manifest.commit, first)
        try:
            put_idempotent(self._storage, self._path, msgspec.json.encode(mine))
        except ObjectExistsError:
            decision = self.find()
            if decision is None:
                raise
            return decision
        return mine

    def refuse_other_rows(self, decision: GroupDecision) -> None:
        """Refuse a name that stands for other rows.

        Raises:
            WriteConflictError: It does.
        """
        if decision.digest != self._digest:
            raise WriteConflictError(
                f"The write_id {self._write_id!r} in {self._partition} names other prepared rows, "
                f"as {self._storage.location}/{self._path} says. Use another write_id for these.",
                path=self._path,
                write_id=self._write_id,
            )

    def torn(self, committed: int, *, of: int) -> WriteConflictError:
        """Return the error about a group of which some writes were committed without the name."""
        return WriteConflictError(
            f"The write_id {self._write_id!r} in {self._partition} names {of} prepared writes whose driver ended "
            f"before it had committed them, and {committed} of them were committed without that name since "
            f"({self._storage.location}/{self._path}). Nothing was committed: commit the receipts of the others under "
            "another write_id.",
            path=self._path,
            write_id=self._write_id,
        )

    def used_up(self) -> WriteConflictError:
        """Return the error about a group that was not committed in time."""
        return WriteConflictError(
            f"The write_id {self._write_id!r} in {self._partition} names prepared rows whose driver ended before "
            f"it had committed them, more than {MAX_AGE_SECONDS // 3600} hours ago, or whose files "
            f"are gone ({self._storage.location}/{self._path}). Nothing was committed; use another write_id.",
            path=self._path,
            write_id=self._write_id,
        )

    def _decoded(self, data: bytes) -> GroupDecision:
        return decode_object(data, GroupDecision, name=f"The decision {self._storage.location}/{self._path}")


def copy_names(source: Storage, target: Storage, partition: Partition, *, commits: AbstractSet[str]) -> None:
    """Let names of groups stand for the same in another root, before the commits are copied which these have.

    Raises:
        WriteConflictError: A name stands for another group there.
    """
    for info in source.list(partition.decisions):
        if not info.path.startswith(partition.decided_write(_GROUP).removesuffix(".json")):
            continue
        data = source.get(info.path)
        if decode_object(data, GroupDecision, name=f"The decision {source.location}/{info.path}").first in commits:
            try:
                put_idempotent(target, info.path, data)
            except ObjectExistsError as error:
                raise WriteConflictError(
                    f"A job of one write_id has committed prepared rows to {source.location} and others, or the same "
                    f"ones again, to {target.location} ({info.path} in both). Nothing of {partition} was copied.",
                    path=info.path,
                ) from error
