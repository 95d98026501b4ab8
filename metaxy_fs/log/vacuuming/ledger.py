"""Since when does no manifest name a data file?

Theory of operation. The age of a data file says nothing: one that was live until a minute ago may be years old, and who
has planned to read it, or to list it again in a compaction, has to find it for a while. When it ceased to be named is
written nowhere, since the manifests that named it are deleted soon. So a vacuum writes down what it finds unnamed, in a
record that is put before anything is deleted, and a later vacuum deletes what has been unnamed for long enough by the
storage's own time. Of several statements on a file the newest counts. One that no longer holds is taken back by a later
record: a file that is named again, as by a compaction that was planned before, begins anew once it is not.
"""

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Final

import msgspec

from metaxy_fs.errors import CorruptObjectError
from metaxy_fs.log.objects.formats import refuse_other_format
from metaxy_fs.log.objects.manifest import FORMAT_VERSION
from metaxy_fs.log.objects.second_look import taken
from metaxy_fs.log.objects.tolerant import fetch_each
from metaxy_fs.storage.base import ObjectInfo, Storage

MAX_RECORD_BYTES: Final = 64 * 1024 * 1024
_NAMES_A_RECORD: Final = 100_000
"""A third of what may be in it, at the longest that names may be."""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one vacuum has found.

    Attributes:
        unnamed: The data files that no manifest named, or that a manifest named which this vacuum was going to delete.
        named: Those of which an earlier record says that they were unnamed, and which are named again.
    """

    format_version: int
    unnamed: list[str]
    named: list[str]


class Ledger:
    """What the records of one partition say together.

    Args:
        records: Each with the storage's time of it, by path.
    """

    def __init__(self, records: Mapping[str, tuple[datetime, Record]]) -> None:
        self._since: dict[str, datetime | None] = {}
        self._source: dict[str, str] = {}
        for path, (written, record) in sorted(records.items(), key=lambda item: (item[1][0], item[0])):
            self._since |= dict.fromkeys(record.unnamed, written) | dict.fromkeys(record.named)
            self._source |= dict.fromkeys([*record.unnamed, *record.named], path)
        self._records = frozenset(records)

    def unnamed_since(self, name: str) -> datetime | None:
        """Return from when on a data file is known to be unnamed; None if it is not."""
        return self._since.get(name)

    def superfluous(self, names: Collection[str]) -> Iterator[str]:
        """Yield the records that say nothing which counts of any of these data files."""
        yield from sorted(self._records - {self._source[name] for name in names if name in self._source})


def encode_records(*, unnamed: Collection[str], named: Collection[str]) -> Iterator[bytes]:
    """Yield the bytes of the records that say of data files whether they are named; one but for very many files."""
    statements = [(name, True) for name in sorted(unnamed)] + [(name, False) for name in sorted(named)]
    remaining = iter(statements)
    while some := list(islice(remaining, _NAMES_A_RECORD)):
        lists = ([name for name, is_unnamed in some if is_unnamed is wanted] for wanted in (True, False))
        yield msgspec.json.encode(Record(FORMAT_VERSION, *lists))


def read_ledger(storage: Storage, listed: Collection[ObjectInfo]) -> Ledger:
    """Return what the records of a partition say together.

    Raises:
        CorruptObjectError: One of them is too large, cannot be decoded, or has no time; what it says may count.
        UnsupportedFormatError: A newer metaxy_fs wrote one of them.
        StorageError: One of them cannot be got.
    """
    records = {}
    for info in listed:
        if info.size > MAX_RECORD_BYTES:
            raise CorruptObjectError(
                f"The record {storage.location}/{info.path} has {info.size} bytes, more than the {MAX_RECORD_BYTES} "
                "that one may have. Remove it."
            )
    for written, info, data in fetch_each(storage, ((info.modified, info) for info in listed)):
        if isinstance(data, Exception):
            raise data
        if written is None:
            raise CorruptObjectError(f"{storage.location}/{info.path} has no time.")
        decode = partial(_decoded, name=f"{storage.location}/{info.path}")
        records[info.path] = written, taken(storage, info, data, decode)
    return Ledger(records)


def _decoded(data: bytes, *, name: str) -> Record:
    refuse_other_format(data, name=f"The record {name}")
    try:
        return msgspec.json.decode(data, type=Record)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise CorruptObjectError(f"The record {name} cannot be decoded: {error}. Remove it.") from error
