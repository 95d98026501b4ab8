"""Names of columns that the library keeps for itself: each is spelled here and nowhere else.

Users may not bring columns of these names. Those that are in files are part of the format (`docs/format.md`); the
others are in frames for as long as a computation needs them.
"""

from typing import Final

DATA_VERSION: Final = "data_version"
"""A struct of one string for each container: the version of each part of a sample."""

PROVENANCE: Final = "provenance"
"""A struct of one string for each container: the versions that follow from what a sample was made from. Features have
it that have a container versioned by content."""

PREFIX: Final = "_metaxy_"
"""Every other column of the library begins with this."""

# In data files.

COMMIT: Final = "_metaxy_commit"
"""The id of a row's commit, String; scans give it too, where they are asked to."""

TIME: Final = "_metaxy_time"
"""The time of a row's commit, in microseconds since 1970 (UTC), Int64; scans give it too."""

ORDINAL: Final = "_metaxy_ordinal"
"""How many rows of its commit come before a row, UInt32."""

RETIRED: Final = "_metaxy_retired"
"""Whether a row retires its sample, Boolean; a column of the commit itself, which few commits have."""

# In scans.

PARTITION: Final = "_metaxy_partition"
"""The partition that a row was read from, where a scan is asked to say so."""

TAGS: Final = "_metaxy_tags"
"""The tags of a row's commit, where a scan is asked to say so."""

ROW_OF_SCAN: Final = "_metaxy_row"
"""The place of a row in a scan of several files; in a table of a database, in its commit."""

NUMBER: Final = "_metaxy_number"
"""The number of a row's commit among those of its feature, Int64, in stores that number them."""

SHIFT: Final = "_metaxy_shift"
"""What is taken from that place to get the ordinal."""

RETURNS: Final = "_metaxy_returns"
"""Whether a row retires its sample only until that comes back."""

# In increments; other names than these are for users.

STORED_DATA_VERSION: Final = "stored_data_version"
"""The `data_version` that the store has of a sample."""

CHANGED_CONTAINERS: Final = "changed_containers"
"""The names of the containers whose version differs from the stored one."""

MISSING: Final = "missing"
"""The upstream features that a sample waits for."""

OF_INCREMENTS: Final = frozenset({DATA_VERSION, STORED_DATA_VERSION, CHANGED_CONTAINERS, MISSING, PROVENANCE})
"""The columns that an increment adds to what it carries."""

# In computations.

REDO: Final = "_metaxy_redo"
"""Whether a stored row is to be computed again whatever its version, where an increment has such a rule."""

MADE_FROM: Final = "_metaxy_made_from"
"""The versions of a stored row that an increment compares, where these are not those that downstream features see."""

GIVEN: Final = "_metaxy_given"
"""The versions that the caller gives of containers that are versioned by content, while the others are calculated."""

PRESENT: Final = "_metaxy_present_version"
"""The versions of a present row, beside those of an earlier definition."""

PLACE: Final = "_metaxy_place"
"""The place of a sample in the frame that was given."""

PLACE_IN_LAYERS: Final = "_metaxy_place_in_layers"
"""The place of a sample among those of several layers."""

ROW_IN_GROUP: Final = "_metaxy_row_in_group"
"""The place of a row among those of its group."""

HAS_PARENT: Final = "_metaxy_has_parent"
"""Whether an expanded row's parent has a row."""

CHANGED: Final = "_metaxy_changed"
"""Whether a parent has changed since its rows were expanded."""

KEPT: Final = "_metaxy_kept"
"""Whether a predicate keeps a row."""

KNOWN: Final = "_metaxy_known"
"""Whether a row is that of a sample which an earlier attempt has committed."""

KIND: Final = "_metaxy_kind"
"""Whether a planned sample is new or stale."""

CAUSE: Final = "_metaxy_cause"
"""Why a planned sample is stale."""

OWN_CODE: Final = "_metaxy_own_code"
"""What has changed in the code of a feature since a planned sample was written."""

AFTER_UPSTREAM: Final = "_metaxy_after_upstream"
"""Whether a planned sample cannot be computed as it will be before upstream has run."""

IS_CURRENT: Final = "_metaxy_is_current"
"""Whether a stored row is of the current partition."""

# In comparisons of two moments. Names that end with a slash begin the names of columns.

THEN: Final = "_metaxy_then/"
"""A column of the row that a sample had at the first moment."""

NOW: Final = "_metaxy_now/"
"""A column of the row that it has at the second one."""

CHANGED_AT: Final = "_metaxy_changed_at"
"""The time of the commit of the later one."""

DIFFERS: Final = "_metaxy_differs/"
"""Whether the version of a container differs."""

CHANGED_BY: Final = "_metaxy_changed_by/"
"""What a container has changed by."""

CAME_BY: Final = "_metaxy_came_by"
"""What a sample was added or removed by."""

OWN_CHANGE: Final = "_metaxy_own_change/"
"""What a container's own declaration has changed by."""

OF_UPSTREAM: Final = "_metaxy_of/"
"""A column of an upstream feature."""
