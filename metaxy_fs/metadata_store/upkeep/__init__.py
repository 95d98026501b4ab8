"""How is the root of a store kept small and whole, and taken elsewhere?"""

from metaxy_fs.log.checking.repair import Restoration
from metaxy_fs.log.checking.verify import Verification
from metaxy_fs.log.compacting.compaction import Compaction
from metaxy_fs.log.history.copying import Copied
from metaxy_fs.log.objects.findings import Finding
from metaxy_fs.log.vacuuming.removal import Removal
from metaxy_fs.log.vacuuming.vacuum import Vacuumed
from metaxy_fs.metadata_store.upkeep.compacting import compact
from metaxy_fs.metadata_store.upkeep.promotion import copy_metadata
from metaxy_fs.metadata_store.upkeep.repairing import repair
from metaxy_fs.metadata_store.upkeep.vacuuming import vacuum
from metaxy_fs.metadata_store.upkeep.verifying import verify

__all__ = [
    "Compaction",
    "Copied",
    "Finding",
    "Removal",
    "Restoration",
    "Vacuumed",
    "Verification",
    "compact",
    "copy_metadata",
    "repair",
    "vacuum",
    "verify",
]
