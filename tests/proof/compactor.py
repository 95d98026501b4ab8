"""A compactor that picks at random, and shares no code with the library's.

It covers whole manifests that count, as the protocol asks, in combinations that no sensible plan would give: so two of
them overlap, cover the same, or one a part of the other.
"""

import random
from collections.abc import Callable, Sequence

import msgspec

from metaxy_fs.ids import LamportClock, random_token, wall_clock
from metaxy_fs.log.decoding import decode_manifest
from metaxy_fs.log.layout import Partition
from metaxy_fs.log.manifest import Manifest
from metaxy_fs.log.view import ViewLoader
from metaxy_fs.storage.base import Storage
from tests.log.compactions import put_compaction
from tests.proof.oracle import Oracle

DAY = 24 * 60 * 60 * 1_000_000


class TooLateError(Exception):
    """A compaction began more than a day ago: what it lists may have been deleted."""


Choose = Callable[[Sequence[Manifest]], Sequence[Manifest]]
"""Says which of the manifests that count are to become one."""


def by_dice(seed: int) -> Choose:
    """Choose a few manifests, or many."""

    def choose(manifests: Sequence[Manifest]) -> Sequence[Manifest]:
        dice = random.Random(seed)  # noqa: S311  # nothing secret
        share = dice.choice((0.3, 0.6, 0.9))
        return [manifest for manifest in manifests if dice.random() < share]

    return choose


def compact_chosen(
    storage: Storage, oracle: Oracle, partition: Partition, *, choose: Choose, rewrites_all: bool
) -> None:
    """Compact some of what a partition holds now.

    Args:
        storage: The root.
        oracle: Knows every object that there ever was, since the manifests of covered commits may be gone.
        partition: What to compact.
        choose: Says what.
        rewrites_all: Whether no file is listed again as it is.
    """
    started = wall_clock()

    def check(_fields: object) -> None:
        if wall_clock() - started > DAY:
            raise TooLateError

    view = ViewLoader(storage, clock=LamportClock()).load(partition)
    chosen = choose(view.manifests if view else ())
    commits = sorted({commit for manifest in chosen for commit in _commits(manifest)})
    if len(commits) > 1:
        appends = [_append(oracle, partition, commit) for commit in commits]
        # Only files that count now may be listed again: others may be about to be deleted.
        listed = [manifest.commit for manifest in chosen if not manifest.covers and not rewrites_all][::3]
        put_compaction(storage, appends, token=random_token(), listed_again=listed, change=check, partition=partition)


def _commits(manifest: Manifest) -> list[str]:
    return manifest.covers.split(" ") if manifest.covers else [manifest.commit]


def _append(oracle: Oracle, partition: Partition, commit: str) -> Manifest:
    path = partition.append_manifest(commit)
    manifest = decode_manifest(oracle.written[path], partition=partition, commit=commit, name=commit)
    return msgspec.structs.replace(manifest, time=oracle.time_of(path, claimed=manifest.time))
