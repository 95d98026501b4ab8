"""Find the columns of a partition whose types are in conflict, so that they cannot be read together.

Writers agree on types before they write, so a conflict is from a version that did not, or from somebody else.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations

import polars as pl

from metaxy_fs.errors import MetaxyError
from metaxy_fs.log.checking.manifests import unusable
from metaxy_fs.log.objects.agreed import AgreedTypes, decode_further, large_integers
from metaxy_fs.log.objects.findings import RESTORE, Finding
from metaxy_fs.log.objects.layout import Partition
from metaxy_fs.log.objects.manifest import Manifest
from metaxy_fs.log.objects.schema import decode_schema
from metaxy_fs.log.objects.second_look import find_right
from metaxy_fs.log.objects.widening import join
from metaxy_fs.log.writing.agreements import MAX_AGREEMENT_BYTES
from metaxy_fs.storage.base import ObjectInfo, Storage

_REMEDY = (
    "Reads have to leave the column out; where it names samples, they can have neither latest rows nor increments. "
    "Write the rows again in types of one kind, to another feature or under another code_version."
)


class TypesFound:
    """The types of all columns of a partition, and where each was found first."""

    def __init__(self, partition: Partition) -> None:
        self._partition = partition
        self._types = AgreedTypes()
        self._places: dict[tuple[str, pl.DataType], str] = {}

    def add(self, manifest: Manifest) -> None:
        """Take note of the types of the data files of a manifest."""
        for file in manifest.files:
            schema = decode_schema(manifest.schema_of(file))
            large = large_integers(schema, file.statistics, rows=file.rows, id_columns=())
            new = pl.Schema({name: dtype for name, dtype in schema.items() if (name, dtype) not in self._places})
            if new or large - self._types.large:
                self._types = self._types.added(new, large)
            self._places |= dict.fromkeys(new.items(), self._partition.data_file(file.name))

    def conflicts(self) -> Iterator[Finding]:
        """Yield the columns whose types are in conflict."""
        for name, dtypes in self._types.types.items():
            if self._types.of(name) is None:
                pairs = (pair for pair in combinations(dtypes, 2) if self._join(name, *pair) is None)
                first, second = next(pairs, dtypes[:2])
                problem = (
                    f"holds the column {name!r} as {first} in {self._places[name, first]} and as {second} in "
                    f"{self._places[name, second]}, and no type holds the values of both exactly"
                )
                yield Finding(str(self._partition), "error", problem, _REMEDY)

    def _join(self, name: str, *dtypes: pl.DataType) -> pl.DataType | None:
        return join(dtypes, name=name, is_exact=lambda path: path not in self._types.large)


def check_further(storage: Storage, partition: Partition, listed: Mapping[int, ObjectInfo]) -> Iterator[Finding]:
    """Yield the objects of `_types` that writers cannot use, and those that are lost.

    Args:
        storage: The root.
        partition: Where they are.
        listed: Those that there are, by number.
    """
    for number in range(1, max(listed, default=0) + 1):
        path = partition.types_file(number)
        if number not in listed:
            yield Finding(path, "warning", "is missing, though later ones are there", RESTORE)
            continue

        def check(data: bytes, path: str = path) -> object:
            return decode_further(data, name=f"{storage.location}/{path}")

        try:
            find_right(storage, path, limit=MAX_AGREEMENT_BYTES, check=check)
        except MetaxyError as error:
            yield unusable(path, error, remedy=f"Writers that need it are refused. {RESTORE}")
