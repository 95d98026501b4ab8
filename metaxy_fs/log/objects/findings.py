"""What is said of an object that is not as it should be?"""

from typing import Literal

import msgspec

Severity = Literal["error", "warning", "note"]


class Finding(msgspec.Struct, frozen=True, order=True):
    """One thing that is not as it should be, and what to do about it.

    Attributes:
        path: The object, below the root.
        severity: `"error"`: rows are wrong, lost, or cannot be read or written. `"warning"`: all rows are right, but
            something that protects them is gone. `"note"`: nothing is wrong, but it is worth knowing.
        problem: What is the matter with the object.
        remedy: What to do.
    """

    path: str
    severity: Severity
    problem: str
    remedy: str


RESTORE = (
    "Restore it from a backup or from an earlier version of it in the bucket, and find out who changed it; until then "
    "reads that need it fail."
)
UNSEEN = "Nobody has seen what it holds: mend what keeps it from being read, and verify again."
FOREIGN = "A writer other than metaxy_fs made it; tell them, and write its rows again."
REPAIR = "`metaxy-fs repair` rebuilds it if all data files of the commit are there; until then the partition is closed."
ORPHAN = (
    "A write did not finish, or is still under way. If you know that it was committed, `metaxy-fs repair` restores its "
    "manifest."
)
SUPERSEDED = "`metaxy-fs vacuum` removes them in time."
GONE = "`metaxy-fs repair` restores them if their data files are there; until then reads at the snapshot fail."
LOST = (
    "`metaxy-fs repair` restores them if their data files are there; restore those from a backup that are missing or "
    "damaged. Until then vacuum leaves the partition as it is. To give the commits up, move this file out of the root."
)
UPGRADE = "Upgrade metaxy_fs."
