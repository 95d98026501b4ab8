"""Tell the commits of a view from those that came later, in few bytes.

A plan that travels to other processes says which commits it saw. The ids of all would be megabytes, so it says how many
they are and a digest of their ids, which does not depend on the order, and names no more than the latest. Commits come
in by their times, but for those whose writers were slow or have clocks that are behind: of the latest commits each is
known, and one that came in among earlier ones changes the digest. So the same commits are found, or none.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from hashlib import blake2b
from typing import Final, Self

import msgspec
import polars as pl

from metaxy_fs.errors import StorageError
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.manifest import CommitKey
from metaxy_fs.log.view import View

_KNOWN: Final = 128
"""How many of the latest commits are known each."""
_BYTES: Final = 5
"""How many bytes of a digest stand for one of them."""
_MODULUS: Final = 2**128


class SeenCommits(msgspec.Struct, frozen=True):
    """The commits of one partition that a view saw.

    Attributes:
        partition: Whose commits these are.
        count: How many there are.
        digest: The sum of the digests of their ids.
        last: No commit of them is later.
        since: All that are later than this are among `latest`.
        latest: The beginnings of the digests of the latest, one after the other.
    """

    partition: Partition
    count: int
    digest: int
    last: CommitKey
    since: CommitKey
    latest: bytes

    @classmethod
    def of(cls, view: View) -> Self:
        """Return what a view saw."""
        commits = view.commits
        compactions = {manifest.commit for manifest in view.manifests if manifest.covers}
        ends: list[CommitKey] = [live.last for live in view.files if live.manifest.commit in compactions]
        keys: list[CommitKey] = [(manifest.time, manifest.commit) for manifest in view.manifests]
        single = sorted(key for key in keys if key[1] not in compactions)
        since = max(*ends, *single[: max(0, len(single) - _KNOWN)], (0, ""), (0, ""))
        latest = b"".join(_digest(commit)[:_BYTES] for time, commit in single if (time, commit) > since)
        return cls(view.partition, len(commits), _sum(commits), max([*ends, *keys]), since, latest)

    def among(self, commits: pl.DataFrame, *, location: str) -> AbstractSet[str]:
        """Return the ids of these commits.

        Args:
            commits: All that there are in the partition now, with `time` and `commit`.
            location: The root, for messages.

        Raises:
            StorageError: They cannot be told from those that came in since.
        """
        known = {self.latest[at : at + _BYTES] for at in range(0, len(self.latest), _BYTES)}
        keys: list[CommitKey] = commits.filter(pl.col("time") <= self.last[0]).select("time", "commit").rows()
        found = {key[1] for key in keys if key <= self.since or _digest(key[1])[:_BYTES] in known}
        # A commit without rows is in no file, so it may be later than all that compactions have files of.
        for candidates in (found, {key[1] for key in keys if key <= self.last}):
            if len(candidates) == self.count and _sum(candidates) == self.digest:
                return candidates
        raise StorageError(
            f"a file of {location}/{self.partition} that was planned to be read was compacted and vacuumed, and "
            "commits of earlier times came in since, so the planned ones cannot be told from these: plan again",
            root=location,
        )


def _digest(commit: str) -> bytes:
    return blake2b(commit.encode(), digest_size=16).digest()


def _sum(commits: Iterable[str]) -> int:
    return sum(int.from_bytes(_digest(commit), "big") for commit in commits) % _MODULUS
