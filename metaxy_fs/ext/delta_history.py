"""Tell from the log of a Delta table which of its versions changed rows, and when.

deltalake's own history does not do: it counts versions back from the last one, which is wrong where one says nothing of
itself, does not tell compactions from changes, and lets no other thread run while it waits for answers.
"""

import re
from typing import Any, Final

import msgspec

from metaxy_fs.errors import CorruptObjectError
from metaxy_fs.parallel import ordered_map
from metaxy_fs.storage import Storage
from metaxy_fs.storage.base import ObjectInfo

_COMMIT: Final = re.compile(r"_delta_log/(\d{20})\.json")
_REQUESTS: Final = 16


class TableVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a table.

    Attributes:
        number: From 0 on.
        time: When it was made, in milliseconds since 1970 (UTC), as its writer says.
        is_change: Whether it changed rows or columns; compactions and vacuums do not.
        rows: How many rows are in the files that it added with new or changed rows.
        size: What these take in bytes.
        operation: What its writer calls what it did.
        writer: What wrote it.
    """

    number: int
    time: int
    is_change: bool = True
    rows: int = 0
    size: int = 0
    operation: str = ""
    writer: str = ""


class DeltaHistory:
    """The versions of one table; what was read once is not read again.

    Args:
        storage: The directory of the table.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._known: dict[ObjectInfo, TableVersion] = {}

    def changes(self, *, until: int) -> list[TableVersion]:
        """Return the versions up to one that changed rows, of those that the log still has, whose first is among them.

        Raises:
            StorageError: The log could not be read.
        """
        listed = [info for info in self._storage.list("_delta_log") if _COMMIT.fullmatch(info.path)]
        fresh = [info for info in listed if info not in self._known]
        read = dict(zip(fresh, ordered_map(self._read, fresh, workers=_REQUESTS), strict=True))
        self._known = {info: read[info] if info in read else self._known[info] for info in listed}
        found = [version for version in self._known.values() if version.number <= until]
        return [version for place, version in enumerate(found) if place == 0 or version.is_change]

    def _read(self, info: ObjectInfo) -> TableVersion:
        lines = self._storage.get(info.path).splitlines()
        try:
            actions = [msgspec.json.decode(line, type=_Line) for line in lines if line.strip()]
            added = [each.add for each in actions if each.add and each.add.data_change]
            rows = sum(msgspec.json.decode(each.stats or "{}", type=_Statistics).num_records for each in added)
        except msgspec.MsgspecError as error:
            place = f"{self._storage.location}/{info.path}"
            raise CorruptObjectError(
                f"{place} is no commit of Delta ({error}).", root=self._storage.location
            ) from error
        said = next((each.commit_info for each in actions if each.commit_info), _Info())
        is_change = any(each.meta_data or (each.remove and each.remove.data_change) for each in actions)
        modified = 0 if info.modified is None else int(info.modified.timestamp() * 1000)
        return TableVersion(
            number=int(info.path[-25:-5]),
            time=said.in_commit_timestamp or said.timestamp or modified,
            is_change=bool(added) or is_change,
            rows=rows,
            size=sum(each.size for each in added),
            operation=said.operation or "",
            writer=said.engine_info or "",
        )


class _File(msgspec.Struct, rename="camel"):
    data_change: bool = True
    size: int = 0
    stats: str | None = None


class _Statistics(msgspec.Struct, rename="camel"):
    num_records: int = 0


class _Info(msgspec.Struct, rename="camel"):
    timestamp: int | None = None
    in_commit_timestamp: int | None = None
    operation: str | None = None
    engine_info: str | None = None


class _Line(msgspec.Struct, rename="camel"):
    add: _File | None = None
    remove: _File | None = None
    meta_data: dict[str, Any] | None = None
    commit_info: _Info | None = None
