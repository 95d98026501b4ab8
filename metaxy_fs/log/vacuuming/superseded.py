"""Which manifests may go, because others stand for their commits and have done so for long enough?

Theory of operation. A manifest is dead as soon as another one covers all that it does and more, or the same with a
greater id (see `metaxy_fs.log.views.resolve`); an heir is such another one. A reader that lists the manifests meanwhile
must meet the dead one or an heir of it. It lists appends before compactions, so it meets an heir of an append that is
gone. Compactions lie in one directory, which some storages list in any order: a reader may pass the place of an heir
before that is put, and the place of the dead one after that is deleted. So a manifest is only deleted once it has an
heir that is older than any listing takes, the grace. Then every heir because of which something is deleted during a
listing was there when the listing began, and so was the greatest of them, which nothing deletes before the listing
ends.

The heir that counts for the grace need not live; those that live must be whole, since reads depend on them.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime

from metaxy_fs.log.objects.inventory import Inventory
from metaxy_fs.log.objects.manifest import Manifest
from metaxy_fs.log.views.resolve import Covers


def appends_with_heirs(covers: Mapping[str, Covers], inventory: Inventory) -> dict[str, datetime]:
    """Return each append that a compaction covers, and since when one does."""
    since: dict[str, datetime] = {}
    for commit, held in covers.items():
        if (written := inventory.compactions[commit].modified) is not None:
            for covered in held.intersection(inventory.appends.keys()):
                since[covered] = min(written, since.get(covered, written))
    return since


def compactions_with_heirs(covers: Mapping[str, Covers], inventory: Inventory) -> dict[str, datetime]:
    """Return each compaction that is dead, and since when there is one because of which it is."""
    since: dict[str, datetime] = {}
    for commit, held in covers.items():
        heirs = [inventory.compactions[heir].modified for heir in _heirs(commit, held, covers)]
        if times := [written for written in heirs if written is not None]:
            since[commit] = min(times)
    return since


def missing_files(manifest: Manifest, inventory: Inventory) -> Iterator[str]:
    """Yield the data files that a manifest names and that are not there in full."""
    for file in manifest.named_files:
        listed = inventory.data.get(file.name)
        if listed is None or listed.size != file.bytes:
            yield file.name


def _heirs(commit: str, held: Covers, covers: Mapping[str, Covers]) -> Iterator[str]:
    some = frozenset([next(iter(held.ids))])
    for other, theirs in covers.items():
        # Nearly all that do not cover the whole do not cover any one commit of it either.
        if other == commit or not theirs.intersection(some) or not held.ids <= theirs.ids:
            continue
        if len(held.ids) < len(theirs.ids) or commit < other:
            yield other
