"""Say what a partition takes up: its files, and what compaction and vacuum would change.

It takes the view, which a process may have already, and one listing; no data file is read.
"""

import msgspec

from metaxy_fs.ids import MAX_TIME
from metaxy_fs.log.layout import Partition, take_inventory
from metaxy_fs.log.levels import next_compaction
from metaxy_fs.log.view import View
from metaxy_fs.storage.base import Storage


class Holdings(msgspec.Struct, frozen=True, kw_only=True):
    """What a partition takes up.

    Attributes:
        partition: Where it is.
        files: How many data files a read of all rows opens.
        bytes: What these take.
        manifests: How many manifests a read gets.
        due: How many of these a compaction would merge now; none if it has nothing to do.
        removable: How many objects nothing needs any more, which vacuums remove once they are old enough.
        removable_bytes: What these take.
    """

    partition: Partition
    files: int
    bytes: int
    manifests: int
    due: int
    removable: int
    removable_bytes: int


def holdings(storage: Storage, view: View) -> Holdings:
    """Return what a partition takes up.

    Files of a write that has not ended are counted as removable until its manifest is there, as nobody can tell them
    from those of one that died.
    """
    inventory = take_inventory(storage, view.partition)
    named = {file.name for manifest in view.manifests for file in manifest.named_files}
    counting = {manifest.commit for manifest in view.manifests}
    files = {live.file.name: live.file.bytes for live in view.files}
    manifests = {**inventory.appends, **inventory.compactions}
    removable = [info.size for name, info in inventory.data.items() if name not in named]
    removable += [info.size for commit, info in manifests.items() if commit not in counting]
    return Holdings(
        partition=view.partition,
        files=len(files),
        bytes=sum(files.values()),
        manifests=len(view.manifests),
        due=len(next_compaction(view.manifests, before=MAX_TIME, ahead=view.ahead)),
        removable=len(removable),
        removable_bytes=sum(removable),
    )
